//! The real [`Replica`] in small configurations, exhaustively: every order of messages, any of
//! them lost, with takeovers, crashes and new memberships at every moment.
//!
//! stateright explores the states. Time stands still, so that nothing happens by itself:
//! what a heartbeat would begin is an action of its own, and each kind of action has a budget.
//! A node's disk is flushed after each step, or the node dies in it and loses what the step
//! wrote. A message is delivered once or never; repetition is left to the simulator, as are
//! truncation, snapshots and everything that needs time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::command::{Command, Cred, Op};
use crate::consensus::message::Closed;
use crate::consensus::mutation::Mutation;
use crate::consensus::*;
use crate::ids::{Gsn, Idx, LaneId, NodeId, OpId, Term, Ts};
use crate::time::Timestamp;

/// How often each thing may happen, and to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    /// One command each, anywhere.
    proposals: u8,
    /// Heartbeats, with promises and votes.
    beats: u8,
    /// A clock moves on by [`ADVANCE_US`].
    advances: u8,
    takeovers: u8,
    crashes: u8,
    /// The last voter leaves, or a fourth one comes.
    memberships: u8,
}

#[derive(Clone, Debug)]
struct Ring {
    voters: u16,
    /// Who has an active lane at first.
    owners: Vec<u16>,
    budget: Budget,
    mutation: Option<Mutation>,
}

/// A process and its disk.
#[derive(Clone, Debug)]
struct Node {
    clock_us: u64,
    seq: u64,
    replica: Replica,
    disk: Recovered,
    executed: Vec<OrderRecord>,
    /// Of all this.
    digest: u64,
}

#[derive(Clone, Debug)]
struct Sent {
    from: NodeId,
    to: NodeId,
    message: Message,
}

#[derive(Clone)]
struct State {
    nodes: BTreeMap<NodeId, Arc<Node>>,
    /// What may still arrive, by digest.
    pending: BTreeMap<u64, Arc<Sent>>,
    /// The best promise for each place that was sent.
    promised: Vec<Closed>,
    left: Budget,
    diverged: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Act {
    Deliver(u64),
    Propose(NodeId),
    Beat(NodeId),
    Advance(NodeId),
    Takeover(NodeId, LaneId),
    Crash(NodeId),
    Reconfigure(NodeId, Vec<NodeId>),
}

/// An act, and whether its node dies before what it wrote is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Action {
    act: Act,
    dies: bool,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.nodes.iter().for_each(|(id, node)| (id, node.digest).hash(hasher));
        self.pending.keys().for_each(|digest| digest.hash(hasher));
        self.left.hash(hasher);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        digest(self) == digest(other)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, node) in &self.nodes {
            writeln!(f, "{id:?}: {:?}", node.executed)?;
        }
        self.pending.values().try_for_each(|sent| writeln!(f, "{sent:?}"))
    }
}

/// Of what can be written down: what is written is hashed.
struct Digest(DefaultHasher);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn digest_of(value: &impl fmt::Debug) -> u64 {
    let mut digest = Digest(DefaultHasher::new());
    write!(digest, "{value:?}").expect("a hasher takes everything");
    digest.0.finish()
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Node {
    fn new(ring: &Ring, id: NodeId, header: Header) -> Node {
        let disk = Recovered::fresh(header);
        let replica = Replica::recover(id, 1, disk.clone(), u64::from(id.0));
        let mut node =
            Node { clock_us: CLOCK_US, seq: 0, replica, disk, executed: Vec::new(), digest: 0 };
        ring.mutation.iter().for_each(|&mutation| node.replica.mutate(mutation));
        node
    }

    fn restart(&mut self, ring: &Ring, id: NodeId) {
        let boot = self.replica.boot + 1;
        self.replica = Replica::recover(id, boot, self.disk.clone(), u64::from(id.0));
        ring.mutation.iter().for_each(|&mutation| self.replica.mutate(mutation));
        self.executed.truncate(self.disk.header.gsn.0 as usize);
        self.seq = 0;
    }

    fn write(&mut self, record: LogRecord) {
        match record {
            LogRecord::Accepted { lane, idx, ballot, entry } => {
                self.disk.accepted.entry(lane).or_default().insert(idx, (ballot, entry));
            }
            LogRecord::Promised { lane, ballot } => {
                self.disk.promised.insert(lane, ballot);
            }
            LogRecord::Started { lane } => {
                self.disk.started.insert(lane);
            }
            LogRecord::Truncated { .. } => {}
        }
    }
}

impl State {
    fn new(ring: &Ring) -> State {
        let mut header = Header::genesis(NodeId(ring.owners[0]));
        header.config.voters = (1..=ring.voters).map(|node| (NodeId(node), 1)).collect();
        header.config.promise_lead_us = LEAD_US;
        header.active = ring.owners.iter().map(|&node| (lane_of(node), START)).collect();
        header.next_terms = ring.owners.iter().map(|&node| (NodeId(node), Term(1))).collect();
        header.position = (START.start, NodeId(0));
        // A fourth node knows the order from the beginning, without a vote.
        let joins = u16::from(ring.budget.memberships > 0 && ring.voters == 3);
        let nodes = (1..=ring.voters + joins).map(NodeId);
        let nodes = nodes.map(|id| (id, Arc::new(Node::new(ring, id, header.clone()))));
        let mut state = State {
            nodes: nodes.collect(),
            pending: BTreeMap::new(),
            promised: Vec::new(),
            left: ring.budget,
            diverged: false,
        };
        let ids: Vec<NodeId> = state.nodes.keys().copied().collect();
        ids.iter().for_each(|&id| state.step(id, Some(Input::Start), false));
        // All measure each other.
        for _ in 0..2 {
            for &id in &ids {
                state.with(id, |node| node.replica.beat());
                state.step(id, None, false);
            }
            while let Some((_, sent)) = state.pending.pop_first() {
                let Sent { from, to, message } = Sent::clone(&sent);
                state.step(to, Some(Input::Message { from, message }), false);
            }
        }
        state
    }

    fn with<T>(&mut self, id: NodeId, change: impl FnOnce(&mut Node) -> T) -> T {
        change(Arc::make_mut(self.nodes.get_mut(&id).expect("only known nodes act")))
    }

    /// Steps a node and carries out what follows; `dies`: nothing of it becomes durable.
    fn step(&mut self, id: NodeId, input: Option<Input>, dies: bool) {
        let mut inputs: Vec<Input> = input.into_iter().collect();
        let mut first = true;
        while first || !inputs.is_empty() {
            first = false;
            let mut effects = self.with(id, |node| std::mem::take(&mut node.replica.out));
            if !inputs.is_empty() {
                let input = inputs.remove(0);
                self.with(id, |node| node.replica.step(node.clock_us, input, &mut effects));
            }
            for effect in effects {
                match effect {
                    Effect::Persist(record) if !dies => self.with(id, |node| node.write(record)),
                    Effect::Send { to, message } => self.send(id, to, message),
                    Effect::SendDurable { to, message } if !dies && to == id => {
                        inputs.push(Input::Message { from: id, message });
                    }
                    Effect::SendDurable { to, message } if !dies => self.send(id, to, message),
                    Effect::Agreed { record, header } if !dies => self.with(id, |node| {
                        node.executed.push(record);
                        node.disk.header = Header::clone(&header);
                    }),
                    Effect::ServeOrder { to, from } => {
                        // Nothing, if the node dies in the step that executed it.
                        let records = self.nodes[&id].executed.get(from.0 as usize - 1..);
                        let records = records.unwrap_or_default().to_vec();
                        let gsn = Gsn(self.nodes[&id].executed.len() as u64);
                        self.send(id, to, Message::Order { records, oldest: Gsn(1), gsn });
                    }
                    Effect::Diverged { .. } => self.diverged = true,
                    _ => {}
                }
            }
        }
        self.with(id, |node| {
            node.digest = 0;
            node.digest = digest_of(node);
        });
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let closed = match &message {
            Message::Accepted { closed, .. } => *closed,
            Message::Heartbeat(heartbeat) => heartbeat.closed,
            _ => None,
        };
        if let Some(closed) = closed
            && !self.promised.contains(&closed)
        {
            self.promised.push(closed);
        }
        if self.nodes.contains_key(&to) {
            let sent = Sent { from, to, message };
            self.pending.insert(digest_of(&sent), Arc::new(sent));
        }
    }

    fn crash(&mut self, ring: &Ring, id: NodeId) {
        self.with(id, |node| node.restart(ring, id));
        // What a start says to others is lost.
        let pending = self.pending.clone();
        self.step(id, Some(Input::Start), false);
        self.pending = pending;
    }

    /// All nodes executed the same, as far as they came.
    fn one_order(&self) -> bool {
        let longest = self.nodes.values().map(|node| &node.executed).max_by_key(|e| e.len());
        let longest = longest.expect("there are nodes");
        !self.diverged && self.nodes.values().all(|node| longest.starts_with(&node.executed))
    }

    /// Nothing was executed that a promise had excluded.
    fn promises_hold(&self) -> bool {
        let executed = || self.nodes.values().flat_map(|node| &node.executed);
        self.promised.iter().all(|closed| {
            executed().all(|record| {
                record.lane != closed.lane
                    || record.idx <= closed.last
                    || record.entry.ts > closed.ts
            })
        })
    }

    fn executed(&self, is: impl Fn(&OrderRecord) -> bool) -> bool {
        self.nodes.values().any(|node| node.executed.iter().any(&is))
    }
}

impl Model for Ring {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        let mut acts: Vec<Act> = state.pending.keys().map(|&digest| Act::Deliver(digest)).collect();
        for (&id, node) in &state.nodes {
            let header = node.replica.header();
            let allowed = [
                (left.proposals, Act::Propose(id)),
                (left.beats, Act::Beat(id)),
                (left.advances, Act::Advance(id)),
            ];
            acts.extend(allowed.into_iter().filter(|(left, _)| *left > 0).map(|(_, act)| act));
            if left.takeovers > 0 && header.config.is_voter(id) {
                let lanes =
                    header.active.keys().filter(|l| !node.replica.takeovers.contains_key(l));
                acts.extend(lanes.map(|&lane| Act::Takeover(id, lane)));
            }
            if left.memberships > 0 && header.active.keys().any(|lane| lane.node == id) {
                let mut voters: Vec<NodeId> = header.config.voters.keys().copied().collect();
                if self.voters == 3 && voters.len() == 3 {
                    acts.push(Act::Reconfigure(id, [&voters[..], &[NodeId(4)]].concat()));
                }
                voters.pop();
                acts.push(Act::Reconfigure(id, voters));
            }
        }
        if left.crashes > 0 {
            let written = |act: &&Act| !matches!(act, Act::Beat(_) | Act::Advance(_));
            let deaths = acts.iter().filter(written).map(|act| (act.clone(), true));
            actions.extend(deaths.map(|(act, dies)| Action { act, dies }));
            acts.extend(state.nodes.keys().map(|&id| Act::Crash(id)));
        }
        actions.extend(acts.into_iter().map(|act| Action { act, dies: false }));
    }

    fn next_state(&self, last: &State, Action { act, dies }: Action) -> Option<State> {
        let mut state = last.clone();
        let id = match act {
            Act::Deliver(digest) => {
                let sent = state.pending.remove(&digest)?;
                let Sent { from, to, message } = Sent::clone(&sent);
                state.step(to, Some(Input::Message { from, message }), dies);
                to
            }
            Act::Propose(id) => {
                state.left.proposals -= 1;
                let command = state.with(id, |node| {
                    node.seq += 1;
                    let id = OpId { origin: id, boot: node.replica.boot, seq: node.seq };
                    Command { id, time: Timestamp::default(), cred: Cred::SYSTEM, op: Op::Noop }
                });
                state.step(id, Some(Input::Propose(vec![command])), dies);
                id
            }
            Act::Beat(id) => {
                state.left.beats -= 1;
                state.with(id, |node| node.replica.beat());
                state.step(id, None, false);
                id
            }
            Act::Advance(id) => {
                state.left.advances -= 1;
                state.with(id, |node| node.clock_us += ADVANCE_US);
                state.step(id, Some(Input::Timer), false);
                id
            }
            Act::Takeover(id, lane) => {
                state.left.takeovers -= 1;
                state.with(id, |node| node.replica.prepare(lane, 0));
                state.step(id, None, dies);
                id
            }
            Act::Crash(id) => {
                state.left.crashes -= 1;
                state.crash(self, id);
                id
            }
            Act::Reconfigure(id, voters) => {
                state.left.memberships -= 1;
                let voters = voters.into_iter().map(|node| (node, 1)).collect();
                let epoch = state.nodes[&id].replica.header().config.epoch;
                let input = Input::Reconfigure { epoch, voters, remove: BTreeSet::new() };
                state.step(id, Some(input), dies);
                id
            }
        };
        if dies {
            state.left.crashes -= 1;
            state.crash(self, id);
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Ring>> {
        vec![
            Property::always("one order", |_, state: &State| state.one_order()),
            Property::always("promises hold", |_, state: &State| state.promises_hold()),
            Property::sometimes("a command is executed", |_, state: &State| {
                state.executed(|r| matches!(r.entry.kind, EntryKind::Commands { .. }))
            }),
            Property::sometimes("an end is executed", |_, state: &State| {
                state.executed(|record| matches!(record.entry.kind, EntryKind::End { .. }))
            }),
            Property::sometimes("something is executed in the second epoch", |_, state: &State| {
                state.executed(|record| record.lane.epoch.0 == 2)
            }),
        ]
    }
}

/// Explores a configuration for a while. Returns what was violated, and whether that was all.
fn explore(name: &str, ring: Ring, limit: Duration) -> (Option<&'static str>, bool) {
    let begin = Instant::now();
    let broken = ring.mutation;
    let checker = ring
        .checker()
        .threads(2)
        .timeout(limit)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    let found = checker.discoveries();
    let violated = ["one order", "promises hold"].into_iter().find(|name| found.contains_key(name));
    // stateright calls a search done that ran out of time as well.
    let complete = begin.elapsed() < limit;
    println!(
        "{name}, broken: {broken:?}: {} states, {} unique, depth {}, {:.0} s, complete: {}; found: \
         {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begin.elapsed().as_secs_f64(),
        complete,
        found.keys().collect::<Vec<_>>()
    );
    if let Some(violated) = violated
        && broken.is_none()
    {
        println!("{:#?}", found[violated].clone().into_actions());
    }
    (violated, complete)
}

fn lane_of(node: u16) -> LaneId {
    LaneId { epoch: Config::genesis(NodeId(1)).epoch, node: NodeId(node), term: Term(0) }
}

const CLOCK_US: u64 = 1_000_000;
const START: ActiveLane = ActiveLane { next: Idx(1), start: Ts(CLOCK_US) };

/// Of a promise over the last chosen entry; small, so that it is reached.
const LEAD_US: u64 = 2;

/// Beyond [`LEAD_US`].
const ADVANCE_US: u64 = 4;

/// One voter's lane, or two.
fn ring(owners: &[u16], budget: Budget) -> Ring {
    Ring { voters: 3, owners: owners.to_vec(), budget, mutation: None }
}

const NOTHING: Budget =
    Budget { proposals: 0, beats: 0, advances: 0, takeovers: 0, crashes: 0, memberships: 0 };

/// Configurations by name, the small ones first.
fn configurations() -> Vec<(&'static str, Ring)> {
    let takeover = Budget { proposals: 1, takeovers: 1, ..NOTHING };
    vec![
        ("takeover", ring(&[1], takeover)),
        ("takeover and crash", ring(&[1], Budget { crashes: 1, ..takeover })),
        ("two lanes", ring(&[1, 2], Budget { proposals: 1, beats: 1, ..NOTHING })),
        ("activation", ring(&[1], Budget { proposals: 2, ..NOTHING })),
        ("takeover, two lanes", ring(&[1, 2], Budget { beats: 1, ..takeover })),
        ("two takeovers", ring(&[1], Budget { takeovers: 2, ..takeover })),
        ("membership", ring(&[1], Budget { proposals: 1, memberships: 1, ..NOTHING })),
        ("membership and takeover", ring(&[1], Budget { memberships: 1, ..takeover })),
        ("cumulative votes", ring(&[1], Budget { proposals: 2, takeovers: 1, ..NOTHING })),
        (
            "everything",
            ring(
                &[1, 2],
                Budget {
                    proposals: 2,
                    beats: 2,
                    advances: 1,
                    takeovers: 2,
                    crashes: 1,
                    memberships: 2,
                },
            ),
        ),
    ]
}

/// A broken rule, and a configuration small enough to find it in.
fn breaches() -> Vec<(Mutation, Ring)> {
    let takeover = Budget { proposals: 1, takeovers: 1, ..NOTHING };
    let promises = Budget { beats: 1, advances: 1, ..takeover };
    let crash = Budget { crashes: 1, ..takeover };
    vec![
        (Mutation::AcceptBelowPromise, ring(&[1], takeover)),
        (Mutation::VotesAcrossBallots, ring(&[1], takeover)),
        (Mutation::EndWithoutLead, ring(&[1, 2], promises)),
        (Mutation::UnboundedPromise, ring(&[1, 2], promises)),
        (Mutation::ClosedWithoutLast, ring(&[1, 2], Budget { takeovers: 0, ..promises })),
        (Mutation::ForgetPromised, ring(&[1], crash)),
        (Mutation::VoteBeforeDurable, ring(&[1], crash)),
        (Mutation::ResumeLane, ring(&[1], Budget { proposals: 2, crashes: 1, ..NOTHING })),
        (Mutation::LowestBallot, ring(&[1], Budget { takeovers: 2, ..takeover })),
        (Mutation::PrepareBeforeDurable, ring(&[1], Budget { takeovers: 2, ..crash })),
        (Mutation::OldEpochNotVoid, ring(&[1], Budget { proposals: 2, memberships: 1, ..NOTHING })),
        (Mutation::ForeignEndAsOwn, ring(&[1, 2], Budget { beats: 2, ..promises })),
        (
            Mutation::QuorumOfOldEpoch,
            ring(&[1], Budget { proposals: 2, takeovers: 1, memberships: 1, ..NOTHING }),
        ),
    ]
}

/// How long each configuration is explored, FUSION_EXHAUSTIVE_SECONDS if given.
fn limit(seconds: u64) -> Duration {
    let given = std::env::var("FUSION_EXHAUSTIVE_SECONDS").ok();
    let given = given.map(|text| text.parse().expect("FUSION_EXHAUSTIVE_SECONDS is a number"));
    Duration::from_secs(given.unwrap_or(seconds))
}

#[test]
fn two_lanes_are_safe_in_every_order_of_messages() {
    let ring = ring(&[1, 2], Budget { proposals: 1, beats: 1, ..NOTHING });
    assert_eq!(explore("two lanes", ring, Duration::from_secs(600)), (None, true));
}

#[test]
fn broken_rules_of_voting_are_found() {
    let takeover = Budget { proposals: 1, takeovers: 1, ..NOTHING };
    for mutation in [Mutation::AcceptBelowPromise, Mutation::VotesAcrossBallots] {
        let ring = Ring { mutation: Some(mutation), ..ring(&[1], takeover) };
        let (violated, _) = explore("takeover", ring, Duration::from_secs(600));
        assert_eq!(violated, Some("one order"), "{mutation:?}");
    }
}

#[test]
#[ignore = "figures: minutes"]
fn all_configurations_are_safe() {
    for (name, ring) in configurations() {
        assert_eq!(explore(name, ring, limit(60)).0, None, "{name}");
    }
}

#[test]
#[ignore = "figures: minutes"]
fn breaches_are_found() {
    for (mutation, mut ring) in breaches() {
        ring.mutation = Some(mutation);
        let (violated, _) = explore("", ring, limit(60));
        println!("{mutation:?}: {violated:?}");
    }
}

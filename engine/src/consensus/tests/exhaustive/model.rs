//! A ring as a model for stateright.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use stateright::{Model, Property};

use super::dead::is_dead;
use super::node::{Node, Sent, Step};
use super::ring::{Ring, What};
use super::table::{Key, Letter, NodeState, Number, Outcome, Seen, Table, slot};
use crate::consensus::Input;
use crate::ids::{Idx, LaneId, NodeId, Ts};

pub struct Explored {
    pub ring: Ring,
    table: RwLock<Table>,
    /// Every message is delivered and none forgotten, to see that this shows nothing else.
    whole: bool,
    /// From then on nothing more is looked at.
    until: Instant,
    /// Something was not looked at.
    cut: AtomicBool,
    /// Which orders the nodes had executed side by side, in any state.
    outcomes: Mutex<BTreeSet<Vec<u64>>>,
}

/// Of the whole ring. Messages stay: each may come at any time, again and again, or never.
#[derive(Clone)]
pub struct State {
    nodes: [NodeState; NODES_MAX],
    /// Everything that was sent, ascending.
    sent: Arc<[Letter]>,
    /// Of `sent`: the order does not matter.
    digest: u64,
    /// Of each place in a lane the best promise that was sent, ascending.
    promised: Arc<[Promised]>,
    /// What may happen yet: a bit of each of [`Ring::may`].
    left: u32,
    alarm: bool,
}

/// Nothing comes from the lane, after that entry, at or below that timestamp.
pub type Promised = (LaneId, Idx, Ts);

/// Something that changes the state.
#[derive(Clone)]
pub struct Action {
    node: NodeId,
    key: Key,
    /// A vote that is noted before.
    note: Option<Letter>,
    /// What happens can't happen again.
    used: u32,
    outcome: Arc<Outcome>,
}

impl PartialEq for Action {
    fn eq(&self, other: &Action) -> bool {
        (self.node, self.key, self.note) == (other.node, other.key, other.note)
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.node, self.key)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.nodes, self.digest, &self.promised, self.left, self.alarm).hash(hasher);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        (self.nodes, self.digest, &self.promised, self.left, self.alarm)
            == (other.nodes, other.digest, &other.promised, other.left, other.alarm)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nodes {:?}, sent {:?}", self.nodes, self.sent)
    }
}

impl State {
    fn send(&mut self, table: &Table, letters: &[Letter]) {
        let fresh = letters.iter().filter(|letter| self.sent.binary_search(letter).is_err());
        let mut fresh: Vec<Letter> = fresh.copied().collect();
        if fresh.is_empty() {
            return;
        }
        fresh.sort_unstable();
        fresh.dedup();
        fresh.iter().for_each(|&letter| self.digest ^= table.letter(letter).digest);
        for closed in fresh.iter().filter_map(|&letter| table.letter(letter).closed) {
            self.promise((closed.lane, closed.last, closed.ts));
        }
        let mut sent = [&self.sent[..], &fresh].concat();
        sent.sort_unstable();
        self.sent = sent.into();
    }

    fn promise(&mut self, (lane, last, ts): Promised) {
        let better = |known: &Promised| (known.0, known.1) == (lane, last) && known.2 >= ts;
        if !self.promised.iter().any(better) {
            let others = self.promised.iter().filter(|known| (known.0, known.1) != (lane, last));
            let mut promised: Vec<Promised> = others.copied().chain([(lane, last, ts)]).collect();
            promised.sort_unstable();
            self.promised = promised.into();
        }
    }

    /// It does not come again.
    fn remove(&mut self, table: &Table, letter: Letter) {
        if self.sent.contains(&letter) {
            self.digest ^= table.letter(letter).digest;
            self.sent = self.sent.iter().copied().filter(|&other| other != letter).collect();
        }
    }

    /// Without what can do nothing any more, now that `node` has changed (`None`: several).
    fn forget(&mut self, ring: &Ring, table: &Table, node: Option<NodeId>) {
        let at = |node: NodeId| &*table.node(self.nodes[slot(node)]).node;
        let dead = |letter: Letter| {
            let sent = &*table.letter(letter).sent;
            node.is_none_or(|node| sent.from == node || sent.to == node)
                && is_dead(ring, sent, at(sent.from), at(sent.to))
        };
        let dead: Vec<Letter> = self.sent.iter().copied().filter(|&letter| dead(letter)).collect();
        if !dead.is_empty() {
            dead.iter().for_each(|&letter| self.digest ^= table.letter(letter).digest);
            let kept = self.sent.iter().filter(|letter| dead.binary_search(letter).is_err());
            self.sent = kept.copied().collect();
        }
    }
}

impl Explored {
    pub fn new(ring: Ring, limit: Duration) -> Explored {
        assert!(usize::from(ring.nodes) <= NODES_MAX, "a state has room for so many");
        let outcomes = Mutex::default();
        let (until, cut) = (Instant::now() + limit, AtomicBool::new(false));
        Explored { ring, table: RwLock::default(), whole: false, until, cut, outcomes }
    }

    pub fn whole(self) -> Explored {
        Explored { whole: true, ..self }
    }

    /// Every state was looked at.
    pub fn is_complete(&self) -> bool {
        !self.cut.load(Ordering::Relaxed)
    }

    pub fn outcomes(&self) -> BTreeSet<Vec<u64>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_outcome(&self, state: &State) {
        let table = self.table();
        let last = |node: NodeState| table.node(node).orders.last().copied().unwrap_or_default();
        let outcome = self.live(state).map(last).collect();
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(outcome);
    }

    pub fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that could happen next, whether it changes anything or not.
    fn keys(&self, state: &State) -> Vec<(NodeId, Key, u32)> {
        let table = self.table();
        let mut keys = Vec::with_capacity(state.sent.len() + 8);
        let mut add = |node: NodeId, deed: Number, used: u32, writes: bool| {
            keys.push((node, Key { deed, dies: false }, used));
            // Or the node dies in it: that is a crash as well.
            if writes
                && !self.ring.is_slow(node)
                && let Some(crash) = self.crash(state, node, used)
            {
                keys.push((node, Key { deed, dies: true }, used | crash));
            }
        };
        for &letter in state.sent.iter() {
            add(table.letter(letter).sent.to, Number::Receive(letter), 0, true);
        }
        for (number, may) in (0..).zip(&self.ring.may) {
            let bit = 1 << number;
            // Of those that are the same the first goes first.
            let first = self.ring.may.iter().position(|other| other == may);
            let earlier = first.is_some_and(|first| {
                (first..usize::from(number))
                    .any(|other| self.ring.may[other] == *may && state.left & 1 << other != 0)
            });
            if state.left & bit == 0 || earlier {
                continue;
            }
            for &who in &may.who {
                let writes = !matches!(may.what, What::Crash | What::Beat | What::Advance);
                add(NodeId(who), Number::Happen(number), bit, writes);
            }
        }
        for &who in &self.ring.slow {
            add(NodeId(who), Number::Flush, 0, false);
        }
        keys
    }

    /// A crash that may yet happen to `node`, beside what is `used`.
    fn crash(&self, state: &State, node: NodeId, used: u32) -> Option<u32> {
        let numbers = (0..).zip(&self.ring.may);
        let mut crashes = numbers
            .filter(|(_, may)| may.what == What::Crash && may.who.contains(&node.0))
            .map(|(number, _): (u32, _)| 1u32 << number);
        crashes.find(|bit| state.left & !used & bit != 0)
    }

    /// What follows in a node's state; `None` if nothing does.
    fn outcome(&self, node: NodeState, key: Key) -> Option<Arc<Outcome>> {
        if let Some(known) = self.table().outcome(node, key) {
            return known.cloned();
        }
        let subject = self.table().subject(node, key);
        let step = subject.compute(&self.ring);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.learn(&self.ring, node, key, step);
        table.outcome(node, key).expect("it was just learnt").cloned()
    }

    /// Something has happened that can't happen again.
    fn retire(&self, state: &mut State) {
        for id in 1..=self.ring.nodes {
            let slot = slot(NodeId(id));
            let needs = self.ring.needs(NodeId(id), state.left);
            let node = state.nodes[slot];
            let known = self.table().retired(node, needs);
            state.nodes[slot] = known.unwrap_or_else(|| {
                let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
                table.retire(&self.ring, node, needs)
            });
        }
    }

    /// Otherwise it is repeated, and does nothing more.
    fn changes(&self, state: &State, node: NodeState, outcome: &Outcome) -> bool {
        let news = |letter: &Letter| state.sent.binary_search(letter).is_err();
        outcome.node != node || outcome.alarm || outcome.sent.iter().any(news)
    }

    /// What happened, for people.
    pub fn describe(&self, action: &Action) -> String {
        let table = self.table();
        let what = match action.key.deed {
            Number::Receive(letter) => {
                let Sent { from, message, .. } = &*table.letter(letter).sent;
                format!("receives from {from:?}: {message:?}")
            }
            Number::Happen(number) => format!("{:?}", self.ring.may[usize::from(number)].what),
            Number::Flush => "flushes".to_owned(),
        };
        let note = action.note.map(|letter| format!(" (after {:?})", table.letter(letter).sent));
        let note = note.unwrap_or_default();
        let dies = if action.key.dies { ", and dies" } else { "" };
        let executed = &table.node(action.outcome.node).node.executed;
        format!("{:?} {what}{note}{dies}; executed: {executed:?}", action.node)
    }

    fn any(&self, state: &State, is: impl Fn(&Seen) -> bool) -> bool {
        let table = self.table();
        self.live(state).any(|node| is(&table.node(node).seen))
    }

    fn live(&self, state: &State) -> impl Iterator<Item = NodeState> {
        state.nodes.into_iter().take(usize::from(self.ring.nodes))
    }

    /// All nodes executed the same, as far as they came.
    fn one_order(&self, state: &State) -> bool {
        let table = self.table();
        let mut nodes = self.live(state).map(|node| table.node(node));
        let mut longest = nodes.next().expect("there are nodes");
        for node in nodes {
            if !longest.agrees(node) {
                return false;
            }
            if node.orders.len() > longest.orders.len() {
                longest = node;
            }
        }
        !state.alarm
    }

    fn promises_hold(&self, state: &State) -> bool {
        let table = self.table();
        let keeps = |promised| self.live(state).all(|node| table.node(node).keeps(promised));
        state.promised.iter().copied().all(keeps)
    }
}

impl Model for Explored {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = settled(&self.ring);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = State {
            nodes: [0; NODES_MAX],
            sent: Arc::from([]),
            digest: 0,
            promised: Arc::from([]),
            left: self.ring.all(),
            alarm: false,
        };
        for node in nodes {
            let slot = slot(node.id);
            state.nodes[slot] = table.add_node(&self.ring, node);
        }
        vec![state]
    }

    /// Votes that are merely noted decide nothing before another message does. So they are
    /// not delivered alone, but together with the vote that makes them count; and with what
    /// else makes them count, they may as well come right after it.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let at = |node: NodeId| state.nodes[slot(node)];
        let mut notes = Vec::new();
        for (node, key, used) in self.keys(state) {
            let Some(outcome) = self.outcome(at(node), key) else { continue };
            match key.deed {
                Number::Receive(letter) if outcome.note && !self.whole => {
                    notes.push((node, letter, outcome))
                }
                _ if self.changes(state, at(node), &outcome) => {
                    actions.push(Action { node, key, note: None, used, outcome });
                }
                _ => {}
            }
        }
        for &(node, letter, ref noted) in &notes {
            for &(other, second, _) in &notes {
                let key = Key { deed: Number::Receive(second), dies: false };
                if other == node
                    && second != letter
                    && let Some(outcome) = self.outcome(noted.node, key)
                    && !outcome.note
                {
                    actions.push(Action { node, key, note: Some(letter), used: 0, outcome });
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let Action { node, key, used, outcome, .. } = action;
        let mut state = last.clone();
        state.nodes[slot(node)] = outcome.node;
        state.left &= !used;
        state.alarm |= outcome.alarm;
        if used != 0 {
            self.retire(&mut state);
        }
        let table = self.table();
        if let Number::Receive(letter) = key.deed
            && table.letter(letter).once
        {
            state.remove(&table, letter);
        }
        state.send(&table, &outcome.sent);
        if !self.whole {
            // With less that can happen to anybody, more may be dead at everybody.
            state.forget(&self.ring, &table, (used == 0).then_some(node));
        }
        Some(state)
    }

    /// Not with stateright's own time limit: a single thread does not look at it.
    fn within_boundary(&self, _: &State) -> bool {
        let within = Instant::now() < self.until;
        if !within {
            self.cut.store(true, Ordering::Relaxed);
        }
        within
    }

    fn properties(&self) -> Vec<Property<Explored>> {
        vec![
            Property::always(ONE_ORDER, |it: &Explored, state| {
                it.note_outcome(state);
                it.one_order(state)
            }),
            Property::always(PROMISES_HOLD, |it: &Explored, state| it.promises_hold(state)),
            Property::always(EPOCHS_END, |it: &Explored, state| !it.any(state, |seen| seen.void)),
            Property::sometimes(COMMAND, |it: &Explored, state| it.any(state, |seen| seen.command)),
            Property::sometimes(END, |it: &Explored, state| it.any(state, |seen| seen.end)),
            Property::sometimes(EPOCH, |it: &Explored, state| it.any(state, |seen| seen.epoch)),
        ]
    }
}

/// The nodes when they have started and measured each other.
pub fn settled(ring: &Ring) -> Vec<Node> {
    let nodes = (1..=ring.nodes).map(|id| Node::new(ring, NodeId(id)));
    let mut steps: Vec<Step> =
        nodes.map(|node| Step { node, sent: Vec::new(), alarm: false }).collect();
    for step in &mut steps {
        step.input(Some(Input::Start));
        step.flush_all();
    }
    for _ in 0..3 {
        for step in &mut steps {
            step.node.replica.beat();
            step.input(None);
        }
        loop {
            let sent: Vec<Sent> = steps.iter_mut().flat_map(|it| it.sent.drain(..)).collect();
            if sent.is_empty() {
                break;
            }
            for Sent { from, to, message } in sent {
                if let Some(step) = steps.get_mut(slot(to)) {
                    step.input(Some(Input::Message { from, message }));
                    step.flush_all();
                }
            }
        }
    }
    steps.into_iter().map(|step| step.node).collect()
}

/// More than a small ring has.
const NODES_MAX: usize = 5;

pub const ONE_ORDER: &str = "one order";
pub const PROMISES_HOLD: &str = "promises hold";
pub const EPOCHS_END: &str = "epochs end";
pub const COMMAND: &str = "a command is executed";
pub const END: &str = "an end is executed";
pub const EPOCH: &str = "something is executed in the second epoch";

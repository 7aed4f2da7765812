//! One node: a process, its disk, and what the next step makes of them.

use std::collections::BTreeSet;

use super::ring::{ADVANCE_US, CLOCK_US, Needs, Ring, What, weights};
use crate::command::{Command, Cred, Op};
use crate::consensus::message::Closed;
use crate::consensus::record::{Header, LogRecord, OrderRecord, Recovered};
use crate::consensus::{Effect, EntryKind, Input, Message, Replica};
use crate::ids::{Ballot, Gsn, LaneId, NodeId, OpId};
use crate::time::Timestamp;

#[derive(Clone, Debug)]
pub struct Node {
    pub id: NodeId,
    pub replica: Replica,
    pub disk: Recovered,
    pub clock_us: u64,
    /// Own commands of this start.
    pub seq: u64,
    pub executed: Vec<OrderRecord>,
    /// Written and not flushed.
    pub tail: Vec<Write>,
    /// What waits for the flush.
    pub outbox: Vec<(NodeId, Message)>,
    pub needs: Needs,
}

#[derive(Clone, Debug)]
pub enum Write {
    Log(LogRecord),
    Header(Box<Header>),
}

#[derive(Clone, Debug)]
pub struct Sent {
    pub from: NodeId,
    pub to: NodeId,
    pub message: Message,
}

/// What a node may do next.
#[derive(Clone, Copy, Debug)]
pub enum Deed<'a> {
    Receive(&'a Sent),
    /// The number of it tells commands apart.
    Happen(&'a What, u64),
    Flush,
}

/// What a deed led to.
#[derive(Clone, Debug)]
pub struct Step {
    pub node: Node,
    pub sent: Vec<Sent>,
    /// The node noticed that a rule was broken.
    pub alarm: bool,
}

impl Sent {
    pub fn closed(&self) -> Option<Closed> {
        match &self.message {
            Message::Accepted { closed, .. } => *closed,
            Message::Heartbeat(heartbeat) => heartbeat.closed,
            _ => None,
        }
    }
}

impl Node {
    pub fn new(ring: &Ring, id: NodeId) -> Node {
        let disk = Recovered::fresh(ring.header());
        let replica = Replica::recover(id, 1, disk.clone(), u64::from(id.0));
        let mut node = Node {
            id,
            replica,
            disk,
            clock_us: CLOCK_US,
            seq: 0,
            executed: Vec::new(),
            tail: Vec::new(),
            outbox: Vec::new(),
            needs: ring.needs(id, ring.all()),
        };
        ring.mutation.iter().for_each(|&mutation| node.replica.mutate(mutation));
        node
    }

    /// What follows from `deed`; `None` if it cannot happen here. If it dies in it, nothing of
    /// it becomes durable.
    pub fn after(&self, ring: &Ring, deed: Deed, dies: bool) -> Option<Step> {
        let mut step = Step { node: self.clone(), sent: Vec::new(), alarm: false };
        match deed {
            Deed::Receive(Sent { from, message, .. }) => {
                let message = message.clone();
                step.input(Some(Input::Message { from: *from, message }));
            }
            Deed::Happen(What::Crash, _) => {
                step.restart(ring);
                return Some(step);
            }
            Deed::Happen(what, number) => {
                let input = step.node.begin(what, number)?;
                step.input(input);
            }
            Deed::Flush if self.tail.is_empty() && self.outbox.is_empty() => return None,
            Deed::Flush => step.flush(),
        }
        if dies {
            step.restart(ring);
        } else if !ring.is_slow(self.id) {
            step.flush_all();
        }
        Some(step)
    }

    /// The beginning of an event: what the replica is told, if it is not done with that.
    fn begin(&mut self, what: &What, number: u64) -> Option<Option<Input>> {
        let replica = &mut self.replica;
        if replica.is_removed() {
            return None;
        }
        let input = match what {
            What::Propose => {
                let own = replica.own.as_ref().filter(|own| own.takes_proposals())?;
                if !replica.header.active.contains_key(&own.lane()) {
                    return None;
                }
                let commands = vec![command(STRANGER, number, 1)];
                replica.propose(vec![EntryKind::Commands { commands, activate: None }]);
                None
            }
            What::Command => {
                self.seq += 1;
                let command = command(self.id, replica.boot, self.seq);
                Some(Input::Propose(vec![command]))
            }
            What::Beat => {
                replica.beat();
                None
            }
            What::Advance => {
                self.clock_us += ADVANCE_US;
                Some(Input::Timer)
            }
            What::Takeover { of } => {
                let lane = self.closable(*of)?;
                self.replica.prepare(lane, 0);
                None
            }
            What::Unasked { taker, of } => {
                let lane = self.closable(*of)?;
                let log = &self.replica.lanes[&lane];
                let round = log.promised.max(log.highest).0 >> 16;
                let ballot = Ballot((round + 1) << 16 | u64::from(*taker));
                let from = self.replica.header.active[&lane].next;
                // The same as if it had been asked.
                let message = Message::Prepare { lane, ballot, from };
                Some(Input::Message { from: NodeId(*taker), message })
            }
            What::Members(voters) => {
                let epoch = replica.header().config.epoch;
                let voters = weights(voters.iter().copied());
                Some(Input::Reconfigure { epoch, voters, remove: BTreeSet::new() })
            }
            What::Fetch { from } => {
                replica.fetch_from(NodeId(*from));
                None
            }
            What::Crash => unreachable!("nothing follows from it"),
        };
        Some(input)
    }

    /// The active lane of `owner`, if this node may close it.
    fn closable(&self, owner: u16) -> Option<LaneId> {
        let replica = &self.replica;
        let mut active = replica.header.active.keys().copied();
        active.find(|lane| lane.node == NodeId(owner) && replica.is_voter())
    }
}

impl Step {
    /// Tells the replica, and carries out what does not wait for a flush.
    pub fn input(&mut self, input: Option<Input>) {
        let node = &mut self.node;
        let mut effects = std::mem::take(&mut node.replica.out);
        if let Some(input) = input {
            node.replica.step(node.clock_us, input, &mut effects);
        }
        for effect in effects {
            match effect {
                Effect::Persist(record) => node.tail.push(Write::Log(record)),
                Effect::Send { to, message } => {
                    self.sent.push(Sent { from: node.id, to, message });
                }
                Effect::SendDurable { to, message } => node.outbox.push((to, message)),
                Effect::Agreed { record, header } => {
                    node.executed.push(record);
                    node.tail.push(Write::Header(Box::new(Header::clone(&header))));
                }
                Effect::ServeOrder { to, from } => {
                    let records = node.executed.get(from.0 as usize - 1..).unwrap_or_default();
                    let records = records.to_vec();
                    let gsn = Gsn(node.executed.len() as u64);
                    let message = Message::Order { records, oldest: Gsn(1), gsn };
                    self.sent.push(Sent { from: node.id, to, message });
                }
                Effect::Diverged { .. } | Effect::PeerDiverged { .. } => self.alarm = true,
                Effect::NeedSnapshot { .. }
                | Effect::MemoryWhole
                | Effect::Removed { .. }
                | Effect::ShutdownDone => {}
            }
        }
    }

    /// What was written becomes durable, and what waited for that goes out. Messages to oneself
    /// are never lost, and are told at once.
    pub fn flush(&mut self) {
        let node = &mut self.node;
        for write in std::mem::take(&mut node.tail) {
            match write {
                Write::Header(header) => node.disk.header = *header,
                Write::Log(LogRecord::Accepted { lane, idx, ballot, entry }) => {
                    node.disk.accepted.entry(lane).or_default().insert(idx, (ballot, entry));
                }
                Write::Log(LogRecord::Promised { lane, ballot }) => {
                    node.disk.promised.insert(lane, ballot);
                }
                Write::Log(LogRecord::Started { lane }) => {
                    node.disk.started.insert(lane);
                }
                // Nothing is told to be durable in the tables, so nothing is given up.
                Write::Log(LogRecord::Truncated { .. }) => {}
            }
        }
        let id = node.id;
        for (to, message) in std::mem::take(&mut node.outbox) {
            match to == id {
                true => self.input(Some(Input::Message { from: id, message })),
                false => self.sent.push(Sent { from: id, to, message }),
            }
        }
    }

    /// Until nothing is left to flush.
    pub fn flush_all(&mut self) {
        while !self.node.tail.is_empty() || !self.node.outbox.is_empty() {
            self.flush();
        }
    }

    fn restart(&mut self, ring: &Ring) {
        let node = &mut self.node;
        node.tail.clear();
        node.outbox.clear();
        let boot = node.replica.boot + 1;
        node.replica = Replica::recover(node.id, boot, node.disk.clone(), u64::from(node.id.0));
        ring.mutation.iter().for_each(|&mutation| node.replica.mutate(mutation));
        node.executed.truncate(node.disk.header.gsn.0 as usize);
        node.seq = 0;
        let sent = self.sent.len();
        self.input(Some(Input::Start));
        if !ring.is_slow(self.node.id) {
            self.flush_all();
        }
        // What a start says to others is lost.
        self.sent.truncate(sent);
    }
}

fn command(origin: NodeId, boot: u64, seq: u64) -> Command {
    let id = OpId { origin, boot, seq };
    Command { id, time: Timestamp::default(), cred: Cred::SYSTEM, op: Op::Noop }
}

/// Is no member of the ring.
const STRANGER: NodeId = NodeId(99);

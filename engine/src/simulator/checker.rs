//! The invariants, checked at every event against one global record of the run.
//!
//! Numbers are those of docs/design/0001-merged-lanes.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::command::Command;
use crate::consensus::message::{Closed, Message};
use crate::consensus::{Config, Entry, EntryKind, Header, OrderRecord};
use crate::ids::{Ballot, Epoch, Gsn, Idx, LaneId, NodeId, OpId, StateHash, Ts};

pub(super) type Checked = Result<(), String>;

/// What the run has shown so far, over all nodes.
#[derive(Default)]
pub(super) struct Checker {
    /// Agreement `gsn` is at `gsn - 1`, as the first node executed it.
    ledger: Vec<Agreement>,
    lanes: BTreeMap<LaneId, LaneHistory>,
    /// Every proposed value.
    proposed: BTreeMap<(LaneId, Ballot, Idx), Entry>,
    /// Who proposed at ballot 0, by boot.
    owners: BTreeMap<LaneId, u64>,
    /// How far each origin's commands are applied.
    origins: BTreeMap<NodeId, (u64, u64)>,
    applied: BTreeMap<OpId, Gsn>,
    acknowledged: BTreeMap<OpId, Gsn>,
    newest_acknowledged: Gsn,
}

/// An agreement, and what the first node that executed it made of it.
pub(super) struct Agreement {
    pub record: Arc<OrderRecord>,
    pub header: Arc<Header>,
    /// Of the tables after it.
    pub state: StateHash,
    /// Which of its commands were applied.
    pub fresh: Arc<[bool]>,
    node: NodeId,
}

#[derive(Default)]
struct LaneHistory {
    /// Timestamps of executed entries, from idx 1 on.
    executed: Vec<Ts>,
    ended: bool,
    /// Promises that were sent: `last` → highest `ts`, without those that say less than
    /// another with a lower or equal `last`.
    closed: BTreeMap<Idx, Ts>,
}

impl LaneHistory {
    /// I4, I5: nothing at or below a promise comes after it.
    fn check_promise(&self, lane: LaneId, closed: Closed) -> Checked {
        match self.executed.get(closed.last.0 as usize) {
            Some(&ts) if ts <= closed.ts => Err(format!(
                "I4: {lane:?} promised nothing at or below {:?} after {:?}, but has {ts:?}",
                closed.ts, closed.last
            )),
            _ => Ok(()),
        }
    }

    fn check_entry(&self, lane: LaneId, idx: Idx, ts: Ts) -> Checked {
        match self.closed.range(..idx).next_back() {
            Some((last, &closed)) if ts <= closed => Err(format!(
                "I4: {lane:?} has {ts:?} at {idx:?}, but promised {closed:?} after {last:?}"
            )),
            _ => Ok(()),
        }
    }

    fn note_promise(&mut self, last: Idx, ts: Ts) {
        let stronger =
            self.closed.range(..=last).next_back().is_some_and(|(_, &known)| known >= ts);
        if !stronger {
            let weaker = self.closed.range(last..).take_while(|(_, known)| **known <= ts);
            let weaker: Vec<Idx> = weaker.map(|(&last, _)| last).collect();
            weaker.iter().for_each(|last| {
                self.closed.remove(last);
            });
            self.closed.insert(last, ts);
        }
    }
}

impl Checker {
    pub fn agreements(&self) -> u64 {
        self.ledger.len() as u64
    }

    pub fn commands(&self) -> u64 {
        self.applied.len() as u64
    }

    pub fn takeovers(&self) -> u64 {
        let closed: BTreeSet<LaneId> = self
            .proposed
            .keys()
            .filter(|(_, ballot, _)| *ballot > Ballot(0))
            .map(|(lane, ..)| *lane)
            .collect();
        closed.len() as u64
    }

    pub fn epoch(&self) -> Epoch {
        self.ledger.last().map_or(Epoch(1), |agreement| agreement.header.config.epoch)
    }

    /// Nodes that the order has removed.
    pub fn removed(&self) -> BTreeSet<NodeId> {
        self.ledger
            .last()
            .map(|agreement| agreement.header.config.removed.clone())
            .unwrap_or_default()
    }

    pub fn newest_acknowledged(&self) -> Gsn {
        self.newest_acknowledged
    }

    /// The last `seq` of one boot of `origin` that is applied at `gsn`; 0 if there is none.
    pub fn finished(&self, origin: NodeId, boot: u64, gsn: Gsn) -> u64 {
        let first = OpId { origin, boot, seq: 0 };
        let last = OpId { origin, boot, seq: u64::MAX };
        let applied = self.applied.range(first..=last).rev().find(|&(_, &at)| at <= gsn);
        applied.map_or(0, |(id, _)| id.seq)
    }

    /// Where a command was applied, if it was.
    pub fn applied_at(&self, id: OpId) -> Option<Gsn> {
        self.applied.get(&id).copied()
    }

    /// `node` executes `record`: what others made of it, if they have executed it before.
    pub fn known(
        &self,
        node: NodeId,
        record: &OrderRecord,
        header: &Header,
    ) -> Result<Option<&Agreement>, String> {
        self.invariant_removed_nodes_are_out(node, record)?;
        match self.ledger.get(record.gsn.0 as usize - 1) {
            Some(known) => {
                invariant_one_agreement_per_gsn(known, node, record, header)?;
                Ok(Some(known))
            }
            None if record.gsn.0 == self.agreements() + 1 => Ok(None),
            None => Err(format!("{node:?} skipped to {:?}", record.gsn)),
        }
    }

    /// `node` is the first to execute `record`; its tables are then at `state`, and `fresh`
    /// tells for each command whether it was applied.
    pub fn on_agreed(
        &mut self,
        node: NodeId,
        record: Arc<OrderRecord>,
        header: Arc<Header>,
        state: StateHash,
        fresh: Arc<[bool]>,
    ) -> Checked {
        self.invariant_lane_order(&record)?;
        if let EntryKind::Commands { commands, .. } = &record.entry.kind {
            for (command, &fresh) in commands.iter().zip(fresh.iter()) {
                self.invariant_exactly_once_in_order(record.gsn, command, fresh)?;
            }
        }
        self.ledger.push(Agreement { record, header, state, fresh, node });
        Ok(())
    }

    /// I13: a removed node neither executes nor brings anything beyond its removal.
    fn invariant_removed_nodes_are_out(&self, node: NodeId, record: &OrderRecord) -> Checked {
        let before = (record.gsn.0 as usize).checked_sub(2).and_then(|at| self.ledger.get(at));
        let Some(before) = before else { return Ok(()) };
        let Config { removed, voters, .. } = &before.header.config;
        if removed.contains(&node) {
            return Err(format!("I13: {node:?} executes {:?}, but was removed", record.gsn));
        }
        if removed.contains(&record.lane.node) || voters.keys().any(|v| removed.contains(v)) {
            return Err(format!("I13: {:?} is of a removed node's lane", record.gsn));
        }
        Ok(())
    }

    /// I3, I4, I9: a lane's entries come in order, above its promises, none after its `End`
    /// and none of an epoch that is over.
    fn invariant_lane_order(&mut self, record: &OrderRecord) -> Checked {
        let OrderRecord { gsn, lane, idx, entry } = record;
        let epoch = self.epoch();
        if lane.epoch != epoch {
            return Err(format!("I9: {gsn:?} is of {lane:?}, but the epoch is {epoch:?}"));
        }
        if let Some(last) = self.ledger.last() {
            let position = (last.record.entry.ts, last.record.lane.node);
            if (entry.ts, lane.node) <= position {
                return Err(format!("I3: {gsn:?} at {:?} does not follow {position:?}", entry.ts));
            }
        }
        let history = self.lanes.entry(*lane).or_default();
        if history.ended {
            return Err(format!("I3: {gsn:?} is of {lane:?}, which has ended"));
        }
        if idx.0 != history.executed.len() as u64 + 1 {
            return Err(format!("I3: {gsn:?} is {idx:?} of {lane:?}, out of order"));
        }
        history.check_entry(*lane, *idx, entry.ts)?;
        history.executed.push(entry.ts);
        history.ended = matches!(entry.kind, EntryKind::End { .. });
        Ok(())
    }

    /// I8, I10: a command is applied once, and in its origin's order.
    fn invariant_exactly_once_in_order(
        &mut self,
        gsn: Gsn,
        command: &Command,
        fresh: bool,
    ) -> Checked {
        let OpId { origin, boot, seq } = command.id;
        let (last_boot, last_seq) = self.origins.get(&origin).copied().unwrap_or_default();
        let last_seq = if boot == last_boot { last_seq } else { 0 };
        // What a removed node proposed before does not happen after.
        let member = !self.removed().contains(&origin);
        let expected = member && boot >= last_boot && seq == last_seq + 1;
        if fresh != expected {
            return Err(format!(
                "I10: {:?} at {gsn:?} applied: {fresh}, after seq {last_seq}",
                command.id
            ));
        }
        if fresh {
            self.origins.insert(origin, (boot, seq));
            if let Some(before) = self.applied.insert(command.id, gsn) {
                return Err(format!("I8: {:?} applied at {before:?} and {gsn:?}", command.id));
            }
        }
        Ok(())
    }

    /// I8, I11: what is acknowledged is agreed, and after everything that was acknowledged
    /// before it was proposed.
    pub fn on_acknowledged(&mut self, id: OpId, floor: Gsn) -> Checked {
        let Some(gsn) = self.applied_at(id) else {
            return Err(format!("I8: {id:?} is acknowledged, but not agreed"));
        };
        if gsn <= floor {
            return Err(format!("I11: {id:?} is at {gsn:?}, proposed after {floor:?} was known"));
        }
        self.acknowledged.insert(id, gsn);
        self.newest_acknowledged = self.newest_acknowledged.max(gsn);
        Ok(())
    }

    /// A node sends `message`.
    pub fn on_send(&mut self, node: NodeId, boot: u64, message: &Message) -> Checked {
        match message {
            Message::Propose { lane, ballot, first, entries, .. } => {
                for (idx, entry) in (first.0..).map(Idx).zip(entries) {
                    self.invariant_one_proposal_per_ballot(*lane, *ballot, idx, entry)?;
                }
                if *ballot == Ballot(0) {
                    self.invariant_lane_of_one_boot(node, *lane, boot)?;
                }
                Ok(())
            }
            Message::Accepted { closed: Some(closed), .. } => self.on_closed(*closed),
            Message::Heartbeat(heartbeat) => {
                heartbeat.closed.map_or(Ok(()), |closed| self.on_closed(closed))
            }
            _ => Ok(()),
        }
    }

    fn on_closed(&mut self, closed: Closed) -> Checked {
        let history = self.lanes.entry(closed.lane).or_default();
        history.check_promise(closed.lane, closed)?;
        history.note_promise(closed.last, closed.ts);
        Ok(())
    }

    /// I2
    fn invariant_one_proposal_per_ballot(
        &mut self,
        lane: LaneId,
        ballot: Ballot,
        idx: Idx,
        entry: &Entry,
    ) -> Checked {
        match self.proposed.get(&(lane, ballot, idx)) {
            Some(known) if known != entry => {
                Err(format!("I2: two values at {lane:?} {ballot:?} {idx:?}: {known:?}, {entry:?}"))
            }
            Some(_) => Ok(()),
            None => {
                self.proposed.insert((lane, ballot, idx), entry.clone());
                Ok(())
            }
        }
    }

    /// I7
    fn invariant_lane_of_one_boot(&mut self, node: NodeId, lane: LaneId, boot: u64) -> Checked {
        let first = *self.owners.entry(lane).or_insert(boot);
        if lane.node != node || first != boot {
            return Err(format!("I7: {node:?} proposes in {lane:?} in boots {first} and {boot}"));
        }
        Ok(())
    }

    /// Everything that was acknowledged must be in what a calm ring has executed.
    pub fn on_calm(&self, gsn: Gsn) -> Checked {
        match self.acknowledged.iter().find(|&(_, &at)| at > gsn) {
            Some((id, at)) => Err(format!("I8: {id:?} of {at:?} is lost, the ring is at {gsn:?}")),
            None => Ok(()),
        }
    }
}

/// I1, I6
fn invariant_one_agreement_per_gsn(
    known: &Agreement,
    node: NodeId,
    record: &OrderRecord,
    header: &Header,
) -> Checked {
    if *known.record != *record {
        return Err(format!(
            "I1: {:?} is {record:?} on {node:?}, but {:?} on {:?}",
            record.gsn, known.record, known.node
        ));
    }
    if *known.header != *header {
        return Err(format!(
            "I6: at {:?} {node:?} has {header:?}, but {:?} has {:?}",
            record.gsn, known.node, known.header
        ));
    }
    Ok(())
}

impl Agreement {
    /// I1
    pub fn invariant_one_state(&self, node: NodeId, state: StateHash, fresh: &[bool]) -> Checked {
        let gsn = self.record.gsn;
        if self.state != state {
            return Err(format!("I1: state differs at {gsn:?} on {node:?} and {:?}", self.node));
        }
        if *self.fresh != *fresh {
            return Err(format!(
                "I1: commands of {gsn:?} applied on {node:?}: {fresh:?}, on {:?}: {:?}",
                self.node, self.fresh
            ));
        }
        Ok(())
    }
}

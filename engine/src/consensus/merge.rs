//! The merge: lanes in, one order out.

use std::sync::Arc;

use super::effect::Effect;
use super::entry::EntryKind;
use super::lane::LaneLog;
use super::mutation::Mutation;
use super::record::OrderRecord;
use super::replica::Replica;
use crate::ids::{Idx, LaneId, NodeId, Ts};

/// What the lanes allow next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    /// The head of this lane is the next agreement.
    Ready(LaneId),
    /// Some head is chosen, but this lane may still bring something lower.
    Waits(LaneId),
    /// No head is chosen.
    Idle,
}

impl Replica {
    /// Executes every agreement that the lanes allow.
    pub(super) fn merge(&mut self) {
        while !self.halted
            && !self.is_removed()
            && let Merge::Ready(lane) = self.next_agreement()
        {
            let idx = self.header.active[&lane].next;
            let entry = self.lanes[&lane].chosen(idx).expect("the merge saw it").clone();
            let record = OrderRecord { gsn: self.header.gsn.next(), lane, idx, entry };
            if !self.header.admits(&record) {
                // Some node broke a promise. Nothing that follows can be trusted.
                self.halted = true;
                self.out.push(Effect::Diverged { peer: lane.node, gsn: record.gsn });
                return;
            }
            self.execute(record);
        }
    }

    /// The least chosen head by (timestamp, node), if no other active lane can bring a lower
    /// one: either its own head is known, and higher, or its owner's promise reaches so far.
    pub(super) fn next_agreement(&self) -> Merge {
        let mut best: Option<(Ts, NodeId, LaneId)> = None;
        let mut lowest: Option<(Ts, LaneId)> = None;
        for (&lane, active) in &self.header.active {
            let log = &self.lanes[&lane];
            if let Some(entry) = log.chosen(active.next) {
                let head = (entry.ts, lane.node, lane);
                best = Some(best.map_or(head, |best| best.min(head)));
            } else {
                let bound = (self.bound(lane), lane);
                lowest = Some(lowest.map_or(bound, |lowest| lowest.min(bound)));
            }
        }
        match (best, lowest) {
            (None, _) => Merge::Idle,
            (Some((ts, ..)), Some((bound, lane))) if bound < ts => Merge::Waits(lane),
            (Some((_, _, lane)), _) => Merge::Ready(lane),
        }
    }

    /// The next entry of an active lane has a timestamp above this.
    pub(super) fn bound(&self, lane: LaneId) -> Ts {
        let active = &self.header.active[&lane];
        active.start.max(self.lanes[&lane].promises.bound(active.next))
    }

    /// Executes the next agreement, from the merge or from a peer's order.
    pub(super) fn execute(&mut self, record: OrderRecord) {
        let before = self.header.active.clone();
        let epoch = self.header.config.epoch;
        self.header.execute(&record);
        if self.header.config.epoch != epoch && self.mutated(Mutation::OldEpochNotVoid) {
            self.header.active.extend(before.iter().filter(|(lane, _)| **lane != record.lane));
        }
        if let Some(log) = self.lanes.get_mut(&record.lane) {
            log.chosen_upto = log.chosen_upto.max(record.idx);
            log.promises.advance(record.idx.next());
        }
        self.own_chosen();
        if let EntryKind::Commands { commands, .. } = &record.entry.kind {
            for command in commands {
                if self.queue.executed(command.id) {
                    self.forwarding.headway(self.now_us);
                    self.own_command_executed();
                }
            }
        }
        self.out
            .push(Effect::Agreed { record: record.clone(), header: Arc::new(self.header.clone()) });
        self.retained.executed(&self.header);
        self.fetching.headway(self.now_us);
        if self.has_followers() {
            self.executed.push(record);
        }
        for lane in before.into_keys() {
            if !self.header.active.contains_key(&lane) {
                self.close_lane(lane);
            }
        }
        if self.header.config.epoch != epoch {
            self.enter_epoch();
        }
        let begun: Vec<(LaneId, Ts)> = self
            .header
            .active
            .iter()
            .filter(|(_, active)| active.next == Idx(1))
            .map(|(&lane, active)| (lane, active.start))
            .collect();
        for (lane, start) in begun {
            self.open_lane(lane, start);
        }
    }

    /// An active lane is merged from now on; an own one begins, if it never did.
    pub(super) fn open_lane(&mut self, lane: LaneId, start: Ts) {
        let now_us = self.now_us;
        let log = self.lanes.entry(lane).or_insert_with(|| LaneLog::new(Idx(1), now_us));
        if log.watch.headway_us == 0 {
            log.watch.headway_us = now_us;
        }
        // Nobody knows what a node that lost its log has proposed in a lane of such an epoch.
        if lane.node == self.me
            && self.is_voter()
            && self.own.as_ref().is_none_or(|own| own.lane() != lane)
        {
            self.begin(lane, start);
        }
    }

    /// The lane's `End`, or its epoch's, is executed.
    fn close_lane(&mut self, lane: LaneId) {
        self.lanes.remove(&lane);
        self.takeovers.remove(&lane);
        self.dead.remove(&lane);
        self.retained.over(self.header.gsn, lane);
        if self.own.as_ref().is_some_and(|own| own.lane() == lane) {
            self.own = None;
            self.queue.resubmit();
        }
    }

    /// Lanes of earlier epochs that were never active here are void as well.
    fn enter_epoch(&mut self) {
        let epoch = self.header.config.epoch;
        let void = |lane: &LaneId| lane.epoch < epoch && !self.header.active.contains_key(lane);
        let void: Vec<LaneId> = self.lanes.keys().copied().filter(void).collect();
        void.into_iter().for_each(|lane| self.close_lane(lane));
        self.reconfigured();
    }
}

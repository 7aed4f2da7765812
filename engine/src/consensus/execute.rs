//! What an agreement does to the order's header: a function of the executed prefix alone, so
//! that every node has the same lanes, epoch and membership at the same GSN.

use super::accept::TS_MAX;
use super::entry::{Config, EntryKind};
use super::record::{ActiveLane, Header, OrderRecord};
use crate::ids::{Idx, LaneId, NodeId, StateHash, Term, Ts};

impl Header {
    /// True if `record` can be the next agreement.
    pub fn admits(&self, record: &OrderRecord) -> bool {
        let active = self.active.get(&record.lane);
        record.gsn == self.gsn.next()
            && active
                .is_some_and(|active| active.next == record.idx && active.start < record.entry.ts)
            && self.position < (record.entry.ts, record.lane.node)
            && record.entry.ts <= TS_MAX
    }

    /// Executes the next agreement.
    ///
    /// # Panics
    /// If it is not the next one ([`Self::admits`]).
    pub fn execute(&mut self, record: &OrderRecord) {
        assert!(self.admits(record), "{record:?} does not follow {self:?}");
        let OrderRecord { gsn, lane, idx, entry } = record;
        self.order_hash = self.hash_with(record);
        self.gsn = *gsn;
        self.position = (entry.ts, lane.node);
        self.active.insert(*lane, ActiveLane { next: idx.next(), start: entry.ts });
        match &entry.kind {
            EntryKind::Commands { activate, .. } => {
                activate.iter().for_each(|&node| self.activate(node, entry.ts));
            }
            EntryKind::Tick => {}
            EntryKind::End { activate } => {
                self.active.remove(lane);
                activate.iter().for_each(|&node| self.activate(node, entry.ts));
                // Owners may end their lanes at the same time, each counting on the other's.
                if self.active.is_empty() {
                    let last = Some(lane.node).filter(|&node| self.config.is_voter(node));
                    self.activate(last.unwrap_or(self.lowest_voter()), entry.ts);
                }
            }
            EntryKind::Reconfigure(config) => self.reconfigure(config, entry.ts),
        }
        assert!(!self.active.is_empty(), "some lane is always active");
    }

    /// Gives `node` a lane above `start`, unless it has one or no vote.
    fn activate(&mut self, node: NodeId, start: Ts) {
        if !self.config.is_voter(node) || self.active.keys().any(|lane| lane.node == node) {
            return;
        }
        let next_term = self.next_terms.entry(node).or_default();
        let lane = LaneId { epoch: self.config.epoch, node, term: *next_term };
        *next_term = Term(next_term.0 + 1);
        self.active.insert(lane, ActiveLane { next: Idx(1), start });
    }

    /// The stop sign: whatever the old epoch's lanes hold beyond this position is void.
    fn reconfigure(&mut self, config: &Config, start: Ts) {
        if !config.follows(&self.config) {
            return; // Another membership came first.
        }
        let owners: Vec<NodeId> = self.active.keys().map(|lane| lane.node).collect();
        self.config = config.clone();
        self.active.clear();
        self.next_terms.clear();
        owners.into_iter().for_each(|node| self.activate(node, start));
        if self.active.is_empty() {
            self.activate(self.lowest_voter(), start);
        }
    }

    fn lowest_voter(&self) -> NodeId {
        *self.config.voters.keys().next().expect("a membership has voters")
    }

    pub(super) fn hash_with(&self, record: &OrderRecord) -> StateHash {
        let bytes = minicbor::to_vec(record).expect("a vector takes every byte");
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.order_hash.0);
        hasher.update(&bytes);
        StateHash(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::entry::Entry;
    use crate::ids::Epoch;
    use std::collections::{BTreeMap, BTreeSet};

    fn execute(header: &mut Header, lane: LaneId, ts: u64, kind: EntryKind) {
        let idx = header.active[&lane].next;
        let entry = Entry { ts: Ts(ts), kind };
        header.execute(&OrderRecord { gsn: header.gsn.next(), lane, idx, entry });
    }

    fn lane(epoch: u32, node: u16, term: u32) -> LaneId {
        LaneId { epoch: Epoch(epoch), node: NodeId(node), term: Term(term) }
    }

    fn three_nodes() -> Header {
        let mut header = Header::genesis(NodeId(1));
        header.config.voters = (1..=3).map(|node| (NodeId(node), 1)).collect();
        header
    }

    fn activate(node: u16) -> EntryKind {
        EntryKind::Commands { commands: vec![], activate: Some(NodeId(node)) }
    }

    #[test]
    fn a_node_gets_one_lane_at_a_time() {
        let mut header = three_nodes();
        execute(&mut header, lane(1, 1, 0), 5, activate(2));
        execute(&mut header, lane(1, 1, 0), 6, activate(2));
        execute(&mut header, lane(1, 1, 0), 7, activate(9));
        let lanes: Vec<LaneId> = header.active.keys().copied().collect();
        assert_eq!(lanes, [lane(1, 1, 0), lane(1, 2, 0)]);
        assert_eq!(header.active[&lane(1, 2, 0)].start, Ts(5));
    }

    #[test]
    fn the_last_lane_to_end_begins_anew() {
        let mut header = three_nodes();
        execute(&mut header, lane(1, 1, 0), 5, EntryKind::End { activate: None });
        assert_eq!(header.active.keys().collect::<Vec<_>>(), [&lane(1, 1, 1)]);
        let end = EntryKind::End { activate: Some(NodeId(3)) };
        execute(&mut header, lane(1, 1, 1), 6, end);
        assert_eq!(header.active.keys().collect::<Vec<_>>(), [&lane(1, 3, 0)]);
    }

    #[test]
    fn a_new_membership_restarts_its_active_lanes_and_only_once() {
        let mut header = three_nodes();
        execute(&mut header, lane(1, 1, 0), 5, activate(2));
        let voters = BTreeMap::from([(NodeId(2), 1), (NodeId(4), 1)]);
        let removed = BTreeSet::from([NodeId(9)]);
        let config = Config { epoch: Epoch(2), voters, promise_lead_us: 7, removed };
        execute(&mut header, lane(1, 1, 0), 6, EntryKind::Reconfigure(config.clone()));
        assert_eq!(header.active.keys().collect::<Vec<_>>(), [&lane(2, 2, 0)]);
        assert_eq!(header.config, config);
        let stale = Config { voters: BTreeMap::from([(NodeId(1), 1)]), ..config.clone() };
        execute(&mut header, lane(2, 2, 0), 7, EntryKind::Reconfigure(stale));
        assert_eq!(header.config, config);
    }

    #[test]
    fn a_record_out_of_place_is_not_admitted() {
        let mut header = three_nodes();
        execute(&mut header, lane(1, 1, 0), 5, EntryKind::Tick);
        let record = |gsn: u64, idx: u64, ts: u64| OrderRecord {
            gsn: crate::ids::Gsn(gsn),
            lane: lane(1, 1, 0),
            idx: Idx(idx),
            entry: Entry { ts: Ts(ts), kind: EntryKind::Tick },
        };
        assert!(header.admits(&record(2, 2, 6)));
        assert!(!header.admits(&record(3, 2, 6)));
        assert!(!header.admits(&record(2, 3, 6)));
        assert!(!header.admits(&record(2, 2, 5)));
    }
}

//! The last resort when a majority is lost for good: an epoch that nobody agreed to.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Config, Entry, EntryKind};
use super::record::{ActiveLane, Header, OrderRecord};
use crate::ids::{Epoch, Idx, LaneId, NodeId, Term, Ts};

impl Header {
    /// The order as it goes on with `me` alone, and the agreement that says so. `others` are
    /// removed for good; `now` is a clock's time, µs.
    ///
    /// What others executed beyond this header is lost. They may live on and go on without
    /// `me`: that is a second order. The new epoch is therefore a whole [`FORCED_EPOCHS`] away
    /// from theirs, so that no message, ballot or vote of one means anything in the other, and
    /// each of them is removed, so that it learns that when it calls.
    ///
    /// # Panics
    /// After some thousand forced epochs.
    pub fn force(&self, me: NodeId, others: &BTreeSet<NodeId>, now: Ts) -> (Header, OrderRecord) {
        assert!(!others.contains(&me), "whoever survives is not removed");
        let forced = self.config.epoch.0 / FORCED_EPOCHS + 1;
        let epoch = forced.checked_mul(FORCED_EPOCHS).expect("nobody forces so many epochs");
        let config = Config {
            epoch: Epoch(epoch),
            voters: BTreeMap::from([(me, 1)]),
            removed: self.config.removed.union(others).copied().collect(),
            ..self.config.clone()
        };
        let ts = Ts(now.0.max(self.position.0.0 + 1));
        let lane = |term| LaneId { epoch: config.epoch, node: me, term: Term(term) };
        // A lane of its own that is over with its only entry: nothing is ever proposed in it.
        let record = OrderRecord {
            gsn: self.gsn.next(),
            lane: lane(0),
            idx: Idx(1),
            entry: Entry { ts, kind: EntryKind::Reconfigure(config.clone()) },
        };
        let header = Header {
            gsn: record.gsn,
            position: (ts, me),
            order_hash: self.hash_with(&record),
            active: BTreeMap::from([(lane(1), ActiveLane { next: Idx(1), start: ts })]),
            next_terms: BTreeMap::from([(me, Term(2))]),
            config,
        };
        (header, record)
    }
}

/// Far more memberships than a ring has in its life.
pub const FORCED_EPOCHS: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::{Effect, Input, Recovered, Replica};

    #[test]
    fn a_forced_epoch_is_unlike_all_others_and_works_at_once() {
        let mut before = Header::genesis(NodeId(1));
        before.config.voters = (1..=3).map(|node| (NodeId(node), 1)).collect();
        before.config.epoch = Epoch(7);
        let others = BTreeSet::from([NodeId(2), NodeId(3)]);
        let (header, record) = before.force(NodeId(1), &others, Ts(1_000));
        assert_eq!(header.config.epoch, Epoch(FORCED_EPOCHS));
        assert_eq!(header.config.removed, others);
        assert_eq!((header.gsn, record.gsn), (before.gsn.next(), before.gsn.next()));
        let (again, _) = header.force(NodeId(1), &BTreeSet::new(), Ts(0));
        assert_eq!(again.config.epoch, Epoch(2 * FORCED_EPOCHS));
        assert_eq!(again.config.removed, others);
        assert!(again.position > header.position);

        let mut replica = Replica::recover(NodeId(1), 5, Recovered::fresh(header), 1);
        let mut effects = Vec::new();
        replica.step(2_000, Input::Start, &mut effects);
        let begun = effects.iter().any(|effect| {
            matches!(effect, Effect::Persist(super::super::LogRecord::Started { lane })
                if lane.term == Term(1))
        });
        assert!(begun, "{effects:?}");
    }
}

//! More than half of the weight.

use std::collections::BTreeMap;

use super::entry::Config;
use crate::ids::NodeId;

impl Config {
    /// True if `nodes` (each given once; others than voters don't count) are a quorum.
    pub fn quorum(&self, nodes: impl Iterator<Item = NodeId>) -> bool {
        let heard: u64 = nodes.map(|node| self.weight(node)).sum();
        2 * heard > self.total_weight()
    }

    /// 0 for a node without a vote.
    pub fn weight(&self, node: NodeId) -> u64 {
        self.voters.get(&node).copied().map_or(0, u64::from)
    }

    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains_key(&node)
    }

    /// The round trip from `me` to its nearest majority, µs: 0 if `me` alone is one, `None`
    /// if too few of the others' round trips are known.
    pub fn quorum_rtt_us(&self, me: NodeId, rtts_us: &BTreeMap<NodeId, u64>) -> Option<u64> {
        let mut near: Vec<(u64, NodeId)> =
            rtts_us.iter().map(|(&node, &rtt_us)| (rtt_us, node)).collect();
        near.sort_unstable();
        let mut weight = self.weight(me);
        let mut farthest_us = 0;
        for (rtt_us, node) in near {
            if 2 * weight > self.total_weight() {
                break;
            }
            weight += self.weight(node);
            farthest_us = rtt_us;
        }
        (2 * weight > self.total_weight()).then_some(farthest_us)
    }

    /// Whether this can be the membership after `before`.
    ///
    /// Whoever was removed stays so. A voter is not removed in one go: it must lose its vote in
    /// one epoch and can go in a later one. Until then it is a member that others can catch up
    /// from, also if it alone knows that its vote is gone (docs/design/0001, "Epochs").
    pub fn follows(&self, before: &Config) -> bool {
        let mut fresh = self.removed.difference(&before.removed);
        self.epoch.0 == before.epoch.0 + 1
            && self.is_sound()
            && self.removed.is_superset(&before.removed)
            && !fresh.any(|node| before.is_voter(*node))
            && !self.voters.keys().any(|node| self.removed.contains(node))
    }

    /// A membership that can decide something.
    pub fn is_sound(&self) -> bool {
        let weights = || self.voters.values();
        !self.voters.is_empty()
            && weights().all(|&weight| (1..=WEIGHT_MAX).contains(&weight))
            && 0 < self.promise_lead_us
            && self.promise_lead_us <= PROMISE_LEAD_US_MAX
    }

    fn total_weight(&self) -> u64 {
        self.voters.values().copied().map(u64::from).sum()
    }
}

/// Weights only break ties; larger ones would be a mistake.
const WEIGHT_MAX: u32 = 1000;

/// A dead lane's `End` lies this far in the future at most.
const PROMISE_LEAD_US_MAX: u64 = 60_000_000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::Epoch;

    fn config(weights: &[u32]) -> Config {
        let voters = (1..).map(NodeId).zip(weights.iter().copied()).collect();
        Config { epoch: Epoch(1), voters, promise_lead_us: 1, removed: BTreeSet::new() }
    }

    #[test]
    fn half_is_no_quorum_unless_weight_breaks_the_tie() {
        let quorum =
            |config: &Config, nodes: &[u16]| config.quorum(nodes.iter().map(|&n| NodeId(n)));
        assert!(!quorum(&config(&[1, 1]), &[1]));
        assert!(quorum(&config(&[2, 1]), &[1]));
        assert!(!quorum(&config(&[2, 1]), &[2]));
        assert!(quorum(&config(&[1, 1, 1]), &[1, 3]));
        assert!(!quorum(&config(&[1, 1, 1]), &[1, 7]));
    }

    #[test]
    fn a_voter_loses_its_vote_before_it_is_removed_and_never_comes_back() {
        let before = config(&[1, 1, 1]);
        let next = |before: &Config, voters: &[u16], removed: &[u16]| Config {
            epoch: Epoch(before.epoch.0 + 1),
            voters: voters.iter().map(|&node| (NodeId(node), 1)).collect(),
            removed: removed.iter().copied().map(NodeId).collect(),
            ..before.clone()
        };
        assert!(!next(&before, &[1, 2], &[3]).follows(&before));
        let without = next(&before, &[1, 2], &[]);
        assert!(without.follows(&before));
        assert!(!without.follows(&without));
        let gone = next(&without, &[1, 2], &[3]);
        assert!(gone.follows(&without));
        assert!(!next(&gone, &[1, 2, 3], &[3]).follows(&gone));
        assert!(!next(&gone, &[1, 2, 3], &[]).follows(&gone));
        assert!(next(&gone, &[1, 2, 4], &[3]).follows(&gone));
    }

    #[test]
    fn quorum_round_trip_is_the_nearest_majority_s() {
        let rtts_us = BTreeMap::from([(NodeId(2), 20), (NodeId(3), 80)]);
        assert_eq!(config(&[1, 1, 1]).quorum_rtt_us(NodeId(1), &rtts_us), Some(20));
        assert_eq!(config(&[1]).quorum_rtt_us(NodeId(1), &BTreeMap::new()), Some(0));
        assert_eq!(config(&[1, 1, 3]).quorum_rtt_us(NodeId(1), &rtts_us), Some(80));
        assert_eq!(config(&[1, 1, 1]).quorum_rtt_us(NodeId(1), &BTreeMap::new()), None);
    }
}

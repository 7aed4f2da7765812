//! Members that come, change and go, as an operator and the daemons' policy would have it.

use std::collections::{BTreeMap, BTreeSet};

use super::checker::Checked;
use super::world::{Event, World};
use crate::consensus::{Config, Input};
use crate::ids::NodeId;

/// A change that is wanted until it is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A vote of this weight for a node that has caught up.
    Vote { node: NodeId, weight: u32 },
    /// No vote any more; the node stays as an observer.
    NoVote { node: NodeId },
    /// `into` votes in place of `out`, as when a zone's voter has died.
    Replace { out: NodeId, into: NodeId },
    /// Out of the volume for good: first the vote, then the node.
    Leave { node: NodeId },
}

impl Wish {
    /// Who must have caught up first.
    fn newcomer(self) -> Option<NodeId> {
        match self {
            Wish::Vote { node, .. } | Wish::Replace { into: node, .. } => Some(node),
            Wish::NoVote { .. } | Wish::Leave { .. } => None,
        }
    }

    /// The voters, and whom to remove, of the next membership; `None` if there is nothing to
    /// do (any more).
    fn next(self, config: &Config) -> Option<(BTreeMap<NodeId, u32>, BTreeSet<NodeId>)> {
        let mut voters = config.voters.clone();
        let mut remove = BTreeSet::new();
        match self {
            Wish::Vote { node, weight } => {
                voters.insert(node, weight);
            }
            Wish::NoVote { node } => {
                voters.remove(&node);
            }
            Wish::Replace { out, into } => {
                let weight = voters.remove(&out)?;
                voters.insert(into, weight);
            }
            Wish::Leave { node } if voters.remove(&node).is_none() => {
                remove.insert(node);
            }
            Wish::Leave { .. } => {}
        }
        let fresh = remove.iter().any(|node| !config.removed.contains(node));
        let possible =
            !voters.is_empty() && !voters.keys().any(|node| config.removed.contains(node));
        (possible && (voters != config.voters || fresh)).then_some((voters, remove))
    }
}

impl World {
    /// A vote for the node, of the weight that the plan gives it; or none any more.
    pub(super) fn want_vote(&mut self, node: NodeId, vote: bool) {
        let weight = 1 + u32::from(self.plan.weights && node.0.is_multiple_of(2));
        self.want(if vote { Wish::Vote { node, weight } } else { Wish::NoVote { node } });
    }

    pub(super) fn want(&mut self, wish: Wish) {
        self.wanted.push(wish);
        self.after(100_000, Event::Reconfigure);
    }

    /// Asks for the first wanted membership until it is in force, then for the next.
    pub(super) fn reconfigure(&mut self) -> Checked {
        let Some(&wish) = self.wanted.first() else { return Ok(()) };
        self.after(300_000, Event::Reconfigure);
        let newest = self
            .nodes
            .iter()
            .filter_map(|(&id, node)| Some((node.process.as_ref()?.replica.header(), id)))
            .filter(|(header, id)| header.config.is_voter(*id))
            .max_by_key(|(header, _)| header.gsn);
        let Some((header, at)) = newest else { return Ok(()) };
        let Some((voters, remove)) = wish.next(&header.config) else {
            self.wanted.remove(0);
            return Ok(());
        };
        // Policy: a new voter must not hold the ring up while it catches up.
        let (epoch, gsn) = (header.config.epoch, header.gsn);
        let caught_up = |node: NodeId| {
            let process = self.nodes.get(&node).and_then(|node| node.process.as_ref());
            process.is_some_and(|p| p.replica.header().gsn.0 + 1000 >= gsn.0)
        };
        if wish.newcomer().is_some_and(|node| !caught_up(node)) {
            // After the faults everybody runs; before, others may be waiting for their turn.
            if !self.calm {
                self.wanted.rotate_left(1);
            }
            return Ok(());
        }
        self.note(|_| format!("{at:?} asks for voters {voters:?} without {remove:?}"));
        self.step(at, Input::Reconfigure { epoch, voters, remove })
    }

    /// Whether the order, as far as anybody has executed it, removed `node`.
    pub(super) fn is_removed(&self, node: NodeId) -> bool {
        self.checker.removed().contains(&node)
    }
}

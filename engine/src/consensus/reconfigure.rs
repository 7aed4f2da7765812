//! Changing the membership of the ring.

use std::collections::{BTreeMap, BTreeSet};

use super::effect::Effect;
use super::entry::{Config, EntryKind};
use super::replica::Replica;
use crate::ids::{Epoch, Gsn, LaneId, NodeId};

/// A membership that this node wants.
#[derive(Clone, Debug)]
pub(super) struct Reconfiguring {
    wanted: Config,
    /// The lane in which it was proposed; in another one it must be proposed again.
    proposed: Option<LaneId>,
}

impl Replica {
    pub(super) fn reconfigure(
        &mut self,
        epoch: Epoch,
        voters: BTreeMap<NodeId, u32>,
        remove: &BTreeSet<NodeId>,
    ) {
        let present = &self.header.config;
        let wanted = Config {
            epoch: Epoch(epoch.0.saturating_add(1)),
            voters,
            removed: present.removed.union(remove).copied().collect(),
            ..present.clone()
        };
        let changes = (&wanted.voters, &wanted.removed) != (&present.voters, &present.removed);
        if changes && wanted.follows(present) && self.is_voter() && self.is_settled() {
            self.reconfiguring = Some(Reconfiguring { wanted, proposed: None });
        }
    }

    /// The same membership once more.
    pub(super) fn renew(&mut self) {
        let present = &self.header.config;
        let wanted = Config { epoch: Epoch(present.epoch.0.saturating_add(1)), ..present.clone() };
        if wanted.follows(present) && self.is_voter() && self.is_settled() {
            self.reconfiguring.get_or_insert(Reconfiguring { wanted, proposed: None });
        }
    }

    /// A quorum of the present membership has its beginning durably.
    ///
    /// The membership before may then be gone: whoever comes later finds a node of the present
    /// one that knows it. Without that, voters that lose their votes and go could take the only
    /// knowledge of the change with them.
    pub(super) fn is_settled(&self) -> bool {
        let config = &self.header.config;
        let durable = |node: NodeId| match node == self.me {
            true => self.durable,
            false => self.peers.get(&node).map_or(Gsn(0), |peer| peer.durable),
        };
        let has = |node: &NodeId| durable(*node) >= self.epoch_gsn;
        config.quorum(config.voters.keys().copied().filter(has))
    }

    /// The entry to propose in `lane`, if one is wanted.
    pub(super) fn reconfiguration(&mut self, lane: LaneId) -> Option<EntryKind> {
        let reconfiguring = self.reconfiguring.as_mut()?;
        if reconfiguring.proposed == Some(lane) {
            return None;
        }
        reconfiguring.proposed = Some(lane);
        Some(EntryKind::Reconfigure(reconfiguring.wanted.clone()))
    }

    /// A new membership is in force: this node's wish is fulfilled, or was made for another.
    pub(super) fn reconfigured(&mut self) {
        self.reconfiguring = None;
        self.epoch_gsn = self.header.gsn;
        self.recollect();
        let removed = &self.header.config.removed;
        self.peers.retain(|node, _| !removed.contains(node));
        if !self.is_voter() {
            self.takeovers.clear();
        }
        let config = &self.header.config;
        for peer in self.peers.iter_mut().filter(|(node, _)| config.is_voter(**node)) {
            peer.1.follows = false;
        }
        if self.is_removed() {
            self.out.push(Effect::Removed { gsn: self.header.gsn });
        }
        self.estimate();
    }

    /// This node was removed, and knows it: it is silent from then on.
    pub(super) fn is_removed(&self) -> bool {
        self.header.config.removed.contains(&self.me)
    }
}

//! Changing the membership of the ring.

use std::collections::BTreeMap;

use super::entry::{Config, EntryKind};
use super::replica::Replica;
use crate::ids::{Epoch, LaneId, NodeId};

/// A membership that this node wants.
#[derive(Clone, Debug)]
pub(super) struct Reconfiguring {
    voters: BTreeMap<NodeId, u32>,
    /// The lane in which it was proposed; in another one it must be proposed again.
    proposed: Option<LaneId>,
}

impl Replica {
    pub(super) fn reconfigure(&mut self, voters: BTreeMap<NodeId, u32>) {
        let wanted = Config { voters, ..self.header.config.clone() };
        assert!(wanted.is_sound(), "a membership has voters of some weight: {wanted:?}");
        if wanted.voters != self.header.config.voters {
            self.reconfiguring = Some(Reconfiguring { voters: wanted.voters, proposed: None });
        }
    }

    /// The same membership once more.
    pub(super) fn renew(&mut self) {
        let voters = self.header.config.voters.clone();
        self.reconfiguring.get_or_insert(Reconfiguring { voters, proposed: None });
    }

    /// The entry to propose in `lane`, if one is wanted.
    pub(super) fn reconfiguration(&mut self, lane: LaneId) -> Option<EntryKind> {
        let wanted = self.reconfiguring.as_mut()?;
        if wanted.proposed == Some(lane) {
            return None;
        }
        wanted.proposed = Some(lane);
        let epoch = Epoch(self.header.config.epoch.0 + 1);
        let promise_lead_us = self.header.config.promise_lead_us;
        let voters = wanted.voters.clone();
        Some(EntryKind::Reconfigure(Config { epoch, voters, promise_lead_us }))
    }

    /// A new membership is in force: this node's wish is fulfilled, or was made for another.
    pub(super) fn reconfigured(&mut self) {
        self.reconfiguring = None;
        self.recollect();
        self.estimate();
        if !self.is_voter() {
            self.takeovers.clear();
        }
        let config = &self.header.config;
        for peer in self.peers.iter_mut().filter(|(node, _)| config.is_voter(**node)) {
            peer.1.follows = false;
        }
    }
}

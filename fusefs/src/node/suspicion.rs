//! What the ring finds out about this node's own trustworthiness.

use std::sync::Arc;

use engine::ids::{Gsn, NodeId, VolumeId};
use store::Store;

use super::pulse::Pulse;

pub struct Suspicion {
    pub volume: VolumeId,
    pub store: Store,
    pub pulse: Arc<Pulse>,
}

impl Suspicion {
    /// This node applied something else than the majority, or nobody knows who did: it stops,
    /// keeps a copy of everything, and must not be believed after a restart either.
    pub fn diverged(&self, peer: NodeId, gsn: Gsn) {
        let reason = format!(
            "the state differs from node {peer}'s at GSN {gsn}, and no majority agrees with this \
             node: a bug, or memory that is broken"
        );
        // Keeping the evidence must not stand in the way of stopping.
        let kept = match self
            .store
            .keep_evidence(&format!("diverged-{}-{}", self.volume.0, gsn.0), &reason)
        {
            Ok(dir) => format!("a copy of the database is kept in {}", dir.display()),
            Err(error) => format!("the evidence could not be copied: {error}"),
        };
        let reason = format!("{reason}; {kept}");
        if let Err(error) = self.store.distrust(&reason) {
            tracing::error!(%error, "the store could not be marked as not to be believed");
        }
        self.pulse.fail_diverged(reason);
    }

    /// Another node did.
    pub fn peer_diverged(&self, peer: NodeId, gsn: Gsn) {
        tracing::error!(%peer, %gsn, "that node's state differs from the majority's: it must stop");
    }

    /// This node, whose log was lost, is a voter of an epoch that it knows from the beginning.
    pub fn memory_whole(&self) {
        tracing::info!("this node votes again");
        if let Err(error) = self.store.remember(self.volume) {
            self.pulse.fail(format!("the store cannot be written: {error}"));
        }
    }
}

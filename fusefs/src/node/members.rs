//! Who belongs to the cluster, as agreed: told to the network.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use engine::ids::{Gsn, NodeId, VolumeId};
use engine::namespace::Touched;
use engine::namespace::tables::TablesError;
use parking_lot::RwLock;
use wire::{Peer, Wire};

use super::roster;
use crate::ops::ports::{OnApplied, Origin, Ring, View};

/// Who takes part in a volume, for those who must not read tables to know it. The root
/// volume's members are also the network's list of peers.
pub struct Members {
    me: NodeId,
    ring: Arc<dyn Ring>,
    volume: VolumeId,
    /// The store's directory.
    dir: PathBuf,
    network: Option<Arc<Wire>>,
    nodes: RwLock<BTreeSet<NodeId>>,
}

impl Members {
    /// `network`: which is told of the members.
    pub fn new(
        volume: VolumeId,
        ring: Arc<dyn Ring>,
        dir: PathBuf,
        network: Option<Arc<Wire>>,
    ) -> Members {
        Members { me: ring.me(), ring, volume, dir, network, nodes: RwLock::default() }
    }

    /// Takes over the members of now, and notes them beside the database: should that be lost,
    /// the node must know whom to ask.
    pub fn publish(&self) -> Result<(), TablesError> {
        let view = self.ring.view();
        let members = view.members()?;
        if let Err(error) = roster::save(&self.dir, self.volume, &members) {
            tracing::warn!(%error, "the members cannot be noted beside the database");
        }
        *self.nodes.write() = members.iter().map(|member| member.id).collect();
        if let Some(network) = &self.network {
            let departed = view.departed()?.into_iter();
            network.set_removed(departed.map(|(node, gone)| (node, gone.key_hash, gone.gsn)));
            let peers = members.into_iter().filter(|member| member.id != self.me);
            network.set_peers(peers.map(peer).collect());
        }
        Ok(())
    }

    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.read().contains(&node)
    }
}

/// A member as the network knows it.
pub fn peer(member: engine::command::Member) -> Peer {
    Peer { node: member.id, name: member.name, address: member.address, key_hash: member.key_hash }
}

impl OnApplied for Members {
    fn applied(&self, _: Gsn, touched: &[Touched], _: Origin) {
        if touched.contains(&Touched::Members)
            && let Err(error) = self.publish()
        {
            tracing::error!(%error, "the members cannot be read");
        }
    }

    fn replaced(&self, gsn: Gsn, _: &View, _: &View) {
        self.applied(gsn, &[Touched::Members], Origin::Elsewhere);
    }
}

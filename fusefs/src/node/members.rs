//! Who belongs to the cluster, as agreed: told to the network, and given a vote once caught up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::consensus::record::Header;
use engine::consensus::status::PeerStatus;
use engine::consensus::{Input, RingStatus};
use engine::ids::{Gsn, NodeId, VolumeId};
use engine::namespace::Touched;
use engine::namespace::tables::TablesError;
use parking_lot::RwLock;
use wire::{Peer, Wire};

use super::driver::Event;
use super::pulse::Pulse;
use super::queue::Outgoing;
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
        let members = self.ring.view().members()?;
        if let Err(error) = roster::save(&self.dir, self.volume, &members) {
            tracing::warn!(%error, "the members cannot be noted beside the database");
        }
        *self.nodes.write() = members.iter().map(|member| member.id).collect();
        if let Some(network) = &self.network {
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

/// Gives a vote to each member that has none and has caught up, one at a time.
///
/// Only the voter with the lowest id that is heard of does it: two proposals would be
/// harmless, as the second one is void.
pub struct Promoter {
    pub ring: Arc<dyn Ring>,
    pub pulse: Arc<Pulse>,
    pub events: Outgoing<Event>,
}

/// A joiner so close to the newest agreement counts as caught up: it then needs well under a
/// second for the rest, and until then the quorum that it belongs to may have to wait for it.
const CAUGHT_UP_GSN: u64 = 1000;
const PROMOTE_EVERY: Duration = Duration::from_millis(100);

impl Promoter {
    pub async fn run(self) {
        let mut ticks = tokio::time::interval(PROMOTE_EVERY);
        loop {
            ticks.tick().await;
            if let Some(voters) = self.next_voters() {
                self.events.send(Event::Input(Input::Reconfigure { voters }));
            } else if self.somebody_waits() {
                self.events.send(Event::Input(Input::Renew));
            }
        }
    }

    /// A voter that lost its log may not vote in this epoch any more, and has caught up.
    fn somebody_waits(&self) -> bool {
        self.turn().is_some_and(|(_, status)| {
            let waits = |peer: &PeerStatus| {
                peer.wants_epoch && !peer.suspected && peer.gsn.0 + CAUGHT_UP_GSN >= status.gsn.0
            };
            status.peers.iter().any(waits)
        })
    }

    /// The membership and the ring's state, if it is for this node to propose a change.
    fn turn(&self) -> Option<(Arc<Header>, Arc<RingStatus>)> {
        let header = self.pulse.header();
        let status = self.pulse.ring()?;
        let voters = &header.config.voters;
        let votes = voters.contains_key(&status.me) && !status.mute;
        if !votes || status.epoch != header.config.epoch {
            return None;
        }
        let is_first = status.peers.iter().all(|peer| {
            let may = voters.contains_key(&peer.node) && !peer.suspected && !peer.mute;
            peer.node > status.me || !may
        });
        is_first.then_some((header, status))
    }

    /// The membership to propose now, if there is one.
    fn next_voters(&self) -> Option<BTreeMap<NodeId, u32>> {
        let (header, status) = self.turn()?;
        let voters = &header.config.voters;
        let candidate = status.peers.iter().find(|peer| {
            !voters.contains_key(&peer.node)
                && !peer.suspected
                && peer.silent_us.is_some()
                && peer.gsn.0 + CAUGHT_UP_GSN >= status.gsn.0
        })?;
        // Only what is agreed to be a member gets a vote.
        self.ring.view().member(candidate.node).ok()??;
        let mut voters = voters.clone();
        voters.insert(candidate.node, 1);
        Some(voters)
    }
}

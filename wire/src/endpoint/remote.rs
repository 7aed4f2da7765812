//! One peer as the port sees it: its queue, its connections, its counters.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::{Connection, VarInt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::bulk::BulkPool;
use super::config::WireConfig;
use super::peer::Peer;
use super::queue::RingQueue;
use super::stats::{PeerCounters, PeerStats};
use super::{Shared, WireError, close};
use crate::identity::tls;

pub(crate) struct Remote {
    pub(crate) peer: Mutex<Peer>,
    pub(crate) queue: RingQueue,
    pub(crate) bulk: BulkPool,
    pub(crate) counters: PeerCounters,
    pub(crate) ring: Mutex<RingState>,
    /// Woken when there is reason to believe that the peer is reachable now, or restarted.
    pub(crate) redial: Notify,
    /// Connections that the peer dialled, by quinn's stable id.
    inbound: Mutex<HashMap<usize, Connection>>,
    sender: Mutex<Option<AbortHandle>>,
    removed: AtomicBool,
}

/// The ring connection that we dialled.
#[derive(Default)]
pub(crate) struct RingState {
    pub(crate) connection: Option<Connection>,
    /// The peer's start that answered on it.
    pub(crate) peer_start: Option<u64>,
    /// The newest start of the peer that any connection told of.
    pub(crate) newest_start: u64,
}

impl Remote {
    pub(crate) fn new(peer: Peer, config: &WireConfig) -> Remote {
        Remote {
            peer: Mutex::new(peer),
            queue: RingQueue::new(config.ring_queue_max_bytes),
            bulk: BulkPool::new(config.bulk_connections),
            counters: PeerCounters::default(),
            ring: Mutex::default(),
            redial: Notify::new(),
            inbound: Mutex::default(),
            sender: Mutex::default(),
            removed: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_sender(&self, sender: AbortHandle) {
        *self.sender.lock() = Some(sender);
    }

    /// Takes over what changed of a peer that keeps its key.
    pub(crate) fn move_to(&self, peer: Peer) {
        let mut ours = self.peer.lock();
        let moved = ours.address != peer.address;
        *ours = peer;
        drop(ours);
        if moved {
            // A connection that works is kept; one that is being dialled gets company.
            self.redial.notify_one();
        }
    }

    /// Notes a connection that the peer dialled, for as long as the guard lives. `None` if
    /// the peer was removed meanwhile.
    pub(crate) fn admit(self: &Arc<Remote>, connection: &Connection) -> Option<Inbound> {
        let id = connection.stable_id();
        self.inbound.lock().insert(id, connection.clone());
        let guard = Inbound { remote: self.clone(), id };
        // After the insertion: whoever removes the peer either sees the connection or is seen.
        if self.removed.load(Ordering::SeqCst) { None } else { Some(guard) }
    }

    /// A ring connection from the peer's start `start` came in. If it is a new start, what we
    /// have with the one before is dead, whatever QUIC believes.
    pub(crate) fn saw_start(&self, start: u64) {
        let mut ring = self.ring.lock();
        ring.newest_start = ring.newest_start.max(start);
        let stale = ring.peer_start.is_some_and(|ours| ours < start);
        if stale && let Some(connection) = ring.connection.take() {
            connection.close(close::SUPERSEDED, b"the peer has restarted");
        }
        if ring.connection.is_none() {
            self.redial.notify_one();
        }
        drop(ring);
        self.bulk.forget_failures();
    }

    /// Ends everything with a node that is no member any more, or has another key.
    pub(crate) fn remove(&self, code: VarInt, reason: &[u8]) {
        self.removed.store(true, Ordering::SeqCst);
        if let Some(sender) = self.sender.lock().take() {
            sender.abort();
        }
        self.shut(code, reason);
    }

    pub(crate) fn shut(&self, code: VarInt, reason: &[u8]) {
        if let Some(connection) = self.ring.lock().connection.take() {
            connection.close(code, reason);
        }
        self.bulk.close(code, reason);
        for connection in self.inbound.lock().values() {
            connection.close(code, reason);
        }
    }

    /// Whether a stranger's first packet may be this peer's: it then jumps the queue.
    pub(crate) fn is_at(&self, address: IpAddr) -> bool {
        let at = |connection: &Connection| connection.remote_address().ip() == address;
        self.ring.lock().connection.as_ref().is_some_and(at) || self.inbound.lock().values().any(at)
    }

    /// The address to dial: overridden or as agreed.
    pub(crate) fn address(&self, config: &WireConfig) -> String {
        let peer = self.peer.lock();
        let overrides = &config.overrides;
        let overridden =
            overrides.get(&peer.name).or_else(|| overrides.get(&peer.node.to_string()));
        overridden.unwrap_or(&peer.address).clone()
    }

    pub(crate) fn stats(&self, config: &WireConfig) -> PeerStats {
        let address = self.address(config);
        let (node, name) = {
            let peer = self.peer.lock();
            (peer.node, peer.name.clone())
        };
        let connection = {
            let ring = self.ring.lock();
            ring.connection.clone().filter(|_| ring.peer_start.is_some())
        };
        let path = connection.as_ref().map(|connection| connection.stats().path);
        let counters = &self.counters;
        PeerStats {
            node,
            name,
            address,
            connected: connection.is_some(),
            rtt_us: path.as_ref().map_or(0, |path| path.rtt.as_micros() as u64),
            ring_sent_bytes: counters.ring_sent_bytes.value(),
            ring_received_bytes: counters.ring_received_bytes.value(),
            ring_sent_count: counters.ring_sent_count.value(),
            ring_received_count: counters.ring_received_count.value(),
            ring_dropped_count: counters.ring_dropped_count.value(),
            ring_queued_bytes: self.queue.queued_bytes() as u64,
            bulk_sent_bytes: counters.bulk_sent_bytes.value(),
            bulk_received_bytes: counters.bulk_received_bytes.value(),
            reconnects: counters.connects.value().saturating_sub(1),
            lost_packets: path.map_or(0, |path| path.lost_packets),
        }
    }
}

/// Keeps an inbound connection on its peer's list.
pub(crate) struct Inbound {
    pub(crate) remote: Arc<Remote>,
    id: usize,
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.remote.inbound.lock().remove(&self.id);
    }
}

/// A handshake takes two round trips; beyond this a fresh attempt has better chances than
/// QUIC's growing pauses between retries.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to a peer and checks that it is the one.
pub(crate) async fn dial(
    shared: &Shared,
    remote: &Remote,
    client: quinn::ClientConfig,
) -> Result<Connection, WireError> {
    let address = resolve(shared, &remote.address(&shared.config)).await?;
    let connecting = shared
        .endpoint
        .connect_with(client, address, tls::SERVER_NAME)
        .map_err(|error| WireError::Unreachable(error.to_string()))?;
    let connection = tokio::time::timeout(DIAL_TIMEOUT, connecting)
        .await
        .map_err(|_| WireError::Unreachable(format!("{address} does not answer")))?
        .map_err(|error| WireError::Unreachable(format!("{address}: {error}")))?;
    let (node, key_hash) = {
        let peer = remote.peer.lock();
        (peer.node, peer.key_hash)
    };
    let is_it = super::accept::identity_of(&connection).is_some_and(|(name, hash)| {
        name.cluster == shared.cluster && name.node == node && hash == key_hash
    });
    if !is_it {
        connection.close(close::NOT_A_MEMBER, b"another node was expected here");
        shared.counters.nonmembers_refused.bump();
        return Err(WireError::Unreachable(format!("{address} is not node {node}")));
    }
    Ok(connection)
}

/// The first address of `host:port` that our socket can send to.
async fn resolve(shared: &Shared, address: &str) -> Result<SocketAddr, WireError> {
    let unresolved = |reason: String| WireError::Unreachable(format!("{address}: {reason}"));
    let found = tokio::net::lookup_host(address).await.map_err(|e| unresolved(e.to_string()))?;
    let ours = shared.endpoint.local_addr().map_err(|e| unresolved(e.to_string()))?;
    reachable_from(ours, found).ok_or_else(|| unresolved("no address of our kind".into()))
}

pub(crate) fn reachable_from(
    ours: SocketAddr,
    mut found: impl Iterator<Item = SocketAddr>,
) -> Option<SocketAddr> {
    found.find_map(|address| match (ours, address) {
        // A v6 socket reaches IPv4 by mapped addresses.
        (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
            Some(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()))
        }
        (SocketAddr::V4(_), SocketAddr::V6(_)) => None,
        _ => Some(address),
    })
}

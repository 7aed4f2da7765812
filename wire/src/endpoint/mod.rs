//! The one UDP port: everything between nodes, always with mutual TLS.
//!
//! | protocol (ALPN) | who dials | what |
//! |---|---|---|
//! | `fusion-ring/1` | each node each peer | the dialler's consensus messages, one way |
//! | `fusion-bulk/1` | who asks | questions and answers, a stream each |
//! | `fusion-join/1` | a machine with a join token | one question, one answer |
//!
//! Reading order: [`Wire`], `remote`, `ring`, `bulk`, `pace`, `accept`, `serve`, `admission`,
//! [`joining`], `transport`.

mod accept;
mod admission;
mod bulk;
pub mod config;
pub mod handler;
pub mod joining;
mod pace;
pub mod peer;
mod queue;
mod remote;
mod ring;
mod serve;
pub mod stats;
mod transport;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use engine::ids::{Gsn, NodeId, VolumeId};
use parking_lot::{Mutex, RwLock};
use quinn::{Endpoint, TokioRuntime};
use tokio::task::AbortHandle;

use crate::identity::{NodeIdentity, NodeName};
use crate::message::frame::FRAME_MAX_BYTES;
use crate::message::request::Request;
use crate::message::response::Response;
use admission::Admission;
use config::WireConfig;
use handler::Handler;
use peer::Peer;
use remote::Remote;
use stats::{WireCounters, WireStats};
use transport::Clients;

/// The port of a node. Clones share it; [`Wire::close`] closes it for all.
#[derive(Clone)]
pub struct Wire(Arc<Shared>);

/// Why something did not get through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("cannot open UDP port {address}: {reason}")]
    Bind { address: SocketAddr, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("node {0} is not a member")]
    UnknownPeer(NodeId),
    #[error("{0}")]
    Unreachable(String),
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("no answer for {waited_ms} ms")]
    TimedOut { waited_ms: u64 },
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    #[error("the question does not keep to the limits: {0}")]
    Invalid(String),
}

impl From<rustls::Error> for WireError {
    fn from(error: rustls::Error) -> WireError {
        WireError::Tls(error.to_string())
    }
}

/// Why connections are closed, as QUIC application error codes.
pub(crate) mod close {
    use quinn::VarInt;

    pub(crate) const STOPPING: VarInt = VarInt::from_u32(0);
    pub(crate) const NOT_A_MEMBER: VarInt = VarInt::from_u32(1);
    pub(crate) const MALFORMED: VarInt = VarInt::from_u32(2);
    pub(crate) const GONE: VarInt = VarInt::from_u32(3);
    pub(crate) const SUPERSEDED: VarInt = VarInt::from_u32(4);
    pub(crate) const BUSY: VarInt = VarInt::from_u32(5);
    /// The node was removed; the reason is the agreement's GSN, 8 bytes, big-endian.
    pub(crate) const REMOVED: VarInt = VarInt::from_u32(6);
}

pub(crate) struct Shared {
    pub(crate) endpoint: Endpoint,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) config: WireConfig,
    pub(crate) cluster: [u8; 16],
    pub(crate) clients: RwLock<Clients>,
    pub(crate) counters: WireCounters,
    pub(crate) admission: Admission,
    /// Tells this start of the node from earlier ones.
    pub(crate) start: u64,
    remotes: RwLock<HashMap<NodeId, Arc<Remote>>>,
    /// Who was removed, with its key's hash, and by which agreement.
    removed: RwLock<HashMap<NodeId, ([u8; 32], Gsn)>>,
    acceptor: Mutex<Option<AbortHandle>>,
    runtime: tokio::runtime::Handle,
}

/// How long a closing port waits for its farewells to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

impl Wire {
    /// Opens the port and serves it on the current tokio runtime. There are no peers yet.
    ///
    /// # Errors
    /// [`WireError::Bind`] if the port is taken, [`WireError::Tls`] if the identity does not
    /// work.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(config: WireConfig, handler: Arc<dyn Handler>) -> Result<Wire, WireError> {
        let runtime = tokio::runtime::Handle::current();
        let bind_error = |error: std::io::Error| WireError::Bind {
            address: config.listen,
            reason: error.to_string(),
        };
        let socket = transport::socket(config.listen).map_err(bind_error)?;
        let endpoint = Endpoint::new(
            transport::endpoint(&config.identity),
            Some(transport::server(&config, &config.identity)?),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(bind_error)?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let shared = Arc::new(Shared {
            endpoint,
            handler,
            cluster: config.identity.name().cluster,
            clients: RwLock::new(transport::clients(&config, &config.identity)?),
            counters: WireCounters::default(),
            admission: Admission::new(),
            start: since_epoch.map_or(0, |since| since.as_micros() as u64),
            remotes: RwLock::default(),
            removed: RwLock::default(),
            acceptor: Mutex::default(),
            runtime: runtime.clone(),
            config,
        });
        let acceptor = runtime.spawn(accept::run(shared.clone()));
        *shared.acceptor.lock() = Some(acceptor.abort_handle());
        Ok(Wire(shared))
    }

    /// Where the port is.
    pub fn local_address(&self) -> SocketAddr {
        self.0.endpoint.local_addr().expect("an open socket has an address")
    }

    /// Replaces the members, as agreed. Connections with those who are gone, or whose key
    /// changed, end; the others go on. This node itself may be among them.
    pub fn set_peers(&self, peers: Vec<Peer>) {
        let own = self.0.config.identity.node();
        let mut gone: Vec<Arc<Remote>> = Vec::new();
        let mut remotes = self.0.remotes.write();
        let mut kept = HashMap::new();
        for peer in peers.into_iter().filter(|peer| peer.node != own) {
            let node = peer.node;
            let known = remotes.remove(&node).filter(|remote| {
                let same_key = remote.peer.lock().key_hash == peer.key_hash;
                if !same_key {
                    gone.push(remote.clone());
                }
                same_key
            });
            let remote = match known {
                Some(remote) => {
                    remote.move_to(peer);
                    remote
                }
                None => self.start_remote(peer),
            };
            kept.insert(node, remote);
        }
        gone.extend(remotes.drain().map(|(_, remote)| remote));
        *remotes = kept;
        drop(remotes);
        for remote in gone {
            let node = remote.peer.lock().node;
            let removed = self.0.removed.read().get(&node).copied();
            match removed {
                Some((_, gsn)) => remote.remove(close::REMOVED, &gsn.0.to_be_bytes()),
                None => remote.remove(close::GONE, b"not a member any more"),
            }
        }
    }

    /// Says who was removed, with its key's hash, and by which agreement: when such a node
    /// calls, it is told. To be called before [`Self::set_peers`] leaves them out.
    pub fn set_removed(&self, removed: impl IntoIterator<Item = (NodeId, [u8; 32], Gsn)>) {
        let removed = removed.into_iter().map(|(node, key_hash, gsn)| (node, (key_hash, gsn)));
        *self.0.removed.write() = removed.collect();
    }

    fn start_remote(&self, peer: Peer) -> Arc<Remote> {
        let remote = Arc::new(Remote::new(peer, &self.0.config));
        let sender = self.0.runtime.spawn(ring::run(self.0.clone(), remote.clone()));
        remote.set_sender(sender.abort_handle());
        remote
    }

    /// Sends a consensus message. Never waits: a message for a node that is no member, cannot
    /// be reached or does not keep up is dropped and counted; consensus sends what matters
    /// again. At most [`FRAME_MAX_BYTES`].
    pub fn send_ring(&self, to: NodeId, volume: VolumeId, message: impl Into<Bytes>) {
        let message = message.into();
        let Some(remote) = self.0.remote(to) else {
            return;
        };
        if message.len() > FRAME_MAX_BYTES {
            // Our own bug, but dropping it is like losing it on the network, and stopping here
            // would stop all nodes alike.
            tracing::error!(%to, bytes = message.len(), "a ring message is too large to send");
            remote.counters.ring_dropped_count.bump();
            return;
        }
        let dropped = remote.queue.push(volume, message);
        if dropped > 0 {
            remote.counters.ring_dropped_count.add(dropped);
        }
    }

    /// Asks a member and waits for its answer; dropping the future ends the exchange. May be
    /// asked twice if the peer restarts meanwhile.
    ///
    /// # Errors
    /// [`WireError`]; a refusal by the other node is an answer, not an error.
    pub async fn call(&self, to: NodeId, request: Request) -> Result<Response, WireError> {
        let remote = self.0.remote(to).ok_or(WireError::UnknownPeer(to))?;
        bulk::call(&self.0, &remote, request).await
    }

    /// The smoothed round trip of the ring connection to `to`, if it is up.
    pub fn rtt(&self, to: NodeId) -> Option<Duration> {
        let remote = self.0.remote(to)?;
        let connection = remote.ring.lock().connection.clone()?;
        Some(connection.rtt())
    }

    /// Uses a renewed certificate for connections from now on.
    ///
    /// # Errors
    /// [`WireError::Tls`] if it does not work; then nothing changes.
    pub fn renew(&self, identity: &NodeIdentity) -> Result<(), WireError> {
        let clients = transport::clients(&self.0.config, identity)?;
        let server = transport::server(&self.0.config, identity)?;
        *self.0.clients.write() = clients;
        self.0.endpoint.set_server_config(Some(server));
        Ok(())
    }

    pub fn stats(&self) -> WireStats {
        let counters = &self.0.counters;
        let remotes: Vec<Arc<Remote>> = self.0.remotes.read().values().cloned().collect();
        let mut peers: Vec<_> = remotes.iter().map(|r| r.stats(&self.0.config)).collect();
        peers.sort_by_key(|peer| peer.node);
        WireStats {
            strangers_refused: counters.strangers_refused.value(),
            nonmembers_refused: counters.nonmembers_refused.value(),
            overload_refused: counters.overload_refused.value(),
            joins_refused: counters.joins_refused.value(),
            malformed: counters.malformed.value(),
            peers,
        }
    }

    /// Says goodbye to all and closes the port.
    pub async fn close(&self) {
        let remotes: Vec<_> = self.0.remotes.write().drain().map(|(_, remote)| remote).collect();
        for remote in remotes {
            remote.remove(close::STOPPING, b"stopping");
        }
        if let Some(acceptor) = self.0.acceptor.lock().take() {
            acceptor.abort();
        }
        self.0.endpoint.close(close::STOPPING, b"stopping");
        // Farewells are a courtesy: peers also notice by themselves.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.0.endpoint.wait_idle()).await;
    }
}

impl Shared {
    pub(crate) fn remote(&self, node: NodeId) -> Option<Arc<Remote>> {
        self.remotes.read().get(&node).cloned()
    }

    /// The agreement that removed this node, if one did.
    pub(crate) fn removed_at(&self, name: &NodeName, key_hash: &[u8; 32]) -> Option<Gsn> {
        let removed = self.removed.read();
        let (known, gsn) = removed.get(&name.node)?;
        (name.cluster == self.cluster && known == key_hash).then_some(*gsn)
    }

    fn knows_address(&self, address: IpAddr) -> bool {
        self.remotes.read().values().any(|remote| remote.is_at(address))
    }
}

//! Nodes for tests: real ports, a handler that writes down what it sees.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::ids::{Gsn, NodeId, VolumeId};
use parking_lot::Mutex;
use tokio::sync::watch;
use wire::{
    Ask, Authority, Handler, JoinReply, JoinRequest, NodeIdentity, NodeName, Peer, PeerInfo,
    RefusedCode, Request, Response, Serving, Wire, WireConfig,
};

pub const CLUSTER: [u8; 16] = [9; 16];
pub const VOLUME: VolumeId = VolumeId(1);
/// The simplest one: answered with `At`, one above what the asker has applied.
pub const QUESTION: Ask = Ask::Reached { gsn: Gsn(1), bodies: false, wait_ms: 0 };
/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub type Joiner = dyn Fn(JoinRequest) -> Result<JoinReply, String> + Send + Sync;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    pub ring: Vec<(NodeId, VolumeId, Bytes)>,
    pub up: Vec<NodeId>,
    pub down: Vec<NodeId>,
    pub removed: Vec<(NodeId, Gsn)>,
}

/// Notes what happens; answers questions about a made-up body.
pub struct Recorder {
    seen: watch::Sender<Seen>,
    pub joiner: Mutex<Option<Arc<Joiner>>>,
}

impl Recorder {
    pub fn new() -> Arc<Recorder> {
        Arc::new(Recorder { seen: watch::Sender::new(Seen::default()), joiner: Mutex::new(None) })
    }

    pub async fn wait(&self, what: &str, when: impl FnMut(&Seen) -> bool) -> Seen {
        let found = tokio::time::timeout(PATIENCE, self.next(when)).await;
        found.unwrap_or_else(|_| panic!("in vain: {what}"))
    }

    /// Waits without end.
    pub async fn next(&self, when: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.subscribe();
        seen.wait_for(when).await.expect("it lives").clone()
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

/// Byte `at` of the made-up body.
pub fn body_byte(at: u64) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 16) as u8
}

impl Handler for Recorder {
    fn ring(&self, from: NodeId, volume: VolumeId, message: Bytes) {
        self.seen.send_modify(|seen| seen.ring.push((from, volume, message)));
    }

    fn serve(self: Arc<Self>, _: PeerInfo, request: Request) -> Serving<Response> {
        Box::pin(async move {
            match request.ask {
                Ask::Read { offset, len, .. } => Response::Read(
                    (offset..offset + u64::from(len)).map(body_byte).collect::<Vec<_>>().into(),
                ),
                Ask::Small { bodies } => Response::Small(
                    bodies
                        .iter()
                        .map(|id| (id.0[0] != 0).then(|| Bytes::copy_from_slice(&id.0)))
                        .collect(),
                ),
                Ask::Which { bodies } => {
                    Response::Which(bodies.iter().map(|id| id.0[0] != 0).collect())
                }
                Ask::Reached { .. } => Response::At(Gsn(request.applied.0 + 1)),
                // Never answers.
                Ask::Recall { .. } => std::future::pending().await,
                // Too large for an answer.
                Ask::Status => Response::Status(vec![0; 5 << 20].into()),
                _ => Response::refused(RefusedCode::NotHeld, "not here"),
            }
        })
    }

    fn join(
        self: Arc<Self>,
        _: SocketAddr,
        request: JoinRequest,
    ) -> Serving<Result<JoinReply, String>> {
        let joiner = self.joiner.lock().clone();
        Box::pin(async move { joiner.ok_or("nobody admits here")?(request) })
    }

    fn peer_up(&self, node: NodeId) {
        self.seen.send_modify(|seen| seen.up.push(node));
    }

    fn peer_down(&self, node: NodeId) {
        self.seen.send_modify(|seen| seen.down.push(node));
    }

    fn removed(&self, by: NodeId, gsn: Gsn) {
        self.seen.send_modify(|seen| seen.removed.push((by, gsn)));
    }
}

pub struct Node {
    pub wire: Wire,
    pub handler: Arc<Recorder>,
    pub identity: NodeIdentity,
    pub address: SocketAddr,
}

impl Node {
    pub fn start(identity: NodeIdentity, listen: &str) -> Node {
        Node::start_with(WireConfig::new(listen.parse().unwrap(), identity))
    }

    pub fn start_with(config: WireConfig) -> Node {
        let (handler, identity) = (Recorder::new(), config.identity.clone());
        let wire = Wire::bind(config, handler.clone()).unwrap();
        let address = wire.local_address();
        Node { wire, handler, identity, address }
    }

    pub fn id(&self) -> NodeId {
        self.identity.node()
    }

    pub fn as_peer(&self) -> Peer {
        Peer {
            node: self.id(),
            name: format!("z{}", self.id()),
            address: self.address.to_string(),
            key_hash: self.identity.key_hash(),
        }
    }

    pub fn send(&self, to: &Node, message: impl Into<Bytes>) {
        self.wire.send_ring(to.id(), VOLUME, message);
    }

    /// Waits until this node can send to `to`.
    pub async fn sees(&self, to: &Node) {
        self.handler.wait("peer up", |seen| seen.up.contains(&to.id())).await;
    }
}

pub fn identity(authority: &Authority, node: u16) -> NodeIdentity {
    let name = NodeName { cluster: CLUSTER, zone: format!("z{node}"), node: NodeId(node) };
    NodeIdentity::first(authority, &name).unwrap()
}

/// `count` nodes on loopback that know each other.
pub async fn nodes(count: u16) -> Vec<Node> {
    let authority = Authority::create(&CLUSTER).unwrap();
    let start = |node| Node::start(identity(&authority, node), "127.0.0.1:0");
    let nodes: Vec<Node> = (1..=count).map(start).collect();
    introduce(&nodes);
    for (a, b) in nodes.iter().flat_map(|a| nodes.iter().map(move |b| (a, b))) {
        if a.id() != b.id() {
            a.sees(b).await;
        }
    }
    nodes
}

pub fn introduce(nodes: &[Node]) {
    let peers: Vec<Peer> = nodes.iter().map(Node::as_peer).collect();
    nodes.iter().for_each(|node| node.wire.set_peers(peers.clone()));
}

/// Waits until a counter says so.
pub async fn until(what: &str, mut when: impl FnMut() -> bool) {
    let polling = async {
        while !when() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

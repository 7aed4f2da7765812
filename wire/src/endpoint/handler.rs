//! What the wire needs from the daemon.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use engine::ids::{Gsn, NodeId, VolumeId};

use crate::endpoint::peer::PeerInfo;
use crate::message::join::{JoinReply, JoinRequest};
use crate::message::request::Request;
use crate::message::response::Response;

/// An answer in the making.
pub type Serving<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The daemon's side of the wire. Only members get here, except through `join`.
pub trait Handler: Send + Sync + 'static {
    /// A ring message arrived. Messages of one peer come from one stream per size class, in
    /// order; a restart or a lost connection loses some. Must not block: the whole
    /// connection waits for it.
    fn ring(&self, from: NodeId, volume: VolumeId, message: Bytes);

    /// Answers a member's question. Dropped when the asker gives up.
    fn serve(self: Arc<Self>, from: PeerInfo, request: Request) -> Serving<Response>;

    /// Admits a machine, or says why not. `remote` is where it called from.
    fn join(
        self: Arc<Self>,
        remote: SocketAddr,
        request: JoinRequest,
    ) -> Serving<Result<JoinReply, String>>;

    /// Ring messages to `node` leave from now on. A hint, also after each reconnect.
    fn peer_up(&self, node: NodeId);

    /// The ring connection to `node` is gone; it is dialled again until it is back. A hint.
    fn peer_down(&self, node: NodeId);

    /// The member `by` says that this node was removed by the agreement `gsn`. It is dialled
    /// again and says so again, until somebody ends that.
    fn removed(&self, by: NodeId, gsn: Gsn);
}

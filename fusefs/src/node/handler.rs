//! What other nodes may ask of this one.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use engine::consensus::Input;
use engine::ids::{Gsn, NodeId, VolumeId};
use wire::{
    Ask, Handler, JoinReply, JoinRequest, PeerInfo, RefusedCode, Request, Response, Serving,
};

use super::admission::Admission;
use super::gossip::Gossip;
use super::volume::Volumes;

/// The daemon's side of the wire. It exists before the parts that answer, because they need
/// the wire: until then questions are answered with "busy", and ring messages are lost, as
/// they may be.
pub struct NodeHandler {
    pub volumes: Arc<Volumes>,
    pub services: Arc<OnceLock<Services>>,
}

/// Who answers what is not about one volume.
pub struct Services {
    pub admission: Arc<Admission>,
    pub gossip: Arc<Gossip>,
}

impl Handler for NodeHandler {
    fn ring(&self, from: NodeId, volume: VolumeId, message: Bytes) {
        match self.volumes.get(volume) {
            Some(volume) => volume.deliver(from, &message),
            None => tracing::debug!(%from, %volume, "ring message for a volume that is not here"),
        }
    }

    fn serve(self: Arc<Self>, from: PeerInfo, request: Request) -> Serving<Response> {
        Box::pin(async move {
            let Some(services) = self.services.get() else {
                return Response::refused(RefusedCode::Busy, "the node is starting");
            };
            match request.ask {
                Ask::Status => services.gossip.own(),
                Ask::Renew { csr } => services.admission.renew(&from, &csr),
                _ => match self.volumes.get(request.volume) {
                    Some(volume) => volume.serve(from, request).await,
                    None => Response::refused(RefusedCode::NotHeld, "no such volume here"),
                },
            }
        })
    }

    fn join(
        self: Arc<Self>,
        remote: SocketAddr,
        request: JoinRequest,
    ) -> Serving<Result<JoinReply, String>> {
        Box::pin(async move {
            match self.services.get() {
                Some(services) => services.admission.admit(remote, request).await,
                None => Err("the node is starting: try again".into()),
            }
        })
    }

    fn peer_up(&self, node: NodeId) {
        for volume in self.volumes.all() {
            volume.input(Input::PeerUp(node));
            volume.bodies.peer_up(node);
        }
        if let Some(services) = self.services.get() {
            services.gossip.ask_soon();
        }
    }

    fn peer_down(&self, node: NodeId) {
        for volume in self.volumes.all() {
            volume.input(Input::PeerDown(node));
        }
    }

    fn removed(&self, by: NodeId, gsn: Gsn) {
        // A member, known by its certificate, says so: this node would be refused everywhere.
        if let Some(root) = self.volumes.get(VolumeId::ROOT) {
            tracing::error!(%by, %gsn, "a member says that this node was removed");
            root.pulse.removed(gsn);
        }
    }
}

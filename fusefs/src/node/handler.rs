//! What other nodes may ask of this one.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use engine::consensus::{Input, Message};
use engine::ids::{NodeId, VolumeId};
use wire::{
    Ask, Handler, JoinReply, JoinRequest, PeerInfo, RefusedCode, Request, Response, Serving,
};

use super::admission::Admission;
use super::checkpoint::CheckpointService;
use super::driver::Event;
use super::gossip::Gossip;
use super::pulse::Pulse;
use crate::body::BodyService;

/// The daemon's side of the wire. It exists before the parts that answer, because they need
/// the wire: until then questions are answered with "busy".
pub struct NodeHandler {
    pub volume: VolumeId,
    pub events: Sender<Event>,
    pub pulse: Arc<OnceLock<Arc<Pulse>>>,
    pub services: Arc<OnceLock<Services>>,
}

/// Who answers what.
pub struct Services {
    pub bodies: Arc<BodyService>,
    pub checkpoints: Arc<CheckpointService>,
    pub admission: Arc<Admission>,
    pub gossip: Arc<Gossip>,
}

impl Handler for NodeHandler {
    fn ring(&self, from: NodeId, volume: VolumeId, message: Bytes) {
        if volume != self.volume {
            tracing::debug!(%from, %volume, "ring message for a volume that is not here");
            return;
        }
        match Message::decode(&message) {
            Ok(message) => {
                let _ = self.events.send(Event::Input(Input::Message { from, message }));
            }
            Err(error) => tracing::warn!(%from, %error, "ring message refused"),
        }
    }

    fn serve(self: Arc<Self>, from: PeerInfo, request: Request) -> Serving<Response> {
        Box::pin(async move {
            let Some(services) = self.services.get() else {
                return Response::refused(RefusedCode::Busy, "the node is starting");
            };
            if request.volume != self.volume {
                return Response::refused(RefusedCode::NotHeld, "no such volume here");
            }
            match request.ask {
                Ask::Manifest { .. }
                | Ask::Read { .. }
                | Ask::Small { .. }
                | Ask::Which { .. }
                | Ask::Recall { .. } => services.bodies.clone().serve(from, request).await,
                Ask::Checkpoint { gsn, after } => services.checkpoints.serve(gsn, after).await,
                Ask::Barrier => match self.pulse.get() {
                    Some(pulse) => Response::At(pulse.applied()),
                    None => Response::refused(RefusedCode::Busy, "the node is starting"),
                },
                Ask::Status => services.gossip.own(),
                Ask::Renew { csr } => services.admission.renew(&from, &csr),
                Ask::Order { .. } => {
                    Response::refused(RefusedCode::Unsupported, "agreements travel on the ring")
                }
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
        let _ = self.events.send(Event::Input(Input::PeerUp(node)));
        if let Some(services) = self.services.get() {
            services.bodies.peer_up(node);
            services.gossip.ask_soon();
        }
    }

    fn peer_down(&self, node: NodeId) {
        let _ = self.events.send(Event::Input(Input::PeerDown(node)));
    }
}

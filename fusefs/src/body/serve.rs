//! Answers other nodes: manifests, bytes, which bodies are here, and the recall of a write
//! token.

use std::sync::Arc;

use bytes::Bytes;
use engine::ids::{BodyId, NodeId};
use engine::placement::Placement;
use wire::{Ask, PeerInfo, RefusedCode, Request, Response, Serving};

use super::want::SMALL_BYTES_MAX;
use super::{BodyService, secure};

impl BodyService {
    /// Answers another node's question about bodies.
    pub fn serve(self: Arc<Self>, from: PeerInfo, request: Request) -> Serving<Response> {
        Box::pin(async move {
            if let Ask::Recall { ino } = request.ask {
                return match self.recall(ino).await {
                    Ok(gsn) => Response::At(gsn),
                    Err(error) => Response::refused(RefusedCode::Failed, error.to_string()),
                };
            }
            if let Ask::Hold { ino, version, body, len } = request.ask {
                if !self.may_have(from.node) {
                    return Response::refused(RefusedCode::Forbidden, "not a member");
                }
                let remote = body.map(|id| secure::remote(id, len, version, from.node));
                return match self.hold(ino, request.applied, remote).await {
                    Ok(Some(gsn)) => Response::At(gsn),
                    Ok(None) => Response::refused(RefusedCode::Busy, "not here yet"),
                    Err(error) => failed(error),
                };
            }
            let answer = tokio::task::spawn_blocking(move || self.answer(&from, request.ask));
            answer
                .await
                .unwrap_or_else(|error| Response::refused(RefusedCode::Failed, error.to_string()))
        })
    }

    /// `node` can be asked (again).
    pub fn peer_up(&self, node: NodeId) {
        self.reputation.answered(node);
        self.wants.lock().wake();
        self.wants_changed.notify_one();
        self.peers_changed.notify_waiters();
    }

    fn answer(&self, from: &PeerInfo, ask: Ask) -> Response {
        if !self.may_have(from.node) {
            self.counters.refused_askers.add(1);
            return Response::refused(RefusedCode::Forbidden, "no copy may go to that zone");
        }
        let answer = match ask {
            Ask::Manifest { body, offset } => self.answer_manifest(body, offset),
            Ask::Read { body, offset, len } => self.answer_read(body, offset, len),
            Ask::Small { bodies } => self.answer_small(&bodies),
            Ask::Which { bodies } => {
                Ok(Response::Which(bodies.into_iter().map(|id| self.holds(id)).collect()))
            }
            _ => Err(Response::refused(RefusedCode::Unsupported, "not a question about bodies")),
        };
        let answer = answer.unwrap_or_else(|refusal| refusal);
        // The last step before the socket: no later code may widen who gets bytes.
        assert!(self.may_have(from.node), "placement keeps bodies from node {}", from.node);
        answer
    }

    /// Whether this node's copies may go to `node`: placement names its zone.
    fn may_have(&self, node: NodeId) -> bool {
        let Ok(members) = self.members() else { return false };
        let placement = Placement::everywhere(&members);
        members.iter().any(|member| {
            member.id == node && member.keeps_bodies() && placement.permits(member.zone)
        })
    }

    fn answer_manifest(&self, id: BodyId, offset: u64) -> Result<Response, Response> {
        let manifest = self.manifest_here(id).map_err(failed)?.ok_or_else(not_held)?;
        let encoded = Bytes::from(manifest.encode());
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(encoded.len());
        let end = start.saturating_add(MANIFEST_PART_BYTES).min(encoded.len());
        let total_bytes = encoded.len() as u64;
        Ok(Response::Manifest { total_bytes, part: encoded.slice(start..end) })
    }

    fn answer_read(&self, id: BodyId, offset: u64, len: u32) -> Result<Response, Response> {
        let total = self.body_len_here(id).map_err(failed)?.ok_or_else(not_held)?;
        let len = u64::from(len).min(total.saturating_sub(offset));
        let mut bytes = vec![0; len as usize];
        if !self.read_sealed(id, offset, &mut bytes).map_err(failed)? {
            return Err(not_held());
        }
        self.counters.served_bytes.add(len);
        Ok(Response::Read(bytes.into()))
    }

    fn answer_small(&self, ids: &[BodyId]) -> Result<Response, Response> {
        let mut room_bytes = SMALL_ANSWER_BYTES;
        let mut bodies = Vec::with_capacity(ids.len());
        for &id in ids {
            let Some(len) = self.body_len_here(id).map_err(failed)? else {
                bodies.push(None);
                continue;
            };
            if len > SMALL_BYTES_MAX {
                bodies.push(None);
                continue;
            }
            let Some(rest) = room_bytes.checked_sub(len) else { break };
            room_bytes = rest;
            let mut bytes = vec![0; len as usize];
            let here = self.read_sealed(id, 0, &mut bytes).map_err(failed)?;
            self.counters.served_bytes.add(len);
            bodies.push(here.then(|| bytes.into()));
        }
        Ok(Response::Small(bodies))
    }
}

fn failed(error: crate::ops::ports::BodyError) -> Response {
    Response::refused(RefusedCode::Failed, error.to_string())
}

fn not_held() -> Response {
    Response::refused(RefusedCode::NotHeld, "not here")
}

const MANIFEST_PART_BYTES: usize = 1 << 20;
/// Below the limit of a message, with room for the head.
const SMALL_ANSWER_BYTES: u64 = 2 << 20;

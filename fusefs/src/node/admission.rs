//! Lets machines in: checks their join token, agrees their membership, issues certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use engine::command::{Member, MemberRole, Op};
use engine::ids::ZoneId;
use engine::outcome::{Outcome, Refusal};
use wire::identity::is_valid_name;
use wire::{Authority, JoinReply, JoinRequest, NodeName, PeerInfo, RefusedCode, Response};

use super::proposals::Proposals;
use crate::ops::ports::{Ring, View};

pub struct Admission {
    pub cluster: [u8; 16],
    pub ring: Arc<dyn Ring>,
    pub proposals: Arc<Proposals>,
    /// `None` on a node that was not handed the authority's key.
    pub authority: Option<Authority>,
}

/// Two machines that join in two zones at once pick the same node id: the loser tries again.
const ID_ATTEMPTS: usize = 16;

impl Admission {
    /// Admits a machine, or says why not, in a sentence for the person at that machine.
    pub async fn admit(
        &self,
        remote: SocketAddr,
        request: JoinRequest,
    ) -> Result<JoinReply, String> {
        let authority = self.authority.as_ref().ok_or(
            "this node cannot issue certificates: use the address of a node that has the \
             authority's key",
        )?;
        if !is_valid_name(&request.name) {
            return Err(format!("'{}' cannot name a node", request.name));
        }
        for _ in 0..ID_ATTEMPTS {
            let member = self.candidate(&request)?;
            let op = Op::AdmitNode { node: member.clone(), token: Some(request.token) };
            match self.proposals.propose_and_wait(op).await {
                Ok(Outcome::Refused(Refusal::IdInUse)) => {}
                Ok(Outcome::Refused(refusal)) => return Err(refusal.to_string()),
                Ok(_) => {
                    tracing::info!(node = %member.name, zone = %member.zone_name, %remote, "joined");
                    return self.reply(authority, &request, member);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("too many machines join at once: try again".into())
    }

    /// A new certificate for a member's own key.
    pub fn renew(&self, from: &PeerInfo, csr: &[u8]) -> Response {
        let Some(authority) = &self.authority else {
            return Response::refused(RefusedCode::Unsupported, "no authority key here");
        };
        let member = match self.ring.view().member(from.node) {
            Ok(Some(member)) => member,
            Ok(None) => return Response::refused(RefusedCode::Forbidden, "not a member"),
            Err(error) => return Response::refused(RefusedCode::Failed, error.to_string()),
        };
        // Only for the key that the membership names: a renewal never changes who a node is.
        let is_its_key = wire::identity::authority::csr_key_hash(csr)
            .is_ok_and(|key_hash| key_hash == member.key_hash);
        if !is_its_key {
            return Response::refused(RefusedCode::Forbidden, "the key is not the member's");
        }
        match authority.issue(csr, &self.name(&member)) {
            Ok(certificate) => Response::Certificate(Bytes::copy_from_slice(&certificate)),
            Err(error) => Response::refused(RefusedCode::Failed, error.to_string()),
        }
    }

    /// The member that the request would become, by the state of now.
    fn candidate(&self, request: &JoinRequest) -> Result<Member, String> {
        let view = self.ring.view();
        let broken = |error: engine::namespace::TablesError| error.to_string();
        let token = view
            .join_token(request.token)
            .map_err(broken)?
            .filter(|token| token.secret_hash == wire::token::secret_hash(&request.secret))
            .ok_or("the join token is unknown, used, revoked or expired: create a new one")?;
        if !request.zone.is_empty() && request.zone != token.zone {
            return Err(format!("the join token is for zone '{}'", token.zone));
        }
        let members = view.members().map_err(broken)?;
        if members.iter().any(|member| member.name == request.name) {
            return Err(format!(
                "a node named '{}' is a member already: choose another --node name",
                request.name
            ));
        }
        Ok(Member {
            id: view.next_node_id().map_err(broken)?.ok_or("all node ids are used up")?,
            name: request.name.clone(),
            zone: zone_id(&members, &token.zone),
            zone_name: token.zone,
            address: request.address.clone(),
            key_hash: request.key_hash,
            role: token.role,
            draining: false,
        })
    }

    fn reply(
        &self,
        authority: &Authority,
        request: &JoinRequest,
        member: Member,
    ) -> Result<JoinReply, String> {
        let certificate = authority
            .issue(&request.csr, &self.name(&member))
            .map_err(|error| error.to_string())?;
        let view: View = self.ring.view();
        Ok(JoinReply {
            cluster: self.cluster,
            node: member.id,
            zone: member.zone_name,
            certificate: certificate.to_vec(),
            authority: authority.certificate().to_vec(),
            // A witness often stands where fewer people are trusted, and observers are many.
            authority_key: (member.role == MemberRole::Voter).then(|| authority.private_key()),
            members: view.members().map_err(|error| error.to_string())?,
            volume: Vec::new(),
        })
    }

    fn name(&self, member: &Member) -> NodeName {
        NodeName { cluster: self.cluster, zone: member.zone_name.clone(), node: member.id }
    }
}

/// The id of the zone `name`: that of its members, or the next free one.
pub fn zone_id(members: &[Member], name: &str) -> ZoneId {
    match members.iter().find(|member| member.zone_name == name) {
        Some(member) => member.zone,
        None => ZoneId(members.iter().map(|member| member.zone.0).max().unwrap_or(0) + 1),
    }
}

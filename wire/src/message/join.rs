//! The exchange by which a machine becomes a node.

use engine::command::Member;
use engine::ids::NodeId;
use minicbor::{Decode, Encode};

use super::MessageError;

/// What a machine that holds a join token sends, after it has checked the authority's hash.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct JoinRequest {
    #[n(0)]
    pub token: u64,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: [u8; crate::token::SECRET_BYTES],
    /// Certificate signing request, DER. The receiver has checked its signature before the
    /// handler sees it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub csr: Vec<u8>,
    /// BLAKE3 of the key in `csr`. Filled in by the receiver, not believed from the network.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub key_hash: [u8; 32],
    /// The node's name.
    #[n(4)]
    pub name: String,
    /// The zone that it wants to be in; empty: the token's.
    #[n(5)]
    pub zone: String,
    /// `host:port` at which others will reach it.
    #[n(6)]
    pub address: String,
}

// By hand: secrets don't get into logs.
impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token", &self.token)
            .field("name", &self.name)
            .field("zone", &self.zone)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What the admitting node answers.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct JoinReply {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub cluster: [u8; 16],
    #[n(1)]
    pub node: NodeId,
    #[n(2)]
    pub zone: String,
    /// The new node's certificate, DER.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
    /// The authority's certificate, DER.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub authority: Vec<u8>,
    /// The authority's private key (PKCS #8, DER), for a node that will admit others itself.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub authority_key: Option<Vec<u8>>,
    #[n(6)]
    pub members: Vec<Member>,
    /// What the node needs to know of the root volume to start; the sender's business.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub volume: Vec<u8>,
}

impl std::fmt::Debug for JoinReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinReply")
            .field("node", &self.node)
            .field("zone", &self.zone)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

/// The answer on the network.
#[derive(Debug, Encode, Decode)]
pub(crate) enum JoinAnswer {
    #[n(0)]
    Welcome(#[n(0)] JoinReply),
    #[n(1)]
    Refused(#[n(0)] String),
}

/// A stranger may make us hold this much.
pub(crate) const JOIN_REQUEST_MAX_BYTES: usize = 16 << 10;
pub(crate) const JOIN_ANSWER_MAX_BYTES: usize = 4 << 20;
const NAME_MAX_BYTES: usize = 255;

impl JoinRequest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        super::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<JoinRequest, MessageError> {
        let request: JoinRequest = super::decode(bytes, JOIN_REQUEST_MAX_BYTES)?;
        for text in [&request.name, &request.zone, &request.address] {
            if text.len() > NAME_MAX_BYTES {
                return Err(MessageError::TooLarge { have: text.len(), limit: NAME_MAX_BYTES });
            }
        }
        Ok(request)
    }
}

impl JoinAnswer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        super::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<JoinAnswer, MessageError> {
        super::decode(bytes, JOIN_ANSWER_MAX_BYTES)
    }
}

//! Who else is a member, as the agreed state says.

use std::net::SocketAddr;

use engine::ids::NodeId;

/// Another node of the cluster, from the agreed membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    pub name: String,
    /// `host:port`, resolved at each dial.
    pub address: String,
    /// BLAKE3 of its SubjectPublicKeyInfo.
    pub key_hash: [u8; 32],
}

/// The other end of a connection whose certificate and membership were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    pub node: NodeId,
    pub name: String,
    /// From its certificate.
    pub zone: String,
    pub remote: SocketAddr,
}

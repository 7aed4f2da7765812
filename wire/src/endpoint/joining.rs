//! The joining side: a machine with a token becomes a node.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use quinn::{Connection, Endpoint, VarInt};
use rustls_pki_types::CertificateDer;

use super::remote::reachable_from;
use super::{WireError, transport};
use crate::identity::authority::authority_hash;
use crate::identity::{IdentityError, NodeIdentity, NodeKey, tls};
use crate::message::join::{JOIN_ANSWER_MAX_BYTES, JoinAnswer, JoinReply, JoinRequest};
use crate::token::JoinToken;

/// What a machine says when it joins.
pub struct Joining<'a> {
    pub token: &'a JoinToken,
    pub key: &'a NodeKey,
    /// The node's name.
    pub name: String,
    /// Empty: the token's zone.
    pub zone: String,
    /// `host:port` at which others will reach it.
    pub address: String,
}

/// Why a join did not happen.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("no address of the join token can be reached: {0}")]
    Unreachable(String),
    #[error(
        "{address} does not belong to the token's cluster ({reason}); the secret was not sent. Copy a fresh token, and if this stays, somebody may be between"
    )]
    WrongAuthority { address: String, reason: String },
    #[error("the cluster refuses: {0}")]
    Refused(String),
    #[error("the cluster's answer is not intact: {0}")]
    Malformed(String),
    #[error("the certificate from the cluster cannot be used")]
    Identity(#[from] IdentityError),
}

/// An address that does not answer by then is given up for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The cluster has to agree first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);

/// Joins the cluster that the token names, by the first of its addresses that answers.
///
/// The secret leaves this machine only after the other side has proved that the authority
/// whose hash is in the token has certified it.
///
/// # Errors
/// [`JoinError`]. After `Refused` the token may still be unused: the reason says.
pub async fn join(joining: Joining<'_>) -> Result<(NodeIdentity, JoinReply), JoinError> {
    let mut reasons = Vec::new();
    for address in &joining.token.addresses {
        match connect(joining.token, address).await? {
            Ok((endpoint, connection)) => {
                let joined = ask(&joining, &connection).await;
                connection.close(VarInt::from_u32(0), b"done");
                // So that the other side learns that we are done.
                let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
                return joined;
            }
            Err(reason) => reasons.push(format!("{address}: {reason}")),
        }
    }
    Err(JoinError::Unreachable(reasons.join("; ")))
}

/// The inner error is this address's, the outer one ends the join.
async fn connect(
    token: &JoinToken,
    address: &str,
) -> Result<Result<(Endpoint, Connection), String>, JoinError> {
    let attempt = async {
        let found = tokio::net::lookup_host(address).await.map_err(|e| e.to_string())?;
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
        // Without IPv6 in the kernel, plain IPv4.
        let endpoint = Endpoint::client(any)
            .or_else(|_| Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into()))
            .map_err(|error| error.to_string())?;
        let ours = endpoint.local_addr().map_err(|error| error.to_string())?;
        let to = reachable_from(ours, found).ok_or("no address of our kind")?;
        let client = transport::joiner(token.authority_hash).map_err(|e| e.to_string())?;
        let connecting = endpoint
            .connect_with(client, to, tls::SERVER_NAME)
            .map_err(|error| error.to_string())?;
        Ok::<_, String>((endpoint, connecting.await))
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
        Err(_) => Ok(Err("no answer".into())),
        Ok(Err(reason)) => Ok(Err(reason)),
        Ok(Ok((endpoint, Ok(connection)))) => Ok(Ok((endpoint, connection))),
        Ok(Ok((_, Err(error)))) if is_distrust(&error) => {
            let (address, reason) = (address.to_owned(), error.to_string());
            Err(JoinError::WrongAuthority { address, reason })
        }
        Ok(Ok((_, Err(error)))) => Ok(Err(error.to_string())),
    }
}

/// Whether we broke off the handshake because of the other side's certificate: TLS alerts
/// 42 to 49 (RFC 8446, 6), which QUIC carries as 0x100 + alert (RFC 9001, 4.8).
fn is_distrust(error: &quinn::ConnectionError) -> bool {
    let quinn::ConnectionError::TransportError(error) = error else {
        return false;
    };
    (0x100 + 42..=0x100 + 49).contains(&u64::from(error.code))
}

async fn ask(
    joining: &Joining<'_>,
    connection: &Connection,
) -> Result<(NodeIdentity, JoinReply), JoinError> {
    let request = JoinRequest {
        token: joining.token.id,
        secret: joining.token.secret,
        csr: joining.key.csr()?,
        key_hash: joining.key.key_hash(),
        name: joining.name.clone(),
        zone: joining.zone.clone(),
        address: joining.address.clone(),
    };
    let lost = |error: &dyn std::fmt::Display| match connection.close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(close)) => {
            JoinError::Refused(String::from_utf8_lossy(&close.reason).into_owned())
        }
        _ => JoinError::Unreachable(error.to_string()),
    };
    let exchange = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| lost(&e))?;
        send.write_all(&request.encode()).await.map_err(|e| lost(&e))?;
        send.finish().map_err(|e| lost(&e))?;
        recv.read_to_end(JOIN_ANSWER_MAX_BYTES).await.map_err(|e| lost(&e))
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .map_err(|_| JoinError::Unreachable("no answer to the join request".into()))??;
    match JoinAnswer::decode(&answer).map_err(|e| JoinError::Malformed(e.to_string()))? {
        JoinAnswer::Refused(reason) => Err(JoinError::Refused(reason)),
        JoinAnswer::Welcome(reply) => {
            let identity = check(joining, &reply)?;
            Ok((identity, reply))
        }
    }
}

/// Makes sure that the answer is one for us, from the token's authority.
fn check(joining: &Joining<'_>, reply: &JoinReply) -> Result<NodeIdentity, JoinError> {
    if authority_hash(&reply.authority) != joining.token.authority_hash {
        return Err(JoinError::Malformed("its authority is not the token's".into()));
    }
    let certificate = CertificateDer::from(reply.certificate.clone());
    let authority = CertificateDer::from(reply.authority.clone());
    let identity = NodeIdentity::new(joining.key, certificate, authority)?;
    let name = identity.name();
    if (name.cluster, name.node, &name.zone) != (reply.cluster, reply.node, &reply.zone) {
        return Err(JoinError::Malformed(format!("its certificate names {name}")));
    }
    Ok(identity)
}

impl From<WireError> for JoinError {
    fn from(error: WireError) -> JoinError {
        JoinError::Unreachable(error.to_string())
    }
}

//! Who calls, and may he: each connection is checked against the authority by TLS and against
//! the agreed members here, before anything it sent is looked at.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming};
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::remote::{Inbound, Remote};
use super::{Shared, admission, close, serve};
use crate::endpoint::peer::PeerInfo;
use crate::identity::{NodeName, tls};

/// Handshakes of unknown callers at a time; each costs a signature and some kilobytes.
const HANDSHAKES_MAX: usize = 64;
/// From this many on a caller must first show that he receives at his address.
const HANDSHAKES_UNPROVEN_MAX: usize = 16;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes calls until the port closes.
pub(crate) async fn run(shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = shared.endpoint.accept().await {
        let busy = HANDSHAKES_MAX - handshakes.available_permits();
        let known = shared.knows_address(incoming.remote_address().ip());
        if !known && busy >= HANDSHAKES_UNPROVEN_MAX && incoming.may_retry() {
            // Costs neither memory nor a signature. Can't fail: it may be retried.
            let _ = incoming.retry();
            continue;
        }
        let permit = match handshakes.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) if known => None,
            Err(_) => {
                shared.counters.overload_refused.bump();
                incoming.refuse();
                continue;
            }
        };
        tokio::spawn(greet(shared.clone(), incoming, permit));
    }
}

async fn greet(shared: Arc<Shared>, incoming: Incoming, permit: Option<OwnedSemaphorePermit>) {
    let remote = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let connection = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            shared.counters.strangers_refused.bump();
            tracing::debug!(%remote, %error, "handshake failed");
            return;
        }
        Err(_) => {
            shared.counters.strangers_refused.bump();
            return;
        }
    };
    drop(permit);
    match protocol(&connection).as_deref() {
        Some(tls::ALPN_JOIN) => admission::serve(shared, connection).await,
        Some(tls::ALPN_RING) => {
            if let Some((inbound, info)) = admit(&shared, &connection) {
                serve::ring(shared, inbound, info, connection).await;
            }
        }
        Some(tls::ALPN_BULK) => {
            if let Some((inbound, info)) = admit(&shared, &connection) {
                serve::bulk(shared, inbound, info, connection).await;
            }
        }
        // TLS lets nothing else through.
        _ => connection.close(close::NOT_A_MEMBER, b"unknown protocol"),
    }
}

/// Lets members in, counts and closes the others.
fn admit(shared: &Shared, connection: &Connection) -> Option<(Inbound, PeerInfo)> {
    let Some((name, key_hash)) = identity_of(connection) else {
        shared.counters.strangers_refused.bump();
        connection.close(close::NOT_A_MEMBER, b"a certificate is needed");
        return None;
    };
    let member = member(shared, &name, &key_hash);
    let Some(inbound) = member.as_ref().and_then(|remote| remote.admit(connection)) else {
        shared.counters.nonmembers_refused.bump();
        let remote = connection.remote_address();
        tracing::debug!(%remote, %name, "refused: not a member");
        match shared.removed_at(&name, &key_hash) {
            Some(gsn) => connection.close(close::REMOVED, &gsn.0.to_be_bytes()),
            None => connection.close(close::NOT_A_MEMBER, b"not a member"),
        }
        return None;
    };
    let info = PeerInfo {
        node: name.node,
        name: inbound.remote.peer.lock().name.clone(),
        zone: name.zone,
        remote: connection.remote_address(),
    };
    Some((inbound, info))
}

fn member(shared: &Shared, name: &NodeName, key_hash: &[u8; 32]) -> Option<Arc<Remote>> {
    let remote = shared.remote(name.node).filter(|_| name.cluster == shared.cluster)?;
    let known = remote.peer.lock().key_hash == *key_hash;
    known.then_some(remote)
}

/// Whom the other side's certificate, already verified, names; with its key's hash.
pub(crate) fn identity_of(connection: &Connection) -> Option<(NodeName, [u8; 32])> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::identify(chain.first()?).ok()
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

//! The admitting side of a join: a stranger with a secret, kept on a short leash.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::{Connection, SendStream};
use tokio::sync::Semaphore;

use super::{Shared, close};
use crate::identity::authority::csr_key_hash;
use crate::identity::is_valid_name;
use crate::message::join::{JOIN_REQUEST_MAX_BYTES, JoinAnswer, JoinRequest};

/// Bounds what strangers cost.
pub(crate) struct Admission {
    joins: Semaphore,
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

struct Failures {
    since: Instant,
    count: u32,
}

/// At a time.
const JOINS_MAX: usize = 8;
/// Failed joins from one address within [`FAILURES_AGE`]; a person who copies a token wrongly
/// gets by, a guesser does not (and would have 160 bits to guess).
const FAILURES_MAX: u32 = 20;
const FAILURES_AGE: Duration = Duration::from_secs(60);
const ADDRESSES_MAX: usize = 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An admission is an agreement or two; a minority waits in vain.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(60);

impl Admission {
    pub(crate) fn new() -> Admission {
        Admission { joins: Semaphore::new(JOINS_MAX), failures: Mutex::default() }
    }

    fn is_barred(&self, address: IpAddr) -> bool {
        let failures = self.failures.lock();
        failures
            .get(&address)
            .is_some_and(|f| f.count >= FAILURES_MAX && f.since.elapsed() < FAILURES_AGE)
    }

    fn failed(&self, address: IpAddr) {
        let mut failures = self.failures.lock();
        failures.retain(|_, f| f.since.elapsed() < FAILURES_AGE);
        // A full table means an attack from many addresses: the number at a time bounds that.
        if failures.len() < ADDRESSES_MAX || failures.contains_key(&address) {
            let entry =
                failures.entry(address).or_insert(Failures { since: Instant::now(), count: 0 });
            entry.count += 1;
        }
    }
}

/// Reads one join request and answers it.
pub(crate) async fn serve(shared: Arc<Shared>, connection: Connection) {
    let address = connection.remote_address().ip();
    let barred = shared.admission.is_barred(address);
    let permit = shared.admission.joins.try_acquire();
    let (Ok(_permit), false) = (permit, barred) else {
        shared.counters.joins_refused.bump();
        connection.close(close::BUSY, b"too many join attempts, try again in a minute");
        return;
    };
    let Ok(Some((send, request))) =
        tokio::time::timeout(REQUEST_TIMEOUT, receive(&connection)).await
    else {
        shared.counters.joins_refused.bump();
        shared.admission.failed(address);
        connection.close(close::MALFORMED, b"not a join request");
        return;
    };
    let answer = match decide(&shared, &connection, &request).await {
        Ok(answer) => answer,
        Err(reason) => {
            tracing::warn!(remote = %connection.remote_address(), reason, "join refused");
            shared.counters.joins_refused.bump();
            shared.admission.failed(address);
            JoinAnswer::Refused(reason)
        }
    };
    deliver(send, answer).await;
}

async fn receive(connection: &Connection) -> Option<(SendStream, Vec<u8>)> {
    let (send, mut recv) = connection.accept_bi().await.ok()?;
    let request = recv.read_to_end(JOIN_REQUEST_MAX_BYTES).await.ok()?;
    Some((send, request))
}

async fn decide(
    shared: &Shared,
    connection: &Connection,
    request: &[u8],
) -> Result<JoinAnswer, String> {
    let mut request = JoinRequest::decode(request).map_err(|error| error.to_string())?;
    if !is_valid_name(&request.name) {
        return Err(format!("'{}' cannot name a node: use a-z, 0-9, '-', '_', '.'", request.name));
    }
    request.key_hash = csr_key_hash(&request.csr).map_err(|error| error.to_string())?;
    let admitting = shared.handler.clone().join(connection.remote_address(), request);
    tokio::select! {
        answer = tokio::time::timeout(ADMIT_TIMEOUT, admitting) => {
            let late = |_| "the cluster does not agree now: is a majority reachable?".to_owned();
            answer.map_err(late)?.map(JoinAnswer::Welcome)
        }
        _ = connection.closed() => Err("the joiner went away".into()),
    }
}

/// Sends the answer and waits until it has arrived: the connection ends with it.
async fn deliver(mut send: SendStream, answer: JoinAnswer) {
    let delivery = async {
        if send.write_all(&answer.encode()).await.is_ok() && send.finish().is_ok() {
            // Ok or not: there is nobody left to tell.
            let _ = send.stopped().await;
        }
    };
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, delivery).await;
}

//! Questions to one peer: connections dialled when needed, one stream per question.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{Connection, RecvStream, VarInt};

use super::pace::Pace;
use super::remote::{Remote, dial};
use super::{Shared, WireError};
use crate::message::request::{Ask, Class, Request};
use crate::message::response::Response;

/// The connections for questions to one peer: the first for what somebody waits for, the
/// others for the background, so that the two share neither a congestion window nor losses.
pub(crate) struct BulkPool {
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    connection: Mutex<Option<Connection>>,
    /// One dials, the others wait for it. Holds when the last attempt failed.
    dialling: tokio::sync::Mutex<Option<Failure>>,
    calls: AtomicUsize,
    /// For the background only.
    pace: Option<Pace>,
    forgiven: AtomicUsize,
}

struct Failure {
    at: Instant,
    forgiven: usize,
    reason: String,
}

/// After a failed attempt, calls fail at once for this long instead of each waiting for its
/// own attempt.
const FAILURE_AGE: Duration = Duration::from_millis(500);
/// Most answers are far smaller than the limit.
const ANSWER_GUESS_BYTES: usize = 4096;

impl BulkPool {
    pub(crate) fn new(background: usize) -> BulkPool {
        let paced = || Slot { pace: Some(Pace::default()), ..Slot::default() };
        let slots = std::iter::once(Slot::default());
        BulkPool { slots: slots.chain((0..background.max(1)).map(|_| paced())).collect() }
    }

    /// The least busy connection for the class.
    fn slot(&self, class: Class) -> &Slot {
        match class {
            Class::OnDemand | Class::Small => &self.slots[0],
            Class::Push | Class::Bulk => self.slots[1..]
                .iter()
                .min_by_key(|slot| slot.calls.load(Ordering::Relaxed))
                .expect("there is one for the background"),
        }
    }

    pub(crate) fn close(&self, code: VarInt, reason: &[u8]) {
        for slot in &self.slots {
            if let Some(connection) = slot.connection.lock().take() {
                connection.close(code, reason);
            }
        }
    }

    /// The peer has called: the next question dials, whatever happened before.
    pub(crate) fn forget_failures(&self) {
        for slot in &self.slots {
            slot.forgiven.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Slot {
    fn live(&self) -> Option<Connection> {
        self.connection.lock().clone().filter(|connection| connection.close_reason().is_none())
    }

    async fn connect(&self, shared: &Shared, remote: &Remote) -> Result<Connection, WireError> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let mut failure = self.dialling.lock().await;
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        let forgiven = self.forgiven.load(Ordering::Relaxed);
        if let Some(failure) = failure.as_ref()
            && failure.at.elapsed() < FAILURE_AGE
            && failure.forgiven == forgiven
        {
            return Err(WireError::Unreachable(failure.reason.clone()));
        }
        let client = {
            let clients = shared.clients.read();
            if self.pace.is_some() { &clients.background } else { &clients.urgent }.clone()
        };
        match dial(shared, remote, client).await {
            Ok(connection) => {
                *failure = None;
                *self.connection.lock() = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let (at, reason) = (Instant::now(), error.to_string());
                *failure = Some(Failure { at, forgiven, reason });
                Err(error)
            }
        }
    }
}

/// Asks and waits for the answer. Dropping the future ends the exchange on both sides.
pub(crate) async fn call(
    shared: &Shared,
    remote: &Remote,
    request: Request,
) -> Result<Response, WireError> {
    request.check().map_err(|error| WireError::Invalid(error.to_string()))?;
    let slot = remote.bulk.slot(request.class);
    slot.calls.fetch_add(1, Ordering::Relaxed);
    let _busy = Busy(&slot.calls);
    let connection = slot.connect(shared, remote).await?;
    match exchange(shared, remote, slot, &connection, &request).await {
        // The peer restarted, and its reset met our question: the connection was dead before
        // we asked. Every question may be asked twice.
        Err(WireError::Lost(_)) if connection.close_reason().is_some() => {
            let connection = slot.connect(shared, remote).await?;
            exchange(shared, remote, slot, &connection, &request).await
        }
        other => other,
    }
}

struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn exchange(
    shared: &Shared,
    remote: &Remote,
    slot: &Slot,
    connection: &Connection,
    request: &Request,
) -> Result<Response, WireError> {
    let timeout = shared.config.call_timeout;
    let lost = |error: &dyn std::fmt::Display| match connection.close_reason() {
        Some(reason) => WireError::Lost(reason.to_string()),
        None => WireError::Lost(error.to_string()),
    };
    let asking = async {
        let (mut send, recv) = connection.open_bi().await.map_err(|e| lost(&e))?;
        // Fails only on a closed stream, which the write then reports.
        let _ = send.set_priority(request.class.priority());
        let bytes = request.encode();
        remote.counters.bulk_sent_bytes.add(bytes.len());
        send.write_all(&bytes).await.map_err(|e| lost(&e))?;
        send.finish().map_err(|e| lost(&e))?;
        Ok::<RecvStream, WireError>(recv)
    };
    let late = |_| WireError::TimedOut { waited_ms: timeout.as_millis() as u64 };
    let mut recv = tokio::time::timeout(timeout, asking).await.map_err(late)??;
    let guess = match &request.ask {
        Ask::Read { len, .. } => *len as usize + ANSWER_GUESS_BYTES,
        _ => ANSWER_GUESS_BYTES,
    };
    let mut answer = BytesMut::with_capacity(guess);
    // The time without any progress counts: a slow link may take long for 4 MiB.
    while let Some(chunk) = tokio::time::timeout(timeout, recv.read_chunk(usize::MAX, true))
        .await
        .map_err(late)?
        .map_err(|e| lost(&e))?
    {
        if answer.len() + chunk.bytes.len() > Response::ENCODED_MAX_BYTES {
            shared.counters.malformed.bump();
            return Err(WireError::Malformed("the answer is longer than any answer".into()));
        }
        remote.counters.bulk_received_bytes.add(chunk.bytes.len());
        if let Some(pace) = &slot.pace {
            pace.received(connection, chunk.bytes.len());
        }
        answer.extend_from_slice(&chunk.bytes);
    }
    Response::decode(Bytes::from(answer)).map_err(|error| {
        shared.counters.malformed.bump();
        WireError::Malformed(error.to_string())
    })
}

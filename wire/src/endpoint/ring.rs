//! The ring connection to one peer: dialled by us, used by us to send, and by nobody for
//! anything else. The peer's messages come on the connection that it dials itself, so there
//! is never a question which of two connections counts.
//!
//! Small messages go on one long stream, each large one on a stream of its own with lower
//! priority, so that a vote never waits for a proposal of megabytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::ids::Gsn;
use quinn::{Connection, ConnectionError, SendStream, WriteError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::queue::Frame;
use super::remote::{Remote, dial};
use super::{Shared, WireError, close};
use crate::message::frame;

/// Messages above this travel on their own stream.
const SMALL_MAX_BYTES: usize = 32 << 10;
/// Handed to QUIC at once.
const BATCH_MAX_BYTES: usize = 256 << 10;
/// Large messages that have left the queue and wait for QUIC; more stay in the queue.
const LARGE_WAITING_MAX: usize = 8;
const SMALL_PRIORITY: i32 = 1;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Keeps the ring connection to `remote` up, for ever.
pub(crate) async fn run(shared: Arc<Shared>, remote: Arc<Remote>) {
    let node = remote.peer.lock().node;
    let mut backoff = Backoff::new();
    loop {
        let started = Instant::now();
        match dial_until_up(&shared, &remote).await {
            Ok(connection) => {
                let ended = session(&shared, &remote, connection).await;
                tracing::debug!(%node, %ended, "ring connection ended");
                if started.elapsed() > BACKOFF_MAX {
                    backoff = Backoff::new();
                }
            }
            Err(error) => tracing::debug!(%node, %error, "cannot reach peer"),
        }
        backoff.wait(&remote).await;
    }
}

/// Dials; when something says that the peer is there now, a second attempt runs beside the
/// first, whose packets may have gone into the void before.
async fn dial_until_up(
    shared: &Arc<Shared>,
    remote: &Arc<Remote>,
) -> Result<Connection, WireError> {
    let mut attempts = JoinSet::new();
    let attempt = || {
        let (shared, remote) = (shared.clone(), remote.clone());
        async move {
            let client = shared.clients.read().ring.clone();
            dial(&shared, &remote, client).await
        }
    };
    attempts.spawn(attempt());
    loop {
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended.expect("dialling does not panic") {
                Ok(connection) => return Ok(connection),
                Err(error) if attempts.is_empty() => return Err(error),
                Err(_) => {}
            },
            () = remote.redial.notified(), if attempts.len() < 2 => {
                attempts.spawn(attempt());
            }
        }
    }
}

/// Sends on a new connection until it ends, and says why.
async fn session(shared: &Arc<Shared>, remote: &Arc<Remote>, connection: Connection) -> String {
    let node = remote.peer.lock().node;
    {
        let mut ring = remote.ring.lock();
        ring.connection = Some(connection.clone());
        ring.peer_start = None;
    }
    remote.counters.connects.bump();
    remote.counters.ring_dropped_count.add(remote.queue.connect());
    let mut up = Up { shared, remote, told: false };
    let ended = {
        let sending = send_all(shared, remote, &connection);
        let greeting = greeted(&connection);
        tokio::pin!(sending, greeting);
        let mut waiting = true;
        loop {
            tokio::select! {
                error = connection.closed() => break error.to_string(),
                error = &mut sending => break error,
                start = &mut greeting, if waiting => match start {
                    Ok(start) => {
                        waiting = false;
                        if !accept_start(remote, start) {
                            break "the peer has restarted".into();
                        }
                        tracing::debug!(%node, "ring connection is up");
                        up.told = true;
                        shared.handler.peer_up(node);
                    }
                    Err(error) => break error.to_string(),
                },
            }
        }
    };
    if let Some(gsn) = removal(&connection) {
        shared.handler.removed(node, gsn);
    }
    connection.close(close::SUPERSEDED, b"");
    drop(up);
    ended
}

/// The agreement that removed this node, if the peer ended the connection for that.
fn removal(connection: &Connection) -> Option<Gsn> {
    let ConnectionError::ApplicationClosed(closed) = connection.close_reason()? else {
        return None;
    };
    let gsn = closed.reason.as_ref().try_into().ok().map(u64::from_be_bytes)?;
    (closed.error_code == close::REMOVED).then_some(Gsn(gsn))
}

/// Notes which start of the peer answers; false if a newer one has shown up already.
fn accept_start(remote: &Remote, start: u64) -> bool {
    let mut ring = remote.ring.lock();
    ring.peer_start = Some(start);
    let newest = ring.newest_start <= start;
    ring.newest_start = ring.newest_start.max(start);
    newest
}

/// Takes the session's marks back when it ends, also when its task is aborted.
struct Up<'a> {
    shared: &'a Shared,
    remote: &'a Remote,
    told: bool,
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        {
            let mut ring = self.remote.ring.lock();
            ring.connection = None;
            ring.peer_start = None;
        }
        self.remote.counters.ring_dropped_count.add(self.remote.queue.disconnect());
        if self.told {
            let node = self.remote.peer.lock().node;
            self.shared.handler.peer_down(node);
        }
    }
}

/// Waits for the other side's word that it takes us for a member: its start.
async fn greeted(connection: &Connection) -> Result<u64, WireError> {
    let lost = |error: ConnectionError| WireError::Unreachable(error.to_string());
    let mut stream = connection.accept_uni().await.map_err(lost)?;
    let mut hello = [0; frame::HELLO_BYTES];
    let read = stream.read_exact(&mut hello).await;
    read.map_err(|error| WireError::Unreachable(error.to_string()))?;
    frame::parse_hello(&hello).map_err(|error| WireError::Malformed(error.to_string()))
}

/// Moves messages from the queue to the network until the connection fails.
async fn send_all(shared: &Shared, remote: &Remote, connection: &Connection) -> String {
    let (large, mut larges) = mpsc::channel(LARGE_WAITING_MAX);
    let small = async {
        let mut stream = connection.open_uni().await.map_err(|error| error.to_string())?;
        // Ours is the only stream of its kind; the priority ranks it before large messages.
        let _ = stream.set_priority(SMALL_PRIORITY);
        let hello = frame::hello(shared.start);
        stream.write_all(&hello).await.map_err(|error| error.to_string())?;
        loop {
            for frame in send_batch(remote, &mut stream).await.map_err(|e| e.to_string())? {
                // Waits when many large ones wait: the queue is then the place to wait.
                if large.send(frame).await.is_err() {
                    return Ok(());
                }
            }
            if remote.queue.is_empty() {
                remote.queue.added.notified().await;
            }
        }
    };
    let large = async {
        while let Some(frame) = larges.recv().await {
            send_large(connection, frame).await?;
        }
        Ok(())
    };
    let ended: Result<_, String> = tokio::try_join!(small, large);
    ended.err().unwrap_or_else(|| "nothing left to send".into())
}

/// Writes the small ones of a batch, and returns its large ones.
async fn send_batch(remote: &Remote, stream: &mut SendStream) -> Result<Vec<Frame>, WriteError> {
    let (small, large): (Vec<Frame>, Vec<Frame>) = remote
        .queue
        .take(BATCH_MAX_BYTES)
        .into_iter()
        .partition(|frame| frame.message.len() <= SMALL_MAX_BYTES);
    let counters = &remote.counters;
    for frame in small.iter().chain(&large) {
        counters.ring_sent_count.bump();
        counters.ring_sent_bytes.add(frame.message.len());
    }
    // One buffer: small messages are copied for less than a piece of its own costs in QUIC.
    let bytes = small.iter().map(|frame| frame::FRAME_HEADER_BYTES + frame.message.len()).sum();
    let mut buffer = Vec::with_capacity(bytes);
    for frame in &small {
        buffer.extend_from_slice(&frame::header(frame.volume, frame.message.len()));
        buffer.extend_from_slice(&frame.message);
    }
    if !buffer.is_empty() {
        stream.write_chunk(Bytes::from(buffer)).await?;
    }
    Ok(large)
}

async fn send_large(connection: &Connection, frame: Frame) -> Result<(), String> {
    let mut stream = connection.open_uni().await.map_err(|error| error.to_string())?;
    let header = frame::header(frame.volume, frame.message.len());
    let mut pieces = [Bytes::copy_from_slice(&header), frame.message];
    stream.write_all_chunks(&mut pieces).await.map_err(|error| error.to_string())?;
    // Only a stream that is closed already refuses, and then its connection is.
    let _ = stream.finish();
    Ok(())
}

struct Backoff {
    pause: Duration,
}

impl Backoff {
    fn new() -> Backoff {
        Backoff { pause: BACKOFF_MIN }
    }

    /// Waits before the next attempt: less if there is something to send, no longer at all if
    /// the peer has called.
    async fn wait(&mut self, remote: &Remote) {
        let spread = 0.5 + f64::from(crate::identity::random::<1>()[0]) / 256.0;
        let pause = self.pause.mul_f64(spread);
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        let wanted = async {
            // Not at once: a dead peer that there is always something to tell would be
            // dialled without end.
            tokio::time::sleep(BACKOFF_MIN.min(pause)).await;
            if remote.queue.is_empty() {
                remote.queue.added.notified().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wanted => {}
            () = remote.redial.notified() => self.pause = BACKOFF_MIN,
        }
    }
}

//! What members may do once they are in: send ring messages, ask questions.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::task::JoinSet;

use super::remote::{Inbound, Remote};
use super::{Shared, close};
use crate::endpoint::peer::PeerInfo;
use crate::message::MessageError;
use crate::message::frame::{self, FrameReader};
use crate::message::request::Request;
use crate::message::response::{RefusedCode, Response};

/// How long a member may take to send its question once it has opened the stream.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Hands a member's ring messages to the handler until the connection ends.
pub(crate) async fn ring(
    shared: Arc<Shared>,
    inbound: Inbound,
    info: PeerInfo,
    connection: Connection,
) {
    let remote = inbound.remote.clone();
    let node = info.node;
    let ended = ring_streams(&shared, &remote, &info, &connection).await;
    if let Err(RingEnd::Malformed(error)) = &ended {
        shared.counters.malformed.bump();
        tracing::warn!(%node, %error, "ring connection closed: malformed");
        connection.close(close::MALFORMED, b"malformed");
    }
}

enum RingEnd {
    Lost,
    Malformed(MessageError),
}

impl From<ConnectionError> for RingEnd {
    fn from(_: ConnectionError) -> RingEnd {
        RingEnd::Lost
    }
}

impl From<MessageError> for RingEnd {
    fn from(error: MessageError) -> RingEnd {
        RingEnd::Malformed(error)
    }
}

async fn ring_streams(
    shared: &Arc<Shared>,
    remote: &Arc<Remote>,
    info: &PeerInfo,
    connection: &Connection,
) -> Result<(), RingEnd> {
    // The other side learns that it is let in, and by which start of ours.
    let mut greeting = connection.open_uni().await?;
    if greeting.write_all(&frame::hello(shared.start)).await.is_err() {
        return Err(RingEnd::Lost);
    }
    let mut first = connection.accept_uni().await?;
    let mut hello = [0; frame::HELLO_BYTES];
    match first.read_exact(&mut hello).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(_)) => return Err(MessageError::Truncated.into()),
        Err(quinn::ReadExactError::ReadError(_)) => return Err(RingEnd::Lost),
    }
    remote.saw_start(frame::parse_hello(&hello)?);
    let mut streams = JoinSet::new();
    let read = |stream| ring_stream(shared.clone(), remote.clone(), info.clone(), stream);
    streams.spawn(read(first));
    loop {
        tokio::select! {
            stream = connection.accept_uni() => { streams.spawn(read(stream?)); }
            Some(ended) = streams.join_next() => {
                ended.map_err(|_| RingEnd::Lost)??;
            }
        }
    }
}

async fn ring_stream(
    shared: Arc<Shared>,
    remote: Arc<Remote>,
    info: PeerInfo,
    mut stream: RecvStream,
) -> Result<(), RingEnd> {
    let mut frames = FrameReader::default();
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.map_err(|_| RingEnd::Lost)? {
        frames.push(chunk.bytes);
        while let Some((volume, message)) = frames.next_frame()? {
            remote.counters.ring_received_count.bump();
            remote.counters.ring_received_bytes.add(message.len());
            shared.handler.ring(info.node, volume, message);
        }
    }
    if frames.is_amid_frame() { Err(MessageError::Truncated.into()) } else { Ok(()) }
}

/// Answers a member's questions until the connection ends.
pub(crate) async fn bulk(
    shared: Arc<Shared>,
    inbound: Inbound,
    info: PeerInfo,
    connection: Connection,
) {
    // Ends the answers that are being made when the connection does.
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    let remote = inbound.remote.clone();
                    answers.spawn(answer(shared.clone(), remote, info.clone(), send, recv));
                }
                Err(_) => return,
            },
            Some(_) = answers.join_next() => {}
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    remote: Arc<Remote>,
    info: PeerInfo,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let question = recv.read_to_end(Request::ENCODED_MAX_BYTES);
    let Ok(question) = tokio::time::timeout(QUESTION_TIMEOUT, question).await else {
        return;
    };
    let request = match question {
        Ok(bytes) => {
            remote.counters.bulk_received_bytes.add(bytes.len());
            Request::decode(&bytes)
        }
        Err(quinn::ReadToEndError::TooLong) => {
            let limit = Request::ENCODED_MAX_BYTES;
            Err(MessageError::TooLarge { have: limit + 1, limit })
        }
        Err(quinn::ReadToEndError::Read(_)) => return,
    };
    let response = match request {
        Ok(request) => {
            // Fails only on a closed stream, which the write then meets.
            let _ = send.set_priority(request.class.priority());
            let serving = shared.handler.clone().serve(info.clone(), request);
            tokio::select! {
                response = serving => response,
                // The asker has given up.
                _ = send.stopped() => return,
            }
        }
        Err(error) => {
            shared.counters.malformed.bump();
            let node = info.node;
            tracing::warn!(%node, %error, "question refused");
            Response::refused(RefusedCode::Unsupported, error.to_string())
        }
    };
    let mut pieces = response.encode().unwrap_or_else(|error| {
        tracing::error!(%error, "an answer of ours is too large");
        Response::refused(RefusedCode::Failed, error.to_string())
            .encode()
            .expect("a refusal is small")
    });
    let bytes = pieces.iter().map(bytes::Bytes::len).sum();
    if send.write_all_chunks(&mut pieces).await.is_ok() {
        remote.counters.bulk_sent_bytes.add(bytes);
        let _ = send.finish();
    }
}

//! A copy of the tables on its way to a node that has none, or that is too far behind.

use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::consensus::record::Header;
use engine::ids::{Gsn, NodeId, VolumeId};
use parking_lot::Mutex;
use store::{CheckpointReader, CheckpointSegment, Store, StoreError};
use wire::{Ask, RefusedCode, Request, Response, Wire};

use super::setup::failed;
use crate::admin::control::ControlError;

/// Serves pages of one snapshot at a time; an asker of another one begins again.
pub struct CheckpointService {
    volume: VolumeId,
    store: Store,
    reading: Mutex<Option<(Instant, CheckpointReader)>>,
}

/// A snapshot keeps old values on disk: after so long without a question it is dropped.
const READER_KEPT: Duration = Duration::from_secs(300);

impl CheckpointService {
    pub fn new(volume: VolumeId, store: Store) -> CheckpointService {
        CheckpointService { volume, store, reading: Mutex::new(None) }
    }

    /// Answers with the page behind `after` of the copy at `gsn`, or with the first page of a
    /// new copy.
    pub async fn serve(self: &std::sync::Arc<Self>, gsn: Gsn, after: Vec<u8>) -> Response {
        let service = self.clone();
        let page = tokio::task::spawn_blocking(move || service.page(gsn, &after)).await;
        match page {
            Ok(Ok(Some((gsn, page, next)))) => Response::Checkpoint { gsn, page, next },
            Ok(Ok(None)) => {
                Response::refused(RefusedCode::TooOld, "that copy is gone: begin a new one")
            }
            Ok(Err(error)) => Response::refused(RefusedCode::Failed, error.to_string()),
            Err(_) => Response::refused(RefusedCode::Failed, "the reader stopped"),
        }
    }

    #[allow(clippy::type_complexity, reason = "the parts of one answer, named where it is made")]
    fn page(
        &self,
        gsn: Gsn,
        after: &[u8],
    ) -> Result<Option<(Gsn, Bytes, Option<Vec<u8>>)>, StoreError> {
        let reader = {
            let mut reading = self.reading.lock();
            let kept = reading.take().filter(|(used, _)| used.elapsed() < READER_KEPT);
            let reader = match kept {
                Some((_, reader)) if gsn != Gsn(0) && reader.header().gsn == gsn => reader,
                _ if gsn == Gsn(0) => self.store.export_checkpoint(self.volume)?,
                other => {
                    *reading = other;
                    return Ok(None);
                }
            };
            *reading = Some((Instant::now(), reader.clone()));
            reader
        };
        let segment = reader.segment((gsn != Gsn(0)).then_some(after))?;
        let next = segment.resume_after().map(<[u8]>::to_vec);
        Ok(Some((reader.header().gsn, encode_page(reader.header(), &segment), next)))
    }
}

/// `| header length u32 be | header: CBOR | segment |`
fn encode_page(header: &Header, segment: &CheckpointSegment) -> Bytes {
    let header = minicbor::to_vec(header).expect("a Vec takes any bytes");
    let mut page = u32::try_from(header.len()).expect("a header is small").to_be_bytes().to_vec();
    page.extend_from_slice(&header);
    page.extend_from_slice(&segment.encode());
    Bytes::from(page)
}

fn decode_page(page: &[u8]) -> Result<(Header, CheckpointSegment), FetchError> {
    let malformed = || FetchError::Malformed("a page of the checkpoint is malformed".into());
    let (len, rest) = page.split_first_chunk::<4>().ok_or_else(malformed)?;
    let (header, segment) =
        rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(malformed)?;
    let header = minicbor::decode(header).map_err(|_| malformed())?;
    Ok((header, CheckpointSegment::decode(segment)?))
}

/// Why a checkpoint could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the checkpoint cannot be fetched: {0}")]
    Peer(String),
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches a checkpoint of `volume` from `peer` and installs it durably. Gives the state of
/// the order that came with it.
pub async fn fetch(
    wire: &Wire,
    store: &Store,
    volume: VolumeId,
    peer: NodeId,
) -> Result<Header, FetchError> {
    let mut place = (Gsn(0), Vec::new());
    let mut install = None;
    loop {
        let (gsn, after) = place;
        let request = Request::new(volume, Gsn(0), Ask::Checkpoint { gsn, after });
        let response =
            wire.call(peer, request).await.map_err(|error| FetchError::Peer(error.to_string()))?;
        let (gsn, page, next) = match response {
            Response::Checkpoint { gsn, page, next } => (gsn, page, next),
            Response::Refused { message, .. } => return Err(FetchError::Peer(message)),
            _ => return Err(FetchError::Malformed("the answer is no checkpoint".into())),
        };
        let (header, segment) = decode_page(&page)?;
        let mut installing = match install.take() {
            Some(installing) => installing,
            None => store.begin_install(volume, &header)?,
        };
        installing.segment(&segment)?;
        if installing.complete() {
            installing.finish()?;
            return Ok(header);
        }
        install = Some(installing);
        place = (gsn, next.ok_or_else(|| FetchError::Malformed("pages are missing".into()))?);
    }
}

/// Fetches the first tables of `volume` from whichever of `nodes` answers first, for as long
/// as it takes.
///
/// # Errors
/// When the store fails.
pub async fn fetch_first(
    wire: &Wire,
    store: &Store,
    volume: VolumeId,
    nodes: Vec<NodeId>,
) -> Result<(), ControlError> {
    let mut rounds = tokio::time::interval(RETRY_EVERY);
    loop {
        for &node in &nodes {
            match fetch(wire, store, volume, node).await {
                Ok(header) => {
                    tracing::info!(from = %node, %volume, gsn = %header.gsn, "checkpoint installed");
                    return Ok(());
                }
                Err(FetchError::Store(error)) => return Err(failed(error)),
                Err(error) => tracing::warn!(from = %node, %volume, %error, "no checkpoint yet"),
            }
        }
        rounds.tick().await;
    }
}

/// Nodes that have just started are asked again so often.
const RETRY_EVERY: Duration = Duration::from_millis(500);

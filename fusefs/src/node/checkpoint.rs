//! A copy of the tables on its way to a node that has none, or that is too far behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::consensus::record::Header;
use engine::ids::{Gsn, NodeId, VolumeId};
use engine::namespace::{View, recompute};
use parking_lot::Mutex;
use store::{CheckpointInstall, CheckpointReader, CheckpointSegment, Store, StoreError};
use wire::{Ask, Packed, RefusedCode, Request, Response, Wire};

use super::pulse::{CatchUp, Pulse};
use super::setup::failed;
use crate::admin::control::ControlError;

/// Serves pages of a few snapshots. Askers at about the same time get the same one, so that
/// they can go on with each other's peers, and the disk keeps old values once.
pub struct CheckpointService {
    volume: VolumeId,
    store: Store,
    /// The newest last.
    readers: Mutex<Vec<Kept>>,
}

struct Kept {
    made: Instant,
    used: Instant,
    reader: CheckpointReader,
}

/// A snapshot keeps old values on disk: after so long without a question it is dropped. Longer
/// than a link that flaps is usually gone.
const READER_KEPT: Duration = Duration::from_secs(300);
/// A new asker gets a snapshot that is not older than this: what it lacks then is soon caught
/// up by log.
const READER_SHARED: Duration = Duration::from_secs(5);
/// One that is in use, and one for those who come later.
const READERS_MAX: usize = 2;

impl CheckpointService {
    pub fn new(volume: VolumeId, store: Store) -> CheckpointService {
        CheckpointService { volume, store, readers: Mutex::default() }
    }

    /// Answers with the page behind `after` of the copy at `gsn`, or with the first page of a
    /// new copy.
    pub async fn serve(self: &Arc<Self>, gsn: Gsn, after: Vec<u8>) -> Response {
        let service = self.clone();
        let page = tokio::task::spawn_blocking(move || service.page(gsn, &after)).await;
        match page {
            Ok(Ok(Some(page))) => page,
            Ok(Ok(None)) => {
                Response::refused(RefusedCode::TooOld, "that copy is gone: begin a new one")
            }
            Ok(Err(error)) => Response::refused(RefusedCode::Failed, error.to_string()),
            Err(_) => Response::refused(RefusedCode::Failed, "the reader stopped"),
        }
    }

    /// Drops snapshots that nobody asks for any more.
    pub fn expire(&self) {
        self.readers.lock().retain(|kept| kept.used.elapsed() < READER_KEPT);
    }

    fn page(&self, gsn: Gsn, after: &[u8]) -> Result<Option<Response>, StoreError> {
        let Some(reader) = self.reader(gsn)? else { return Ok(None) };
        let segment = reader.segment((gsn != Gsn(0)).then_some(after))?;
        let next = segment.resume_after().map(<[u8]>::to_vec);
        let page = encode_page(reader.header(), &segment);
        if page.len() > Packed::RAW_MAX_BYTES {
            return Err(StoreError::Invalid("a row is too large for a message".into()));
        }
        Ok(Some(Response::Checkpoint {
            gsn: reader.header().gsn,
            page: Packed::new(&page),
            next,
            total_bytes: reader.bytes_estimate(),
        }))
    }

    fn reader(&self, gsn: Gsn) -> Result<Option<CheckpointReader>, StoreError> {
        let mut readers = self.readers.lock();
        let known = readers.iter_mut().rev().find(|kept| match gsn {
            Gsn(0) => kept.made.elapsed() < READER_SHARED,
            gsn => kept.reader.header().gsn == gsn,
        });
        if let Some(kept) = known {
            kept.used = Instant::now();
            return Ok(Some(kept.reader.clone()));
        }
        if gsn != Gsn(0) {
            return Ok(None);
        }
        let (now, reader) = (Instant::now(), self.store.export_checkpoint(self.volume)?);
        if readers.len() >= READERS_MAX {
            let least = (0..readers.len()).min_by_key(|&at| readers[at].used);
            least.map(|at| readers.remove(at));
        }
        readers.push(Kept { made: now, used: now, reader: reader.clone() });
        Ok(Some(reader))
    }
}

/// `| header length u32 be | header: CBOR | segment |`
fn encode_page(header: &Header, segment: &CheckpointSegment) -> Vec<u8> {
    let header = minicbor::to_vec(header).expect("a Vec takes any bytes");
    let mut page = u32::try_from(header.len()).expect("a header is small").to_be_bytes().to_vec();
    page.extend_from_slice(&header);
    page.extend_from_slice(&segment.encode());
    page
}

fn decode_page(page: &Packed) -> Result<(Header, CheckpointSegment), FetchError> {
    let malformed = || FetchError::Malformed("a page of the checkpoint is malformed".into());
    let page = page.unpack().map_err(|error| FetchError::Malformed(error.to_string()))?;
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
    /// The peer has no such copy any more.
    #[error("the copy is gone")]
    Gone,
    #[error("{0}")]
    Malformed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Fetches a checkpoint page by page. What has come stays in the store: after a lost peer, or
/// a restart, the next attempt goes on behind it as long as somebody has the same copy.
pub struct Fetch<'a> {
    wire: &'a Wire,
    store: &'a Store,
    volume: VolumeId,
    pulse: Option<&'a Pulse>,
    /// Since when nobody goes on with what is here.
    stuck: Option<Instant>,
    logged: Instant,
}

/// A peer that is gone for less than this may be back with the rest of a copy.
const STUCK_MAX: Duration = Duration::from_secs(30);
const LOG_EVERY: Duration = Duration::from_secs(5);

impl<'a> Fetch<'a> {
    pub fn new(wire: &'a Wire, store: &'a Store, volume: VolumeId) -> Fetch<'a> {
        Fetch { wire, store, volume, pulse: None, stuck: None, logged: Instant::now() }
    }

    /// Shows the progress there.
    pub fn shown_by(self, pulse: &'a Pulse) -> Fetch<'a> {
        Fetch { pulse: Some(pulse), ..self }
    }

    /// Asks `peers` in turn, until the checkpoint is complete and checked. It is not installed.
    ///
    /// # Errors
    /// When none of them goes on.
    pub async fn run(&mut self, peers: &[NodeId]) -> Result<CheckpointInstall, FetchError> {
        let applied = self.store.header(self.volume)?.map_or(Gsn(0), |header| header.gsn);
        let pending = self.store.pending_install(self.volume)?;
        let begun = match pending.filter(|(header, _)| header.gsn > applied) {
            Some((header, Some(_))) => Some(self.store.begin_install(self.volume, &header)?),
            _ => None,
        };
        let mut last = FetchError::Peer("there is no other node".into());
        if let Some(begun) = begun {
            match self.go_on(peers, begun).await {
                Ok(install) => return self.checked(install).await,
                Err(FetchError::Gone) => {}
                Err(error @ FetchError::Store(_)) => return Err(error),
                // While somebody may still have it, what is here is worth waiting for.
                Err(error) => {
                    if self.stuck.get_or_insert_with(Instant::now).elapsed() < STUCK_MAX {
                        return Err(error);
                    }
                    last = error;
                }
            }
        }
        for &peer in peers {
            match self.begin(peer).await {
                Ok(install) => return self.finish(peers, install).await,
                Err(error @ FetchError::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%peer, %error, "no checkpoint from there");
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn finish(
        &mut self,
        peers: &[NodeId],
        install: CheckpointInstall,
    ) -> Result<CheckpointInstall, FetchError> {
        let install = self.go_on(peers, install).await?;
        self.checked(install).await
    }

    /// Takes the first page of a new copy.
    async fn begin(&mut self, peer: NodeId) -> Result<CheckpointInstall, FetchError> {
        let Page { header, segment, total_bytes } = self.ask(peer, Gsn(0), Vec::new()).await?;
        let mut install = self.store.begin_install(self.volume, &header)?;
        tracing::info!(%peer, gsn = %header.gsn, about_bytes = total_bytes, "a checkpoint comes");
        if install.resume_after().is_none() {
            install.segment(&segment)?;
        }
        self.show(peer, &install, total_bytes);
        Ok(install)
    }

    /// Fetches what is missing from whoever has the same copy.
    async fn go_on(
        &mut self,
        peers: &[NodeId],
        mut install: CheckpointInstall,
    ) -> Result<CheckpointInstall, FetchError> {
        let mut last = FetchError::Gone;
        for &peer in peers {
            loop {
                if install.complete() {
                    return Ok(install);
                }
                let (gsn, after) = (install.header().gsn, install.resume_after());
                let Some(after) = after.map(<[u8]>::to_vec) else { return Err(FetchError::Gone) };
                match self.ask(peer, gsn, after).await {
                    Ok(Page { segment, total_bytes, .. }) => {
                        install = blocking(move || {
                            install.segment(&segment)?;
                            Ok(install)
                        })
                        .await?;
                        self.show(peer, &install, total_bytes);
                    }
                    Err(error @ FetchError::Store(_)) => return Err(error),
                    Err(error) => {
                        if !matches!(error, FetchError::Gone) {
                            tracing::info!(%peer, %error, "the checkpoint stops here for now");
                            last = error;
                        }
                        break;
                    }
                }
            }
        }
        if install.complete() { Ok(install) } else { Err(last) }
    }

    /// Recomputes the state hash of what came: every row counts.
    async fn checked(&self, install: CheckpointInstall) -> Result<CheckpointInstall, FetchError> {
        let checked = blocking(move || {
            let tables = install.tables();
            let told = View::new(&tables).state_hash();
            let found = recompute(&tables).map(|(hash, _)| hash);
            match (told, found) {
                (Ok(told), Ok(found)) if told == found => Ok(Ok(install)),
                (told, found) => {
                    install.discard()?;
                    Ok(Err(format!("state hash {told:?}, but its rows have {found:?}")))
                }
            }
        })
        .await?;
        checked
            .map_err(|detail| FetchError::Malformed(format!("the checkpoint is wrong: {detail}")))
    }

    async fn ask(&self, peer: NodeId, gsn: Gsn, after: Vec<u8>) -> Result<Page, FetchError> {
        let request = Request::new(self.volume, Gsn(0), Ask::Checkpoint { gsn, after });
        let response = self.wire.call(peer, request).await;
        let (page, total_bytes) = match response {
            Ok(Response::Checkpoint { page, total_bytes, .. }) => (page, total_bytes),
            Ok(Response::Refused { code: RefusedCode::TooOld, .. }) => {
                return Err(FetchError::Gone);
            }
            Ok(Response::Refused { message, .. }) => return Err(FetchError::Peer(message)),
            Ok(_) => return Err(FetchError::Malformed("the answer is no checkpoint".into())),
            Err(error) => return Err(FetchError::Peer(error.to_string())),
        };
        let decoded = tokio::task::spawn_blocking(move || decode_page(&page)).await;
        let (header, segment) =
            decoded.map_err(|_| FetchError::Malformed("the page cannot be read".into()))??;
        Ok(Page { header, segment, total_bytes })
    }

    fn show(&mut self, peer: NodeId, install: &CheckpointInstall, total_bytes: u64) {
        self.stuck = None;
        if self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            tracing::info!(%peer, gsn = %install.header().gsn, bytes = install.bytes(),
                about_bytes = total_bytes, "the checkpoint comes");
        }
        if let Some(pulse) = self.pulse {
            pulse.record_catch_up(Some(CatchUp::Checkpoint {
                peer,
                gsn: install.header().gsn,
                bytes: install.bytes(),
                total_bytes,
            }));
        }
    }
}

struct Page {
    header: Header,
    segment: CheckpointSegment,
    total_bytes: u64,
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(FetchError::Malformed("the runtime is stopping".into())),
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
    let mut fetch = Fetch::new(wire, store, volume);
    loop {
        match fetch.run(&nodes).await {
            Ok(checkpoint) => {
                let gsn = checkpoint.header().gsn;
                let finished = tokio::task::spawn_blocking(move || checkpoint.finish()).await;
                finished.map_err(failed)?.map_err(failed)?;
                tracing::info!(%volume, %gsn, "the tables have come");
                return Ok(());
            }
            Err(FetchError::Store(error)) => return Err(failed(error)),
            Err(error) => tracing::warn!(%volume, %error, "no checkpoint yet"),
        }
        rounds.tick().await;
    }
}

/// Nodes that have just started are asked again so often.
const RETRY_EVERY: Duration = Duration::from_millis(500);

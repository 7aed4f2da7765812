//! Fetches sealed bodies from other nodes: whole ones in the background, single chunks for
//! readers that wait.
//!
//! Every chunk is compared with its id before it is written. Everybody who needs a body works
//! on the same part file, so whatever came for one is there for the others.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::chunking::{CHUNK_LEN_MAX, Chunk, Manifest};
use engine::ids::{BodyId, NodeId, Version};
use store::Area;
use store::bodies::SmallBody;
use tokio::task::JoinSet;
use wire::{Ask, Class, Response};

use super::BodyService;
use super::arriving::{Arriving, Claim, persist};
use super::error::stored;
use super::want::SMALL_BYTES_MAX;
use crate::ops::ports::BodyError;

/// A body that other nodes may have.
#[derive(Clone, Copy, Debug)]
pub struct Remote {
    pub id: BodyId,
    pub len: u64,
    /// Who has confirmed this agreement has the body.
    pub version: Version,
    pub holder: Option<NodeId>,
}

/// Requests of one body's background fetch at the same time: enough that a stream's own pace
/// does not bound the whole on a long link.
const STREAMS: usize = 4;
/// Behind what a reader asked for, as much is fetched as it may want next: about a round trip
/// of 90 ms at 700 Mbit/s.
const READ_AHEAD_BYTES: u64 = 8 << 20;
/// Without an answer from anybody: until a peer comes up, or this long.
const RETRY: Duration = Duration::from_millis(500);
/// A hole this small travels as zeros, which is cheaper than another request.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// A manifest of more is refused: 24 million chunks.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

impl BodyService {
    /// Brings `range` of a body here, urgently. Tries for as long as the caller waits.
    ///
    /// # Errors
    /// Only local ones.
    pub(super) async fn bring(
        self: &Arc<Self>,
        remote: Remote,
        range: Range<u64>,
    ) -> Result<(), BodyError> {
        loop {
            // Registered before the attempt, so that no peer's coming is missed.
            let peers = self.peers_changed.notified();
            tokio::pin!(peers);
            peers.as_mut().enable();
            if self.try_bring(remote, range.clone()).await? {
                return Ok(());
            }
            let _ = tokio::time::timeout(RETRY, peers).await;
        }
    }

    /// One attempt. False if nobody gave the bytes.
    async fn try_bring(
        self: &Arc<Self>,
        remote: Remote,
        range: Range<u64>,
    ) -> Result<bool, BodyError> {
        if self.holds(remote.id) {
            return Ok(true);
        }
        if remote.len <= SMALL_BYTES_MAX && self.fetch_small(&[remote], Class::OnDemand).await?[0] {
            return Ok(true);
        }
        let Some(arriving) = self.arriving(remote, Class::OnDemand).await? else {
            return Ok(false);
        };
        loop {
            let moved = arriving.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let missing = arriving.missing_in(&range);
            if missing.is_empty() {
                break;
            }
            let claim = arriving.claim(&missing);
            if claim.offsets.is_empty() {
                // Another reader fetches them already.
                let _ = tokio::time::timeout(RETRY, moved).await;
                continue;
            }
            self.read_ahead(&arriving, remote, range.end);
            let mine = |chunk: &Chunk| claim.offsets.contains(&chunk.offset);
            let mine: Vec<Chunk> = missing.into_iter().filter(mine).collect();
            if !self.fetch_chunks(&arriving, remote, mine, Class::OnDemand).await? {
                return Ok(false);
            }
        }
        if arriving.part.complete() {
            self.complete(&arriving).await?;
        }
        Ok(true)
    }

    /// Brings all of a body here, in the background. False if it could not be had now.
    pub(super) async fn fetch_whole(self: &Arc<Self>, remote: Remote) -> Result<bool, BodyError> {
        if self.holds(remote.id) {
            return Ok(true);
        }
        let Some(arriving) = self.arriving(remote, Class::Small).await? else { return Ok(false) };
        let mut groups = groups(&arriving.part.missing()).into_iter();
        let mut running = JoinSet::new();
        let mut went_well = true;
        loop {
            while went_well && running.len() < STREAMS {
                let Some(group) = groups.next() else { break };
                // A reader may have had some of them fetched meanwhile.
                let group: Vec<Chunk> =
                    group.into_iter().filter(|chunk| !arriving.part.has_chunk(chunk)).collect();
                if group.is_empty() {
                    continue;
                }
                let (service, arriving) = (Arc::clone(self), Arc::clone(&arriving));
                running.spawn(async move {
                    service.fetch_chunks(&arriving, remote, group, Class::Bulk).await
                });
            }
            match running.join_next().await {
                None => break,
                Some(Ok(fetched)) => went_well &= fetched?,
                Some(Err(error)) => return Err(BodyError::Storage(error.to_string())),
            }
        }
        if !arriving.part.complete() {
            return Ok(false);
        }
        self.complete(&arriving).await?;
        Ok(true)
    }

    /// Fetches whole small bodies with one question (and those that the first node asked did
    /// not have with further ones). Says of each whether it is here now.
    pub(super) async fn fetch_small(
        self: &Arc<Self>,
        remotes: &[Remote],
        class: Class,
    ) -> Result<Vec<bool>, BodyError> {
        let mut here: Vec<bool> = remotes.iter().map(|remote| self.holds(remote.id)).collect();
        let Some(first) = remotes.first() else { return Ok(here) };
        for node in self.sources(*first)? {
            let missing: Vec<usize> = (0..here.len()).filter(|&at| !here[at]).collect();
            if missing.is_empty() {
                break;
            }
            let bodies = missing.iter().map(|&at| remotes[at].id).collect();
            let Some(Response::Small(answers)) = self.ask(node, Ask::Small { bodies }, class).await
            else {
                continue;
            };
            let answers: Vec<(usize, Option<Bytes>)> = missing.into_iter().zip(answers).collect();
            let wanted = remotes.to_vec();
            let service = Arc::clone(self);
            let came = blocking(move || service.put_small(node, &wanted, answers)).await??;
            came.into_iter().for_each(|at| here[at] = true);
        }
        Ok(here)
    }

    /// Stores what was sent, as far as it is what was asked for.
    fn put_small(
        &self,
        from: NodeId,
        wanted: &[Remote],
        answers: Vec<(usize, Option<Bytes>)>,
    ) -> Result<Vec<usize>, BodyError> {
        let (mut came, mut bodies) = (Vec::new(), Vec::new());
        for (at, bytes) in answers {
            let (Some(bytes), Remote { id, len, .. }) = (bytes, wanted[at]) else { continue };
            let Ok(manifest) = Manifest::of_one_chunk(id, len) else { continue };
            if !manifest.chunks()[0].verify(&bytes, &self.key) {
                // A small body of several chunks looks like this too: it goes by its manifest.
                tracing::debug!(%from, %id, "a small body did not verify by itself");
                continue;
            }
            came.push(at);
            self.counters.arrived_bytes.add(len);
            bodies.push(SmallBody { id, manifest, bytes: bytes.to_vec() });
        }
        self.store.bodies().put_small(&bodies).map_err(stored)?;
        bodies.iter().for_each(|body| self.repaired(body.id));
        Ok(came)
    }

    /// Fetches chunks, in as few requests as they need, from the best node that gives them.
    /// False if nobody did.
    async fn fetch_chunks(
        self: &Arc<Self>,
        arriving: &Arc<Arriving>,
        remote: Remote,
        chunks: Vec<Chunk>,
        class: Class,
    ) -> Result<bool, BodyError> {
        for group in groups(&chunks) {
            if !self.fetch_group(arriving, remote, group, class).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fetches chunks that one request covers.
    async fn fetch_group(
        self: &Arc<Self>,
        arriving: &Arc<Arriving>,
        remote: Remote,
        group: Vec<Chunk>,
        class: Class,
    ) -> Result<bool, BodyError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(true) };
        let (offset, len) = (first.offset, (last.end() - first.offset) as u32);
        for node in self.sources(remote)? {
            let ask = Ask::Read { body: remote.id, offset, len };
            let Some(Response::Read(bytes)) = self.ask(node, ask, class).await else { continue };
            let (service, to) = (Arc::clone(self), Arc::clone(arriving));
            let chunks = group.clone();
            let written = blocking(move || service.put_chunks(&to, &chunks, offset, &bytes));
            if written.await?? {
                return Ok(true);
            }
            tracing::warn!(from = %node, body = %remote.id, offset, "bytes that do not verify");
            self.counters.bad_chunks.add(1);
            self.reputation.failed(node);
        }
        Ok(false)
    }

    fn put_chunks(
        &self,
        arriving: &Arriving,
        chunks: &[Chunk],
        offset: u64,
        bytes: &Bytes,
    ) -> Result<bool, BodyError> {
        for chunk in chunks {
            let start = (chunk.offset - offset) as usize;
            let Some(part) = bytes.get(start..start + chunk.len as usize) else {
                return Ok(false);
            };
            if !chunk.verify(part, &self.key) {
                return Ok(false);
            }
            if !arriving.part.has_chunk(chunk) {
                arriving.part.write_chunk(chunk, part).map_err(stored)?;
                self.counters.arrived_bytes.add(u64::from(chunk.len));
            }
        }
        arriving.moved.notify_waiters();
        Ok(true)
    }

    /// Fetches what a reader may want next.
    fn read_ahead(self: &Arc<Self>, arriving: &Arc<Arriving>, remote: Remote, from: u64) {
        let missing = arriving.missing_in(&(from..from.saturating_add(READ_AHEAD_BYTES)));
        for group in groups(&missing) {
            let claim = arriving.claim(&group);
            if claim.offsets.len() < group.len() {
                // Somebody is there already; its own read-ahead goes on from there.
                return;
            }
            let offsets = claim.into_offsets();
            let (service, arriving) = (Arc::clone(self), Arc::clone(arriving));
            self.runtime.spawn(async move {
                let _claim = Claim { arriving: &arriving, offsets };
                let fetched = service.fetch_group(&arriving, remote, group, Class::Push).await;
                if let Err(error) = fetched {
                    tracing::debug!(%error, "read-ahead stopped");
                }
            });
        }
    }

    /// The arriving body, with its manifest. `None` if nobody gives the manifest.
    async fn arriving(
        self: &Arc<Self>,
        remote: Remote,
        class: Class,
    ) -> Result<Option<Arc<Arriving>>, BodyError> {
        if let Some(arriving) = self.arrivals.find(remote.id) {
            return Ok(Some(arriving));
        }
        let service = Arc::clone(self);
        let begun = blocking(move || service.store.bodies().part_of(remote.id)).await?;
        let part = match begun.map_err(stored)? {
            Some(part) => part,
            None => {
                let Some(manifest) = self.fetch_manifest(remote, class).await? else {
                    return Ok(None);
                };
                let service = Arc::clone(self);
                let part =
                    blocking(move || service.store.bodies().part(remote.id, &manifest)).await?;
                part.map_err(stored)?
            }
        };
        let (arriving, pushed_out) = self.arrivals.add(part);
        if let Some(part) = pushed_out {
            blocking(move || persist(&part)).await?;
        }
        Ok(Some(arriving))
    }

    async fn fetch_manifest(
        self: &Arc<Self>,
        remote: Remote,
        class: Class,
    ) -> Result<Option<Manifest>, BodyError> {
        for node in self.sources(remote)? {
            let Some(bytes) = self.fetch_manifest_from(node, remote.id, class).await else {
                continue;
            };
            let manifest = Manifest::decode(&bytes)
                .and_then(|manifest| manifest.verify(remote.id, &self.key).map(|()| manifest));
            match manifest {
                Ok(manifest) if manifest.len() == remote.len => return Ok(Some(manifest)),
                Ok(manifest) => {
                    let len = manifest.len();
                    tracing::warn!(from = %node, body = %remote.id, len, "another length");
                }
                Err(error) => {
                    tracing::warn!(from = %node, body = %remote.id, %error, "a bad manifest");
                }
            }
            self.counters.bad_chunks.add(1);
            self.reputation.failed(node);
        }
        Ok(None)
    }

    async fn fetch_manifest_from(
        self: &Arc<Self>,
        node: NodeId,
        body: BodyId,
        class: Class,
    ) -> Option<BytesMut> {
        let mut bytes = BytesMut::new();
        loop {
            let ask = Ask::Manifest { body, offset: bytes.len() as u64 };
            let Response::Manifest { total_bytes, part } = self.ask(node, ask, class).await? else {
                return None;
            };
            if total_bytes > MANIFEST_BYTES_MAX || part.is_empty() {
                return None;
            }
            bytes.extend_from_slice(&part);
            match (bytes.len() as u64).cmp(&total_bytes) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Some(bytes),
                std::cmp::Ordering::Greater => return None,
            }
        }
    }

    /// Makes a part that is complete a sealed body.
    async fn complete(self: &Arc<Self>, arriving: &Arc<Arriving>) -> Result<(), BodyError> {
        let _one = arriving.completing.lock().await;
        let id = arriving.part.id();
        if self.holds(id) {
            return Ok(());
        }
        let (service, arriving) = (Arc::clone(self), Arc::clone(arriving));
        let completed = blocking(move || {
            let bodies = service.store.bodies();
            let area = if service.should_hold(id)? { Area::Objects } else { Area::Cache };
            bodies.part_complete(&arriving.part, area).map_err(|error| {
                // A part that could not be synced is not believed: it is fetched again.
                service.arrivals.remove(id);
                if let Err(error) = bodies.part_discard(id) {
                    tracing::warn!(%id, error = %error.chain(), "a failed part stays");
                }
                stored(error)
            })?;
            service.repaired(id);
            service.arrivals.remove(id);
            Ok(())
        });
        completed.await?
    }
}

/// Divides ascending chunks into runs that one request can ask for: with small gaps only, and
/// no longer than an answer may be.
fn groups(chunks: &[Chunk]) -> Vec<Vec<Chunk>> {
    let mut groups: Vec<Vec<Chunk>> = Vec::new();
    for chunk in chunks {
        if let Some(group) = groups.last_mut()
            && let (Some(first), Some(last)) = (group.first(), group.last())
            && chunk.offset - last.end() <= GAP_BYTES_MAX
            && chunk.end() - first.offset <= u64::from(CHUNK_LEN_MAX)
        {
            group.push(*chunk);
        } else {
            groups.push(vec![*chunk]);
        }
    }
    groups
}

/// Runs something that waits for the disk.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BodyError> {
    let run = tokio::task::spawn_blocking(run);
    run.await.map_err(|error| BodyError::Storage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use engine::ids::ChunkId;

    use super::*;

    #[test]
    fn a_request_covers_neighbours_up_to_its_limit() {
        let chunk = |offset: u64, len: u32| Chunk { offset, len, id: ChunkId::default() };
        let mib = 1 << 20;
        let chunks =
            [chunk(0, mib), chunk(1 << 20, 3 * mib), chunk(4 << 20, mib), chunk(6 << 20, mib)];
        let sparse: Vec<Chunk> = (0..64).map(|at| chunk(at * 8192, 4096)).collect();
        assert_eq!(groups(&sparse).len(), 1, "one request, not one for each page");
        let lens: Vec<usize> = groups(&chunks).iter().map(Vec::len).collect();
        assert_eq!(lens, [2, 1, 1]);
        assert!(groups(&[]).is_empty());
    }
}

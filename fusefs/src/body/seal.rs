//! Seals: turns frozen layers into chunks, a manifest and durable sealed bodies.
//!
//! Small files of a burst share their syncs; large ones are read once, hashed, and their stage
//! becomes the container where it can. What is unchanged keeps its chunks without being read.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::chunking::{Average, Chunk, Chunker, Manifest};
use engine::command::Body;
use engine::ids::BodyId;
use rustix::fs::FallocateFlags;
use store::bodies::{SMALL_BODY_MAX_BYTES, Seal, SmallBody, Stage, StageState};
use store::{LocalBatch, StoreError};

use super::BodyService;
use super::content::{Content, From, Frozen, Segment, fill};
use super::error::stored;
use super::fetch::Remote;
use super::holes::{HOLE_BYTES_MIN, data_end, hole_bytes_min, is_hole};
use super::layer::{Data, StageFile};
use super::state::{Step, Task};
use super::table::OpenBody;
use crate::ops::ports::BodyError;

/// Files that one worker takes at once: their syncs are shared.
const BATCH_COUNT_MAX: usize = 128;
/// Memory of one batch's small bodies.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Bytes read and hashed at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// After no room or an unreachable holder.
const AGAIN: Duration = Duration::from_secs(5);

/// A version that is hashed and waits for its sync.
struct Prepared {
    body: Arc<OpenBody>,
    frozen: Arc<Frozen>,
    content: Content,
    seal: Option<Seal>,
    /// A file that was made for the seal.
    made: Option<StageFile>,
    began: Instant,
}

#[derive(Default)]
struct Batch {
    prepared: Vec<Prepared>,
    bytes: usize,
}

/// Why a layer cannot be sealed now.
enum NotSealed {
    /// Old bytes that show through are not on this node.
    Missing(BodyId, u64, Range<u64>),
    Failed(StoreError),
}

impl std::convert::From<BodyError> for NotSealed {
    fn from(error: BodyError) -> NotSealed {
        NotSealed::Failed(StoreError::Invalid(error.to_string()))
    }
}

impl std::convert::From<StoreError> for NotSealed {
    fn from(error: StoreError) -> NotSealed {
        NotSealed::Failed(error)
    }
}

impl BodyService {
    /// One worker. Ends when the queue is stopped.
    pub(super) fn run_sealer(self: &Arc<Self>) {
        while let Some(inos) = self.queue.take(BATCH_COUNT_MAX) {
            let mut batch = Batch::default();
            for ino in inos {
                let Some(body) = self.table.find(ino) else { continue };
                self.seal_one(&body, &mut batch);
                if batch.bytes > BATCH_BYTES_MAX {
                    self.finish(std::mem::take(&mut batch));
                }
                self.table.forget_if_idle(body);
            }
            self.finish(batch);
        }
    }

    fn seal_one(self: &Arc<Self>, body: &Arc<OpenBody>, batch: &mut Batch) {
        let task = {
            // No write is half-way between its bytes and its extent.
            let _writing = body.writing.lock();
            body.loaded().and_then(|mut state| state.next_task())
        };
        let frozen = match task {
            None => return,
            Some(Task::Propose) => return self.propose(body),
            Some(Task::Seal(frozen)) => frozen,
        };
        if frozen.layer.size() > SMALL_BODY_MAX_BYTES {
            // Small ones should not wait for a large one's hashing.
            self.finish(std::mem::take(batch));
        }
        let began = Instant::now();
        match self.prepare(body, &frozen) {
            Ok((content, seal, made)) => {
                batch.bytes += match &seal {
                    Some(Seal::Small { body, .. }) => body.bytes.len(),
                    _ => 0,
                };
                let body = Arc::clone(body);
                batch.prepared.push(Prepared { body, frozen, content, seal, made, began });
            }
            Err(NotSealed::Missing(id, len, range)) => self.seal_after(body, id, len, range),
            Err(NotSealed::Failed(error)) => self.seal_failed(body, &frozen, error),
        }
    }

    fn prepare(
        &self,
        body: &OpenBody,
        frozen: &Frozen,
    ) -> Result<(Content, Option<Seal>, Option<StageFile>), NotSealed> {
        let size = frozen.layer.size();
        let mut plan = Vec::new();
        frozen.plan(0..size, &mut plan);
        let mut plan = self.split_holes(plan)?.plan;
        // Zeros at the end need no body: they follow from the size.
        let len = data_end(&plan);
        plan.retain(|segment| segment.range.start < len);
        if len == 0 {
            let content = Content { body: Body::Empty, valid_len: 0, size, stored_len: 0 };
            return Ok((content, None, None));
        }
        let hole_bytes_min = hole_bytes_min(&plan);
        if len <= SMALL_BODY_MAX_BYTES {
            return self.prepare_small(&plan, len, size);
        }
        let manifest = self.find_chunks(&plan, len, hole_bytes_min)?;
        let id = self.key.body_id(&manifest);
        let content = sealed(id, &manifest, size);
        let (stage, made) = match frozen.layer.whole_file() {
            Some(file) => {
                strip(file, &frozen.layer, &plan, len)?;
                (file.stage().id(), None)
            }
            None if self.holds(id) => return Ok((content, None, None)),
            None => {
                let made = self.copy(body, &plan, len)?;
                (made.stage().id(), Some(made))
            }
        };
        Ok((content, Some(Seal::Stage { id, manifest, stage }), made))
    }

    /// A small body without holes is one chunk, so that its id alone verifies it.
    fn prepare_small(
        &self,
        plan: &[Segment],
        len: u64,
        size: u64,
    ) -> Result<(Content, Option<Seal>, Option<StageFile>), NotSealed> {
        let bytes = self.read_plan(plan)?;
        if bytes.len() <= Body::INLINE_MAX_BYTES {
            let content =
                Content { body: Body::Inline(bytes), valid_len: len, size, stored_len: len };
            return Ok((content, None, None));
        }
        let manifest = if plan.iter().any(|segment| is_hole(segment, HOLE_BYTES_MIN)) {
            self.find_chunks(plan, len, HOLE_BYTES_MIN)?
        } else {
            let id = BodyId(self.key.chunk_id(&bytes).0);
            Manifest::of_one_chunk(id, len).expect("a small body fits a chunk")
        };
        let id = self.key.body_id(&manifest);
        let content = sealed(id, &manifest, size);
        let body = SmallBody { id, manifest, bytes };
        Ok((content, Some(Seal::Small { body, stage: None }), None))
    }

    /// Finds the chunks of a plan.
    fn find_chunks(
        &self,
        plan: &[Segment],
        size: u64,
        hole_bytes_min: u64,
    ) -> Result<Manifest, NotSealed> {
        let mut chunks = Vec::new();
        let mut chunker = Chunker::new(Average::of_body(size));
        let mut emit = |offset: u64, bytes: &[u8]| {
            let len = bytes.len() as u32;
            chunks.push(Ok(Chunk { offset, len, id: self.key.chunk_id(bytes) }));
        };
        let mut known = Vec::new();
        for segment in plan {
            let Range { start, end } = segment.range;
            match &segment.from {
                From::Zero if is_hole(segment, hole_bytes_min) => {
                    chunker.hole(end - start, &mut emit);
                }
                From::Body(id, _) => {
                    let mut at = start;
                    for chunk in self.whole_chunks(*id, start..end)? {
                        self.push(segment, at..chunk.offset, &mut chunker, &mut emit)?;
                        // Ends the chunk before it, and passes over it.
                        chunker.hole(u64::from(chunk.len), &mut emit);
                        at = chunk.end();
                        known.push(chunk);
                    }
                    self.push(segment, at..end, &mut chunker, &mut emit)?;
                }
                _ => self.push(segment, start..end, &mut chunker, &mut emit)?,
            }
        }
        let len = chunker.finish(&mut emit);
        assert_eq!(len, size, "a plan covers its file");
        let mut chunks: Vec<Chunk> = chunks.into_iter().collect::<Result<_, StoreError>>()?;
        chunks.extend(known);
        chunks.sort_unstable_by_key(|chunk| chunk.offset);
        Ok(Manifest::new(size, chunks).expect("chunks of one pass are in order"))
    }

    /// The chunks of a body that lie in `range` with all of their bytes, if its manifest is
    /// here.
    fn whole_chunks(&self, id: BodyId, range: Range<u64>) -> Result<Vec<Chunk>, NotSealed> {
        let Some(manifest) = self.manifest_here(id)? else { return Ok(Vec::new()) };
        let chunks = manifest.overlapping(range.start, range.end - range.start).iter();
        Ok(chunks
            .filter(|chunk| range.start <= chunk.offset && chunk.end() <= range.end)
            .copied()
            .collect())
    }

    fn push(
        &self,
        segment: &Segment,
        range: Range<u64>,
        chunker: &mut Chunker,
        emit: &mut impl FnMut(u64, &[u8]),
    ) -> Result<(), NotSealed> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + PIECE_BYTES);
            let piece = Segment { range: at..end, from: segment.from.clone() };
            chunker.push(&self.read_plan(std::slice::from_ref(&piece))?, &mut *emit);
            at = end;
        }
        Ok(())
    }

    /// Puts a plan's bytes into a file of their own.
    fn copy(&self, body: &OpenBody, plan: &[Segment], size: u64) -> Result<StageFile, NotSealed> {
        let bodies = self.store.bodies();
        let stage = bodies.stage_create()?;
        bodies.stage_record(&self.stage_record(body.ino, stage.id(), StageState::Open), false)?;
        let file = StageFile::new(stage, self.store.clone(), false);
        for segment in plan {
            if !matches!(segment.from, From::Zero) {
                self.copy_segment(file.stage(), segment)?;
            }
        }
        let failed = |error| StoreError::Invalid(format!("a seal's file: {error}"));
        file.stage().file().set_len(size).map_err(failed)?;
        Ok(file)
    }

    fn copy_segment(&self, to: &Stage, segment: &Segment) -> Result<(), NotSealed> {
        let Range { start, end } = segment.range;
        let copied = match &segment.from {
            From::File(file) => copy_range(file.stage().file(), to.file(), start..end),
            From::Body(id, _) => match self.store.bodies().open_body(*id)? {
                Some(source) => match source.file() {
                    Some(file) => copy_range(file, to.file(), start..end),
                    None => start,
                },
                None => start,
            },
            From::Zero | From::Memory(_) => start,
        };
        let mut at = copied;
        while at < end {
            let upto = end.min(at + PIECE_BYTES);
            let piece = Segment { range: at..upto, from: segment.from.clone() };
            to.write_at(at, &self.read_plan(std::slice::from_ref(&piece))?)?;
            at = upto;
        }
        Ok(())
    }

    fn read_plan(&self, plan: &[Segment]) -> Result<Vec<u8>, NotSealed> {
        let (Some(first), Some(last)) = (plan.first(), plan.last()) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; (last.range.end - first.range.start) as usize];
        let lens: Vec<_> = plan.iter().filter_map(body_len).collect();
        fill(plan, &mut bytes, &|id, offset, part| {
            let end = offset + part.len() as u64;
            match self.read_sealed(id, offset, part) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    let len =
                        lens.iter().find(|(known, _)| *known == id).map_or(end, |(_, len)| *len);
                    Err(NotSealed::Missing(id, len, offset..end))
                }
                Err(error) => Err(NotSealed::Failed(StoreError::Invalid(error.to_string()))),
            }
        })?;
        Ok(bytes)
    }

    /// Makes a batch durable and proposes its versions.
    fn finish(self: &Arc<Self>, batch: Batch) {
        if batch.prepared.is_empty() {
            return;
        }
        if let Err(error) = self.store_batch(&batch.prepared) {
            if batch.prepared.len() == 1 {
                let prepared = &batch.prepared[0];
                return self.seal_failed(&prepared.body, &prepared.frozen, error);
            }
            // One of them spoils the others: each for itself.
            for prepared in batch.prepared {
                self.finish(Batch { prepared: vec![prepared], bytes: 0 });
            }
            return;
        }
        for prepared in batch.prepared {
            let Prepared { body, frozen, content, made, began, .. } = prepared;
            drop(made);
            self.counters.sealed.add(1);
            let layer = frozen.layer.id();
            let (mut is_gone, mut is_wanted) = (false, false);
            if let Some(mut state) = body.loaded() {
                state.last_seal = Some((Instant::now(), began.elapsed()));
                is_gone = state.gone;
                if let Some(sealing) = state.sealing_of(layer) {
                    is_wanted = true;
                    sealing.stored = Some(content);
                    sealing.step = Step::Stored;
                }
            }
            if !is_wanted {
                // Whoever took it away could not know of the note that was being written.
                self.forget_record(body.ino, layer);
            }
            if is_gone {
                let _ = self.settled.send(super::publish::Settled::Gone(body));
            } else {
                self.propose(&body);
            }
        }
    }

    fn store_batch(&self, prepared: &[Prepared]) -> Result<(), StoreError> {
        let mut notes = LocalBatch::new();
        let mut seals = Vec::new();
        for one in prepared {
            let is_inline = !matches!(one.content.body, Body::Sealed { .. });
            if !is_inline
                && let Some(mut state) = one.body.loaded()
                && let Some(sealing) = state.sealing_of(one.frozen.layer.id())
            {
                self.note_sealed(&mut notes, one.body.ino, sealing, &one.content);
            }
            seals.extend(one.seal.clone());
        }
        self.store.local_write(&notes, false)?;
        if seals.is_empty() { Ok(()) } else { self.store.bodies().seal(&seals) }
    }

    /// Fetches what a seal lacks, and queues it again.
    fn seal_after(self: &Arc<Self>, body: &Arc<OpenBody>, id: BodyId, len: u64, range: Range<u64>) {
        let Some(mut state) = body.loaded() else { return };
        let (version, holder) = (state.base.version, state.base.holder);
        if let Some(sealing) = &mut state.sealing {
            sealing.step = Step::Frozen;
        }
        drop(state);
        let (service, ino) = (Arc::clone(self), body.ino);
        self.runtime.spawn(async move {
            // The whole of it, since the seal reads it all: piece by piece would be slow.
            let range = 0..len.max(range.end);
            let brought = service.bring(Remote { id, len, version, holder }, range);
            let wait = match tokio::time::timeout(service.settings.fetch_timeout, brought).await {
                Ok(Ok(())) => Duration::ZERO,
                Ok(Err(_)) | Err(_) => AGAIN,
            };
            service.queue.add(ino, Instant::now() + wait);
        });
    }

    fn seal_failed(self: &Arc<Self>, body: &Arc<OpenBody>, frozen: &Frozen, error: StoreError) {
        let ino = body.ino;
        let layer = frozen.layer.id();
        // What is in memory, or only waits for room, is as good later as it is now. A file is
        // not: its sync may have failed, and then it is not believed.
        let is_file = matches!(frozen.layer.data(), Data::File(_));
        let is_waiting = matches!(error, StoreError::NoSpace { .. } | StoreError::Poisoned { .. });
        if is_waiting || !is_file {
            tracing::warn!(%ino, error = %error.chain(), "a seal is tried again");
            if let Some(mut state) = body.loaded()
                && let Some(sealing) = state.sealing_of(layer)
            {
                sealing.step = Step::Frozen;
            }
            self.queue.add(ino, Instant::now() + AGAIN);
            return;
        }
        tracing::error!(%ino, error = %error.chain(), "a seal failed");
        self.put_aside(body, layer);
        if let Some(mut state) = body.loaded() {
            state.failed = Some(stored(error));
        }
    }
}

fn sealed(id: BodyId, manifest: &Manifest, size: u64) -> Content {
    let len = manifest.len();
    let stored_len = manifest.stored_len();
    Content { body: Body::Sealed { id, len }, valid_len: len, size, stored_len }
}

/// Takes from a stage what the container must not have: bytes behind the body, and room that
/// was asked for and never written.
fn strip(
    file: &StageFile,
    layer: &super::layer::Layer,
    plan: &[Segment],
    len: u64,
) -> Result<(), StoreError> {
    let stage = file.stage();
    if stage.len()? > len {
        stage.set_len(len)?;
    }
    if !layer.has_reserve() {
        return Ok(());
    }
    for Segment { range: Range { start, end }, .. } in
        plan.iter().filter(|segment| is_hole(segment, HOLE_BYTES_MIN))
    {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Where the filesystem cannot, the room stays taken; the bytes are zeros either way.
        let _ = rustix::fs::fallocate(stage.file(), flags, *start, end - start);
    }
    Ok(())
}

/// Copies in the kernel, sharing blocks where the filesystem can. Gives how far it came.
fn copy_range(from: &std::fs::File, to: &std::fs::File, range: Range<u64>) -> u64 {
    let (mut source, mut target) = (range.start, range.start);
    while source < range.end {
        let len = usize::try_from(range.end - source).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), len) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    source
}

fn body_len(segment: &Segment) -> Option<(BodyId, u64)> {
    match segment.from {
        From::Body(id, len) => Some((id, len)),
        _ => None,
    }
}

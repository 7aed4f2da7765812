//! A body that is arriving: a sparse file, and the ranges of it that hold verified chunks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use engine::chunking::{Chunk, Manifest};
use engine::ids::BodyId;
use parking_lot::Mutex;

use super::index::{self, IndexBatch, PartRecord, part_key};
use super::ranges::RangeSet;
use super::space::SpaceGuard;
use super::{Bodies, load_manifest, store_manifest};
use crate::StoreError;
use crate::database::Database;
use crate::layout::remove_file;

/// The ranges are persisted after this many bytes, each time with an fdatasync before. A
/// restart fetches at most this much again.
const PERSIST_BYTES: u64 = 64 << 20;

/// Shared by everybody who fetches or reads the body.
pub struct Part {
    id: BodyId,
    manifest: Manifest,
    file: File,
    path: PathBuf,
    db: Arc<Database>,
    space: Arc<SpaceGuard>,
    state: Mutex<State>,
}

struct State {
    /// Verified and in the file; holes from the beginning.
    here: RangeSet,
    /// Bytes that came since the ranges were persisted.
    unpersisted_bytes: u64,
    /// An fsync failed: the kernel may have dropped what it had.
    failed: bool,
}

/// An arriving body, as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartInfo {
    pub id: BodyId,
    pub len: u64,
    /// Bytes that were here when the ranges were last persisted, holes included.
    pub here_bytes: u64,
}

impl Part {
    pub fn id(&self) -> BodyId {
        self.id
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Bytes of the whole body.
    pub fn len(&self) -> u64 {
        self.manifest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes a chunk whose bytes the caller has compared with its id.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if it is no chunk of this body; [`StoreError::NoSpace`].
    pub fn write_chunk(&self, chunk: &Chunk, bytes: &[u8]) -> Result<(), StoreError> {
        let ours = self
            .manifest
            .chunks()
            .binary_search_by_key(&chunk.offset, |chunk| chunk.offset)
            .is_ok_and(|at| self.manifest.chunks()[at] == *chunk);
        if !ours || bytes.len() != chunk.len as usize {
            return Err(StoreError::Invalid(format!(
                "{} bytes at {} are no chunk of body {}",
                bytes.len(),
                chunk.offset,
                self.id
            )));
        }
        if self.has_chunk(chunk) {
            return Ok(());
        }
        self.space.admit(bytes.len() as u64)?;
        self.file.write_all_at(bytes, chunk.offset).map_err(StoreError::io("write", &self.path))?;
        let persist = {
            let mut state = self.state.lock();
            state.here.insert(chunk.offset, chunk.end());
            state.unpersisted_bytes += bytes.len() as u64;
            state.unpersisted_bytes >= PERSIST_BYTES
        };
        if persist { self.persist() } else { Ok(()) }
    }

    pub fn has_chunk(&self, chunk: &Chunk) -> bool {
        self.has(chunk.offset, u64::from(chunk.len))
    }

    /// Whether all bytes of the range are here (those beyond the body's end count as here).
    pub fn has(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.len());
        let state = self.state.lock();
        !state.failed && state.here.contains(offset, end)
    }

    /// The chunks that are not here, ascending.
    pub fn missing(&self) -> Vec<Chunk> {
        let state = self.state.lock();
        let here = |chunk: &&Chunk| !state.here.contains(chunk.offset, chunk.end());
        self.manifest.chunks().iter().filter(here).copied().collect()
    }

    /// Bytes that are here, holes included.
    pub fn here_bytes(&self) -> u64 {
        self.state.lock().here.total()
    }

    pub fn complete(&self) -> bool {
        self.has(0, self.len())
    }

    /// Reads verified bytes; `None` if not all of them are here. Less than `buf` only at the
    /// body's end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<Option<usize>, StoreError> {
        let rest = self.len().saturating_sub(offset);
        let wanted = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        if !self.has(offset, wanted as u64) {
            return Ok(None);
        }
        self.file
            .read_exact_at(&mut buf[..wanted], offset)
            .map_err(StoreError::io("read", &self.path))?;
        Ok(Some(wanted))
    }

    /// Makes what is here survive a restart: first the bytes, then the statement that they
    /// are there.
    pub fn persist(&self) -> Result<(), StoreError> {
        let (ranges, bytes) = {
            let state = self.state.lock();
            (state.here.clone(), state.unpersisted_bytes)
        };
        self.sync_file()?;
        let mut batch = IndexBatch::new(&self.db);
        batch.put_part(self.id, &self.record(ranges));
        batch.write()?;
        let mut state = self.state.lock();
        state.unpersisted_bytes = state.unpersisted_bytes.saturating_sub(bytes);
        Ok(())
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Nothing of it is believed any more.
    pub(super) fn fail(&self) {
        self.state.lock().failed = true;
    }

    fn sync_file(&self) -> Result<(), StoreError> {
        if self.state.lock().failed {
            let error = io::Error::other("an earlier sync of it failed");
            return Err(StoreError::io("sync", &self.path)(error));
        }
        self.file.sync_data().map_err(|error| {
            self.fail();
            StoreError::io("sync", &self.path)(error)
        })
    }

    fn record(&self, ranges: RangeSet) -> PartRecord {
        PartRecord { len: self.len(), manifest: store_manifest(&self.manifest).into(), ranges }
    }
}

impl Bodies {
    /// The part for an arriving body: the one in use, the one that an earlier start left, or
    /// a new one. The caller has compared the manifest with the id.
    pub fn part(&self, id: BodyId, manifest: &Manifest) -> Result<Arc<Part>, StoreError> {
        let mut parts = self.parts.lock();
        if let Some(part) = self.resume(&mut parts, id)? {
            if part.manifest == *manifest {
                return Ok(part);
            }
            // Possible for a body of one chunk, whose id says nothing about its length.
            parts.remove(&id);
        }
        let path = self.layout.part_file(id);
        // Not the old file emptied: somebody may still write to a part that failed.
        remove_file(&path)?;
        let create = || {
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            file.set_len(manifest.len())?;
            Ok(file)
        };
        let file = create().map_err(StoreError::io("create", &path))?;
        let part = self.new_part(id, manifest.clone(), file, RangeSet::default());
        let mut batch = IndexBatch::new(&self.db);
        batch.put_part(id, &part.record(RangeSet::default()));
        batch.write()?;
        parts.insert(id, Arc::downgrade(&part));
        Ok(part)
    }

    /// The part of an arriving body, if one was begun.
    pub fn part_of(&self, id: BodyId) -> Result<Option<Arc<Part>>, StoreError> {
        self.resume(&mut self.parts.lock(), id)
    }

    /// The bodies that are arriving, for the start to go on with.
    pub fn parts(&self) -> Result<Vec<PartInfo>, StoreError> {
        let mut found = Vec::new();
        index::scan_parts(&self.db, &mut |id, record| {
            found.push(PartInfo { id, len: record.len, here_bytes: record.ranges.total() });
        })?;
        Ok(found)
    }

    /// Gives up an arriving body.
    pub fn part_discard(&self, id: BodyId) -> Result<(), StoreError> {
        if let Some(part) = self.parts.lock().remove(&id).and_then(|part| part.upgrade()) {
            part.fail();
        }
        let mut batch = IndexBatch::new(&self.db);
        batch.delete(part_key(id));
        batch.write()?;
        remove_file(&self.layout.part_file(id))
    }

    fn resume(
        &self,
        parts: &mut BTreeMap<BodyId, Weak<Part>>,
        id: BodyId,
    ) -> Result<Option<Arc<Part>>, StoreError> {
        if let Some(part) = parts.get(&id).and_then(|part| part.upgrade()) {
            let failed = part.state.lock().failed;
            return Ok((!failed).then_some(part));
        }
        parts.remove(&id);
        let Some(record) = index::part(&self.db, id)? else { return Ok(None) };
        let path = self.layout.part_file(id);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(StoreError::io("open", &path))?,
        };
        let PartRecord { len, manifest, ranges } = record;
        let Ok(manifest) = load_manifest(id, len, &manifest) else { return Ok(None) };
        let file_len = file.metadata().map_err(StoreError::io("open", &path))?.len();
        if file_len < ranges.end() {
            return Ok(None);
        }
        // Longer if a completion was interrupted, shorter if its creation was.
        file.set_len(len).map_err(StoreError::io("resize", &path))?;
        let part = self.new_part(id, manifest, file, ranges);
        parts.insert(id, Arc::downgrade(&part));
        Ok(Some(part))
    }

    fn new_part(
        &self,
        id: BodyId,
        manifest: Manifest,
        file: File,
        mut here: RangeSet,
    ) -> Arc<Part> {
        // What is in no chunk is a hole, and a new file reads as zeros there.
        let mut at = 0;
        for chunk in manifest.chunks() {
            here.insert(at, chunk.offset);
            at = chunk.end();
        }
        here.insert(at, manifest.len());
        Arc::new(Part {
            id,
            manifest,
            file,
            path: self.layout.part_file(id),
            db: Arc::clone(&self.db),
            space: Arc::clone(&self.space),
            state: Mutex::new(State { here, unpersisted_bytes: 0, failed: false }),
        })
    }
}

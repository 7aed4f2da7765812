//! The bytes that were written to a file since its last seal: its stage.
//!
//! A layer lies over the file's older content and keeps its bytes at the file's own offsets:
//! in memory while the file is small, then in a sparse file. Writing therefore never copies
//! old bytes, and freezing a layer (a new one goes on top) is a consistent snapshot for free.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::ids::BodyId;
use store::bodies::Stage;
use store::{Store, StoreError};

use super::extents::{Extents, Source};

/// Names a layer on this node: grows with every layer, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

/// A layer that may still change. Its methods do no I/O: whoever changes the file's bytes says
/// so here.
#[derive(Debug)]
pub struct Layer {
    id: LayerId,
    extents: Extents,
    data: Data,
    size: u64,
    /// What fallocate(2) asked room for, written or not. It lasts until the layer is sealed.
    reserved: Extents,
    /// Bytes by which writes have made the content take more than what lies below; never too
    /// few since quotas are counted.
    grown: u64,
    /// Where a write ends that is under way in the file; 0 for none. There is one at a time.
    writing_to: u64,
    /// The file may have bytes where the extents say that there are zeros.
    stray: bool,
    /// Size or extents changed since [`Layer::shape_is_journaled`].
    reshaped: bool,
    memory: MemoryUse,
}

/// Memory that layers may take together. Beyond it, new ones go to files at once.
#[derive(Clone, Debug, Default)]
pub struct MemoryBudget {
    used_bytes: Arc<AtomicU64>,
}

/// What one layer takes of the budget; given back when it goes.
#[derive(Debug)]
struct MemoryUse {
    budget: MemoryBudget,
    bytes: u64,
}

/// Where a layer's own bytes are.
#[derive(Clone, Debug)]
pub enum Data {
    Memory(Arc<Vec<u8>>),
    File(Arc<StageFile>),
}

/// A sparse file with a layer's bytes; removed with its last user, unless the journal relies
/// on it.
pub struct StageFile {
    stage: Stage,
    store: Store,
    keep: AtomicBool,
}

/// Layers whose bytes end at or before this stay in memory: about what fits a pack record, so
/// that a small file never becomes a file of its own.
pub const MEMORY_BYTES_MAX: u64 = 128 << 10;
/// All layers in memory together: two thousand of the largest. A burst of small files beyond
/// it is slowed down by making files, not lost.
const MEMORY_BUDGET_BYTES: u64 = 256 << 20;

impl MemoryBudget {
    pub fn is_spent(&self) -> bool {
        self.used_bytes() >= MEMORY_BUDGET_BYTES
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

impl MemoryUse {
    fn set(&mut self, bytes: u64) {
        self.budget.used_bytes.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for MemoryUse {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Layer {
    /// An unchanged layer over a content of `size` bytes, of which the first `below` are
    /// stored and the rest zeros.
    pub fn over(id: LayerId, below: u64, size: u64, budget: &MemoryBudget) -> Layer {
        assert!(below <= size, "what is stored lies within the file");
        Layer {
            id,
            extents: Extents::over(below),
            data: Data::Memory(Arc::default()),
            size,
            reserved: Extents::default(),
            grown: 0,
            writing_to: 0,
            stray: false,
            reshaped: true,
            memory: MemoryUse { budget: budget.clone(), bytes: 0 },
        }
    }

    /// A layer as a journal record has it.
    pub fn restored(
        id: LayerId,
        extents: Extents,
        data: Data,
        size: u64,
        budget: &MemoryBudget,
    ) -> Layer {
        let memory = MemoryUse { budget: budget.clone(), bytes: 0 };
        let grown = extents.written();
        let mut layer = Layer {
            id,
            extents,
            data,
            size,
            reserved: Extents::default(),
            grown,
            writing_to: 0,
            stray: true,
            reshaped: false,
            memory,
        };
        layer.memory.set(layer.memory_bytes());
        layer
    }

    pub fn id(&self) -> LayerId {
        self.id
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn extents(&self) -> &Extents {
        &self.extents
    }

    pub fn data(&self) -> &Data {
        &self.data
    }

    pub fn grown(&self) -> u64 {
        self.grown
    }

    /// A write will make the content take so many bytes more.
    pub fn grow(&mut self, bytes: u64) {
        self.grown += bytes;
    }

    /// Its file is about to get bytes up to `end`: they count from now on.
    pub fn begin_write(&mut self, end: u64) {
        self.writing_to = end;
    }

    /// What the content takes over a content that takes `below` bytes: never less than its
    /// sealed body will.
    pub fn charge(&self, below: u64) -> u64 {
        self.size.max(self.writing_to).min(below + self.grown)
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> u64 {
        match &self.data {
            Data::Memory(bytes) => bytes.len() as u64,
            Data::File(_) => 0,
        }
    }

    /// The file that holds exactly this layer's content: nothing below shows, and what the
    /// extents call zeros are zeros (or holes) in the file too.
    pub fn whole_file(&self) -> Option<&Arc<StageFile>> {
        match &self.data {
            Data::File(file) if !self.stray && self.extents.is_whole(self.size) => Some(file),
            _ => None,
        }
    }

    /// The bytes move from memory to `file`, which has them already.
    pub fn spilled(&mut self, file: Arc<StageFile>) {
        self.data = Data::File(file);
        self.reshaped = true;
        self.memory.set(0);
    }

    /// A write into the layer's file failed half-way.
    pub fn write_failed(&mut self) {
        self.writing_to = 0;
        self.stray = true;
    }

    /// Writes into memory.
    pub fn write_memory(&mut self, offset: u64, bytes: &[u8]) {
        let Data::Memory(memory) = &mut self.data else {
            panic!("a layer in a file is written through its file")
        };
        let start = usize::try_from(offset).expect("a layer in memory is small");
        let end = start + bytes.len();
        let memory = Arc::make_mut(memory);
        if memory.len() < end {
            memory.resize(end, 0);
        }
        memory[start..end].copy_from_slice(bytes);
        let held = memory.len() as u64;
        self.memory.set(held);
        self.wrote(offset, bytes.len() as u64);
    }

    /// The file has got `len` bytes at `offset`.
    pub fn wrote(&mut self, offset: u64, len: u64) {
        self.writing_to = 0;
        let end = offset + len;
        if end <= self.size && self.extents.is_written(offset..end) {
            return;
        }
        self.reshaped = true;
        self.extents.write(offset..end);
        self.size = self.size.max(end);
    }

    /// The file is `size` bytes long from now on. The caller cuts the layer's own file too,
    /// with `file_is_cut`; without, stray bytes stay in it, which nobody sees.
    pub fn truncate(&mut self, size: u64, file_is_cut: bool) {
        self.reshaped = true;
        self.extents.cut(size);
        self.reserved.cut(size);
        self.size = size;
        match &mut self.data {
            Data::Memory(memory) if memory.len() as u64 > size => {
                Arc::make_mut(memory).truncate(size as usize);
            }
            Data::Memory(_) => {}
            Data::File(_) => self.stray |= !file_is_cut,
        }
    }

    /// `start..end` are zeros from now on. The caller punches the layer's own file too, with
    /// `file_is_punched`.
    pub fn zero(&mut self, start: u64, end: u64, file_is_punched: bool) {
        if self.has_reserve() {
            self.reserved.zero(start..end);
        }
        let end = end.min(self.size);
        if start >= end {
            return;
        }
        self.reshaped = true;
        self.extents.zero(start..end);
        match &mut self.data {
            // The bytes may move to a file, which then has exactly the layer's content.
            Data::Memory(memory) => {
                let len = memory.len() as u64;
                if start < len {
                    Arc::make_mut(memory)[start as usize..end.min(len) as usize].fill(0);
                }
            }
            Data::File(_) => self.stray |= !file_is_punched,
        }
    }

    /// The file is at least `size` bytes long.
    pub fn extend(&mut self, size: u64) {
        self.reshaped |= size > self.size;
        self.size = self.size.max(size);
    }

    /// True if a journal record of this layer's shape would be out of date.
    pub fn is_reshaped(&self) -> bool {
        self.reshaped || matches!(self.data, Data::Memory(_))
    }

    /// A journal record of the layer as it is was written.
    pub fn shape_is_journaled(&mut self) {
        self.reshaped = false;
    }

    /// There is room for `start..end`, also beyond the end of the file.
    pub fn reserve(&mut self, start: u64, end: u64) {
        self.reserved.write(start..end);
    }

    /// True if room was asked for and may not have been written.
    pub fn has_reserve(&self) -> bool {
        self.reserved != Extents::default()
    }

    /// `start..end` is what a sealed body of `len` bytes has there.
    pub fn share(&mut self, start: u64, end: u64, id: BodyId, len: u64) {
        self.reshaped = true;
        self.extents.share(start..end, id, len);
        self.size = self.size.max(end);
    }

    /// Bytes allocated by this layer and by what lies below it, of which `below` are stored.
    pub fn allocated(&self, below: u64) -> u64 {
        let (mut own, mut shown) = (0, 0);
        for piece in self.extents.pieces(0..self.size) {
            let len = piece.range.end - piece.range.start;
            match piece.source {
                Source::Here | Source::Shared(..) => own += len,
                Source::Below => shown += len,
                Source::Zero => own += covered(&self.reserved, piece.range),
            }
        }
        // Which of the bytes below are holes is not known here.
        own + shown.min(below) + covered(&self.reserved, self.size..u64::MAX)
    }
}

/// Bytes of `range` that the map has.
fn covered(map: &Extents, range: std::ops::Range<u64>) -> u64 {
    let pieces = map.pieces(range);
    let here = pieces.iter().filter(|piece| piece.source == Source::Here);
    here.map(|piece| piece.range.end - piece.range.start).sum()
}

impl StageFile {
    /// With `keep` as after [`Self::keep`].
    pub fn new(stage: Stage, store: Store, keep: bool) -> StageFile {
        StageFile { stage, store, keep: AtomicBool::new(keep) }
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The file outlives its users: a journal record needs it.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Takes [`Self::keep`] back.
    pub fn discard(&self) {
        self.keep.store(false, Ordering::Relaxed);
    }

    /// Fills `bytes` from `offset`; what lies beyond the end is zeros.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let read = self.stage.read_at(offset, bytes)?;
        bytes[read..].fill(0);
        Ok(())
    }
}

impl Drop for StageFile {
    fn drop(&mut self) {
        if *self.keep.get_mut() {
            return;
        }
        if let Err(error) = self.store.bodies().stage_remove(self.stage.id()) {
            let stage = self.stage.id();
            tracing::warn!(%stage, error = %error.chain(), "a stage could not be removed");
        }
    }
}

impl std::fmt::Debug for StageFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StageFile({})", self.stage.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quota's room that is taken for a write is the write's, also while its bytes are on the
    /// way to the file and something else is settled.
    #[test]
    fn a_write_under_way_counts_before_the_layer_shows_it() {
        let mut layer = Layer::over(LayerId(1), 0, 0, &MemoryBudget::default());
        layer.grow(10);
        assert_eq!(layer.charge(0), 0, "nobody writes yet");
        layer.begin_write(10);
        assert_eq!((layer.charge(0), layer.size()), (10, 0));
        layer.wrote(0, 10);
        assert_eq!((layer.charge(0), layer.size()), (10, 10));
        layer.grow(5);
        layer.begin_write(15);
        assert_eq!(layer.charge(0), 15);
        layer.write_failed();
        assert_eq!(layer.charge(0), 10);
    }
}

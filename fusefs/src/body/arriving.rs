//! The bodies that are arriving, and who fetches which of their chunks.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use engine::chunking::Chunk;
use engine::ids::BodyId;
use parking_lot::Mutex;
use store::bodies::Part;
use tokio::sync::Notify;

/// A body that is arriving, with who fetches which chunk.
pub struct Arriving {
    pub part: Arc<Part>,
    /// Chunks (by offset) that a reader's fetch is under way for.
    urgent: Mutex<HashSet<u64>>,
    /// Told when chunks came, or a fetch gave up.
    pub moved: Notify,
    /// Turns the complete part into a sealed body, once.
    pub completing: tokio::sync::Mutex<()>,
}

/// The bodies that are arriving, with when each was used last. What a part has is on record
/// only now and then, so a part stays open until it is complete, or until others push it out.
#[derive(Default)]
pub struct Arrivals(Mutex<HashMap<BodyId, (Instant, Arc<Arriving>)>>);

/// Urgent chunks that one reader has claimed; given back when it stops.
pub struct Claim<'a> {
    pub arriving: &'a Arriving,
    pub offsets: Vec<u64>,
}

/// Parts kept open: an open file and 44 bytes for each chunk of it.
const ARRIVALS_MAX: usize = 128;
impl Arrivals {
    /// The entry for a body that has one.
    pub fn find(&self, id: BodyId) -> Option<Arc<Arriving>> {
        let mut arrivals = self.0.lock();
        let (used, arriving) = arrivals.get_mut(&id)?;
        *used = Instant::now();
        Some(Arc::clone(arriving))
    }

    /// The entry for `part`, made if there is none; and one that has to go for it.
    pub fn add(&self, part: Arc<Part>) -> (Arc<Arriving>, Option<Arc<Part>>) {
        let mut arrivals = self.0.lock();
        let arriving = Arc::new(Arriving {
            part,
            urgent: Mutex::default(),
            moved: Notify::new(),
            completing: tokio::sync::Mutex::new(()),
        });
        let id = arriving.part.id();
        let (used, entry) = arrivals.entry(id).or_insert((Instant::now(), arriving));
        *used = Instant::now();
        let arriving = Arc::clone(entry);
        let mut pushed_out = None;
        if arrivals.len() > ARRIVALS_MAX {
            let unused = arrivals.iter().filter(|(_, (_, entry))| Arc::strong_count(entry) == 1);
            let oldest = unused.min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id);
            let removed = oldest.and_then(|id| arrivals.remove(&id));
            pushed_out = removed.map(|(_, entry)| Arc::clone(&entry.part));
        }
        (arriving, pushed_out)
    }

    pub fn remove(&self, id: BodyId) {
        self.0.lock().remove(&id);
    }

    /// Puts on record what has arrived, for the next start.
    pub fn persist(&self) {
        let parts: Vec<_> =
            self.0.lock().drain().map(|(_, (_, entry))| Arc::clone(&entry.part)).collect();
        parts.iter().for_each(|part| persist(part));
    }

    /// Bodies that are arriving now.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// Puts on record what has arrived of a part.
pub fn persist(part: &Part) {
    if let Err(error) = part.persist() {
        tracing::warn!(id = %part.id(), error = %error.chain(), "a part is not on record");
    }
}

impl Arriving {
    /// The chunks with bytes in `range` that are not here.
    pub fn missing_in(&self, range: &Range<u64>) -> Vec<Chunk> {
        let len = range.end.saturating_sub(range.start);
        let chunks = self.part.manifest().overlapping(range.start, len).iter();
        chunks.filter(|chunk| !self.part.has_chunk(chunk)).copied().collect()
    }

    /// Claims those of `chunks` that no reader's fetch is under way for.
    pub fn claim(&self, chunks: &[Chunk]) -> Claim<'_> {
        let mut urgent = self.urgent.lock();
        let free = chunks.iter().map(|chunk| chunk.offset);
        let offsets = free.filter(|offset| urgent.insert(*offset)).collect();
        Claim { arriving: self, offsets }
    }
}

impl Claim<'_> {
    /// Takes the claim over into another one.
    pub fn into_offsets(mut self) -> Vec<u64> {
        std::mem::take(&mut self.offsets)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.offsets.is_empty() {
            return;
        }
        let mut urgent = self.arriving.urgent.lock();
        for offset in &self.offsets {
            urgent.remove(offset);
        }
        drop(urgent);
        self.arriving.moved.notify_waiters();
    }
}

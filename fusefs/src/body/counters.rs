//! What bodies did since the start, for status and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub struct Counters {
    /// By applications.
    pub written_bytes: Counter,
    /// Reads that waited for other nodes.
    pub reads_waited: Counter,
    /// Versions that became durable bodies here.
    pub sealed: Counter,
    /// Versions of this node that were agreed.
    pub published: Counter,
    pub conflicts: Counter,
    /// Stages that were not believed any more after a failed sync.
    pub put_aside: Counter,
    /// Tokens that other nodes asked back.
    pub recalls: Counter,
    /// Bodies that came from other nodes.
    pub arrived: Counter,
    pub arrived_bytes: Counter,
    pub served_bytes: Counter,
    /// Manifests and chunks from other nodes that did not verify.
    pub bad_chunks: Counter,
    /// Questions refused because placement names no copy for the asker.
    pub refused_askers: Counter,
    /// Local bodies found damaged.
    pub damaged: Counter,
}

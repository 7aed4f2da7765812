//! The stages of an operation's path, measured: how much waits, how long it waits, and how long
//! a stage works. Atomics only: a measurement costs some ten nanoseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The path of one volume, in its order. docs/OPERATIONS.md says what each stage counts.
#[derive(Debug, Default)]
pub struct Stages {
    pub received: Arc<Stage>,
    pub proposed: Arc<Stage>,
    pub persisted: Arc<Stage>,
    pub agreed: Arc<Stage>,
    pub applied: Arc<Stage>,
    pub replied: Arc<Stage>,
}

impl Stages {
    /// With their names.
    pub fn all(&self) -> [(&'static str, &Stage); 6] {
        [
            ("received", &self.received),
            ("proposed", &self.proposed),
            ("persisted", &self.persisted),
            ("agreed", &self.agreed),
            ("applied", &self.applied),
            ("replied", &self.replied),
        ]
    }
}

#[derive(Debug, Default)]
pub struct Stage {
    length: AtomicU64,
    bytes: AtomicU64,
    pub wait: Histogram,
    pub service: Histogram,
}

impl Stage {
    pub fn entered(&self, count: usize) {
        self.length.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// # Panics
    /// If more leaves than entered, in debug builds.
    pub fn left(&self, count: usize) {
        let before = self.length.fetch_sub(count as u64, Ordering::Relaxed);
        debug_assert!(before >= count as u64, "what leaves a stage has entered it");
    }

    /// What has come is so large, where that bounds what may wait.
    pub fn bytes_entered(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn bytes_left(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }
}

/// Durations, counted by their size.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// Bucket `n` holds what is not longer than 2^n µs: 1 µs to 17 s. The last one holds the rest.
const BUCKETS: usize = 26;

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = us.max(1).checked_next_power_of_two().map_or(u32::MAX, u64::trailing_zeros);
        let bucket = (bucket as usize).min(BUCKETS - 1);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Seconds in all, and how many were how long at most: bounds in seconds, each count for its
    /// bucket alone.
    pub fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let bound = |bucket: usize| match bucket {
            last if last == BUCKETS - 1 => f64::INFINITY,
            bucket => (1u64 << bucket) as f64 / 1e6,
        };
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets = counts.enumerate().map(|(at, count)| (bound(at), count)).collect();
        (self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_the_least_bucket_that_holds_it() {
        let check = |took: Duration, bound: f64| {
            let histogram = Histogram::default();
            histogram.observe(took);
            let (sum, buckets) = histogram.read();
            assert_eq!(sum, took.as_nanos() as f64 / 1e9);
            let found: Vec<f64> =
                buckets.iter().filter(|(_, count)| *count == 1).map(|(bound, _)| *bound).collect();
            assert_eq!(found, [bound], "{took:?}");
        };
        check(Duration::ZERO, 1e-6);
        check(Duration::from_nanos(1000), 1e-6);
        check(Duration::from_nanos(1001), 2e-6);
        check(Duration::from_micros(2), 2e-6);
        check(Duration::from_micros(3), 4e-6);
        check(Duration::from_micros(1 << 24), 16.777_216);
        check(Duration::from_secs(17), f64::INFINITY);
        check(Duration::from_secs(1 << 33), f64::INFINITY);
    }
}

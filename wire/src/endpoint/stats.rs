//! Counters for `fusion status`.

use std::sync::atomic::{AtomicU64, Ordering};

use engine::ids::NodeId;

/// What the port has seen since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireStats {
    /// Connections whose certificate is missing, not from the authority, or expired, and
    /// handshakes that failed.
    pub strangers_refused: u64,
    /// Connections with the authority's certificate whose node or key is no member's.
    pub nonmembers_refused: u64,
    /// Connections refused because too many unknown ones came at once.
    pub overload_refused: u64,
    pub joins_refused: u64,
    /// Messages from members that were no messages.
    pub malformed: u64,
    /// Ordered by node.
    pub peers: Vec<PeerStats>,
}

/// The link to one peer. Byte counts are payload, without QUIC's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    pub node: NodeId,
    pub name: String,
    /// As agreed or overridden.
    pub address: String,
    /// Whether the ring connection that this node sends on is up.
    pub connected: bool,
    /// QUIC's smoothed round trip on it; 0 while there is none.
    pub rtt_us: u64,
    pub ring_sent_bytes: u64,
    pub ring_received_bytes: u64,
    pub ring_sent_count: u64,
    pub ring_received_count: u64,
    /// Ring messages that were dropped: no connection, or the queue was full.
    pub ring_dropped_count: u64,
    /// Waiting in the queue now.
    pub ring_queued_bytes: u64,
    pub bulk_sent_bytes: u64,
    pub bulk_received_bytes: u64,
    /// Ring connections made after the first.
    pub reconnects: u64,
    /// Packets that QUIC found lost, on the ring connection that is up.
    pub lost_packets: u64,
}

#[derive(Debug, Default)]
pub(crate) struct WireCounters {
    pub(crate) strangers_refused: Counter,
    pub(crate) nonmembers_refused: Counter,
    pub(crate) overload_refused: Counter,
    pub(crate) joins_refused: Counter,
    pub(crate) malformed: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct PeerCounters {
    pub(crate) ring_sent_bytes: Counter,
    pub(crate) ring_received_bytes: Counter,
    pub(crate) ring_sent_count: Counter,
    pub(crate) ring_received_count: Counter,
    pub(crate) ring_dropped_count: Counter,
    pub(crate) bulk_sent_bytes: Counter,
    pub(crate) bulk_received_bytes: Counter,
    pub(crate) connects: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn bump(&self) {
        self.add(1);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

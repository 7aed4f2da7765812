//! What one direction of a link does to packets.

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkShape {
    /// One way.
    pub delay_us: u64,
    /// The delay varies by up to this much, evenly, to both sides. Packets stay in order, as
    /// they nearly always do on real paths.
    pub jitter_us: u64,
    /// The share of packets that are lost, 0 to 1, each by its own chance.
    pub loss: f64,
    /// Bits per second, 0 for no limit. What exceeds it queues for up to [`QUEUE_MAX_US`],
    /// and is lost beyond.
    pub rate_bps: u64,
    /// False: nothing gets through.
    pub up: bool,
}

/// The queue before a rate limit holds what leaves in this time: about what routers have.
pub const QUEUE_MAX_US: u64 = 100_000;

impl LinkShape {
    pub const PERFECT: LinkShape =
        LinkShape { delay_us: 0, jitter_us: 0, loss: 0.0, rate_bps: 0, up: true };

    /// Half of `rtt_ms` one way, nothing else.
    pub fn with_round_trip_ms(rtt_ms: f64) -> LinkShape {
        let delay_us = (rtt_ms.max(0.0) * 500.0).round() as u64;
        LinkShape { delay_us, ..LinkShape::PERFECT }
    }

    /// Whether packets leave as they come, many at a time.
    pub(crate) fn is_alike_for_all(&self) -> bool {
        self.jitter_us == 0 && self.loss == 0.0 && self.rate_bps == 0
    }
}

/// What one direction of a link has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    pub passed_packets: u64,
    pub passed_bytes: u64,
    /// By chance, by a cut, and where a queue was full.
    pub lost_packets: u64,
}

//! Round trips and clock offsets, estimated from heartbeats.
//!
//! Clocks decide only how fast the ring is, never what it agrees on.

use std::collections::VecDeque;

/// What heartbeats tell about one peer's distance and clock.
#[derive(Clone, Debug, Default)]
pub struct PeerClock {
    samples: VecDeque<Sample>,
    rtt_us: Option<u64>,
    offset_us: i64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    rtt_us: u64,
    offset_us: i64,
}

impl PeerClock {
    /// A heartbeat that the peer sent at `peer_sent_us` (its clock) came at `now_us`; it says
    /// that ours of `sent_us` had lain there for `held_us` by then.
    pub fn observe(&mut self, now_us: u64, peer_sent_us: u64, sent_us: u64, held_us: u64) {
        let Some(rtt_us) = now_us.checked_sub(sent_us).and_then(|us| us.checked_sub(held_us))
        else {
            return; // Our clock or the peer's jumped in between.
        };
        if rtt_us > RTT_US_MAX {
            return;
        }
        let peer_now_us = peer_sent_us.saturating_add(rtt_us / 2);
        let offset_us = peer_now_us.wrapping_sub(now_us).cast_signed();
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { rtt_us, offset_us });
        let mut rtts_us: Vec<u64> = self.samples.iter().map(|sample| sample.rtt_us).collect();
        rtts_us.sort_unstable();
        // The middle, not the extreme: a lead that follows outliers costs every operation.
        self.rtt_us = Some(rtts_us[rtts_us.len() / 2]);
        let quickest = self.samples.iter().min_by_key(|sample| sample.rtt_us);
        self.offset_us = quickest.expect("a sample was just added").offset_us;
    }

    /// Median round trip, µs.
    pub fn rtt_us(&self) -> Option<u64> {
        self.rtt_us
    }

    /// The peer's clock less ours, µs, by the sample that waited least on its way.
    pub fn offset_us(&self) -> Option<i64> {
        self.rtt_us.map(|_| self.offset_us)
    }
}

/// What to add to the own clock to get the group's: the lower median of all clocks, so that
/// two nodes agree on one of theirs.
pub fn group_offset_us(peer_offsets_us: impl Iterator<Item = i64>) -> i64 {
    let mut offsets_us: Vec<i64> = peer_offsets_us.collect();
    offsets_us.push(0);
    offsets_us.sort_unstable();
    offsets_us[(offsets_us.len() - 1) / 2]
}

/// At 10 ms a heartbeat, a window of a sixth of a second follows a changed path quickly.
const SAMPLES: usize = 16;

/// No link is that slow; a larger sample comes from a clock that jumped.
const RTT_US_MAX: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_and_round_trip_come_from_the_echo() {
        let mut clock = PeerClock::default();
        // Peer is 1,000,000 ahead; 10,000 each way; held 3,000.
        clock.observe(123_000, 1_113_000, 100_000, 3_000);
        assert_eq!(clock.rtt_us(), Some(20_000));
        assert_eq!(clock.offset_us(), Some(1_000_000));
        // A slow sample moves neither the offset nor, alone, a window of three.
        clock.observe(323_000, 1_313_000, 300_000, 3_000);
        clock.observe(923_000, 1_513_000, 500_000, 3_000);
        assert_eq!(clock.rtt_us(), Some(20_000));
        assert_eq!(clock.offset_us(), Some(1_000_000));
    }

    #[test]
    fn jumps_give_no_sample() {
        let mut clock = PeerClock::default();
        clock.observe(10, 0, 100, 0);
        clock.observe(100_000_000, 0, 100, 0);
        clock.observe(u64::MAX, u64::MAX, u64::MAX, 0);
        assert_eq!(clock.offset_us(), Some(0));
    }

    #[test]
    fn group_time_is_the_lower_median() {
        assert_eq!(group_offset_us([].into_iter()), 0);
        assert_eq!(group_offset_us([500].into_iter()), 0);
        assert_eq!(group_offset_us([-500].into_iter()), -500);
        assert_eq!(group_offset_us([500, 700].into_iter()), 500);
    }
}

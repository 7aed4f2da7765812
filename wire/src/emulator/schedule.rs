//! When packets leave: pure arithmetic on microseconds, so that it can be tested without waiting.

use std::collections::VecDeque;

use super::shape::{LinkShape, QUEUE_MAX_US};

/// Packets on their way, in order.
pub(crate) struct Schedule<P> {
    flying: VecDeque<(u64, P)>,
    flying_bytes: usize,
    /// When the rate limit lets the next packet begin.
    free_at_us: u64,
    last_due_us: u64,
    random: u64,
}

/// 90 ms of 20 Gbit/s; beyond it somebody sends faster than he should.
const FLYING_MAX_BYTES: usize = 256 << 20;

pub(crate) trait Packet {
    fn bytes(&self) -> usize;
}

impl<P: Packet> Schedule<P> {
    pub(crate) fn new(seed: u64) -> Schedule<P> {
        Schedule {
            flying: VecDeque::new(),
            flying_bytes: 0,
            free_at_us: 0,
            last_due_us: 0,
            random: seed,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    /// Accepts a packet at `now_us`; false if the link loses it.
    pub(crate) fn push(&mut self, now_us: u64, shape: &LinkShape, packet: P) -> bool {
        if !shape.up || self.chance() < shape.loss {
            return false;
        }
        if self.flying_bytes + packet.bytes() > FLYING_MAX_BYTES {
            return false;
        }
        let Some(departed_us) = self.depart(now_us, shape, packet.bytes()) else {
            return false;
        };
        let spread = (self.chance() * 2.0 - 1.0) * shape.jitter_us as f64;
        let delay_us = shape.delay_us.saturating_add_signed(spread as i64);
        let due_us = (departed_us + delay_us).max(self.last_due_us);
        self.last_due_us = due_us;
        self.flying_bytes += packet.bytes();
        self.flying.push_back((due_us, packet));
        true
    }

    /// When the packet's last bit has left the rate limit; `None` if its queue is full.
    fn depart(&mut self, now_us: u64, shape: &LinkShape, bytes: usize) -> Option<u64> {
        if shape.rate_bps == 0 {
            self.free_at_us = now_us;
            return Some(now_us);
        }
        let begin_us = self.free_at_us.max(now_us);
        if begin_us - now_us > QUEUE_MAX_US {
            return None;
        }
        let take_us = (bytes as u64 * 8_000_000).div_ceil(shape.rate_bps);
        self.free_at_us = begin_us + take_us;
        Some(self.free_at_us)
    }

    /// The next packet that is due.
    pub(crate) fn pop(&mut self, now_us: u64) -> Option<P> {
        let (due_us, _) = self.flying.front()?;
        if *due_us > now_us {
            return None;
        }
        let (_, packet) = self.flying.pop_front()?;
        self.flying_bytes -= packet.bytes();
        Some(packet)
    }

    pub(crate) fn next_due_us(&self) -> Option<u64> {
        self.flying.front().map(|(due_us, _)| *due_us)
    }

    /// A number from [0, 1): SplitMix64 (Steele, Lea, Flood 2014).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Packet for usize {
        fn bytes(&self) -> usize {
            1000
        }
    }

    fn drain(schedule: &mut Schedule<usize>) -> Vec<(u64, usize)> {
        let next = || Some((schedule.next_due_us()?, schedule.pop(u64::MAX)?));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_delay_moves_every_packet_by_the_same_time() {
        let mut schedule = Schedule::new(1);
        let shape = LinkShape::with_round_trip_ms(20.0);
        for at in 0..10 {
            assert!(schedule.push(at as u64 * 7, &shape, at));
        }
        assert_eq!(schedule.pop(9_999), None);
        assert_eq!(schedule.pop(10_000), Some(0));
        let rest: Vec<_> = (1..10).map(|at| (10_000 + at as u64 * 7, at)).collect();
        assert_eq!(drain(&mut schedule), rest);
    }

    #[test]
    fn jitter_varies_the_delay_and_keeps_the_order() {
        let mut schedule = Schedule::new(7);
        let shape = LinkShape { delay_us: 5_000, jitter_us: 1_000, ..LinkShape::PERFECT };
        for at in 0..1000 {
            assert!(schedule.push(at as u64 * 10_000, &shape, at));
        }
        let delays: Vec<i64> = drain(&mut schedule)
            .into_iter()
            .enumerate()
            .map(|(at, (due_us, packet))| {
                assert_eq!(at, packet, "in order");
                due_us as i64 - at as i64 * 10_000
            })
            .collect();
        assert!(delays.iter().all(|delay| (4_000..=6_000).contains(delay)));
        let mean = delays.iter().sum::<i64>() / 1000;
        assert!((4_900..5_100).contains(&mean), "{mean}");
    }

    #[test]
    fn loss_takes_its_share() {
        let mut schedule = Schedule::new(3);
        let shape = LinkShape { loss: 0.1, ..LinkShape::PERFECT };
        let passed = (0..10_000).filter(|at| schedule.push(0, &shape, *at)).count();
        assert!((8_900..9_100).contains(&passed), "{passed}");
        let cut = LinkShape { up: false, ..LinkShape::PERFECT };
        assert!(!schedule.push(0, &cut, 0));
    }

    #[test]
    fn a_rate_spaces_packets_and_its_queue_is_bounded() {
        let mut schedule = Schedule::new(1);
        // 8 Mbit/s: 1000 bytes take a millisecond.
        let shape = LinkShape { rate_bps: 8_000_000, ..LinkShape::PERFECT };
        let passed = (0..500).filter(|at| schedule.push(0, &shape, *at)).count();
        assert_eq!(passed as u64, QUEUE_MAX_US / 1000 + 1);
        let due = drain(&mut schedule);
        assert!(due.iter().enumerate().all(|(at, (due_us, _))| *due_us == (at as u64 + 1) * 1000));
    }
}

//! What may go wrong.

use super::membership::Wish;
use crate::consensus::Message;
use crate::consensus::random::Random;
use crate::ids::{Ballot, NodeId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process and everything unflushed is gone; it starts again later.
    Crash { node: NodeId, down_us: u64 },
    /// The same between two effects of one step, or between two messages that a flush lets go:
    /// `points` of them from now.
    CrashWithin { node: NodeId, points: u64, down_us: u64 },
    /// All nodes at once: a power cut.
    Blackout { down_us: u64 },
    /// Ends its lane, flushes, stops, starts again.
    Shutdown { node: NodeId, down_us: u64 },
    /// Nothing in or out.
    Isolate { node: NodeId, for_us: u64 },
    /// Messages of one direction vanish.
    OneWay { from: NodeId, to: NodeId, for_us: u64 },
    /// Two nodes don't hear each other; others hear both.
    Sever { one: NodeId, other: NodeId, for_us: u64 },
    /// Two nodes don't hear each other for half a period, then do, `times` times.
    Flap { one: NodeId, other: NodeId, period_us: u64, times: u64 },
    /// The process stands still, then goes on.
    Pause { node: NodeId, for_us: u64 },
    /// Flushes take much longer.
    SlowDisk { node: NodeId, factor: u64, for_us: u64 },
    /// The disk fails or is full: the next flush ends the process, and it cannot start before
    /// the fault is over.
    DiskFails { node: NodeId, for_us: u64 },
    /// The clock steps, µs.
    ClockStep { node: NodeId, by_us: i64 },
    /// The node restarts, and comes back with another clock.
    ClockSet { node: NodeId, by_us: i64, down_us: u64 },
    /// The node crashes as soon as it has sent a message like this, and is back at once.
    CrashAfter { node: NodeId, trigger: Trigger },
    /// The node keeps only its newest agreements: whoever lags needs a snapshot.
    TruncateOrder { node: NodeId },
    /// As a crash, but the log is damaged: the node has forgotten promises and votes.
    LoseLog { node: NodeId, down_us: u64 },
    /// A new node gets a snapshot, and a vote when it has caught up.
    Join { node: NodeId },
    /// A voter loses its vote.
    Remove { node: NodeId },
    /// A member without a vote, perhaps one that had lost it, gets one.
    Promote { node: NodeId },
    /// The membership is to change in some other way.
    Want(Wish),
}

/// Steps of a takeover after which a crash hurts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    Prepare,
    Promise,
    /// What a taker proposes.
    Close,
}

impl Trigger {
    pub fn matches(self, message: &Message) -> bool {
        match self {
            Trigger::Prepare => matches!(message, Message::Prepare { .. }),
            Trigger::Promise => matches!(message, Message::Promise { .. }),
            Trigger::Close => {
                matches!(message, Message::Propose { ballot, .. } if *ballot > Ballot(0))
            }
        }
    }

    fn choose(random: &mut Random) -> Trigger {
        [Trigger::Prepare, Trigger::Promise, Trigger::Close][random.below(3) as usize]
    }
}

impl Fault {
    /// An owner and a taker that don't see each other, and somebody who crashes while the one
    /// closes the lane of the other.
    pub fn choose_split(random: &mut Random, nodes: u16) -> [Fault; 2] {
        let mut nodes: Vec<u16> = (1..=nodes).collect();
        let mut take = || NodeId(nodes.swap_remove(random.below(nodes.len() as u64) as usize));
        let (one, other, node) = (take(), take(), take());
        let for_us = 1_500_000 + random.below(2_000_000);
        let trigger = Trigger::choose(random);
        let node = if trigger == Trigger::Promise { node } else { other };
        [Fault::Sever { one, other, for_us }, Fault::CrashAfter { node, trigger }]
    }

    /// A fault that lasts up to `span_us`.
    pub fn choose(random: &mut Random, nodes: u16, span_us: u64) -> Fault {
        let node = |random: &mut Random| NodeId(1 + random.below(u64::from(nodes)) as u16);
        // Below, around and above the suspicion time.
        let for_us = [5_000, 100_000, 600_000, span_us][random.below(4) as usize].min(span_us);
        let for_us = for_us / 2 + random.below(for_us);
        match random.below(24) {
            0..=3 => Fault::Crash { node: node(random), down_us: for_us },
            4..=7 => {
                let points = random.below(60);
                Fault::CrashWithin { node: node(random), points, down_us: for_us }
            }
            8 => Fault::Blackout { down_us: for_us },
            9 => Fault::Shutdown { node: node(random), down_us: for_us },
            10 | 11 => Fault::Isolate { node: node(random), for_us },
            12 | 13 => Fault::OneWay { from: node(random), to: node(random), for_us },
            14 => {
                let (one, other, times) = (node(random), node(random), 2 + random.below(8));
                Fault::Flap { one, other, period_us: 2 + for_us / times, times }
            }
            15 | 16 => Fault::Pause { node: node(random), for_us },
            17 => {
                let factor = 10 + random.below(100);
                Fault::SlowDisk { node: node(random), factor, for_us }
            }
            18 => Fault::DiskFails { node: node(random), for_us },
            19 => Fault::ClockStep { node: node(random), by_us: clock_step_us(random) },
            20 => {
                let by_us = clock_step_us(random);
                Fault::ClockSet { node: node(random), by_us, down_us: for_us }
            }
            21 => {
                let trigger = Trigger::choose(random);
                Fault::CrashAfter { node: node(random), trigger }
            }
            _ => Fault::TruncateOrder { node: node(random) },
        }
    }
}

/// A little or a lot, back or ahead.
fn clock_step_us(random: &mut Random) -> i64 {
    let steps_us = [20_000, 200_000, 3_000_000, 60_000_000, 3_600_000_000, 36_000_000_000];
    let step_us = steps_us[random.below(steps_us.len() as u64) as usize];
    if random.percent(50) { step_us } else { -step_us }
}

//! What may go wrong.

use crate::consensus::random::Random;
use crate::ids::NodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process and everything unflushed is gone; it starts again later.
    Crash { node: NodeId, down_us: u64 },
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
    /// The process stands still, then goes on.
    Pause { node: NodeId, for_us: u64 },
    /// Flushes take much longer.
    SlowDisk { node: NodeId, factor: u64, for_us: u64 },
    /// The clock steps, µs; backwards at most a little, as the driver guarantees.
    ClockStep { node: NodeId, by_us: i64 },
    /// The node crashes as soon as it has promised something to a taker, and is back at once.
    CrashAfterPromise { node: NodeId },
    /// A new node gets a snapshot, and a vote when it has caught up.
    Join { node: NodeId },
    /// A voter loses its vote.
    Remove { node: NodeId },
}

impl Fault {
    /// An owner and a taker that don't see each other, and a forgetful acceptor between them.
    pub fn choose_split(random: &mut Random, nodes: u16) -> [Fault; 2] {
        let mut nodes: Vec<u16> = (1..=nodes).collect();
        let mut take = || NodeId(nodes.swap_remove(random.below(nodes.len() as u64) as usize));
        let (one, other, node) = (take(), take(), take());
        let for_us = 1_500_000 + random.below(2_000_000);
        [Fault::Sever { one, other, for_us }, Fault::CrashAfterPromise { node }]
    }

    pub fn choose(random: &mut Random, nodes: u16) -> Fault {
        let node = |random: &mut Random| NodeId(1 + random.below(u64::from(nodes)) as u16);
        let for_us = [5_000, 100_000, 600_000, 3_000_000][random.below(4) as usize];
        let for_us = for_us / 2 + random.below(for_us);
        match random.below(14) {
            0..=4 => Fault::Crash { node: node(random), down_us: for_us },
            5 => Fault::Blackout { down_us: for_us },
            6 => Fault::Shutdown { node: node(random), down_us: for_us },
            7 | 8 => Fault::Isolate { node: node(random), for_us },
            9 => Fault::OneWay { from: node(random), to: node(random), for_us },
            10 | 11 => Fault::Pause { node: node(random), for_us },
            12 => {
                let factor = 10 + random.below(100);
                Fault::SlowDisk { node: node(random), factor, for_us }
            }
            _ => {
                let by_us = [-200_000, -20_000, 50_000, 3_000_000, 60_000_000];
                Fault::ClockStep { node: node(random), by_us: by_us[random.below(5) as usize] }
            }
        }
    }
}

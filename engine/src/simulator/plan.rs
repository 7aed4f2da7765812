//! What a seed decides before anything runs.

use std::collections::BTreeMap;

use super::fault::Fault;
use crate::consensus::random::Random;
use crate::ids::NodeId;

/// Everything about a run that is not left to chance while it runs.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub seed: u64,
    /// Voters at the start are 1 ..= voters; later nodes join.
    pub voters: u16,
    /// One-way delay between two nodes: a base chosen per pair in this range, µs.
    pub delay_us: (u64, u64),
    /// One-way delays that are given instead.
    pub base_us: BTreeMap<(NodeId, NodeId), u64>,
    /// Of the base, percent.
    pub jitter_percent: u64,
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    /// Messages of one link keep their order.
    pub fifo: bool,
    /// One flush of a disk, µs.
    pub flush_us: (u64, u64),
    /// Largest clock error at a start, µs.
    pub clock_error_us: u64,
    /// How many agreements a node can serve to others; older ones need a snapshot.
    pub order_kept: u64,
    /// Messages go through their encoding.
    pub codec: bool,
    /// Nodes that propose, with the mean time between their batches, µs.
    pub writers: Vec<(NodeId, u64)>,
    /// When faults and new work stop, µs.
    pub calm_us: u64,
    pub faults: Vec<(u64, Fault)>,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x5eed_0fa1_a4e0);
        let voters = [1, 2, 3, 3, 3, 3, 3, 4, 5, 5][random.below(10) as usize];
        let delay_us =
            [(50, 300), (500, 5_000), (2_000, 30_000), (20_000, 120_000)][random.below(4) as usize];
        // Some runs are long and sparse, so that lanes are left and taken up again.
        let sparse = random.percent(10);
        let calm_us = match sparse {
            false => 1_000_000 + random.below(9_000_000),
            true => 12_000_000 + random.below(30_000_000),
        };
        let mut plan = Plan {
            seed,
            voters,
            delay_us,
            base_us: BTreeMap::new(),
            jitter_percent: [1, 3, 30, 300][random.below(4) as usize],
            loss_percent: [0, 0, 1, 5, 20][random.below(5) as usize],
            duplicate_percent: [0, 0, 2, 10][random.below(4) as usize],
            fifo: random.percent(50),
            flush_us: [(20, 100), (300, 2_000), (1_000, 20_000)][random.below(3) as usize],
            clock_error_us: [0, 1_000, 20_000, 1_000_000, 30_000_000][random.below(5) as usize],
            order_kept: [u64::MAX, u64::MAX, 200, 20][random.below(4) as usize],
            codec: random.percent(12),
            writers: Vec::new(),
            calm_us,
            faults: Vec::new(),
        };
        plan.choose_writers(&mut random, sparse);
        plan.choose_faults(&mut random);
        plan
    }

    /// A ring without faults whose nodes 1, 2, ... have these round trips, µs; `writers`
    /// propose one command at a time, a second apart on average.
    pub fn quiet(seed: u64, rtts_us: &[Vec<u64>], writers: &[NodeId]) -> Plan {
        let mut base_us = BTreeMap::new();
        for (row, one) in rtts_us.iter().zip(1..) {
            for (rtt_us, other) in row.iter().zip(1..) {
                base_us.insert((NodeId(one), NodeId(other)), rtt_us / 2);
            }
        }
        Plan {
            seed,
            voters: rtts_us.len() as u16,
            delay_us: (1, 2),
            base_us,
            jitter_percent: 3,
            loss_percent: 0,
            duplicate_percent: 0,
            fifo: true,
            flush_us: (300, 600),
            clock_error_us: 2_000,
            order_kept: u64::MAX,
            codec: false,
            writers: writers.iter().map(|&node| (node, 1_000_000)).collect(),
            calm_us: 60_000_000,
            faults: Vec::new(),
        }
    }

    /// Between one busy node and all of them, each at its own pace.
    fn choose_writers(&mut self, random: &mut Random, sparse: bool) {
        let all = random.percent(60);
        let intervals_us = match sparse {
            false => [5_000, 30_000, 150_000, 800_000],
            true => [200_000, 3_000_000, 8_000_000, 15_000_000],
        };
        for node in 1..=self.voters {
            if all || random.percent(40) {
                self.writers.push((NodeId(node), intervals_us[random.below(4) as usize]));
            }
        }
        if self.writers.is_empty() {
            self.writers.push((NodeId(1 + random.below(u64::from(self.voters)) as u16), 50_000));
        }
    }

    fn choose_faults(&mut self, random: &mut Random) {
        // Some runs without any: there nothing may be slow.
        let faults = [0, 1, 2, 3, 5, 8, 14][random.below(7) as usize];
        let joins = random.percent(30);
        for _ in 0..faults {
            let at_us = random.below(self.calm_us);
            self.faults.push((at_us, Fault::choose(random, self.voters)));
        }
        if self.voters >= 3 && random.percent(15) {
            let at_us = random.below(self.calm_us);
            let split = Fault::choose_split(random, self.voters);
            self.faults.extend(split.map(|fault| (at_us, fault)));
        }
        if joins {
            let mut at_us = random.below(self.calm_us / 2);
            for node in 0..1 + random.below(2) as u16 {
                let node = NodeId(self.voters + 1 + node);
                self.faults.push((at_us, Fault::Join { node }));
                if random.percent(60) {
                    self.writers.push((node, 40_000));
                }
                at_us += 300_000 + random.below(self.calm_us);
            }
            if random.percent(40) && self.voters > 1 {
                let node = NodeId(1 + random.below(u64::from(self.voters)) as u16);
                self.faults.push((at_us.min(self.calm_us), Fault::Remove { node }));
            }
        }
        self.faults.sort_by_key(|(at_us, _)| *at_us);
    }

    /// Nodes that are members of the volume from the start, voters or not.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.voters + 2).map(NodeId)
    }
}

//! What a seed decides before anything runs.

use std::collections::BTreeMap;

use super::deviations::Deviation;
use super::fault::Fault;
use super::membership::Wish;
use crate::consensus::random::Random;
use crate::ids::NodeId;

/// How much happens in how much time. Most of what can go wrong goes wrong within a second, so
/// most runs are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// A second or two.
    Dense,
    /// Some seconds.
    Busy,
    /// Half a minute with long silences, so that lanes are left and taken up again.
    Sparse,
    /// Minutes: nodes stand still for a minute and come back.
    Patient,
}

impl Pace {
    fn choose(random: &mut Random) -> Pace {
        match random.below(100) {
            0..80 => Pace::Dense,
            80..96 => Pace::Busy,
            96..99 => Pace::Sparse,
            _ => Pace::Patient,
        }
    }
}

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
    /// How far applying lags behind the log at most, µs: the log may be durable beyond the tables.
    pub apply_lag_us: u64,
    /// Largest clock error at a start, µs.
    pub clock_error_us: u64,
    /// How many agreements a node can serve to others; older ones need a snapshot.
    pub order_kept: u64,
    /// Who gets a vote gets one or two, so that half of the voters may be a quorum.
    pub weights: bool,
    /// Messages go through their encoding.
    pub codec: bool,
    /// Each agreement is applied once, for all nodes: equal orders upon equal tables give
    /// equal tables. Otherwise each node has tables of its own, and applies for itself.
    pub tables_shared: bool,
    /// Nodes that propose, with the mean time between their batches, µs.
    pub writers: Vec<(NodeId, u64)>,
    /// When faults and new work stop, µs.
    pub calm_us: u64,
    pub faults: Vec<(u64, Fault)>,
    pub deviation: Option<Deviation>,
}

impl Plan {
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x5eed_0fa1_a4e0);
        let pace = Pace::choose(&mut random);
        let voters = [1, 2, 3, 3, 3, 3, 3, 3, 4, 5][random.below(10) as usize];
        let delay_us =
            [(50, 300), (500, 5_000), (2_000, 30_000), (20_000, 120_000)][random.below(4) as usize];
        let calm_us = match pace {
            Pace::Dense => 200_000 + random.below(1_800_000),
            Pace::Busy => 2_000_000 + random.below(5_000_000),
            Pace::Sparse => 12_000_000 + random.below(30_000_000),
            Pace::Patient => 70_000_000 + random.below(60_000_000),
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
            apply_lag_us: APPLY_LAGS_US[(seed % 7) as usize],
            clock_error_us: CLOCK_ERRORS_US[random.below(CLOCK_ERRORS_US.len() as u64) as usize],
            order_kept: [u64::MAX, u64::MAX, 200, 20, 3][random.below(5) as usize],
            weights: random.percent(20),
            codec: random.percent(12),
            tables_shared: !random.percent(15),
            writers: Vec::new(),
            calm_us,
            faults: Vec::new(),
            deviation: None,
        };
        plan.choose_writers(&mut random, pace);
        plan.choose_faults(&mut random, pace);
        plan.choose_memberships(&mut random, pace);
        plan.choose_wishes(&mut Random::new(seed ^ 0x3e3b_e250));
        plan.choose_crash_loop(&mut Random::new(seed ^ 0x0c4a_5100));
        plan.choose_loss(&mut random);
        plan.faults.sort_by_key(|(at_us, _)| *at_us);
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
            apply_lag_us: 0,
            clock_error_us: 2_000,
            order_kept: u64::MAX,
            weights: false,
            codec: false,
            tables_shared: true,
            writers: writers.iter().map(|&node| (node, 1_000_000)).collect(),
            calm_us: 60_000_000,
            faults: Vec::new(),
            deviation: None,
        }
    }

    /// Half a second with a few writers and perhaps one more thing that happens, to be run with
    /// every deviation.
    pub fn short(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x0de7_1a7e);
        let mut plan = Plan::of(seed);
        plan.voters = [2, 3, 3, 3][random.below(4) as usize];
        plan.delay_us = [(50, 300), (500, 5_000), (2_000, 15_000)][random.below(3) as usize];
        plan.jitter_percent = [3, 30][random.below(2) as usize];
        plan.loss_percent = 0;
        plan.duplicate_percent = 0;
        plan.clock_error_us = 1_000;
        plan.calm_us = 300_000 + random.below(400_000);
        plan.writers.clear();
        for node in 1..=plan.voters {
            if node == 1 || random.percent(60) {
                plan.writers.push((NodeId(node), 30_000 + random.below(70_000)));
            }
        }
        let at_us = random.below(plan.calm_us);
        let node = NodeId(1 + random.below(u64::from(plan.voters)) as u16);
        plan.faults = match random.below(6) {
            0 => vec![(at_us, Fault::Crash { node, down_us: 1_000 })],
            1 => vec![(at_us, Fault::Shutdown { node, down_us: 1_000 })],
            2 => vec![(at_us, Fault::Join { node: NodeId(plan.voters + 1) })],
            3 => vec![(at_us, Fault::Remove { node })],
            4 => vec![(at_us / 4, Fault::Isolate { node, for_us: 600_000 })],
            _ => Vec::new(),
        };
        plan
    }

    /// Between one busy node and all of them, each at its own pace.
    fn choose_writers(&mut self, random: &mut Random, pace: Pace) {
        let all = random.percent(60);
        let intervals_us = match pace {
            Pace::Dense => [8_000, 30_000, 100_000, 300_000],
            Pace::Busy => [10_000, 50_000, 200_000, 800_000],
            Pace::Sparse => [200_000, 3_000_000, 8_000_000, 15_000_000],
            Pace::Patient => [1_000_000, 5_000_000, 15_000_000, 40_000_000],
        };
        for node in 1..=self.voters {
            if all || random.percent(40) {
                self.writers.push((NodeId(node), intervals_us[random.below(4) as usize]));
            }
        }
        if self.writers.is_empty() {
            let node = NodeId(1 + random.below(u64::from(self.voters)) as u16);
            self.writers.push((node, intervals_us[0]));
        }
    }

    fn choose_faults(&mut self, random: &mut Random, pace: Pace) {
        // Some runs without any: there nothing may be slow.
        let faults = [0, 1, 2, 3, 5, 8, 14][random.below(7) as usize];
        let span_us = match pace {
            Pace::Dense => 1_000_000,
            Pace::Busy | Pace::Sparse => 3_000_000,
            Pace::Patient => 60_000_000,
        };
        for _ in 0..faults {
            let at_us = random.below(self.calm_us);
            self.faults.push((at_us, Fault::choose(random, self.voters, span_us)));
        }
        if self.voters >= 3 && random.percent(15) {
            let at_us = random.below(self.calm_us);
            let split = Fault::choose_split(random, self.voters);
            self.faults.extend(split.map(|fault| (at_us, fault)));
        }
    }

    /// One node's memory at most, and only while the others can go on without it.
    fn choose_loss(&mut self, random: &mut Random) {
        let changes = self.faults.iter().any(|(_, fault)| {
            matches!(
                fault,
                Fault::Join { .. } | Fault::Remove { .. } | Fault::Promote { .. } | Fault::Want(_)
            )
        });
        if !changes && self.voters >= 3 && random.percent(15) {
            let node = NodeId(1 + random.below(u64::from(self.voters)) as u16);
            let down_us = 1 + random.below(1_000_000);
            self.faults.push((random.below(self.calm_us), Fault::LoseLog { node, down_us }));
        }
    }

    /// In some runs the membership changes again and again, while everything else goes wrong:
    /// votes move, weights change, nodes leave for good, some while they cannot hear of it and
    /// go on sending.
    fn choose_wishes(&mut self, random: &mut Random) {
        if !random.percent(25) {
            return;
        }
        let nodes = self.voters + 2;
        let any = |random: &mut Random| NodeId(1 + random.below(u64::from(nodes)) as u16);
        for _ in 0..1 + random.below(5) {
            let at_us = random.below(self.calm_us);
            let node = any(random);
            let wish = match random.below(6) {
                0 | 1 => Wish::Vote { node, weight: 1 + random.below(3) as u32 },
                2 => Wish::NoVote { node },
                3 => Wish::Replace { out: node, into: any(random) },
                _ => Wish::Leave { node },
            };
            if matches!(wish, Wish::Leave { .. } | Wish::Replace { .. }) && random.percent(50) {
                let for_us = 500_000 + random.below(3_000_000);
                let deaf = match random.percent(50) {
                    true => Fault::Isolate { node, for_us },
                    false => Fault::Pause { node, for_us },
                };
                self.faults.push((at_us, deaf));
            }
            self.faults.push((at_us, Fault::Want(wish)));
        }
    }

    /// In some runs nodes die again and again, perhaps faster than their tables are written:
    /// then the log is ever further ahead of them.
    fn choose_crash_loop(&mut self, random: &mut Random) {
        if !random.percent(10) {
            return;
        }
        if random.percent(50) {
            self.apply_lag_us = 2_000_000;
        }
        let node = NodeId(1 + random.below(u64::from(self.voters)) as u16);
        let all = random.percent(30);
        let mut at_us = random.below(self.calm_us);
        for _ in 0..4 + random.below(12) {
            let down_us = 1 + random.below(3_000);
            self.faults.push(match all {
                true => (at_us, Fault::Blackout { down_us }),
                false => (at_us, Fault::Crash { node, down_us }),
            });
            at_us += [20_000, 200_000, 800_000][random.below(3) as usize];
        }
    }

    fn choose_memberships(&mut self, random: &mut Random, pace: Pace) {
        if !random.percent(35) {
            return;
        }
        let mut at_us = random.below(self.calm_us / 2);
        for node in 0..random.below(3) as u16 {
            let node = NodeId(self.voters + 1 + node);
            self.faults.push((at_us, Fault::Join { node }));
            if random.percent(60) {
                self.writers.push((node, 40_000));
            }
            at_us += random.below(self.calm_us / 2);
        }
        if random.percent(60) && self.voters > 1 {
            let node = NodeId(1 + random.below(u64::from(self.voters)) as u16);
            self.faults.push((at_us, Fault::Remove { node }));
            if random.percent(40) {
                self.stand_still_while_removed(random, node, at_us, pace);
            }
            if random.percent(50) {
                at_us += random.below(self.calm_us / 2);
                self.faults.push((at_us, Fault::Promote { node }));
            }
        }
    }

    /// `node` stands still or is cut off, loses its vote meanwhile, and goes on: it must not
    /// get one more thing agreed as a voter.
    fn stand_still_while_removed(
        &mut self,
        random: &mut Random,
        node: NodeId,
        removed_us: u64,
        pace: Pace,
    ) {
        let for_us = if pace == Pace::Patient { 60_000_000 } else { 1_500_000 };
        let at_us = removed_us.saturating_sub(random.below(500_000));
        let fault = match random.percent(50) {
            true => Fault::Pause { node, for_us },
            false => Fault::Isolate { node, for_us },
        };
        self.faults.push((at_us, fault));
    }

    /// Nodes that are members of the volume from the start, voters or not.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.voters + 2).map(NodeId)
    }
}

/// Mostly at once; sometimes behind by more than an epoch takes to begin.
const APPLY_LAGS_US: [u64; 7] = [0, 0, 0, 0, 5_000, 200_000, 2_000_000];

/// From clocks that are set well to one that nobody ever set.
const CLOCK_ERRORS_US: [u64; 6] = [0, 1_000, 20_000, 1_000_000, 30_000_000, 7_200_000_000];

//! Links between nodes: when a message arrives, if it does.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Plan;
use crate::consensus::random::Random;
use crate::ids::NodeId;

pub(super) struct Network {
    delay_us: (u64, u64),
    jitter_percent: u64,
    loss_percent: u64,
    duplicate_percent: u64,
    fifo: bool,
    base_us: BTreeMap<(NodeId, NodeId), u64>,
    /// Directed links on which everything is lost, with how many faults ask for it.
    cut: BTreeMap<(NodeId, NodeId), u32>,
    isolated: BTreeSet<NodeId>,
    last_us: BTreeMap<(NodeId, NodeId), u64>,
}

impl Network {
    pub fn new(plan: &Plan) -> Network {
        Network {
            delay_us: plan.delay_us,
            jitter_percent: plan.jitter_percent,
            loss_percent: plan.loss_percent,
            duplicate_percent: plan.duplicate_percent,
            fifo: plan.fifo,
            base_us: plan.base_us.clone(),
            cut: BTreeMap::new(),
            isolated: BTreeSet::new(),
            last_us: BTreeMap::new(),
        }
    }

    /// When a message sent now arrives, if it does, and when it arrives again, if it does.
    pub fn arrivals(
        &mut self,
        random: &mut Random,
        now_us: u64,
        from: NodeId,
        to: NodeId,
    ) -> (Option<u64>, Option<u64>) {
        let cut = self.cut.contains_key(&(from, to));
        if cut || self.isolated.contains(&from) || self.isolated.contains(&to) {
            return (None, None);
        }
        if random.percent(self.loss_percent) {
            return (None, None);
        }
        let twice = random.percent(self.duplicate_percent);
        let first = self.arrival(random, now_us, from, to);
        (Some(first), twice.then(|| self.arrival(random, now_us, from, to)))
    }

    fn arrival(&mut self, random: &mut Random, now_us: u64, from: NodeId, to: NodeId) -> u64 {
        let (low, high) = self.delay_us;
        let pair = (from.min(to), from.max(to));
        let base_us = *self.base_us.entry(pair).or_insert_with(|| low + random.below(high - low));
        let spread_us = base_us * self.jitter_percent / 100;
        let at_us = now_us + base_us + random.below(spread_us + 1);
        let last_us = self.last_us.entry((from, to)).or_default();
        let at_us = if self.fifo { at_us.max(*last_us) } else { at_us };
        *last_us = at_us;
        at_us
    }

    pub fn isolate(&mut self, node: NodeId, isolated: bool) {
        if isolated {
            self.isolated.insert(node);
        } else {
            self.isolated.remove(&node);
        }
    }

    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        if let Some(faults) = self.cut.get_mut(&(from, to)) {
            *faults -= 1;
            if *faults == 0 {
                self.cut.remove(&(from, to));
            }
        }
    }

    /// Ends every fault. Messages are still late.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.isolated.clear();
        self.loss_percent = self.loss_percent.min(1);
    }
}

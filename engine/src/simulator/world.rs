//! The loop: one event after the other, and what nodes do about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::checker::{Checked, Checker};
use super::deviations::Deviation;
use super::disk::Disk;
use super::fault::{Fault, Trigger};
use super::membership::Wish;
use super::network::Network;
use super::node::{Node, Waiting};
use super::plan::Plan;
use super::queue::Queue;
use super::{Options, Totals, workload};
#[cfg(test)]
use crate::consensus::mutation::Mutation;
use crate::consensus::random::Random;
use crate::consensus::{Config, Header, Input, Message};
use crate::ids::{Gsn, LaneId, NodeId, OpId};
use crate::namespace::MemoryTables;

pub(super) struct World {
    pub(super) plan: Plan,
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests break rules"))]
    pub(super) options: Options,
    pub(super) random: Random,
    pub(super) now_us: u64,
    pub(super) lives: u64,
    pub(super) events: Queue<Event>,
    pub(super) network: Network,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) checker: Checker,
    /// The tables after the newest agreement, if all nodes share them (`Plan::tables_shared`).
    pub(super) tables: Option<MemoryTables>,
    pub(super) totals: Totals,
    pub(super) log: Option<Vec<String>>,
    /// Memberships that are wanted and not yet in force.
    pub(super) wanted: Vec<Wish>,
    /// Nodes that crash with their next message of a kind.
    pub(super) armed: BTreeMap<NodeId, Trigger>,
    /// Of each node's commands, when they were proposed and how long they took, µs.
    pub(super) waits_us: BTreeMap<NodeId, Vec<(u64, u64)>>,
    /// Messages sent so far.
    pub(super) messages: u64,
    pub(super) calm: bool,
}

#[derive(Debug)]
pub(super) enum Event {
    Deliver {
        to: NodeId,
        from: NodeId,
        message: Message,
    },
    /// A message to oneself, which dies with the process.
    Loop {
        to: NodeId,
        life: u64,
        message: Message,
    },
    Timer {
        node: NodeId,
        life: u64,
    },
    Synced {
        node: NodeId,
        life: u64,
    },
    /// The tables are written as far as agreements are executed.
    Applied {
        node: NodeId,
        life: u64,
    },
    Work {
        node: NodeId,
        interval_us: u64,
    },
    Fault(Fault),
    Undo(Fault),
    Start {
        node: NodeId,
    },
    Snapshot {
        to: NodeId,
        from: NodeId,
    },
    Reconfigure,
    /// The node lost its log and may have to wait for another epoch.
    Renew {
        node: NodeId,
    },
    Calm,
}

impl World {
    pub fn new(plan: Plan, options: Options, log: bool) -> World {
        // What is wrong with a snapshot shows only in tables of the node's own.
        #[cfg(test)]
        let plan = match options.mutation {
            Some(Mutation::SnapshotWithoutOrigins) => Plan { tables_shared: false, ..plan },
            _ => plan,
        };
        let random = Random::new(plan.seed);
        let network = Network::new(&plan);
        let mut world = World {
            random,
            now_us: 0,
            lives: 0,
            events: Queue::default(),
            network,
            nodes: BTreeMap::new(),
            checker: Checker::default(),
            tables: None,
            totals: Totals::default(),
            log: log.then(Vec::new),
            wanted: Vec::new(),
            armed: BTreeMap::new(),
            waits_us: BTreeMap::new(),
            messages: 0,
            calm: false,
            plan,
            options,
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        let mut header = Header::genesis(NodeId(1));
        header.config = Config {
            voters: (1..=self.plan.voters).map(|node| (NodeId(node), 1)).collect(),
            ..header.config
        };
        let header = Arc::new(header);
        let mut tables = workload::tables(self.plan.members());
        if self.plan.tables_shared {
            self.tables = Some(std::mem::take(&mut tables));
        }
        for node in 1..=self.plan.voters {
            let clock_us = self.clock_error();
            let disk = Disk::new(header.clone(), tables.clone(), self.plan.order_kept);
            self.add_node(NodeId(node), Node::new(disk, clock_us));
            let start_us = self.random.below(50_000);
            self.at(start_us, Event::Start { node: NodeId(node) });
        }
        for (node, interval_us) in self.plan.writers.clone() {
            let at_us = self.random.below(2 * interval_us);
            self.at(at_us, Event::Work { node, interval_us });
        }
        for (at_us, fault) in self.plan.faults.clone() {
            self.at(at_us, Event::Fault(fault));
        }
        self.at(self.plan.calm_us, Event::Calm);
        self.note(|world| format!("{:?}", world.plan));
    }

    pub(super) fn add_node(&mut self, id: NodeId, mut node: Node) {
        if let Some(Deviation::Crash { node: victim, point, down_us, .. }) = self.plan.deviation
            && victim == id
        {
            node.crash_at = Some((point, down_us));
        }
        self.nodes.insert(id, node);
    }

    pub(super) fn clock_error(&mut self) -> i64 {
        let span_us = self.plan.clock_error_us;
        self.random.below(2 * span_us + 1).cast_signed() - span_us.cast_signed()
    }

    pub fn totals(&self) -> Totals {
        Totals {
            agreements: self.checker.agreements(),
            commands: self.checker.commands(),
            takeovers: self.checker.takeovers(),
            epochs: u64::from(self.checker.epoch().0) - 1,
            removals: self.checker.removed().len() as u64,
            simulated_us: self.now_us,
            ..self.totals
        }
    }

    pub fn take_log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    pub(super) fn note(&mut self, line: impl FnOnce(&World) -> String) {
        if self.log.is_none() {
            return;
        }
        let line = format!("{:>12.6} {}", self.now_us as f64 / 1e6, line(self));
        self.log.get_or_insert_default().push(line);
    }

    pub(super) fn at(&mut self, at_us: u64, event: Event) {
        self.events.push(at_us.max(self.now_us), event);
    }

    pub(super) fn after(&mut self, wait_us: u64, event: Event) {
        self.at(self.now_us + wait_us, event);
    }

    /// Runs until the calm ring has completed everything, or something is violated.
    pub fn run(&mut self) -> Checked {
        while let Some((at_us, event)) = self.events.pop() {
            self.now_us = at_us;
            self.totals.events += 1;
            self.handle(event)?;
            if self.calm && self.is_complete() {
                return self.checker.on_calm(self.slowest());
            }
            if self.now_us > self.plan.calm_us + CALM_US {
                return Err(self.unfinished());
            }
        }
        unreachable!("timers go on for ever")
    }

    /// The node that an event has to wait for, if it is paused.
    fn paused(&self, event: &Event) -> Option<u64> {
        let node = match event {
            Event::Deliver { to, .. } | Event::Loop { to, .. } => to,
            Event::Timer { node, .. }
            | Event::Work { node, .. }
            | Event::Synced { node, .. }
            | Event::Applied { node, .. } => node,
            _ => return None,
        };
        let until_us = self.nodes.get(node)?.paused_until_us;
        (until_us > self.now_us).then_some(until_us)
    }

    fn handle(&mut self, event: Event) -> Checked {
        if let Some(until_us) = self.paused(&event) {
            self.at(until_us, event);
            return Ok(());
        }
        match event {
            Event::Deliver { to, from, message } => {
                self.note(|_| format!("{from:?} -> {to:?} {message:?}"));
                self.step(to, Input::Message { from, message })
            }
            Event::Loop { to, life, message } if self.lives(to, life) => {
                self.note(|_| format!("{to:?} flushed {message:?}"));
                self.step(to, Input::Message { from: to, message })
            }
            Event::Timer { node, life } if self.lives(node, life) => self.on_timer(node),
            Event::Synced { node, life } if self.lives(node, life) => self.on_synced(node),
            Event::Applied { node, life } if self.lives(node, life) => {
                self.on_applied(node);
                Ok(())
            }
            Event::Loop { .. }
            | Event::Timer { .. }
            | Event::Synced { .. }
            | Event::Applied { .. } => Ok(()),
            Event::Work { node, interval_us } => self.work(node, interval_us),
            Event::Fault(fault) => self.fault(fault),
            Event::Undo(fault) => self.undo(fault),
            Event::Start { node } => self.start(node),
            Event::Snapshot { to, from } => self.snapshot(to, from),
            Event::Reconfigure => self.reconfigure(),
            Event::Renew { node } => self.renew(node),
            Event::Calm => self.heal(),
        }
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        let process = self.nodes.get(&node).and_then(|node| node.process.as_ref());
        process.is_some_and(|process| process.life == life)
    }

    pub(super) fn start(&mut self, id: NodeId) -> Checked {
        let node = self.nodes.get_mut(&id).expect("only known nodes start");
        if node.process.is_some() || node.disk_fails > 0 {
            return Ok(());
        }
        self.lives += 1;
        let process = node.start(id, self.lives);
        let boot = process.boot;
        #[cfg(test)]
        if let Some(mutation) = self.options.mutation {
            process.replica.mutate(mutation);
        }
        self.note(|_| format!("{id:?} starts, boot {boot}"));
        self.step(id, Input::Start)
    }

    fn on_timer(&mut self, id: NodeId) -> Checked {
        let node = self.nodes.get_mut(&id).expect("a live node is known");
        let process = node.process.as_mut().expect("a live node has a process");
        if process.timer_us != Some(self.now_us) {
            return Ok(()); // Another timer has replaced it.
        }
        process.timer_us = None;
        self.step(id, Input::Timer)
    }

    fn work(&mut self, id: NodeId, interval_us: u64) -> Checked {
        if self.calm {
            return Ok(());
        }
        let wait_us = 1 + self.random.below(2 * interval_us);
        self.after(wait_us, Event::Work { node: id, interval_us });
        let commands = match self.plan.base_us.is_empty() {
            true => 1 + self.random.below(3),
            false => 1,
        };
        self.propose(id, commands)
    }

    pub(super) fn propose(&mut self, id: NodeId, count: u64) -> Checked {
        let floor = self.checker.newest_acknowledged();
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(process) = node.process.as_mut() else { return Ok(()) };
        if process.waiting.len() > WAITING_MAX {
            return Ok(());
        }
        let mut commands = Vec::new();
        for _ in 0..count {
            let op = OpId { origin: id, boot: process.boot, seq: process.next_seq };
            let waiting = Waiting { floor, since_us: self.now_us };
            process.waiting.insert(process.next_seq, waiting);
            process.next_seq += 1;
            commands.push(workload::command(&mut self.random, op, &mut node.ino_counter));
        }
        self.note(|_| format!("{id:?} proposes {commands:?}"));
        self.step(id, Input::Propose(commands))
    }

    /// Faults and work end; every node runs; one more command each shows that all lanes work.
    fn heal(&mut self) -> Checked {
        self.calm = true;
        self.network.heal();
        // Tables that stay behind serve what others lack when newer agreements are there.
        self.plan.apply_lag_us = self.plan.apply_lag_us.min(CALM_APPLY_LAG_US);
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for &node in &nodes {
            let state = self.nodes.get_mut(&node).expect("it is listed");
            state.slow = 1;
            state.disk_fails = 0;
            // Whoever still stops or crashes is back soon.
            state.down_us = 1;
            state.crash_at = state.crash_at.map(|(point, down_us)| (point, down_us.min(1_000_000)));
            state.paused_until_us = 0;
            state.apply_waiting();
            self.start(node)?;
        }
        self.note(|_| "calm".to_string());
        self.greet()?;
        nodes.into_iter().try_for_each(|node| self.propose(node, 1))
    }

    /// Every member has executed everything, and nothing of it waits for an answer.
    fn is_complete(&self) -> bool {
        let newest = Gsn(self.checker.agreements());
        let removed = self.checker.removed();
        self.nodes.iter().filter(|(id, _)| !removed.contains(id)).all(|(_, node)| {
            node.process.as_ref().is_some_and(|process| {
                process.waiting.is_empty() && process.replica.header().gsn == newest
            })
        })
    }

    fn slowest(&self) -> Gsn {
        let members = self.nodes.iter().filter(|(id, _)| !self.is_removed(**id));
        let processes = members.filter_map(|(_, node)| node.process.as_ref());
        processes.map(|process| process.replica.header().gsn).min().unwrap_or_default()
    }

    fn unfinished(&self) -> String {
        let mut text = format!("I12: not complete {} s after the faults", CALM_US / 1_000_000);
        for (id, node) in &self.nodes {
            if self.is_removed(*id) {
                text += &format!("; {id:?} was removed");
                continue;
            }
            match &node.process {
                None => text += &format!("; {id:?} is down"),
                Some(process) => {
                    let header = process.replica.header();
                    let active: Vec<LaneId> = header.active.keys().copied().collect();
                    text += &format!(
                        "; {id:?} at {:?} of {}, waits for {}, active {active:?}",
                        header.gsn,
                        self.checker.agreements(),
                        process.waiting.len()
                    );
                }
            }
        }
        text
    }
}

/// Far more than anything needs: a restart, an `End` in the future, a few lost messages, and
/// memberships that each wait until slow tables have the one before.
const CALM_US: u64 = 20_000_000;

/// Much less than the time between two ticks.
const CALM_APPLY_LAG_US: u64 = 20_000;

/// Commands of one node without an answer, so that a cut-off node does not pile them up.
const WAITING_MAX: usize = 100;

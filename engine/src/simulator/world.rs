//! The loop: one event after the other, and what nodes do about it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::checker::{Checked, Checker};
use super::disk::{Disk, Write};
use super::fault::Fault;
use super::network::Network;
use super::node::{Node, Waiting};
use super::plan::Plan;
use super::{Options, Totals, workload};
use crate::consensus::random::Random;
use crate::consensus::{Config, Effect, EntryKind, Header, Input, Message, OrderRecord};
use crate::ids::{Gsn, LaneId, NodeId, OpId};
use crate::namespace::{Overlay, View, apply};

pub(super) struct World {
    plan: Plan,
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests break rules"))]
    options: Options,
    random: Random,
    now_us: u64,
    lives: u64,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    network: Network,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    checker: Checker,
    totals: Totals,
    log: Option<Vec<String>>,
    /// Memberships that are wanted and not yet in force.
    wanted: Vec<(NodeId, bool)>,
    /// Nodes that crash with their next promise.
    armed: BTreeSet<NodeId>,
    /// Of each node's commands, when they were proposed and how long they took, µs.
    pub(super) waits_us: BTreeMap<NodeId, Vec<(u64, u64)>>,
    calm: bool,
}

#[derive(Debug)]
enum Event {
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
    Calm,
}

impl World {
    pub fn new(plan: Plan, options: Options, log: bool) -> World {
        let random = Random::new(plan.seed);
        let network = Network::new(&plan);
        let mut world = World {
            random,
            now_us: 0,
            lives: 0,
            events: BTreeMap::new(),
            scheduled: 0,
            network,
            nodes: BTreeMap::new(),
            checker: Checker::default(),
            totals: Totals::default(),
            log: log.then(Vec::new),
            wanted: Vec::new(),
            armed: BTreeSet::new(),
            waits_us: BTreeMap::new(),
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
        let tables = workload::tables(self.plan.members());
        for node in 1..=self.plan.voters {
            let clock_us = self.clock_error();
            let disk = Disk::new(header.clone(), tables.clone(), self.plan.order_kept);
            self.nodes.insert(NodeId(node), Node::new(disk, clock_us));
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

    fn clock_error(&mut self) -> i64 {
        let span_us = self.plan.clock_error_us;
        self.random.below(2 * span_us + 1).cast_signed() - span_us.cast_signed()
    }

    pub fn totals(&self) -> Totals {
        Totals {
            agreements: self.checker.agreements(),
            commands: self.checker.commands(),
            takeovers: self.checker.takeovers(),
            epochs: u64::from(self.checker.epoch().0) - 1,
            simulated_us: self.now_us,
            ..self.totals
        }
    }

    pub fn take_log(&mut self) -> Vec<String> {
        self.log.take().unwrap_or_default()
    }

    fn note(&mut self, line: impl FnOnce(&World) -> String) {
        if self.log.is_some() {
            let line = format!("{:>12.6} {}", self.now_us as f64 / 1e6, line(self));
            self.log.as_mut().expect("just looked").push(line);
        }
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.scheduled += 1;
        self.events.insert((at_us.max(self.now_us), self.scheduled), event);
    }

    fn after(&mut self, wait_us: u64, event: Event) {
        self.at(self.now_us + wait_us, event);
    }

    /// Runs until the calm ring has completed everything, or something is violated.
    pub fn run(&mut self) -> Checked {
        while let Some(((at_us, _), event)) = self.events.pop_first() {
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
            Event::Timer { node, .. } | Event::Work { node, .. } | Event::Synced { node, .. } => {
                node
            }
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
            Event::Loop { .. } | Event::Timer { .. } | Event::Synced { .. } => Ok(()),
            Event::Work { node, interval_us } => self.work(node, interval_us),
            Event::Fault(fault) => self.fault(fault),
            Event::Undo(fault) => self.undo(fault),
            Event::Start { node } => self.start(node),
            Event::Snapshot { to, from } => self.snapshot(to, from),
            Event::Reconfigure => self.reconfigure(),
            Event::Calm => self.heal(),
        }
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        let process = self.nodes.get(&node).and_then(|node| node.process.as_ref());
        process.is_some_and(|process| process.life == life)
    }

    fn start(&mut self, id: NodeId) -> Checked {
        let node = self.nodes.get_mut(&id).expect("only known nodes start");
        if node.process.is_some() {
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

    /// Gives a running node one input, and does what follows from it.
    fn step(&mut self, id: NodeId, input: Input) -> Checked {
        let mut inputs = VecDeque::from([input]);
        let mut effects = Vec::new();
        let mut stops = false;
        while let Some(input) = inputs.pop_front() {
            let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
            let local_us = node.local_us(self.now_us);
            let Some(process) = node.process.as_mut() else { return Ok(()) };
            process.replica.step(local_us, input, &mut effects);
            for effect in effects.drain(..) {
                stops |= effect == Effect::ShutdownDone;
                self.carry_out(id, effect, &mut inputs)?;
            }
        }
        if stops {
            self.stopped(id);
            return Ok(());
        }
        self.flush(id);
        self.set_timer(id);
        Ok(())
    }

    fn set_timer(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(process) = node.process.as_ref() else { return };
        let Some(local_us) = process.replica.next_timer() else { return };
        let at_us = node.true_us(self.now_us, local_us).max(self.now_us + 1);
        let process = node.process.as_mut().expect("just looked");
        if process.timer_us.is_none_or(|timer_us| timer_us != at_us) {
            process.timer_us = Some(at_us);
            let life = process.life;
            self.at(at_us, Event::Timer { node: id, life });
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect, inputs: &mut VecDeque<Input>) -> Checked {
        let node = self.nodes.get_mut(&id).expect("it has just stepped");
        match effect {
            Effect::Persist(record) => {
                node.disk.write(Write::Log(record));
                Ok(())
            }
            Effect::Send { to, message } => self.send(id, to, message),
            Effect::SendDurable { to, message } => {
                let position = node.disk.written();
                let process = node.process.as_mut().expect("it has just stepped");
                process.outbox.push_back((position, to, message));
                Ok(())
            }
            Effect::Agreed { record, header } => self.agreed(id, record, header, inputs),
            Effect::ServeOrder { to, from } => {
                let (records, oldest) = node.disk.order(from, ORDER_RECORDS);
                let process = node.process.as_ref().expect("it has just stepped");
                let gsn = process.replica.header().gsn;
                self.send(id, to, Message::Order { records, oldest, gsn })
            }
            Effect::NeedSnapshot { peer, .. } => {
                self.after(50_000, Event::Snapshot { to: id, from: peer });
                Ok(())
            }
            Effect::Diverged { peer, gsn } => {
                Err(format!("{id:?} finds that {peer:?} differs at {gsn:?}"))
            }
            Effect::ShutdownDone => Ok(()), // When the step is over.
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) -> Checked {
        let boot = self.nodes[&from].process.as_ref().expect("only processes send").boot;
        self.checker.on_send(from, boot, &message)?;
        if matches!(message, Message::Promise { .. }) && self.armed.remove(&from) {
            let down_us = 1 + self.random.below(3_000);
            self.after(1, Event::Fault(Fault::Crash { node: from, down_us }));
        }
        let message = if self.plan.codec { through_bytes(message)? } else { message };
        let arrivals = self.network.arrivals(&mut self.random, self.now_us, from, to);
        for at_us in arrivals {
            self.at(at_us, Event::Deliver { to, from, message: message.clone() });
        }
        Ok(())
    }

    /// Applies an agreement, and acknowledges what this node itself had proposed.
    fn agreed(
        &mut self,
        id: NodeId,
        record: OrderRecord,
        header: Arc<Header>,
        inputs: &mut VecDeque<Input>,
    ) -> Checked {
        let node = self.nodes.get_mut(&id).expect("it has just stepped");
        let process = node.process.as_mut().expect("it has just stepped");
        let mut overlay = Overlay::new(&process.tables);
        let mut fresh = Vec::new();
        let mut answered = Vec::new();
        if let EntryKind::Commands { commands, .. } = &record.entry.kind {
            for command in commands {
                let applied =
                    apply(&mut overlay, record.gsn, command).map_err(|e| e.to_string())?;
                fresh.push(applied.fresh);
                let OpId { origin, boot, seq } = command.id;
                if applied.fresh && origin == id && boot == process.boot {
                    let waiting = process.waiting.remove(&seq);
                    let waiting = waiting.ok_or("an unknown command was applied")?;
                    answered.push((command.id, waiting.floor));
                    let wait_us = self.now_us - waiting.since_us;
                    self.waits_us.entry(id).or_default().push((waiting.since_us, wait_us));
                }
            }
        }
        let changes = overlay.into_changes();
        process.tables.absorb(changes.clone());
        let state = View::new(&process.tables).state_hash().map_err(|e| e.to_string())?;
        if record.gsn.0.is_multiple_of(8) {
            inputs.push_back(Input::StateHash { gsn: record.gsn, hash: state });
        }
        self.checker.on_agreed(id, &record, &header, state, &fresh)?;
        for (op, floor) in answered {
            self.checker.on_acknowledged(op, floor)?;
        }
        self.note(|_| format!("{id:?} agreed {record:?}"));
        let node = self.nodes.get_mut(&id).expect("still there");
        node.disk.write(Write::Apply { record, header, changes });
        Ok(())
    }

    /// Starts a flush if something waits for one.
    fn flush(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(process) = node.process.as_mut() else { return };
        if process.syncing.is_some() || node.disk.unsynced() == 0 && process.outbox.is_empty() {
            return;
        }
        process.syncing = Some(node.disk.written());
        let life = process.life;
        let (low_us, high_us) = self.plan.flush_us;
        let wait_us = match node.disk.unsynced() {
            0 => 0,
            _ => (low_us + self.random.below(high_us - low_us)) * node.slow,
        };
        self.after(wait_us, Event::Synced { node: id, life });
    }

    fn on_synced(&mut self, id: NodeId) -> Checked {
        let node = self.nodes.get_mut(&id).expect("a live node is known");
        let process = node.process.as_mut().expect("a live node has a process");
        let position = process.syncing.take().expect("a flush was under way");
        node.disk.sync(position);
        let durable = node.disk.durable.header.gsn;
        let mut released = Vec::new();
        while process.outbox.front().is_some_and(|(waits_for, ..)| *waits_for <= position) {
            released.extend(process.outbox.pop_front());
        }
        let life = process.life;
        for (_, to, message) in released {
            if to == id {
                self.after(0, Event::Loop { to, life, message });
            } else {
                self.send(id, to, message)?;
            }
        }
        self.step(id, Input::AppliedDurable(durable))
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

    fn propose(&mut self, id: NodeId, count: u64) -> Checked {
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

    fn fault(&mut self, fault: Fault) -> Checked {
        if self.calm {
            return Ok(());
        }
        self.note(|_| format!("fault: {fault:?}"));
        match fault {
            Fault::Crash { node, down_us } => {
                self.crash(node);
                self.after(down_us, Event::Start { node });
                Ok(())
            }
            Fault::Blackout { down_us } => {
                let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
                for node in nodes {
                    self.crash(node);
                    let start_us = down_us + self.random.below(200_000);
                    self.after(start_us, Event::Start { node });
                }
                Ok(())
            }
            Fault::Shutdown { node, down_us } => {
                self.after(down_us + SHUTDOWN_US, Event::Start { node });
                self.step(node, Input::Shutdown)
            }
            Fault::Isolate { node, for_us } => {
                self.network.isolate(node, true);
                self.after(for_us, Event::Undo(fault));
                Ok(())
            }
            Fault::OneWay { from, to, for_us } => {
                self.network.cut(from, to);
                self.after(for_us, Event::Undo(fault));
                Ok(())
            }
            Fault::Sever { one, other, for_us } => {
                self.network.cut(one, other);
                self.network.cut(other, one);
                self.after(for_us, Event::Undo(fault));
                Ok(())
            }
            Fault::CrashAfterPromise { node } => {
                self.armed.insert(node);
                Ok(())
            }
            Fault::Pause { node, for_us } => {
                let until_us = self.now_us + for_us;
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.paused_until_us = node.paused_until_us.max(until_us);
                }
                Ok(())
            }
            Fault::SlowDisk { node, factor, for_us } => {
                self.after(for_us, Event::Undo(fault));
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.slow = factor;
                }
                Ok(())
            }
            Fault::ClockStep { node, by_us } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.clock_us += by_us;
                }
                self.set_timer(node);
                Ok(())
            }
            Fault::Join { node } => self.join(node),
            Fault::Remove { node } => {
                self.want(node, false);
                Ok(())
            }
        }
    }

    fn undo(&mut self, fault: Fault) -> Checked {
        match fault {
            Fault::Isolate { node, .. } => self.network.isolate(node, false),
            Fault::OneWay { from, to, .. } => self.network.mend(from, to),
            Fault::Sever { one, other, .. } => {
                self.network.mend(one, other);
                self.network.mend(other, one);
            }
            Fault::SlowDisk { node, .. } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.slow = 1;
                }
            }
            _ => {}
        }
        self.note(|_| format!("over: {fault:?}"));
        self.greet()
    }

    /// Connections come back: every node is told about every other.
    fn greet(&mut self) -> Checked {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for &node in &nodes {
            for &peer in nodes.iter().filter(|&&peer| peer != node) {
                self.step(node, Input::PeerUp(peer))?;
            }
        }
        Ok(())
    }

    fn crash(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.process.take().is_none() {
            return;
        }
        let survivors = self.random.below(node.disk.unsynced() + 1);
        node.disk.crash(survivors);
        node.paused_until_us = 0;
        self.totals.crashes += 1;
        self.note(|_| format!("{id:?} crashes, {survivors} unflushed writes survive"));
    }

    /// A graceful end flushes everything.
    fn stopped(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("it has just stepped");
        node.disk.sync(node.disk.written());
        node.process = None;
        self.note(|_| format!("{id:?} has shut down"));
    }

    /// A new node begins with a copy of somebody's durable tables.
    fn join(&mut self, id: NodeId) -> Checked {
        let giver = self.nodes.values().find(|node| node.process.is_some());
        let Some(giver) = giver else {
            self.after(200_000, Event::Fault(Fault::Join { node: id }));
            return Ok(());
        };
        if self.nodes.contains_key(&id) {
            return Ok(());
        }
        let durable = &giver.disk.durable;
        let disk = Disk::new(durable.header.clone(), durable.tables.clone(), self.plan.order_kept);
        let clock_us = self.clock_error();
        self.nodes.insert(id, Node::new(disk, clock_us));
        self.want(id, true);
        self.start(id)
    }

    fn want(&mut self, node: NodeId, vote: bool) {
        self.wanted.push((node, vote));
        self.after(100_000, Event::Reconfigure);
    }

    /// Asks for the first wanted membership until it is in force, then for the next.
    fn reconfigure(&mut self) -> Checked {
        let Some(&(node, vote)) = self.wanted.first() else { return Ok(()) };
        self.after(300_000, Event::Reconfigure);
        let newest = self
            .nodes
            .iter()
            .filter_map(|(&id, node)| Some((node.process.as_ref()?.replica.header(), id)))
            .filter(|(header, id)| header.config.is_voter(*id))
            .max_by_key(|(header, _)| header.gsn);
        let Some((header, at)) = newest else { return Ok(()) };
        let mut voters = header.config.voters.clone();
        let changed = match vote {
            true => voters.insert(node, 1).is_none(),
            false => voters.remove(&node).is_some() && !voters.is_empty(),
        };
        if !changed {
            self.wanted.remove(0);
            return Ok(());
        }
        // Policy: a new voter must not hold the ring up while it catches up.
        let gsn = header.gsn;
        let process = self.nodes.get(&node).and_then(|node| node.process.as_ref());
        let caught_up = process.is_some_and(|p| p.replica.header().gsn.0 + 1000 >= gsn.0);
        if vote && !caught_up {
            return Ok(());
        }
        self.note(|_| format!("{at:?} asks for voters {voters:?}"));
        self.step(at, Input::Reconfigure { voters })
    }

    fn snapshot(&mut self, to: NodeId, from: NodeId) -> Checked {
        let Some(giver) = self.nodes.get(&from).filter(|node| node.process.is_some()) else {
            return Ok(());
        };
        let (header, tables) =
            (giver.disk.durable.header.clone(), giver.disk.durable.tables.clone());
        let node = self.nodes.get_mut(&to).expect("it asked");
        let Some(process) = node.process.as_mut() else { return Ok(()) };
        if header.gsn <= process.replica.header().gsn {
            return Ok(());
        }
        self.totals.snapshots += 1;
        node.disk.install(header.clone(), tables.clone());
        process.tables = tables;
        let origin = View::new(&process.tables).origin(to).map_err(|e| e.to_string())?;
        let finished_seq =
            origin.filter(|origin| origin.boot == process.boot).map_or(0, |o| o.last_seq);
        let later = process.waiting.split_off(&(finished_seq + 1));
        let boot = process.boot;
        for (seq, waiting) in std::mem::replace(&mut process.waiting, later) {
            self.checker.on_acknowledged(OpId { origin: to, boot, seq }, waiting.floor)?;
        }
        self.note(|_| format!("{to:?} installs a snapshot of {from:?} at {:?}", header.gsn));
        self.step(to, Input::Installed { header, finished_seq })
    }

    /// Faults and work end; every node runs; one more command each shows that all lanes work.
    fn heal(&mut self) -> Checked {
        self.calm = true;
        self.network.heal();
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for &node in &nodes {
            let state = self.nodes.get_mut(&node).expect("it is listed");
            state.slow = 1;
            state.paused_until_us = 0;
            self.start(node)?;
        }
        self.note(|_| "calm".to_string());
        self.greet()?;
        nodes.into_iter().try_for_each(|node| self.propose(node, 1))
    }

    /// Every node has executed everything, and nothing waits for an answer.
    fn is_complete(&self) -> bool {
        let newest = Gsn(self.checker.agreements());
        self.nodes.values().all(|node| {
            node.process.as_ref().is_some_and(|process| {
                process.waiting.is_empty() && process.replica.header().gsn == newest
            })
        })
    }

    fn slowest(&self) -> Gsn {
        let processes = self.nodes.values().filter_map(|node| node.process.as_ref());
        processes.map(|process| process.replica.header().gsn).min().unwrap_or_default()
    }

    fn unfinished(&self) -> String {
        let mut text = format!("I12: not complete {} s after the faults", CALM_US / 1_000_000);
        for (id, node) in &self.nodes {
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

fn through_bytes(message: Message) -> Result<Message, String> {
    let read = Message::decode(&message.encode()).map_err(|error| error.to_string())?;
    if read != message {
        return Err(format!("{message:?} was encoded and decoded to {read:?}"));
    }
    Ok(read)
}

/// Far more than anything needs: a restart, an `End` in the future, a few lost messages.
const CALM_US: u64 = 15_000_000;

/// Records in one answer.
const ORDER_RECORDS: usize = 100;

/// Longer than a graceful end may take.
const SHUTDOWN_US: u64 = 3_500_000;

/// Commands of one node without an answer, so that a cut-off node does not pile them up.
const WAITING_MAX: usize = 100;

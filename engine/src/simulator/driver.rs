//! What a node's driver does: it steps the replica and carries out the effects.

use std::collections::VecDeque;
use std::sync::Arc;

use super::checker::{Agreement, Checked};
use super::deviations::Deviation;
use super::disk::Write;
use super::fault::Fault;
use super::world::{Event, World};
use crate::consensus::{Effect, EntryKind, Header, Input, Message, OrderRecord};
use crate::ids::{NodeId, OpId, StateHash};
use crate::namespace::{Changes, MemoryTables, Overlay, View, apply, retire};

impl World {
    /// Gives a running node one input, and does what follows from it.
    pub(super) fn step(&mut self, id: NodeId, input: Input) -> Checked {
        let mut inputs = VecDeque::from([input]);
        let mut effects = Vec::new();
        let mut stops = false;
        while let Some(input) = inputs.pop_front() {
            let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
            let local_us = node.local_us(self.now_us);
            let Some(process) = node.process.as_mut() else { return Ok(()) };
            process.replica.step(local_us, input, &mut effects);
            for effect in effects.drain(..) {
                if self.crashes_here(id) {
                    return Ok(());
                }
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

    /// Passes one point at which a process can crash: between two effects, or between two
    /// messages that a flush lets go. True if it does.
    fn crashes_here(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return true };
        let point = node.points;
        node.points += 1;
        match node.crash_at {
            Some((at, down_us)) if at <= point => {
                node.crash_at = None;
                self.crash(id);
                self.after(down_us, Event::Start { node: id });
                true
            }
            _ => node.process.is_none(),
        }
    }

    pub(super) fn set_timer(&mut self, id: NodeId) {
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

    pub(super) fn carry_out(
        &mut self,
        id: NodeId,
        effect: Effect,
        inputs: &mut VecDeque<Input>,
    ) -> Checked {
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
            Effect::Diverged { peer, gsn } | Effect::PeerDiverged { peer, gsn } => {
                Err(format!("{id:?} finds that {peer:?} differs at {gsn:?}"))
            }
            Effect::MemoryWhole => {
                node.disk.remember();
                Ok(())
            }
            // The process stays, so that it may be shown to do nothing more.
            Effect::Removed { .. } => Ok(()),
            Effect::ShutdownDone => Ok(()), // When the step is over.
        }
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: Message) -> Checked {
        let boot = self.nodes[&from].process.as_ref().expect("only processes send").boot;
        self.checker.on_send(from, boot, &message)?;
        if self.armed.get(&from).is_some_and(|trigger| trigger.matches(&message)) {
            self.armed.remove(&from);
            let down_us = 1 + self.random.below(3_000);
            self.after(1, Event::Fault(Fault::Crash { node: from, down_us }));
        }
        let message = if self.plan.codec { through_bytes(message)? } else { message };
        let number = self.messages;
        self.messages += 1;
        let (first, again) = self.network.arrivals(&mut self.random, self.now_us, from, to);
        let first = match self.plan.deviation {
            Some(Deviation::Lose { message }) if message == number => None,
            Some(Deviation::Delay { message, by_us }) if message == number => {
                first.map(|at_us| at_us + by_us)
            }
            _ => first,
        };
        if let Some(at_us) = again {
            self.at(at_us, Event::Deliver { to, from, message: message.clone() });
        }
        if let Some(at_us) = first {
            self.at(at_us, Event::Deliver { to, from, message });
        }
        Ok(())
    }

    /// Applies an agreement, and acknowledges what this node itself had proposed.
    pub(super) fn agreed(
        &mut self,
        id: NodeId,
        record: OrderRecord,
        header: Arc<Header>,
        inputs: &mut VecDeque<Input>,
    ) -> Checked {
        let node = self.nodes.get_mut(&id).expect("it has just stepped");
        let process = node.process.as_mut().expect("it has just stepped");
        let known = self.checker.known(id, &record, &header)?;
        let (record, header, state, fresh, changes) = match (known, &mut self.tables) {
            // Equal agreements upon equal tables: what the first node made of them stands.
            (Some(known), Some(_)) => {
                let Agreement { record, header, state, fresh, .. } = known;
                (record.clone(), header.clone(), *state, fresh.clone(), Changes::new())
            }
            (None, Some(tables)) => {
                let (state, fresh, _) = apply_record(tables, &record, &header)?;
                (Arc::new(record), header, state, fresh.into(), Changes::new())
            }
            (Some(known), None) => {
                let (state, fresh, changes) = apply_record(&mut process.tables, &record, &header)?;
                known.invariant_one_state(id, state, &fresh)?;
                (known.record.clone(), known.header.clone(), state, known.fresh.clone(), changes)
            }
            (None, None) => {
                let (state, fresh, changes) = apply_record(&mut process.tables, &record, &header)?;
                (Arc::new(record), header, state, fresh.into(), changes)
            }
        };
        let mut answered = Vec::new();
        if let EntryKind::Commands { commands, .. } = &record.entry.kind {
            for (command, &fresh) in commands.iter().zip(fresh.iter()) {
                let OpId { origin, boot, seq } = command.id;
                if fresh && origin == id && boot == process.boot {
                    let waiting = process.waiting.remove(&seq);
                    let waiting = waiting.ok_or("an unknown command was applied")?;
                    answered.push((command.id, waiting.floor));
                    let wait_us = self.now_us - waiting.since_us;
                    self.waits_us.entry(id).or_default().push((waiting.since_us, wait_us));
                }
            }
        }
        let gsn = record.gsn;
        if gsn.0.is_multiple_of(8) {
            inputs.push_back(Input::StateHash { gsn, hash: state });
        }
        let write = Write::Apply { record: record.clone(), header: header.clone(), changes };
        self.apply_later(id, write);
        if gsn.0 > self.checker.agreements() {
            self.checker.on_agreed(id, record.clone(), header, state, fresh)?;
        }
        for (op, floor) in answered {
            self.checker.on_acknowledged(op, floor)?;
        }
        self.note(|_| format!("{id:?} agreed {record:?}"));
        Ok(())
    }

    /// Gives an agreement to the thread that writes it to the tables.
    fn apply_later(&mut self, id: NodeId, write: Write) {
        let lag_us = self.plan.apply_lag_us;
        let node = self.nodes.get_mut(&id).expect("it has just stepped");
        let process = node.process.as_mut().expect("it has just stepped");
        if lag_us == 0 {
            return node.disk.write(write);
        }
        process.applying.push_back(write);
        if process.applying.len() == 1 {
            let life = process.life;
            let wait_us = self.random.below(lag_us);
            self.after(wait_us, Event::Applied { node: id, life });
        }
    }

    /// That thread has caught up.
    pub(super) fn on_applied(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a live node is known").apply_waiting();
        self.flush(id);
    }

    /// Starts a flush if something waits for one.
    pub(super) fn flush(&mut self, id: NodeId) {
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

    pub(super) fn on_synced(&mut self, id: NodeId) -> Checked {
        let node = self.nodes.get_mut(&id).expect("a live node is known");
        let process = node.process.as_mut().expect("a live node has a process");
        let position = process.syncing.take().expect("a flush was under way");
        if node.disk_fails > 0 && position > node.disk.synced() {
            // Whether the data is on the disk nobody knows, so the process ends.
            self.note(|_| format!("{id:?} cannot flush"));
            self.crash(id);
            return Ok(());
        }
        node.disk.sync(position);
        let durable = node.disk.durable.header.gsn;
        let mut released = Vec::new();
        while process.outbox.front().is_some_and(|(waits_for, ..)| *waits_for <= position) {
            released.extend(process.outbox.pop_front());
        }
        let life = process.life;
        for (_, to, message) in released {
            if self.crashes_here(id) {
                return Ok(());
            }
            if to == id {
                self.after(0, Event::Loop { to, life, message });
            } else {
                self.send(id, to, message)?;
            }
        }
        self.step(id, Input::AppliedDurable(durable))
    }
}

/// Applies all commands of an agreement. Returns the state after it, which of the commands were
/// applied, and what changed.
fn apply_record(
    tables: &mut MemoryTables,
    record: &OrderRecord,
    header: &Header,
) -> Result<(StateHash, Vec<bool>, Changes), String> {
    let mut overlay = Overlay::new(&*tables);
    let mut fresh = Vec::new();
    if let EntryKind::Reconfigure(_) = &record.entry.kind {
        let removed = &header.config.removed;
        retire(&mut overlay, record.gsn, removed).map_err(|e| e.to_string())?;
    }
    if let EntryKind::Commands { commands, .. } = &record.entry.kind {
        for command in commands {
            let applied = apply(&mut overlay, record.gsn, command).map_err(|e| e.to_string())?;
            fresh.push(applied.fresh);
        }
    }
    let changes = overlay.into_changes();
    tables.absorb(changes.clone());
    let state = View::new(&*tables).state_hash().map_err(|e| e.to_string())?;
    Ok((state, fresh, changes))
}

fn through_bytes(message: Message) -> Result<Message, String> {
    let read = Message::decode(&message.encode()).map_err(|error| error.to_string())?;
    if read != message {
        return Err(format!("{message:?} was encoded and decoded to {read:?}"));
    }
    Ok(read)
}

/// Records in one answer.
const ORDER_RECORDS: usize = 100;

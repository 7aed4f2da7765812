//! Faults, and what comes after them: restarts, joins, snapshots.

use super::checker::Checked;
use super::deviations::{Deviation, Survivors};
use super::disk::Disk;
use super::fault::Fault;
use super::node::Node;
#[cfg(test)]
use super::workload;
use super::world::{Event, World};
#[cfg(test)]
use crate::consensus::mutation::Mutation;
use crate::consensus::{Header, Input};
use crate::ids::{NodeId, OpId};
use crate::namespace::View;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Checked {
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
            Fault::CrashWithin { node, points, down_us } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.crash_at = Some((node.points + points, down_us));
                }
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
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.down_us = down_us;
                }
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
            Fault::Flap { one, other, period_us, times } => {
                let for_us = period_us / 2;
                for flap in 1..times {
                    let sever = Fault::Sever { one, other, for_us };
                    self.after(flap * period_us, Event::Fault(sever));
                }
                self.fault(Fault::Sever { one, other, for_us })
            }
            Fault::CrashAfter { node, trigger } => {
                self.armed.insert(node, trigger);
                Ok(())
            }
            Fault::DiskFails { node, for_us } => {
                self.after(for_us, Event::Undo(fault));
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.disk_fails += 1;
                }
                Ok(())
            }
            Fault::TruncateOrder { node } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.disk.truncate_order(ORDER_LEFT);
                }
                Ok(())
            }
            Fault::Pause { node, for_us } => {
                // What waits for the end of a pause would come after the calm otherwise.
                let until_us = (self.now_us + for_us).min(self.plan.calm_us);
                if let Some(node) = self.nodes.get_mut(&node)
                    && node.process.is_some()
                {
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
            Fault::ClockSet { node, by_us, down_us } => {
                self.crash(node);
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.clock_us += by_us;
                }
                self.after(down_us, Event::Start { node });
                Ok(())
            }
            Fault::LoseLog { node, down_us } => {
                self.crash(node);
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.disk.lose_log();
                }
                self.after(down_us, Event::Start { node });
                self.after(down_us, Event::Renew { node });
                Ok(())
            }
            Fault::Want(wish) => {
                self.want(wish);
                Ok(())
            }
            Fault::Join { node } => self.join(node),
            Fault::Remove { node } => {
                self.want_vote(node, false);
                Ok(())
            }
            Fault::Promote { node } => {
                self.want_vote(node, true);
                Ok(())
            }
        }
    }

    pub(super) fn undo(&mut self, fault: Fault) -> Checked {
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
            Fault::DiskFails { node, .. } => {
                if let Some(state) = self.nodes.get_mut(&node) {
                    state.disk_fails = state.disk_fails.saturating_sub(1);
                }
                self.after(1, Event::Start { node });
            }
            _ => {}
        }
        self.note(|_| format!("over: {fault:?}"));
        self.greet()
    }

    /// Connections come back: every node is told about every other.
    pub(super) fn greet(&mut self) -> Checked {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for &node in &nodes {
            for &peer in nodes.iter().filter(|&&peer| peer != node) {
                self.step(node, Input::PeerUp(peer))?;
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.process.take().is_none() {
            return;
        }
        let survivors = match self.plan.deviation {
            Some(Deviation::Crash { survivors: Survivors::None, .. }) => 0,
            Some(Deviation::Crash { survivors: Survivors::All, .. }) => node.disk.unsynced(),
            _ => self.random.below(node.disk.unsynced() + 1),
        };
        node.disk.crash(survivors);
        node.paused_until_us = 0;
        self.totals.crashes += 1;
        self.note(|_| format!("{id:?} crashes, {survivors} unflushed writes survive"));
    }

    /// A graceful end flushes everything.
    pub(super) fn stopped(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("it has just stepped");
        node.apply_waiting();
        node.disk.sync(node.disk.written());
        node.process = None;
        let down_us = node.down_us;
        self.after(down_us, Event::Start { node: id });
        self.note(|_| format!("{id:?} has shut down"));
    }

    /// A new node begins with a copy of somebody's durable tables.
    pub(super) fn join(&mut self, id: NodeId) -> Checked {
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
        self.add_node(id, Node::new(disk, clock_us));
        self.want_vote(id, true);
        self.start(id)
    }

    /// A node that lost its log has a command agreed, and asks for another epoch, until it may
    /// vote again.
    pub(super) fn renew(&mut self, id: NodeId) -> Checked {
        if !self.nodes.get(&id).is_some_and(|node| node.disk.is_forgetful()) {
            return Ok(());
        }
        self.after(200_000, Event::Renew { node: id });
        let has_asked = self.nodes[&id].process.as_ref().is_some_and(|it| it.next_seq > 1);
        if !has_asked {
            self.propose(id, 1)?;
        }
        let peers = self.nodes.iter().filter(|(_, node)| !node.disk.is_forgetful());
        let voter = peers.filter_map(|(&id, node)| {
            let replica = &node.process.as_ref()?.replica;
            let waits = replica.status().peers.iter().any(|peer| peer.wants_epoch);
            (waits && replica.header().config.is_voter(id)).then_some(id)
        });
        match voter.min() {
            Some(voter) => self.step(voter, Input::Renew),
            None => Ok(()),
        }
    }

    pub(super) fn snapshot(&mut self, to: NodeId, from: NodeId) -> Checked {
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
        node.apply_waiting();
        let process = node.process.as_mut().expect("just looked");
        #[cfg(test)]
        let tables = match self.options.mutation {
            Some(Mutation::SnapshotWithoutOrigins) => workload::without_origins(tables),
            _ => tables,
        };
        node.disk.install(header.clone(), tables.clone());
        process.tables = tables;
        let boot = process.boot;
        let finished_seq = match self.tables {
            Some(_) => self.checker.finished(to, boot, header.gsn),
            None => {
                let origin = View::new(&process.tables).origin(to).map_err(|e| e.to_string())?;
                origin.filter(|origin| origin.boot == boot).map_or(0, |origin| origin.last_seq)
            }
        };
        let later = process.waiting.split_off(&(finished_seq + 1));
        for (seq, waiting) in std::mem::replace(&mut process.waiting, later) {
            self.checker.on_acknowledged(OpId { origin: to, boot, seq }, waiting.floor)?;
        }
        self.note(|_| format!("{to:?} installs a snapshot of {from:?} at {:?}", header.gsn));
        let header = Header::clone(&header);
        self.step(to, Input::Installed { header, finished_seq })
    }
}

/// Agreements that a node keeps at least: truncation leaves a few.
const ORDER_LEFT: usize = 2;

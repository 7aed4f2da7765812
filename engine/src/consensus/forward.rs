//! Handing commands to a node whose lane is active, while the own one is not.

use std::collections::VecDeque;

use super::catchup::LAG_MAX;
use super::entry::EntryKind;
use super::message::Message;
use super::peer::PATIENCE_US;
use super::queue::{BATCH_COMMANDS_MAX, WINDOW_COMMANDS, deserves_lane};
use super::replica::Replica;
use crate::command::Command;
use crate::ids::NodeId;

/// Commands on their way through other nodes, and those of others on their way through here.
#[derive(Clone, Debug, Default)]
pub(super) struct Forwarding {
    /// To whom the last ones went: sticking to one node keeps them in order.
    target: Option<NodeId>,
    /// When something last went out or was executed, µs.
    headway_us: u64,
    /// When a lane was last asked for without commands, µs.
    asked_us: Option<u64>,
    waiting: VecDeque<Waiting>,
}

/// Commands of another node.
#[derive(Clone, Debug)]
struct Waiting {
    origin: NodeId,
    commands: Vec<Command>,
    activate: bool,
}

impl Forwarding {
    pub fn headway(&mut self, now_us: u64) {
        self.headway_us = now_us;
    }

    fn waiting_commands(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.commands.len().max(1)).sum()
    }
}

impl Replica {
    /// Hands on what can be handed on: to the own lane, or to another node.
    pub(super) fn flush(&mut self) {
        if self.own.as_ref().is_some_and(|own| own.takes_proposals()) {
            self.flush_to_own_lane();
        } else {
            self.flush_to_others();
        }
    }

    fn flush_to_own_lane(&mut self) {
        let own = self.own.as_ref().expect("the caller has looked");
        let lane = own.lane();
        let Some(active) = self.header.active.get(&lane) else { return };
        // Before a majority was measured the own clock is unchecked; nothing would be chosen
        // any sooner.
        if self.quorum_rtt_us.is_none() {
            return;
        }
        let mut room = ENTRIES_MAX.saturating_sub(own.proposer.next.0 - active.next.0) as usize;
        let mut kinds = Vec::new();
        while kinds.len() < room
            && let Some(Waiting { origin, commands, activate }) =
                self.forwarding.waiting.pop_front()
        {
            let activate = activate && self.may_get_lane(origin);
            if activate || !commands.is_empty() {
                let activate = activate.then_some(origin);
                kinds.push(EntryKind::Commands { commands, activate });
            }
        }
        room -= kinds.len();
        for _ in 0..room {
            let commands = self.queue.submit();
            if commands.is_empty() {
                break;
            }
            kinds.push(EntryKind::Commands { commands, activate: None });
        }
        kinds.extend(self.reconfiguration(lane));
        if kinds.is_empty() {
            if self.shutdown.is_some() {
                self.end_for_shutdown();
            }
            return;
        }
        let is_use = kinds.iter().any(|kind| match kind {
            EntryKind::Commands { commands, .. } => commands.iter().any(deserves_lane),
            EntryKind::Reconfigure(_) => true,
            EntryKind::Tick | EntryKind::End { .. } => false,
        });
        if is_use {
            let now_us = self.now_us;
            self.own.as_mut().expect("still there").used_us = now_us;
        }
        self.propose(kinds);
    }

    fn flush_to_others(&mut self) {
        while let Some(Waiting { origin, commands, activate }) = self.forwarding.waiting.pop_front()
        {
            self.relay(origin, RELAYS_MAX - 1, commands, activate);
        }
        // A lane that is about to begin takes them with less ado.
        if self.own.as_ref().is_some_and(|own| !own.begun) {
            return;
        }
        if self.queue.has_unsubmitted() {
            let Some(to) = self.forward_target(None) else { return };
            let activate = self.wants_lane() && self.queue.wants_lane();
            if !self.queue.has_submitted() {
                self.forwarding.headway_us = self.now_us;
            }
            self.forwarding.target = Some(to);
            loop {
                let commands = self.queue.submit();
                if commands.is_empty() {
                    break;
                }
                let (origin, hops) = (self.me, 0);
                self.send(to, Message::Forward { origin, hops, commands, activate });
            }
        } else if self.reconfiguring.is_some() && self.wants_lane() {
            self.ask_for_lane();
        }
    }

    /// Asks for a lane without having commands to send along.
    fn ask_for_lane(&mut self) {
        let recent =
            self.forwarding.asked_us.is_some_and(|us| self.now_us.saturating_sub(us) < RETRY_US);
        if recent {
            return;
        }
        if let Some(to) = self.forward_target(None) {
            self.forwarding.asked_us = Some(self.now_us);
            let (origin, commands) = (self.me, Vec::new());
            self.send(to, Message::Forward { origin, hops: 0, commands, activate: true });
        }
    }

    fn wants_lane(&self) -> bool {
        self.is_voter()
            && self.shutdown.is_none()
            && self.is_caught_up()
            && !self.header.active.keys().any(|lane| lane.node == self.me)
    }

    /// The ring waits for every owner: one that lags would hold it up until it has executed
    /// its own activation.
    fn may_get_lane(&self, node: NodeId) -> bool {
        let executed = self.peers.get(&node).map(|peer| peer.gsn).unwrap_or_default();
        self.header.config.is_voter(node)
            && self.lag_of(executed) <= LAG_MAX
            && !self.header.active.keys().any(|lane| lane.node == node)
    }

    /// Forwarded commands that were not executed in time go out again, by another way.
    pub(super) fn retry_forwarding(&mut self) {
        if self.own.is_some() && self.own.as_ref().is_some_and(|own| own.takes_proposals())
            || !self.queue.has_submitted()
        {
            return;
        }
        let rtt_us = self.forwarding.target.and_then(|node| self.peers.get(&node)?.clock.rtt_us());
        let patience_us = RETRY_US.max(PATIENCE_US + 4 * rtt_us.unwrap_or(0));
        let gone = self.forwarding.target.is_some_and(|node| !self.hears(node));
        if gone || self.now_us.saturating_sub(self.forwarding.headway_us) >= patience_us {
            self.queue.resubmit();
            self.forwarding.target = self.forward_target(self.forwarding.target);
        }
    }

    /// The owner of a live active lane: the one used last, else the nearest; `failed` only if
    /// there is no other. A voter without a lane if there is no owner: it may know one.
    fn forward_target(&self, failed: Option<NodeId>) -> Option<NodeId> {
        let by_distance = |node: &NodeId| {
            let used = self.forwarding.target == Some(*node);
            let rtt_us = self.peers.get(node).and_then(|peer| peer.clock.rtt_us());
            (failed == Some(*node), !used, rtt_us.unwrap_or(u64::MAX), *node)
        };
        let lanes = self.header.active.keys().copied();
        let owners =
            lanes.filter(|lane| lane.node != self.me && self.lane_lives(*lane)).map(|l| l.node);
        owners.min_by_key(by_distance).or_else(|| {
            let voters = self.other_voters().into_iter().filter(|&node| self.hears(node));
            voters.min_by_key(by_distance)
        })
    }

    pub(super) fn on_forward(
        &mut self,
        from: NodeId,
        origin: NodeId,
        hops: u8,
        commands: Vec<Command>,
        activate: bool,
    ) {
        let own_words = hops > 0 || from == origin;
        let foreign = commands.iter().any(|command| command.id.origin != origin);
        if !own_words || foreign || origin == self.me || commands.len() > BATCH_COMMANDS_MAX {
            return self.nonsense();
        }
        if self.header.config.removed.contains(&origin) {
            return; // Passed on by somebody who does not know yet.
        }
        if !self.own.as_ref().is_some_and(|own| own.takes_proposals()) {
            return self.relay(origin, hops, commands, activate);
        }
        // Beyond that the origin has to come again.
        if self.forwarding.waiting_commands() < WINDOW_COMMANDS {
            self.forwarding.waiting.push_back(Waiting { origin, commands, activate });
        }
    }

    /// Passes commands on to an owner; without one they are lost, and come again.
    fn relay(&mut self, origin: NodeId, hops: u8, commands: Vec<Command>, activate: bool) {
        let hops = hops.saturating_add(1);
        let lanes = self.header.active.keys().copied();
        let to = lanes
            .filter(|lane| lane.node != self.me && lane.node != origin && self.lane_lives(*lane))
            .map(|lane| lane.node)
            .next();
        if hops <= RELAYS_MAX
            && let Some(to) = to
        {
            self.send(to, Message::Forward { origin, hops, commands, activate });
        }
    }
}

/// Entries of the own lane that are not executed yet. More commands wait, and then travel
/// together in fewer entries.
const ENTRIES_MAX: u64 = 512;

/// Longer than an agreement takes on most links.
const RETRY_US: u64 = 500_000;

const RELAYS_MAX: u8 = 2;

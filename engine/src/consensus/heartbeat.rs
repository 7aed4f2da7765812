//! Signs of life, and everything that happens at their pace.

use std::collections::BTreeMap;

use super::clock::{PeerClock, group_offset_us};
use super::message::{Heartbeat, Message};
use super::peer::Peer;
use super::replica::{Replica, SUSPECT_US};
use crate::ids::NodeId;

impl Replica {
    /// One beat: heartbeats, and whatever waits for time to pass.
    pub(super) fn on_beat(&mut self) {
        self.watch_lanes();
        self.tick();
        self.resend_proposals();
        self.retry_forwarding();
        self.catch_up();
        self.leave_idle_lane();
        self.finish_shutdown();
        self.judge();
        self.merge();
        self.flush();
        self.beat();
        self.next_beat_us = self.now_us + self.beat_us();
    }

    /// Work has come up: the slow beat of an idle ring ends now.
    pub(super) fn hasten_beat(&mut self) {
        self.next_beat_us = self.next_beat_us.min(self.now_us + self.beat_us());
    }

    fn beat_us(&self) -> u64 {
        if self.is_busy() { BUSY_BEAT_US } else { IDLE_BEAT_US }
    }

    fn is_busy(&self) -> bool {
        let voter = self.is_voter();
        voter && self.header.active.len() > 1
            || !self.queue.is_empty()
            || !self.takeovers.is_empty()
            || self.reconfiguring.is_some()
            || self.shutdown.is_some()
            || self.header.active.keys().any(|lane| {
                self.lanes.get(lane).is_some_and(|log| log.known_upto() > log.chosen_upto)
            })
    }

    pub(super) fn beat(&mut self) {
        let closed = self.close();
        let state = self.state_to_tell();
        let votes = self.header.active.iter().filter_map(|(lane, active)| {
            let vote = self.lanes[lane].votes.get(&self.me)?;
            (vote.upto >= active.next).then_some(*vote)
        });
        let heartbeat = Heartbeat {
            sent_us: self.now_us,
            echo: None,
            gsn: self.header.gsn,
            order_hash: self.header.order_hash,
            state,
            votes: votes.collect(),
            closed,
            follow: false,
            proposing: self.own.as_ref().is_some_and(|own| own.takes_proposals()),
            mute: self.is_mute().then(|| self.wants_epoch()),
            durable: self.durable,
        };
        let leader = self.followed();
        for to in self.audience() {
            let echo = self.peers.get(&to).and_then(|peer| peer.echo);
            let echo = echo.map(|(sent_us, came_us)| (sent_us, self.now_us - came_us));
            let follow = leader == Some(to);
            let message = Message::Heartbeat(Heartbeat { echo, follow, ..heartbeat.clone() });
            self.send(to, message);
        }
        // Own promises may have let something through.
        self.merge();
    }

    /// Voters, and whoever without a vote was heard lately.
    fn audience(&self) -> Vec<NodeId> {
        let mut audience = self.other_voters();
        let heard = self.peers.keys().copied().filter(|&node| node != self.me);
        audience.extend(heard.filter(|&node| {
            !self.header.config.is_voter(node)
                && self.peers[&node].silent_us(self.now_us, 0) < OBSERVER_US
        }));
        audience
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, heartbeat: Heartbeat) {
        if from == self.me {
            return self.nonsense();
        }
        let Heartbeat { sent_us, echo, gsn, order_hash, state, votes, closed, follow, .. } =
            heartbeat;
        let now_us = self.now_us;
        let peer: &mut Peer = self.peers.entry(from).or_default();
        peer.echo = Some((sent_us, now_us));
        peer.gsn = peer.gsn.max(gsn);
        peer.durable = peer.durable.max(heartbeat.durable);
        peer.follows = follow;
        peer.proposing = heartbeat.proposing;
        peer.mute = heartbeat.mute.is_some();
        peer.wants_epoch = heartbeat.mute == Some(true);
        if let Some((our_sent_us, held_us)) = echo {
            peer.clock.observe(now_us, sent_us, our_sent_us, held_us);
        }
        self.estimate();
        votes.into_iter().for_each(|vote| self.on_vote(from, vote));
        if let Some(closed) = closed {
            self.on_closed(from, closed);
        }
        self.compare(from, gsn, order_hash, state);
    }

    /// The own clock went `gap_us` forward at once. Until the others' clocks are measured
    /// again, group time goes on from where it was.
    pub(super) fn forget_clocks(&mut self, gap_us: u64) {
        for peer in self.peers.values_mut() {
            peer.clock = PeerClock::default();
            peer.echo = None;
        }
        self.clock_offset_us = self.clock_offset_us.saturating_sub_unsigned(gap_us);
        self.quorum_rtt_us = self.header.config.quorum_rtt_us(self.me, &BTreeMap::new());
    }

    /// Quorum distance and group clock, from what heartbeats told.
    pub(super) fn estimate(&mut self) {
        let voters = || self.peers.iter().filter(|(node, _)| self.header.config.is_voter(**node));
        let rtts_us = voters().filter_map(|(&node, peer)| Some((node, peer.clock.rtt_us()?)));
        self.quorum_rtt_us = self.header.config.quorum_rtt_us(self.me, &rtts_us.collect());
        if self.quorum_rtt_us.is_none() {
            return; // One clock is not enough to correct the own one.
        }
        // The clocks of those that are gone may be anything.
        let offsets_us = voters()
            .filter(|(_, peer)| peer.silent_us(self.now_us, 0) < 5 * SUSPECT_US)
            .filter_map(|(_, peer)| peer.clock.offset_us());
        self.clock_offset_us = group_offset_us(offsets_us);
    }
}

/// Bounds what an idle active lane can cost the others.
const BUSY_BEAT_US: u64 = 10_000;

/// Several within the suspicion time, few enough to cost nothing.
const IDLE_BEAT_US: u64 = 100_000;

/// Who has no vote and was silent for so long is not told anything.
const OBSERVER_US: u64 = 2_000_000;

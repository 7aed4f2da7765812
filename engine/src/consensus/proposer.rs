//! Who has accepted what one ballot proposes, and what must be sent again.

use std::collections::BTreeMap;

use super::message::{Message, Vote};
use super::replica::Replica;
use crate::ids::{Ballot, Idx, LaneId, NodeId};

/// The proposing side of one lane at one ballot. The entries are in the own acceptor's log.
#[derive(Clone, Debug)]
pub(super) struct Proposer {
    pub lane: LaneId,
    pub ballot: Ballot,
    /// The first place that the ballot proposes.
    pub start: Idx,
    /// The next free place.
    pub next: Idx,
    peers: BTreeMap<NodeId, Progress>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    acked: Idx,
    moved_us: u64,
}

impl Proposer {
    pub fn new(lane: LaneId, ballot: Ballot, start: Idx) -> Proposer {
        Proposer { lane, ballot, start, next: start, peers: BTreeMap::new() }
    }

    fn progress(&mut self, node: NodeId, now_us: u64) -> &mut Progress {
        let acked = Idx(self.start.0 - 1);
        self.peers.entry(node).or_insert(Progress { acked, moved_us: now_us })
    }

    pub fn on_vote(&mut self, from: NodeId, vote: Vote, now_us: u64) {
        if vote.lane == self.lane && vote.ballot == self.ballot && vote.upto < self.next {
            let progress = self.progress(from, now_us);
            if vote.upto > progress.acked {
                *progress = Progress { acked: vote.upto, moved_us: now_us };
            }
        }
    }

    /// From where to send again to `node`, if it has not answered for `patience_us`.
    pub fn overdue(&mut self, node: NodeId, now_us: u64, patience_us: u64) -> Option<Idx> {
        let last = Idx(self.next.0 - 1);
        let progress = self.progress(node, now_us);
        if progress.acked >= last {
            progress.moved_us = now_us;
            return None;
        }
        if now_us.saturating_sub(progress.moved_us) < patience_us {
            return None;
        }
        progress.moved_us = now_us;
        Some(progress.acked.next())
    }

    /// Makes everything that `node` has not accepted due at once.
    pub fn hurry(&mut self, node: NodeId) {
        if let Some(progress) = self.peers.get_mut(&node) {
            progress.moved_us = 0;
        }
    }
}

impl Replica {
    /// Every proposer of this node: the own lane's, and those of takeovers.
    pub(super) fn proposers(&mut self) -> impl Iterator<Item = &mut Proposer> {
        let own = self.own.iter_mut().map(|own| &mut own.proposer);
        own.chain(self.takeovers.values_mut().filter_map(|takeover| takeover.proposer_mut()))
    }

    /// Sends again what peers have not accepted in time.
    pub(super) fn resend_proposals(&mut self) {
        let mut due = Vec::new();
        let now_us = self.now_us;
        for node in self.other_voters() {
            let peer = self.peers.entry(node).or_default();
            // Somebody who is gone is only asked now and then: an answer starts the rest.
            let gone = peer.silent_us(now_us, self.start_us) > GONE_US;
            let patience_us = if gone { GONE_US } else { peer.patience_us() };
            for proposer in self.proposers() {
                if let Some(from) = proposer.overdue(node, now_us, patience_us) {
                    due.push((node, proposer.lane, proposer.ballot, proposer.start, from));
                }
            }
        }
        for (node, lane, ballot, start, from) in due {
            self.send_proposals(node, lane, ballot, start, from);
        }
    }

    /// Messages to `node` may have been lost until now.
    pub(super) fn peer_up(&mut self, node: NodeId) {
        self.proposers().for_each(|proposer| proposer.hurry(node));
        self.next_beat_us = self.now_us;
    }

    pub(super) fn on_need(&mut self, from: NodeId, lane: LaneId, ballot: Ballot, idx: Idx) {
        let proposer = self.proposers().find(|p| p.lane == lane && p.ballot == ballot);
        if let Some(start) = proposer.map(|proposer| proposer.start)
            && idx >= start
        {
            self.send_proposals(from, lane, ballot, start, idx);
        }
    }

    /// Sends one message's worth of entries from `from` on. Nothing if the first one is gone:
    /// the peer sees in our heartbeat that it lags, and catches up from the order.
    fn send_proposals(&mut self, to: NodeId, lane: LaneId, ballot: Ballot, start: Idx, from: Idx) {
        let Some(log) = self.lanes.get(&lane) else { return };
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (offset, (&idx, (held, entry))) in (0..).zip(log.entries.range(from..)) {
            if idx.0 != from.0 + offset || *held != ballot || bytes >= RESEND_BYTES_MAX {
                break;
            }
            bytes += entry.size_hint();
            entries.push(entry.clone());
        }
        if !entries.is_empty() {
            self.send(to, Message::Propose { lane, ballot, start, first: from, entries });
        }
    }
}

/// One message; the answer to it asks for the next.
const RESEND_BYTES_MAX: usize = 1 << 20;

/// A peer that was silent for so long is not waited for.
const GONE_US: u64 = 1_000_000;

//! Closing a lane in place of its owner: an ordinary Paxos takeover of the whole lane.

use std::collections::BTreeMap;

use super::accept::TS_MAX;
use super::entry::{Entry, EntryKind};
use super::lane::LaneLog;
use super::merge::Merge;
use super::message::{AcceptedEntry, Message};
use super::mutation::Mutation;
use super::peer::{PATIENCE_US, Peer};
use super::proposer::Proposer;
use super::record::LogRecord;
use super::replica::{Replica, SUSPECT_US, Standing};
use crate::ids::{Ballot, Idx, LaneId, NodeId, Ts};

/// One attempt after the other to close a lane.
#[derive(Clone, Debug)]
pub(super) struct Takeover {
    tries: u32,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Until it is time for the next attempt, µs.
    Resting(u64),
    /// Phase 1: collecting promises.
    Preparing(Preparing),
    /// Phase 2: proposing what may have been chosen, and an `End`.
    Proposing(Proposer),
}

#[derive(Clone, Debug)]
struct Preparing {
    ballot: Ballot,
    /// The first entry not executed here.
    from: Idx,
    promises: BTreeMap<NodeId, (Idx, Vec<AcceptedEntry>)>,
    asked_us: u64,
}

impl Takeover {
    pub fn proposer_mut(&mut self) -> Option<&mut Proposer> {
        match &mut self.phase {
            Phase::Proposing(proposer) => Some(proposer),
            Phase::Resting(_) | Phase::Preparing(_) => None,
        }
    }

    fn ballot(&self) -> Option<Ballot> {
        match &self.phase {
            Phase::Resting(_) => None,
            Phase::Preparing(preparing) => Some(preparing.ballot),
            Phase::Proposing(proposer) => Some(proposer.ballot),
        }
    }
}

impl Replica {
    /// Begins, repeats and gives up takeovers, at each beat.
    pub(super) fn watch_lanes(&mut self) {
        self.note_headway();
        if !self.is_voter() || !self.hears_quorum() {
            return;
        }
        let lanes: Vec<LaneId> = self.header.active.keys().copied().collect();
        for lane in lanes {
            match self.takeovers.get(&lane).map(|takeover| &takeover.phase) {
                None if self.is_due(lane) => self.prepare(lane, 0),
                Some(Phase::Resting(until_us)) if *until_us <= self.now_us && self.is_due(lane) => {
                    let tries = self.takeovers[&lane].tries;
                    self.prepare(lane, tries);
                }
                Some(Phase::Preparing(preparing)) => {
                    let patience_us = PATIENCE_US.max(2 * self.quorum_rtt_us.unwrap_or(0));
                    if self.now_us.saturating_sub(preparing.asked_us) >= patience_us {
                        self.ask_again(lane);
                    }
                }
                _ => {}
            }
        }
    }

    /// Remembers when each lane last came forward.
    fn note_headway(&mut self) {
        // A node that is cut off sees every lane stand still; that is not the lanes' fault.
        let blind = !self.hears_quorum();
        if blind {
            self.blind_us = self.now_us;
        }
        let waits = match self.next_agreement() {
            Merge::Waits(lane) => Some(lane),
            _ => None,
        };
        let lanes: Vec<LaneId> = self.header.active.keys().copied().collect();
        for lane in lanes {
            let bound = self.bound(lane);
            let log = self.lanes.get_mut(&lane).expect("active lanes are known");
            let idle = waits != Some(lane) && log.known_upto() == log.chosen_upto;
            let headway = (log.chosen_upto, bound);
            if blind || idle || log.watch.headway != headway {
                log.watch.headway = headway;
                log.watch.headway_us = self.now_us;
            }
        }
    }

    /// This node should close the active `lane` now.
    fn is_due(&self, lane: LaneId) -> bool {
        let watch = &self.lanes[&lane].watch;
        if self.now_us < watch.hold_until_us {
            return false;
        }
        let still_us = self.now_us.saturating_sub(watch.headway_us);
        if lane.node == self.me {
            // When proposing in it is over, it only holds the others up. After a restart at
            // once; when another node has touched the lane, it gets the time to finish.
            // A lane in which nothing is chosen although a majority is there (it may refuse
            // timestamps of a clock that was far ahead) is given up for a new one.
            let alive = self.own.as_ref().is_some_and(|own| own.lane() == lane);
            let touched_us = self.dead.get(&lane).copied();
            return match alive {
                true => still_us > 2 * STILL_US,
                false => touched_us.is_none_or(|us| self.now_us >= us + SUSPECT_US),
            };
        }
        // Links come back one after the other. Until all had the time to, a node that was cut
        // off would close lanes whose owners the others hear well.
        if self.now_us.saturating_sub(self.blind_us) < SIGHT_US {
            return false;
        }
        // It is heard, but nobody knows what it has proposed, itself included.
        if self.peers.get(&lane.node).is_some_and(|peer| peer.mute) {
            return self.rank(lane.node) == 0;
        }
        let stagger_us = self.rank(lane.node) * STAGGER_US;
        let peer = self.peers.get(&lane.node);
        let silent_us = peer.map_or(self.now_us.saturating_sub(self.start_us), |peer| {
            peer.silent_us(self.now_us, self.start_us)
        });
        let suspect_us = peer.map_or(SUSPECT_US, Peer::suspect_us);
        // If a majority has just been heard, the silence is the owner's. A node that is being cut
        // off misses all of them, within a heartbeat of each other.
        let silent =
            silent_us > suspect_us + stagger_us && self.hears_quorum_within(suspect_us / 2);
        silent || still_us > STILL_US + stagger_us
    }

    /// How many live voters go before this node in closing a lane of `owner`.
    fn rank(&self, owner: NodeId) -> u64 {
        let before = self
            .header
            .config
            .voters
            .keys()
            .filter(|&&node| node < self.me && node != owner && self.hears(node));
        before.count() as u64
    }

    pub(super) fn prepare(&mut self, lane: LaneId, tries: u32) {
        self.give_up(lane);
        let log = &self.lanes[&lane];
        let round = log.promised.max(log.highest).0 >> NODE_BITS;
        let ballot = Ballot((round + 1) << NODE_BITS | u64::from(self.me.0));
        let from = self.header.active[&lane].next;
        let phase = Phase::Preparing(Preparing {
            ballot,
            from,
            promises: BTreeMap::new(),
            asked_us: self.now_us,
        });
        self.takeovers.insert(lane, Takeover { tries: tries + 1, phase });
        // The own promise goes first and the question to others waits until it is durable:
        // a later start of this node must not use the same ballot again.
        self.promise(self.me, lane, ballot, from);
        for to in self.other_voters() {
            match self.mutated(Mutation::PrepareBeforeDurable) {
                true => self.send(to, Message::Prepare { lane, ballot, from }),
                false => self.send_durable(to, Message::Prepare { lane, ballot, from }),
            }
        }
    }

    fn ask_again(&mut self, lane: LaneId) {
        let now_us = self.now_us;
        let Some(Takeover { phase: Phase::Preparing(preparing), .. }) =
            self.takeovers.get_mut(&lane)
        else {
            return;
        };
        preparing.asked_us = now_us;
        let Preparing { ballot, from, .. } = *preparing;
        let answered: Vec<NodeId> = preparing.promises.keys().copied().collect();
        for to in self.other_voters() {
            if !answered.contains(&to) {
                self.send_durable(to, Message::Prepare { lane, ballot, from });
            }
        }
    }

    pub(super) fn on_prepare(&mut self, from: NodeId, lane: LaneId, ballot: Ballot, idx: Idx) {
        let sound = ballot > Ballot(0) && ballot.is_sound() && idx > Idx(0);
        if !sound || ballot.proposer(lane) != from {
            return self.nonsense();
        }
        if self.standing_for(from, lane, ballot).is_none() || !self.is_voter() {
            return;
        }
        self.give_up(lane);
        self.promise(from, lane, ballot, idx);
    }

    /// Promises `ballot` to `taker`, unless a higher one is promised.
    fn promise(&mut self, taker: NodeId, lane: LaneId, ballot: Ballot, from: Idx) {
        let next = match self.header.standing(lane) {
            Standing::Active(next) => next,
            _ => Idx(1),
        };
        let hold_us = SUSPECT_US + self.random.below(SUSPECT_US);
        let now_us = self.now_us;
        let new = || LaneLog::new(next, now_us);
        let log = self.lanes.entry(lane).or_insert_with(new);
        if ballot < log.promised {
            let (promised, gsn) = (log.promised, self.header.gsn);
            return self.send(taker, Message::Reject { lane, promised, gsn });
        }
        let fresh = ballot > log.promised;
        log.promised = ballot;
        log.highest = log.highest.max(ballot);
        let (first, accepted) = log.accepted_from(from, next);
        if taker != self.me {
            log.watch.hold_until_us = now_us + hold_us;
        }
        if fresh {
            self.persist(LogRecord::Promised { lane, ballot });
            if taker != self.me {
                self.lose_takeover(lane, ballot);
            }
        }
        self.send_durable(taker, Message::Promise { lane, ballot, first, accepted });
    }

    pub(super) fn on_promise(
        &mut self,
        from: NodeId,
        lane: LaneId,
        ballot: Ballot,
        first: Idx,
        accepted: Vec<AcceptedEntry>,
    ) {
        let Some(active) = self.header.active.get(&lane) else { return };
        if !self.header.config.is_voter(from) {
            return;
        }
        let next = active.next;
        let Some(Takeover { phase: Phase::Preparing(preparing), .. }) =
            self.takeovers.get_mut(&lane)
        else {
            return;
        };
        if preparing.ballot != ballot {
            return;
        }
        if accepted.iter().any(|accepted| accepted.entry.ts > TS_MAX) {
            return self.nonsense();
        }
        preparing.promises.insert(from, (first, accepted));
        let promised: Vec<NodeId> = preparing.promises.keys().copied().collect();
        if !self.deciding().quorum(promised.into_iter()) {
            return;
        }
        let Some(Takeover { phase: Phase::Preparing(preparing), .. }) =
            self.takeovers.get_mut(&lane)
        else {
            return;
        };
        // Somebody cannot tell entries any more that are not executed here.
        let behind = preparing.promises.iter().find(|(_, (first, _))| *first > next);
        if let Some((&peer, _)) = behind {
            self.fetch_from(peer);
            return self.rest(lane, PATIENCE_US / 2);
        }
        let start = preparing.from.max(next);
        let promises = std::mem::take(&mut preparing.promises);
        let found = highest(promises, self.mutated(Mutation::LowestBallot));
        let entries = self.closing_entries(lane, start, &found);
        self.propose_closing(lane, ballot, start, entries);
    }

    /// What may have been chosen from `start` on, up to and with an `End`.
    fn closing_entries(
        &self,
        lane: LaneId,
        start: Idx,
        found: &BTreeMap<Idx, (Ballot, Entry)>,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut ts = self.header.active[&lane].start;
        for idx in (start.0..).map(Idx) {
            let Some((_, entry)) = found.get(&idx) else { break };
            ts = ts.max(entry.ts);
            let end = matches!(entry.kind, EntryKind::End { .. });
            entries.push(entry.clone());
            if end {
                return entries;
            }
        }
        // Above every promise that the owner can have made: it leant on an entry that it had
        // proposed itself and knew to be chosen, and that entry is among these or before.
        let lead_us = match self.mutated(Mutation::EndWithoutLead) {
            true => 0,
            false => self.header.config.promise_lead_us,
        };
        let activate = Some(self.me).filter(|_| !self.another_lane_lives(lane));
        let kind = EntryKind::End { activate };
        entries.push(Entry { ts: Ts(ts.0 + lead_us + 1), kind });
        entries
    }

    fn propose_closing(&mut self, lane: LaneId, ballot: Ballot, start: Idx, entries: Vec<Entry>) {
        if self.lanes[&lane].promised != ballot {
            return self.rest(lane, PATIENCE_US);
        }
        let mut proposer = Proposer::new(lane, ballot, start);
        proposer.next = Idx(start.0 + entries.len() as u64);
        let takeover = self.takeovers.get_mut(&lane).expect("the attempt is on");
        takeover.phase = Phase::Proposing(proposer);
        for to in self.other_voters() {
            let entries = entries.clone();
            let message = Message::Propose { lane, ballot, start, first: start, entries };
            self.send(to, message);
        }
        self.accept(lane, ballot, start, entries);
    }

    /// Somebody has a higher ballot in `lane`: leave it to them for a while.
    pub(super) fn lose_takeover(&mut self, lane: LaneId, ballot: Ballot) {
        let lost =
            self.takeovers.get(&lane).and_then(Takeover::ballot).is_some_and(|mine| mine < ballot);
        if lost {
            let tries = self.takeovers[&lane].tries.min(BACK_OFF_DOUBLINGS);
            let rtt_us = self.quorum_rtt_us.unwrap_or(0);
            let span_us = (BACK_OFF_US << tries) + 2 * rtt_us;
            let wait_us = span_us / 2 + self.random.below(span_us);
            self.rest(lane, wait_us);
        }
    }

    fn rest(&mut self, lane: LaneId, wait_us: u64) {
        if let Some(takeover) = self.takeovers.get_mut(&lane) {
            takeover.phase = Phase::Resting(self.now_us + wait_us);
        }
    }

    /// An active lane besides `lane` seems to take proposals.
    pub(super) fn another_lane_lives(&self, lane: LaneId) -> bool {
        self.header.active.keys().any(|&other| other != lane && self.lane_lives(other))
    }

    pub(super) fn lane_lives(&self, lane: LaneId) -> bool {
        if lane.node == self.me {
            return self.own.as_ref().is_some_and(|own| own.lane() == lane && !own.ended);
        }
        self.hears(lane.node) && self.peers.get(&lane.node).is_some_and(|peer| peer.proposing)
    }
}

/// Of each place the value with the highest ballot: the only one that can have been chosen
/// (Lamport, Paxos Made Simple, 2.2, P2c).
fn highest(
    promises: BTreeMap<NodeId, (Idx, Vec<AcceptedEntry>)>,
    lowest: bool,
) -> BTreeMap<Idx, (Ballot, Entry)> {
    let mut found: BTreeMap<Idx, (Ballot, Entry)> = BTreeMap::new();
    for AcceptedEntry { idx, ballot, entry } in promises.into_values().flat_map(|(_, a)| a) {
        match found.get(&idx) {
            Some((known, _)) if (*known >= ballot) != lowest => {}
            _ => {
                found.insert(idx, (ballot, entry));
            }
        }
    }
    found
}

/// A ballot's low bits name its node.
const NODE_BITS: u32 = 16;

/// After a node heard no majority: a link is dialled again each second at the latest, and then
/// needs a few round trips. Only where all are blind at once does it delay a takeover.
const SIGHT_US: u64 = 1_500_000;

/// Lets one survivor go first: more than its round trip on most links.
const STAGGER_US: u64 = 150_000;

/// An owner that is heard but does not come forward has three times the patience.
const STILL_US: u64 = 3 * SUSPECT_US;

const BACK_OFF_US: u64 = 100_000;
const BACK_OFF_DOUBLINGS: u32 = 4;

#[cfg(test)]
impl Takeover {
    /// What it still decides while no time passes.
    pub(super) fn gist(&self) -> impl std::fmt::Debug {
        match &self.phase {
            Phase::Resting(_) => None,
            Phase::Preparing(it) => Some((it.ballot, it.from, None, it.promises.clone())),
            Phase::Proposing(it) => Some((it.ballot, it.start, Some(it.next), BTreeMap::new())),
        }
    }

    /// It waits for promises to `ballot`.
    pub(super) fn asks_for(&self, ballot: Ballot) -> bool {
        matches!(&self.phase, Phase::Preparing(preparing) if preparing.ballot == ballot)
    }

    /// A higher ballot would stop it.
    pub(super) fn is_below(&self, ballot: Ballot) -> bool {
        self.ballot().is_some_and(|mine| mine < ballot)
    }
}

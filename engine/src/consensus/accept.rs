//! The acceptor: voting for proposals, and learning which are chosen.

use super::effect::Effect;
use super::entry::{Entry, EntryKind};
use super::lane::LaneLog;
use super::message::{Message, Vote};
use super::mutation::Mutation;
use super::record::LogRecord;
use super::replica::{Replica, SUSPECT_US, Standing};
use crate::ids::{Ballot, Gsn, Idx, LaneId, NodeId, Ts};

impl Replica {
    pub(super) fn on_propose(
        &mut self,
        from: NodeId,
        lane: LaneId,
        ballot: Ballot,
        start: Idx,
        first: Idx,
        entries: Vec<Entry>,
    ) {
        let next = match self.standing_for(from, lane, ballot) {
            Some(next) if self.is_voter() => next,
            _ => return,
        };
        if ballot.proposer(lane) != from || !ballot.is_sound() || !sound(start, first, &entries) {
            return self.nonsense();
        }
        if ballot == Ballot(0) && !self.believable(&entries) {
            return self.nonsense();
        }
        if ballot > Ballot(0) {
            self.give_up(lane);
        }
        let now_us = self.now_us;
        let below_promise = self.mutated(Mutation::AcceptBelowPromise);
        let over_gaps = self.mutated(Mutation::VoteOverGaps);
        let log = self.lanes.entry(lane).or_insert_with(|| LaneLog::new(next, now_us));
        log.highest = log.highest.max(ballot);
        // Accept only what no promise forbids (Lamport, Paxos Made Simple, 2.2, P1a).
        if ballot < log.promised && !below_promise {
            let (promised, gsn) = (log.promised, self.header.gsn);
            return self.send(from, Message::Reject { lane, promised, gsn });
        }
        if ballot > Ballot(0) {
            log.watch.hold_until_us = now_us + SUSPECT_US;
        }
        // Cumulative votes need unbroken runs within a ballot. Below `next` everything is
        // executed, hence chosen: a run may begin there.
        let run = log.range.filter(|run| run.ballot == ballot);
        let fresh = run.map_or(start, |run| run.upto.next());
        let begin = fresh.max(next);
        if first > begin && !over_gaps {
            let (asked, asked_us) = log.needed;
            if asked != begin || now_us.saturating_sub(asked_us) >= NEED_US {
                log.needed = (begin, now_us);
                self.send(from, Message::Need { lane, ballot, from: begin });
            }
            return;
        }
        let last = Idx(first.0 + entries.len() as u64 - 1);
        if let Some(run) = run
            && last <= run.upto
        {
            // Repeated: so is the answer, after the flush that the first one waited for.
            return self.send_durable(from, Message::Accepted { vote: run, closed: None });
        }
        if conflicts(log, next, first, &entries) {
            return self.nonsense();
        }
        let known = match run {
            Some(_) => fresh.0.saturating_sub(first.0),
            None => 0,
        };
        let first = Idx(first.0 + known);
        let entries: Vec<Entry> = entries.into_iter().skip(known as usize).collect();
        let seen = entries.iter().filter(|entry| !matches!(entry.kind, EntryKind::End { .. }));
        if let Some(ts) = seen.map(|entry| entry.ts).max()
            && ballot == Ballot(0)
        {
            self.seen = self.seen.max(ts);
        }
        self.accept(lane, ballot, first, entries);
    }

    /// Votes for `entries` at `first` and above, and tells everybody once that is durable.
    /// The caller has checked promise and run.
    pub(super) fn accept(&mut self, lane: LaneId, ballot: Ballot, first: Idx, entries: Vec<Entry>) {
        let below_promise = self.mutated(Mutation::AcceptBelowPromise);
        let over_gaps = self.mutated(Mutation::VoteOverGaps);
        let log = self.lanes.get_mut(&lane).expect("the lane is known");
        if ballot < log.promised && !below_promise {
            return;
        }
        log.promised = log.promised.max(ballot);
        let upto = Idx(first.0 + entries.len() as u64 - 1);
        let vote = match log.range {
            Some(run) if run.ballot == ballot && (run.upto.next() == first || over_gaps) => {
                Vote { upto, ..run }
            }
            _ => Vote { lane, ballot, first, upto },
        };
        log.range = Some(vote);
        for (offset, entry) in (0..).zip(entries) {
            let idx = Idx(first.0 + offset);
            if idx <= log.truncated {
                continue; // Executed, and durable in the tables.
            }
            log.entries.insert(idx, (ballot, entry.clone()));
            self.out.push(Effect::Persist(LogRecord::Accepted { lane, idx, ballot, entry }));
        }
        let closed = self.close();
        for to in self.other_voters() {
            match self.mutated(Mutation::VoteBeforeDurable) {
                true => self.send(to, Message::Accepted { vote, closed }),
                false => self.send_durable(to, Message::Accepted { vote, closed }),
            }
        }
        self.send_durable(self.me, Message::Accepted { vote, closed: None });
        // Votes for these entries may have come before the entries themselves.
        self.learn(lane);
    }

    pub(super) fn on_vote(&mut self, from: NodeId, vote: Vote) {
        let places = vote.first > Idx(0) && vote.first <= vote.upto && vote.upto <= IDX_MAX;
        if !places || !vote.ballot.is_sound() {
            return self.nonsense();
        }
        if !self.header.config.is_voter(from) {
            return;
        }
        let now_us = self.now_us;
        self.proposers().for_each(|proposer| proposer.on_vote(from, vote, now_us));
        let next = match self.header.standing(vote.lane) {
            Standing::Active(next) => next,
            Standing::Future => Idx(1),
            Standing::Over | Standing::FarFuture | Standing::NextEpoch => return,
        };
        let log = self.lanes.entry(vote.lane).or_insert_with(|| LaneLog::new(next, now_us));
        let fresh = log.vote(from, vote);
        if vote.ballot > Ballot(0) {
            self.give_up(vote.lane);
        }
        if fresh {
            self.learn(vote.lane);
        }
    }

    fn learn(&mut self, lane: LaneId) {
        let across_ballots = self.mutated(Mutation::VotesAcrossBallots);
        let old = self.mutated(Mutation::QuorumOfOldEpoch).then(|| self.deciding().clone());
        let log = self.lanes.get_mut(&lane).expect("the lane is known");
        log.learn(old.as_ref().unwrap_or(&self.header.config), across_ballots);
        self.own_chosen();
    }

    pub(super) fn on_reject(&mut self, from: NodeId, lane: LaneId, promised: Ballot, gsn: Gsn) {
        if !promised.is_sound() {
            return self.nonsense();
        }
        self.note_gsn(from, gsn);
        if let Some(log) = self.lanes.get_mut(&lane) {
            log.highest = log.highest.max(promised);
            if promised > Ballot(0) {
                self.give_up(lane);
            }
            self.lose_takeover(lane, promised);
        }
    }

    /// The next entry of `lane` to execute, if this node may still vote there. Otherwise the
    /// sender is told why, or this node catches up.
    pub(super) fn standing_for(
        &mut self,
        from: NodeId,
        lane: LaneId,
        promised: Ballot,
    ) -> Option<Idx> {
        match self.header.standing(lane) {
            Standing::Active(next) => Some(next),
            Standing::Future => Some(Idx(1)),
            Standing::Over => {
                if from != self.me {
                    let gsn = self.header.gsn;
                    self.send(from, Message::Reject { lane, promised, gsn });
                }
                None
            }
            Standing::FarFuture | Standing::NextEpoch => None,
        }
    }

    /// A timestamp far in the future would drag every clock of the ring along.
    fn believable(&self, entries: &[Entry]) -> bool {
        let now = self.group_now().max(self.header.position.0).max(self.seen);
        entries.iter().all(|entry| entry.ts <= Ts(now.0.saturating_add(FUTURE_US_MAX)))
    }
}

impl Ballot {
    /// Who may propose at this ballot in `lane`.
    pub(super) fn proposer(self, lane: LaneId) -> NodeId {
        if self == Ballot(0) { lane.node } else { NodeId(self.0 as u16) }
    }

    /// Leaves room for higher ones.
    pub(super) fn is_sound(self) -> bool {
        self.0 <= u64::MAX >> 1
    }
}

/// A proposal as correct nodes send it: timestamps rise, and nothing follows an `End`.
fn sound(start: Idx, first: Idx, entries: &[Entry]) -> bool {
    let rising = entries
        .windows(2)
        .all(|pair| pair[0].ts < pair[1].ts && !matches!(pair[0].kind, EntryKind::End { .. }));
    let kinds = entries.iter().all(|entry| match &entry.kind {
        EntryKind::Reconfigure(config) => config.is_sound(),
        _ => true,
    });
    let times = entries.iter().all(|entry| entry.ts <= TS_MAX);
    let room = first.0 <= IDX_MAX.0 - entries.len() as u64;
    Idx(1) <= start && start <= first && !entries.is_empty() && rising && kinds && times && room
}

/// What is chosen never changes; a proposal that says otherwise comes from a broken node.
/// Below `next` the log may hold values that were never chosen: the order has gone past them.
fn conflicts(log: &LaneLog, next: Idx, first: Idx, entries: &[Entry]) -> bool {
    (first.0..)
        .map(Idx)
        .zip(entries)
        .any(|(idx, entry)| idx >= next && log.chosen(idx).is_some_and(|chosen| chosen != entry))
}

/// Larger than any clock error that one would repair by waiting.
const FUTURE_US_MAX: u64 = 10_000_000;

/// The same entries are not asked for with every message that shows that they are missing.
const NEED_US: u64 = 50_000;

/// Keeps arithmetic on places and timestamps away from overflow.
const IDX_MAX: Idx = Idx(u64::MAX >> 1);
pub(super) const TS_MAX: Ts = Ts(u64::MAX >> 1);

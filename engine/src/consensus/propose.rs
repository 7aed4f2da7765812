//! The own lane: proposing at ballot 0.

use super::effect::Effect;
use super::entry::{Entry, EntryKind};
use super::message::Message;
use super::mutation::Mutation;
use super::proposer::Proposer;
use super::record::LogRecord;
use super::replica::Replica;
use crate::ids::{Ballot, Idx, LaneId, NodeId, Ts};

/// The lane that this node owns and may propose in. One that anybody else has touched is
/// dead, and no longer here.
#[derive(Clone, Debug)]
pub(super) struct OwnLane {
    pub proposer: Proposer,
    /// The record that it was begun is durable: proposals and promises may go out.
    pub begun: bool,
    /// `End` was proposed: nothing may follow.
    pub ended: bool,
    /// Every later entry has a higher timestamp.
    pub last_ts: Ts,
    /// Timestamp of the last chosen entry that this node itself proposed.
    pub chosen_ts: Ts,
    /// How far `chosen_ts` has looked.
    chosen_upto: Idx,
    /// A promise hit its limit: a tick would raise it.
    pub wants_tick: bool,
    /// When commands last went through it.
    pub used_us: u64,
}

impl OwnLane {
    pub fn lane(&self) -> LaneId {
        self.proposer.lane
    }

    /// The last proposed entry.
    pub fn last(&self) -> Idx {
        Idx(self.proposer.next.0 - 1)
    }

    pub fn takes_proposals(&self) -> bool {
        self.begun && !self.ended
    }
}

impl Replica {
    /// Begins the own lane `lane`, whose entries all lie above `start`.
    ///
    /// Once only: what an earlier start of this node proposed may not be known here any more,
    /// so a lane that was begun before can only be taken over.
    pub(super) fn begin(&mut self, lane: LaneId, start: Ts) {
        assert_eq!(lane.node, self.me, "only the owner begins a lane");
        if self.started.contains(&lane) {
            return self.resume_in_breach(lane, start);
        }
        self.started.insert(lane);
        if !self.mutated(Mutation::StartedNotPersisted) {
            self.persist(LogRecord::Started { lane });
        }
        self.own = Some(OwnLane {
            proposer: Proposer::new(lane, Ballot(0), Idx(1)),
            begun: false,
            ended: false,
            last_ts: start,
            chosen_ts: start,
            chosen_upto: Idx(0),
            wants_tick: false,
            used_us: self.now_us,
        });
        self.queue.resubmit();
        self.send_durable(self.me, Message::Begun { lane });
    }

    /// What [`Mutation::ResumeLane`] does; nothing in a real program.
    fn resume_in_breach(&mut self, lane: LaneId, start: Ts) {
        if !self.mutated(Mutation::ResumeLane) {
            return;
        }
        let log = &self.lanes[&lane];
        let last = log.entries.last_key_value();
        let next = last.map_or(Idx(1), |(idx, _)| idx.next()).max(log.chosen_upto.next());
        let mut proposer = Proposer::new(lane, Ballot(0), Idx(1));
        proposer.next = next;
        self.own = Some(OwnLane {
            proposer,
            begun: true,
            ended: false,
            last_ts: start.max(last.map_or(start, |(_, (_, entry))| entry.ts)),
            chosen_ts: start,
            chosen_upto: Idx(0),
            wants_tick: false,
            used_us: self.now_us,
        });
    }

    pub(super) fn on_begun(&mut self, from: NodeId, lane: LaneId) {
        if from != self.me {
            return self.nonsense();
        }
        if let Some(own) = self.own.as_mut().filter(|own| own.lane() == lane) {
            own.begun = true;
        }
    }

    /// Proposes `kinds` in this order, in the own lane, which must take proposals.
    pub(super) fn propose(&mut self, kinds: Vec<EntryKind>) {
        let wanted = Ts(self.group_now().0 + self.lead_us());
        let own = self.own.as_mut().expect("the own lane takes proposals");
        assert!(own.takes_proposals(), "nothing is proposed before Started or after End");
        let (lane, first) = (own.lane(), own.proposer.next);
        let mut entries = Vec::with_capacity(kinds.len());
        for kind in kinds {
            assert!(!own.ended, "nothing follows an End");
            own.ended = matches!(kind, EntryKind::End { .. });
            own.last_ts = wanted.max(Ts(own.last_ts.0 + 1));
            own.proposer.next = own.proposer.next.next();
            entries.push(Entry { ts: own.last_ts, kind });
        }
        // To the others before the own log: their fsyncs run beside ours. The owner's vote
        // counts only after its own.
        for to in self.other_voters() {
            let entries = entries.clone();
            let (ballot, start) = (Ballot(0), Idx(1));
            self.out.push(Effect::Send {
                to,
                message: Message::Propose { lane, ballot, start, first, entries },
            });
        }
        self.accept(lane, Ballot(0), first, entries);
    }

    /// Follows which own proposals were chosen.
    pub(super) fn own_chosen(&mut self) {
        let foreign = self.mutated(Mutation::ForeignEndAsOwn);
        let Some(own) = self.own.as_mut() else { return };
        let Some(log) = self.lanes.get(&own.lane()) else { return };
        while own.chosen_upto < log.chosen_upto {
            own.chosen_upto = own.chosen_upto.next();
            // Ballot 0 only: a taker's `End` lies far above, and a promise that leans on it
            // could pass the `End` itself.
            if let Some((ballot, entry)) = log.entries.get(&own.chosen_upto)
                && (*ballot == Ballot(0) || foreign)
            {
                own.chosen_ts = own.chosen_ts.max(entry.ts);
            }
        }
    }

    /// Somebody else is closing `lane`. If it is the own one, this node stops using it: no
    /// more proposals, no more promises; commands go another way.
    pub(super) fn give_up(&mut self, lane: LaneId) {
        if self.own.as_ref().is_some_and(|own| own.lane() == lane)
            && !self.mutated(Mutation::ForeignEndAsOwn)
        {
            self.own = None;
            self.dead.insert(lane, self.now_us);
            self.queue.resubmit();
        }
    }
}

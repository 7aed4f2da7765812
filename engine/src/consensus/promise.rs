//! Closed promises: "nothing at or below this timestamp comes from my lane any more".

use std::collections::VecDeque;

use super::entry::EntryKind;
use super::message::Closed;
use super::mutation::Mutation;
use super::replica::Replica;
use crate::ids::{Idx, NodeId, Ts};

/// What one lane's owner has promised, as far as it was heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Promises {
    /// The best promise that counts already.
    ts: Ts,
    /// Promises that count once every entry up to their `last` is executed, ascending.
    waiting: VecDeque<(Idx, Ts)>,
}

impl Promises {
    /// Takes a promise that covers what comes after `last`.
    pub fn add(&mut self, last: Idx, ts: Ts) {
        let position = self.waiting.partition_point(|&known| known < (last, ts));
        // A promise that comes later but allows less says nothing.
        if self.waiting.get(position).is_some_and(|&(next_last, _)| next_last == last) {
            return;
        }
        if position > 0 && self.waiting[position - 1].0 == last {
            self.waiting[position - 1].1 = ts;
        } else {
            self.waiting.insert(position, (last, ts));
        }
        if self.waiting.len() > WAITING_MAX {
            // The second newest: the oldest counts first, the newest reaches farthest.
            self.waiting.remove(WAITING_MAX - 1);
        }
    }

    /// The lane's `next` entry, not yet known to be chosen, has a timestamp above this.
    ///
    /// A promise counts only if its `last` lies below `next`: entries up to `last` may have
    /// lower timestamps.
    pub fn bound(&self, next: Idx) -> Ts {
        let usable = self.waiting.iter().take_while(|&&(last, _)| last < next);
        usable.map(|&(_, ts)| ts).max().unwrap_or_default().max(self.ts)
    }

    /// Entries below `next` are executed.
    pub fn advance(&mut self, next: Idx) {
        while let Some(&(last, ts)) = self.waiting.front()
            && last < next
        {
            self.ts = self.ts.max(ts);
            self.waiting.pop_front();
        }
    }
}

impl Replica {
    /// The clock that the ring's nodes share, roughly; never a safety matter.
    pub(super) fn group_now(&self) -> Ts {
        Ts(self.now_us.saturating_add_signed(self.clock_offset_us))
    }

    /// Half the round trip to the nearest majority: the entry is chosen at about the moment
    /// when its timestamp has come everywhere, so that nobody else's promise is late.
    pub(super) fn lead_us(&self) -> u64 {
        self.quorum_rtt_us.map_or(0, |rtt_us| (rtt_us / 2).min(LEAD_US_MAX))
    }

    /// Makes the best promise that the own lane may make, and counts it here as well.
    ///
    /// It is at most `promise_lead_us` above the last chosen entry that this node itself
    /// proposed: whoever closes the lane finds that entry, and puts the lane's `End` above
    /// every promise that can have been made.
    pub(super) fn close(&mut self) -> Option<Closed> {
        // With one active lane nobody waits for promises.
        if self.header.active.len() < 2 {
            return None;
        }
        let group_now = self.group_now();
        let lead_us = self.lead_us();
        let unbounded = self.mutated(Mutation::UnboundedPromise);
        let own = self.own.as_mut().filter(|own| own.takes_proposals())?;
        if !self.header.active.contains_key(&own.lane()) {
            return None;
        }
        let wanted = Ts(group_now.0 + lead_us).max(self.seen).max(own.last_ts);
        let limit = Ts(own.chosen_ts.0 + self.header.config.promise_lead_us);
        let ts = if unbounded { wanted } else { wanted.min(limit) };
        own.wants_tick |= wanted > limit;
        own.last_ts = own.last_ts.max(ts);
        let closed = Closed { lane: own.lane(), last: own.last(), ts };
        if let Some(log) = self.lanes.get_mut(&closed.lane) {
            log.promises.add(closed.last, closed.ts);
        }
        Some(closed)
    }

    pub(super) fn on_closed(&mut self, from: NodeId, closed: Closed) {
        if closed.lane.node != from {
            return self.nonsense();
        }
        let last = if self.mutated(Mutation::ClosedWithoutLast) { Idx(0) } else { closed.last };
        // For a lane that is not known yet, the next heartbeat repeats it.
        if self.header.active.contains_key(&closed.lane)
            && let Some(log) = self.lanes.get_mut(&closed.lane)
        {
            log.promises.add(last, closed.ts);
        }
    }

    /// Keeps the promise limit of an idle lane moving while other lanes wait for it.
    pub(super) fn tick(&mut self) {
        if self.header.active.len() < 2 {
            return;
        }
        let wanted = self.group_now().0 + self.lead_us();
        let Some(own) = self.own.as_mut().filter(|own| own.takes_proposals()) else { return };
        let log = &self.lanes[&own.lane()];
        let waiting = log.chosen_upto < own.last();
        let due = own.wants_tick || wanted > own.chosen_ts.0 + TICK_US;
        if due && !waiting && self.header.active.contains_key(&own.lane()) {
            own.wants_tick = false;
            self.propose(vec![EntryKind::Tick]);
        }
    }
}

/// A lead beyond this would make the lead itself the latency, on links where one would rather
/// change the membership.
const LEAD_US_MAX: u64 = 250_000;

/// A quarter of the promise limit, so that one lost tick does no harm.
const TICK_US: u64 = 500_000;

/// Promises kept while entries are missing: a second's worth of heartbeats.
const WAITING_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_counts_only_after_the_entries_before_it() {
        let mut promises = Promises::default();
        promises.add(Idx(2), Ts(50));
        promises.add(Idx(4), Ts(90));
        assert_eq!(promises.bound(Idx(2)), Ts(0));
        assert_eq!(promises.bound(Idx(3)), Ts(50));
        assert_eq!(promises.bound(Idx(5)), Ts(90));
        promises.advance(Idx(5));
        assert_eq!(promises.bound(Idx(5)), Ts(90));
    }

    #[test]
    fn the_newest_promise_of_a_place_stays() {
        let mut promises = Promises::default();
        promises.add(Idx(0), Ts(30));
        promises.add(Idx(0), Ts(70));
        promises.add(Idx(0), Ts(50));
        assert_eq!(promises.bound(Idx(1)), Ts(70));
    }

    #[test]
    fn memory_for_promises_is_bounded() {
        let mut promises = Promises::default();
        for last in 1..10_000 {
            promises.add(Idx(last), Ts(last * 10));
        }
        assert_eq!(promises.waiting.len(), WAITING_MAX);
        assert_eq!(promises.bound(Idx(2)), Ts(10));
        assert_eq!(promises.bound(Idx(10_000)), Ts(99_990));
    }
}

//! One lane as one acceptor and learner knows it.

use std::collections::BTreeMap;

use super::entry::{Config, Entry};
use super::message::{AcceptedEntry, Vote};
use super::promise::Promises;
use crate::ids::{Ballot, Idx, LaneId, NodeId, Ts};

/// Accepted values, votes and promises of one lane.
#[derive(Clone, Debug)]
pub(super) struct LaneLog {
    /// Accepted values. Below `truncated` there are none.
    pub entries: BTreeMap<Idx, (Ballot, Entry)>,
    /// The last entry that was given up because the tables hold its effect durably.
    pub truncated: Idx,
    /// No lower ballot is accepted any more.
    pub promised: Ballot,
    /// What this node accepted at its highest ballot, durable or not yet.
    pub range: Option<Vote>,
    /// Durable votes that are known here, of each node the one of its highest ballot.
    pub votes: BTreeMap<NodeId, Vote>,
    /// Every entry up to here is known to be chosen.
    pub chosen_upto: Idx,
    /// The owner's promises.
    pub promises: Promises,
    /// The highest ballot heard of, so that a takeover's is higher.
    pub highest: Ballot,
    pub watch: Watch,
    /// The last entry that was asked for again, and when, µs.
    pub needed: (Idx, u64),
}

/// When a lane last made headway, for suspicion.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    pub headway: (Idx, Ts),
    pub headway_us: u64,
    /// Somebody else is closing the lane: leave it to them until then.
    pub hold_until_us: u64,
}

impl LaneLog {
    /// A lane of which everything below `next` is executed.
    pub fn new(next: Idx, now_us: u64) -> LaneLog {
        let done = Idx(next.0.saturating_sub(1));
        LaneLog {
            entries: BTreeMap::new(),
            truncated: Idx(0),
            promised: Ballot(0),
            range: None,
            votes: BTreeMap::new(),
            chosen_upto: done,
            promises: Promises::default(),
            highest: Ballot(0),
            watch: Watch { headway_us: now_us, ..Watch::default() },
            needed: (Idx(0), 0),
        }
    }

    /// What the log on disk says after a restart: everything in it is durable, so the node's
    /// vote for it stands.
    pub fn recover(
        lane: LaneId,
        me: NodeId,
        next: Idx,
        promised: Ballot,
        entries: BTreeMap<Idx, (Ballot, Entry)>,
    ) -> LaneLog {
        let mut log = LaneLog::new(next, 0);
        let accepted = entries.values().map(|(ballot, _)| *ballot).max();
        log.promised = promised.max(accepted.unwrap_or_default());
        log.highest = log.promised;
        // What was given up is in the tables. A gap above them is none of that: its entries were
        // executed as others told them, and the tables came back without them.
        let given_up = Idx(next.0.saturating_sub(1));
        log.truncated = match entries.first_key_value() {
            Some((first, _)) => given_up.min(Idx(first.0.saturating_sub(1))),
            None => given_up,
        };
        // Only the last unbroken run at the highest ballot: a run may be followed by values of
        // lower ballots, and catching up from the order leaves gaps.
        let mut run: Option<Vote> = None;
        for (&idx, (ballot, _)) in &entries {
            if Some(*ballot) == accepted {
                run = match run {
                    Some(vote) if vote.upto.next() == idx => Some(Vote { upto: idx, ..vote }),
                    _ => Some(Vote { lane, ballot: *ballot, first: idx, upto: idx }),
                };
            }
        }
        log.range = run;
        log.votes = run.map(|vote| (me, vote)).into_iter().collect();
        log.entries = entries;
        log
    }

    /// Takes note of a durable vote. False if it said nothing new.
    pub fn vote(&mut self, node: NodeId, vote: Vote) -> bool {
        self.highest = self.highest.max(vote.ballot);
        let known = self.votes.get(&node).copied();
        let merged = match known {
            Some(old) if old.ballot > vote.ballot => old,
            Some(old) if old.ballot == vote.ballot => merge(old, vote),
            _ => vote,
        };
        self.votes.insert(node, merged);
        known != Some(merged)
    }

    /// Extends the chosen prefix as far as the votes allow.
    ///
    /// An entry is chosen when a quorum accepted it at the same ballot, and that ballot's
    /// value is the one held here.
    pub fn learn(&mut self, config: &Config, across_ballots: bool) {
        loop {
            let idx = self.chosen_upto.next();
            let Some((ballot, _)) = self.entries.get(&idx) else { return };
            let voted = |vote: &Vote| {
                (vote.ballot == *ballot || across_ballots) && vote.first <= idx && idx <= vote.upto
            };
            let voters = self.votes.iter().filter(|(_, vote)| voted(vote)).map(|(&node, _)| node);
            if !config.quorum(voters) {
                return;
            }
            self.chosen_upto = idx;
        }
    }

    /// The entry at `idx` if it is known to be chosen.
    pub fn chosen(&self, idx: Idx) -> Option<&Entry> {
        if idx > self.chosen_upto {
            return None;
        }
        self.entries.get(&idx).map(|(_, entry)| entry)
    }

    pub fn known_upto(&self) -> Idx {
        let held = self.entries.last_key_value().map_or(Idx(0), |(&idx, _)| idx);
        held.max(self.chosen_upto)
    }

    /// What a promise tells a taker that asks for `from` and above: the first place covered,
    /// and the accepted values. Starts at `next`, the first entry not executed here, instead
    /// of `from` when older ones are gone or too many.
    pub fn accepted_from(&self, from: Idx, next: Idx) -> (Idx, Vec<AcceptedEntry>) {
        let mut first = from.max(self.truncated.next());
        // Executed entries that never went through this node's log cannot be told either.
        let complete = (first.0..next.0).all(|idx| self.entries.contains_key(&Idx(idx)));
        if first < next && (!complete || next.0 - first.0 > EXECUTED_TOLD_MAX) {
            first = next;
        }
        let accepted = self.entries.range(first..).map(|(&idx, (ballot, entry))| AcceptedEntry {
            idx,
            ballot: *ballot,
            entry: entry.clone(),
        });
        (first, accepted.collect())
    }

    pub fn truncate(&mut self, upto: Idx) {
        self.truncated = self.truncated.max(upto);
        self.entries = self.entries.split_off(&self.truncated.next());
    }
}

/// Both are true and of one ballot; ranges that don't touch cannot be joined.
fn merge(old: Vote, new: Vote) -> Vote {
    if new.first <= old.upto.next() && old.first <= new.upto.next() {
        Vote { first: old.first.min(new.first), upto: old.upto.max(new.upto), ..old }
    } else if new.upto > old.upto {
        new
    } else {
        old
    }
}

/// A taker that lags by more than this catches up from the order, which costs less.
const EXECUTED_TOLD_MAX: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::entry::EntryKind;
    use crate::ids::{Epoch, Term};

    /// A node learned the first entry from others, voted for the second, and came back with
    /// tables that hold neither (seed 5009528).
    #[test]
    fn an_entry_that_never_came_here_is_not_one_that_was_given_up() {
        let lane = LaneId { epoch: Epoch(1), node: NodeId(1), term: Term(0) };
        let entry = Entry { ts: Ts(7), kind: EntryKind::Tick };
        let entries = BTreeMap::from([(Idx(2), (Ballot(9), entry))]);
        let log = LaneLog::recover(lane, NodeId(2), Idx(1), Ballot(9), entries.clone());
        let (first, accepted) = log.accepted_from(Idx(1), Idx(1));
        assert_eq!(
            (first, accepted.len()),
            (Idx(1), 1),
            "nothing was voted for in the first place"
        );
        // With tables that hold it, it cannot be told.
        let log = LaneLog::recover(lane, NodeId(2), Idx(2), Ballot(9), entries);
        assert_eq!(log.accepted_from(Idx(1), Idx(2)).0, Idx(2));
    }
}

//! Bugs on purpose: each removes one rule that safety needs, to see that the simulator and the
//! model checker notice. They exist in this crate's own tests only.

#[cfg(test)]
use super::replica::Standing;

/// A rule to break.
#[cfg_attr(not(test), expect(dead_code, reason = "the names of rules, for tests"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Promise without regard to the last chosen entry.
    UnboundedPromise,
    /// A taker's `End` lies just above the last entry.
    EndWithoutLead,
    /// Go on with the own lane after a restart.
    ResumeLane,
    /// Begin a lane without a durable note of it.
    StartedNotPersisted,
    /// Forget promised ballots in a restart.
    ForgetPromised,
    /// Forget what was accepted for lanes that are far ahead of the tables in a restart.
    ForgetFarLanes,
    /// Count promises before the entries that they follow.
    ClosedWithoutLast,
    /// Take an `End` that a taker wrote into the own lane for an own entry.
    ForeignEndAsOwn,
    /// Execute entries of an epoch's lanes also after its end.
    OldEpochNotVoid,
    /// Count votes for a place whatever ballot they are of.
    VotesAcrossBallots,
    /// Count votes and promises by the membership that was in force when the process started.
    QuorumOfOldEpoch,
    /// Accept at a ballot below the promised one.
    AcceptBelowPromise,
    /// Vote before the entries are durable.
    VoteBeforeDurable,
    /// Ask for promises to a ballot that the taker may use again after a restart.
    PrepareBeforeDurable,
    /// A taker proposes the values of the lowest ballots that it is told.
    LowestBallot,
    /// Vote for everything up to the last entry, with entries missing before it.
    VoteOverGaps,
    /// A snapshot without how far each origin's commands are applied. (The simulated driver
    /// does that.)
    SnapshotWithoutOrigins,
}

impl super::Replica {
    #[cfg(test)]
    pub(super) fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// In a real program no rule is broken.
    #[cfg(not(test))]
    pub(super) fn mutated(&self, _: Mutation) -> bool {
        false
    }
}

impl super::Replica {
    /// The membership by which votes and promises count.
    #[cfg(test)]
    pub(super) fn deciding(&self) -> &super::Config {
        match self.mutated(Mutation::QuorumOfOldEpoch) {
            true => &self.config_at_start,
            false => &self.header.config,
        }
    }

    #[cfg(not(test))]
    pub(super) fn deciding(&self) -> &super::Config {
        &self.header.config
    }
}

#[cfg(test)]
impl super::Replica {
    /// Breaks a rule, right after [`recover`](super::Replica::recover).
    pub(crate) fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
        if mutation == Mutation::ForgetPromised {
            for log in self.lanes.values_mut() {
                log.promised = crate::ids::Ballot(0);
                log.highest = crate::ids::Ballot(0);
            }
        }
        if mutation == Mutation::ForgetFarLanes {
            let header = &self.header;
            self.lanes.retain(|&lane, _| header.standing(lane) != Standing::FarFuture);
        }
    }
}

//! Broken rules, and a configuration to find each in.

use super::model::{EPOCHS_END, ONE_ORDER, PROMISES_HOLD};
use super::ring::{Ring, What};
use super::{explore, one, two};
use crate::consensus::mutation::Mutation;

/// A violation is found with the rule broken.
fn check_found(mutation: Mutation, ring: Ring, violated: &str) {
    let found = explore("", ring.broken(mutation), super::limit(600));
    assert_eq!(found.violated, Some(violated), "{mutation:?}");
}

macro_rules! found {
    ($($name:ident: $mutation:ident, $violated:ident, $ring:expr;)*) => {
        $(
            #[test]
            fn $name() {
                check_found(Mutation::$mutation, $ring, $violated);
            }
        )*

        /// The same with all rules kept, where nothing may be found.
        pub fn kept() -> Vec<(&'static str, Ring)> {
            vec![$((stringify!($name), $ring)),*]
        }
    };
}

found! {
    accepting_below_a_promise: AcceptBelowPromise, ONE_ORDER,
        one().proposes(1).takes_over(&[2], 1);
    votes_across_ballots: VotesAcrossBallots, ONE_ORDER,
        one().proposes(1).takes_over(&[2], 1);
    an_end_without_lead: EndWithoutLead, ONE_ORDER,
        two().proposes(2).may(What::Advance, &[1]).may(What::Beat, &[1]).takes_over(&[2], 1);
    unbounded_promises: UnboundedPromise, PROMISES_HOLD,
        two().proposes(2).may(What::Advance, &[1]).may(What::Advance, &[2])
            .may(What::Beat, &[1]).takes_over(&[2], 1);
    promises_counted_too_early: ClosedWithoutLast, ONE_ORDER,
        two().proposes(1).proposes(2);
    forgotten_promises: ForgetPromised, ONE_ORDER,
        one().proposes(1).takes_over(&[2], 1).crashes(&[3]);
    votes_before_the_flush: VoteBeforeDurable, ONE_ORDER,
        one().proposes(1).takes_over(&[2], 1).crashes(&[3]);
    a_resumed_lane: ResumeLane, ONE_ORDER,
        one().proposes(1).proposes(1).crashes(&[1]);
    a_lane_begun_without_record: StartedNotPersisted, ONE_ORDER,
        one().proposes(1).proposes(1).crashes(&[1]);
    a_taker_that_believes_the_lowest_ballot: LowestBallot, ONE_ORDER,
        one().proposes(1).takes_over(&[2], 1).takes_over(&[3], 1);
    entries_of_an_epoch_that_is_over: OldEpochNotVoid, EPOCHS_END,
        two().members(1, &[1, 2]).proposes(2);
    a_foreign_end_taken_for_an_own_entry: ForeignEndAsOwn, PROMISES_HOLD,
        two().proposes(2).may(What::Advance, &[1]).may(What::Advance, &[2])
            .may(What::Beat, &[1]).takes_over(&[2], 1);
    a_quorum_of_an_old_membership: QuorumOfOldEpoch, ONE_ORDER,
        Ring { voters: 1, ..one() }.members(1, &[1, 2, 3]).proposes(1)
            .may(What::Fetch { from: 1 }, &[2]).may(What::Fetch { from: 1 }, &[3])
            .crashes(&[2]).crashes(&[3]).takes_over(&[2], 1);
    votes_over_gaps: VoteOverGaps, ONE_ORDER,
        one().proposes(1).proposes(1).proposes(1).takes_over(&[2], 1);
}

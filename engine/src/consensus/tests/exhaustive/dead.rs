//! Messages that can do nothing any more, whatever happens.
//!
//! States that differ only in such messages behave alike, so they are one. Each rule leans on
//! something that never goes back: a lane that is over stays so, executed entries stay
//! executed, a promised ballot only rises, an own lane that was given up is not taken up again.
//! On a disk that is flushed after each step all of that survives a crash.

use super::node::{Node, Sent};
use super::ring::Ring;
use crate::consensus::message::{Closed, Message, Vote};
use crate::consensus::mutation::Mutation;
use crate::consensus::replica::Standing;
use crate::ids::{Ballot, LaneId};

/// `sent` does nothing at its receiver `to` from now on, and leads to no answer that would do
/// something at its sender `from`.
pub fn is_dead(ring: &Ring, sent: &Sent, from: &Node, to: &Node) -> bool {
    if ring.mutation.is_some_and(takes_back) || ring.is_slow(sent.to) || ring.is_slow(sent.from) {
        return false;
    }
    match &sent.message {
        Message::Propose { lane, .. } | Message::Prepare { lane, .. } => {
            // The answer would be that the lane is over.
            is_over(to, *lane) && is_over(from, *lane)
        }
        Message::Accepted { vote, closed } => {
            let counted =
                is_over(to, vote.lane) || vote.ballot == Ballot(0) && is_executed(to, vote);
            counted && closed.is_none_or(|closed| is_known(to, closed))
        }
        Message::Promise { lane, ballot, .. } => {
            is_over(to, *lane) || has_passed(to, *lane, *ballot)
        }
        Message::Reject { lane, promised, .. } => {
            is_over(to, *lane) || !uses(to, *lane) && has_heard(to, *lane, *promised)
        }
        Message::Need { lane, .. } => is_over(to, *lane),
        _ => false,
    }
}

/// The broken rule may take back what is relied upon here.
fn takes_back(mutation: Mutation) -> bool {
    !matches!(
        mutation,
        Mutation::LowestBallot
            | Mutation::EndWithoutLead
            | Mutation::UnboundedPromise
            | Mutation::ClosedWithoutLast
            | Mutation::VoteOverGaps
    )
}

fn is_over(node: &Node, lane: LaneId) -> bool {
    node.replica.header.standing(lane) == Standing::Over
}

/// All of the places voted for.
fn is_executed(node: &Node, vote: &Vote) -> bool {
    node.replica.header.active.get(&vote.lane).is_some_and(|active| vote.upto < active.next)
}

/// The promise allows no more than what is promised already.
fn is_known(node: &Node, closed: Closed) -> bool {
    // A crash forgets promises.
    let active = node.replica.header.active.contains_key(&closed.lane) && !node.needs.disk;
    is_over(node, closed.lane) || active && node.replica.bound(closed.lane) >= closed.ts
}

/// The taker has used the ballot, and the next one that it takes will be higher.
fn has_passed(taker: &Node, lane: LaneId, ballot: Ballot) -> bool {
    let replica = &taker.replica;
    let promised = replica.lanes.get(&lane).is_some_and(|log| log.promised >= ballot);
    let waits = replica.takeovers.get(&lane).is_some_and(|it| it.asks_for(ballot));
    promised && !waits
}

/// As its owner, now or one day.
fn uses(node: &Node, lane: LaneId) -> bool {
    let replica = &node.replica;
    let now = replica.own.as_ref().is_some_and(|own| own.lane() == lane);
    now || lane.node == node.id && !replica.started.contains(&lane)
}

/// It knows of a ballot so high, and is at no lower one itself.
fn has_heard(node: &Node, lane: LaneId, ballot: Ballot) -> bool {
    let replica = &node.replica;
    let promised = replica.lanes.get(&lane).is_some_and(|log| log.promised >= ballot);
    let lower = replica.takeovers.get(&lane).is_some_and(|it| it.is_below(ballot));
    (promised || !node.needs.ballots) && !lower
}

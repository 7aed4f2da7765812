use super::*;
use crate::consensus::mutation::Mutation;

#[test]
fn rings_agree_whatever_happens() {
    let report = run(0..200, Options::default());
    assert!(report.failures.is_empty(), "{report}");
    let Totals { crashes, takeovers, epochs, snapshots, .. } = report.totals;
    assert!(crashes > 0 && takeovers > 0 && epochs > 0 && snapshots > 0, "{report}");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    let (first, _) = replay(7, Options::default());
    let (second, _) = replay(7, Options::default());
    assert!(first.len() > 500, "{} events", first.len());
    assert_eq!(first, second);
}

/// A command takes one round trip to its proposer's nearest majority, and a little more.
fn check_latency(rtts_ms: &[&[u64]], writers: &[u16], bounds_ms: &[u64]) {
    let rtts_us: Vec<Vec<u64>> =
        rtts_ms.iter().map(|row| row.iter().map(|ms| ms * 1000).collect()).collect();
    let writers: Vec<NodeId> = writers.iter().copied().map(NodeId).collect();
    let took_us = latencies_us(1, &rtts_us, &writers);
    println!("writers {writers:?}: {took_us:?} us, bounds {bounds_ms:?} ms");
    for (took_us, bound_ms) in took_us.into_iter().zip(bounds_ms) {
        let most_us = bound_ms * 1000 * 103 / 100 + SLACK_US;
        assert!(took_us <= most_us, "{took_us} us, the nearest majority is {bound_ms} ms away");
    }
}

/// Flushes, clock errors of 2 ms and one heartbeat.
const SLACK_US: u64 = 8_000;

const NEAR_AND_FAR: [&[u64]; 3] = [&[0, 20, 80], &[20, 0, 90], &[80, 90, 0]];
const ATLANTIC_AND_ASIA: [&[u64]; 3] = [&[0, 70, 152], &[70, 0, 204], &[152, 204, 0]];
const FIVE: [&[u64]; 5] = [
    &[0, 72, 70, 152, 236],
    &[72, 0, 127, 101, 163],
    &[70, 127, 0, 204, 187],
    &[152, 101, 204, 0, 77],
    &[236, 163, 187, 77, 0],
];

#[test]
fn a_lone_writer_waits_for_its_nearest_majority() {
    for (writer, bound_ms) in [(1, 20), (2, 20), (3, 80)] {
        check_latency(&NEAR_AND_FAR, &[writer], &[bound_ms]);
    }
    for (writer, bound_ms) in [(1, 70), (2, 70), (3, 152)] {
        check_latency(&ATLANTIC_AND_ASIA, &[writer], &[bound_ms]);
    }
}

#[test]
fn writers_everywhere_wait_for_their_nearest_majorities() {
    check_latency(&NEAR_AND_FAR, &[1, 2, 3], &[20, 20, 80]);
    check_latency(&ATLANTIC_AND_ASIA, &[1, 2, 3], &[70, 70, 152]);
    // With five voters an entry of another lane can be known to be chosen a little later.
    check_latency(&FIVE, &[1, 2, 3, 4, 5], &[72 + 12, 101 + 12, 127 + 12, 101 + 12, 163 + 12]);
}

/// Three writers, of which one dies: how long the others' slowest command takes.
fn worst_wait_us(seed: u64, rtts_ms: &[&[u64]], dies: u16) -> u64 {
    let rtts_us: Vec<Vec<u64>> =
        rtts_ms.iter().map(|row| row.iter().map(|ms| ms * 1000).collect()).collect();
    let writers = [1, 2, 3].map(NodeId);
    let mut plan = Plan::quiet(seed, &rtts_us, &writers);
    plan.writers = writers.map(|node| (node, 20_000)).to_vec();
    plan.calm_us = 30_000_000;
    let node = NodeId(dies);
    plan.faults = vec![(15_000_000, fault::Fault::Crash { node, down_us: 14_000_000 })];
    let mut world = World::new(plan, Options::default(), false);
    world.run().expect("a crash breaks nothing");
    let others = world.waits_us.iter().filter(|(other, _)| **other != node);
    let waits = others.flat_map(|(_, waits)| waits);
    let warm = waits.filter(|(since_us, _)| *since_us > WARM_US);
    warm.map(|&(_, wait_us)| wait_us).max().expect("the others wrote")
}

#[test]
fn a_dying_writer_stalls_the_others_for_less_than_a_second() {
    for (seed, dies) in (0..9).zip([1, 2, 3].into_iter().cycle()) {
        let near_us = worst_wait_us(seed, &NEAR_AND_FAR, dies);
        let far_us = worst_wait_us(seed, &ATLANTIC_AND_ASIA, dies);
        println!("node {dies} dies: {near_us} us, {far_us} us");
        assert!(near_us < 1_000_000, "seed {seed}: {near_us} us when {dies} died");
        assert!(far_us < 1_000_000, "seed {seed}: {far_us} us when {dies} died");
    }
}

/// A voter without a lane is cut off; its links come back one after the other, so that for a
/// while it hears a majority but not every owner.
#[test]
fn a_voter_that_comes_back_closes_no_living_lane() {
    for seed in 0..4 {
        let rtts_us: Vec<Vec<u64>> =
            NEAR_AND_FAR.iter().map(|row| row.iter().map(|ms| ms * 1000).collect()).collect();
        let mut plan = Plan::quiet(seed, &rtts_us, &[NodeId(1), NodeId(2)]);
        plan.writers = vec![(NodeId(1), 20_000), (NodeId(2), 20_000)];
        plan.calm_us = 30_000_000;
        let sever = |other: u16, for_us: u64| fault::Fault::Sever {
            one: NodeId(3),
            other: NodeId(other),
            for_us,
        };
        plan.faults = vec![(15_000_000, sever(1, 5_000_000)), (15_000_000, sever(2, 6_000_000))];
        let mut world = World::new(plan, Options::default(), false);
        assert_eq!(world.run(), Ok(()));
        let waits = world.waits_us.values().flatten();
        let warm = waits.filter(|(since_us, _)| *since_us > WARM_US);
        let worst_us = warm.map(|&(_, wait_us)| wait_us).max().expect("both wrote");
        println!("seed {seed}: {worst_us} us");
        // A takeover costs at least the suspicion time, 400 ms.
        assert!(worst_us < 200_000, "seed {seed}: {worst_us} us");
    }
}

/// A lane holds proposals that everybody refuses, made while the clock was an hour ahead.
#[test]
fn a_clock_that_steps_far_ahead_does_not_stop_its_lane() {
    for (seed, by_us) in [60_000_000, 3_600_000_000].into_iter().enumerate() {
        let rtts_us = [[0, 20_000, 20_000], [20_000, 0, 20_000], [20_000, 20_000, 0]];
        let mut plan =
            Plan::quiet(seed as u64, &rtts_us.map(|row| row.to_vec()), &[NodeId(1), NodeId(2)]);
        plan.writers = vec![(NodeId(1), 3_000), (NodeId(2), 3_000)];
        plan.calm_us = 4_000_000;
        let step = fault::Fault::ClockStep { node: NodeId(2), by_us };
        plan.faults = vec![(2_000_000, step)];
        let mut world = World::new(plan, Options::default(), false);
        assert_eq!(world.run(), Ok(()), "a step of {by_us} us");
    }
}

/// The simulator must notice, within some thousand seeds, that a rule is broken: not only that
/// the ring stalls.
fn check_notices(mutation: Mutation) {
    let options = Options { mutation: Some(mutation), keep_going: true };
    for first in (0..SEEDS_MAX).step_by(20) {
        let report = run(first..first + 20, options);
        let unsafely = |failure: &&Failure| !failure.violation.starts_with("I12");
        if let Some(Failure { seed, violation, .. }) = report.failures.iter().find(unsafely) {
            println!("{mutation:?}: seed {seed} {violation}");
            return;
        }
    }
    panic!("{mutation:?} went unnoticed");
}

/// Most are noticed within some dozens; several take a few coincidences.
const SEEDS_MAX: u64 = 5000;

macro_rules! noticed {
    ($($name:ident: $mutation:ident,)*) => {
        $(
            #[test]
            fn $name() {
                check_notices(Mutation::$mutation);
            }
        )*
    };
}

noticed! {
    unbounded_promises_are_noticed: UnboundedPromise,
    an_end_without_lead_is_noticed: EndWithoutLead,
    a_resumed_lane_is_noticed: ResumeLane,
    a_lane_begun_without_record_is_noticed: StartedNotPersisted,
    forgotten_promises_are_noticed: ForgetPromised,
    forgotten_far_lanes_are_noticed: ForgetFarLanes,
    promises_counted_too_early_are_noticed: ClosedWithoutLast,
    a_foreign_end_taken_for_an_own_entry_is_noticed: ForeignEndAsOwn,
    entries_of_an_epoch_that_is_over_are_noticed: OldEpochNotVoid,
    votes_counted_across_ballots_are_noticed: VotesAcrossBallots,
    accepting_below_a_promise_is_noticed: AcceptBelowPromise,
    votes_before_the_flush_are_noticed: VoteBeforeDurable,
    a_taker_that_believes_the_lowest_ballot_is_noticed: LowestBallot,
    votes_over_gaps_are_noticed: VoteOverGaps,
    a_snapshot_without_origins_is_noticed: SnapshotWithoutOrigins,
}

/// A ring that has grown from its first node, which then is cut off from the two that came.
/// They have started anew since; it has not.
fn grown_and_cut_off() -> Plan {
    let rtts_us = [[0, 2_000, 2_000], [2_000, 0, 2_000], [2_000, 2_000, 0]];
    let mut plan = Plan::quiet(1, &rtts_us.map(|row| row.to_vec()), &[NodeId(1)]);
    plan.voters = 1;
    plan.writers = vec![(NodeId(1), 20_000)];
    plan.calm_us = 9_000_000;
    let crash = |node: u16| fault::Fault::Crash { node: NodeId(node), down_us: 10_000 };
    plan.faults = vec![
        (500_000, fault::Fault::Join { node: NodeId(2) }),
        (600_000, fault::Fault::Join { node: NodeId(3) }),
        (4_000_000, crash(2)),
        (4_500_000, crash(3)),
        (6_000_000, fault::Fault::Isolate { node: NodeId(1), for_us: 2_000_000 }),
    ];
    plan
}

/// By the membership that the first node started with, it alone would be a majority.
#[test]
fn a_quorum_of_an_old_membership_is_noticed() {
    let result = |mutation: Option<Mutation>| {
        let options = Options { mutation, ..Options::default() };
        let mut world = World::new(grown_and_cut_off(), options, false);
        let result = catch(|| world.run());
        assert_eq!(world.totals().epochs, 2, "both got a vote");
        result
    };
    assert_eq!(result(None), Ok(()));
    let violation = result(Some(Mutation::QuorumOfOldEpoch)).expect_err("it goes on alone");
    assert!(!violation.starts_with("I12"), "{violation}");
}

/// Every crash point and every message of a short plan.
#[test]
fn no_single_deviation_breaks_a_ring() {
    let report = run_deviations(3, Options::default());
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.schedules > 500 && report.totals.crashes > 300, "{report}");
}

//! One plan, again and again, each time with one thing gone wrong: exhaustive where [`run`]
//! throws dice.
//!
//! [`run`]: super::run

use super::plan::Plan;
use super::world::World;
use super::{Failure, Options, Report, catch};
use crate::ids::NodeId;

/// The one thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deviation {
    /// `node` crashes at its `point`th point, between two effects: see `World::crashes_here`.
    Crash { node: NodeId, point: u64, survivors: Survivors, down_us: u64 },
    /// The message with this number is lost.
    Lose { message: u64 },
    /// It is late: later than a takeover takes.
    Delay { message: u64, by_us: u64 },
}

/// What a crash leaves of unflushed writes: the first of them, as a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survivors {
    None,
    All,
}

/// Runs the seed's short plan with each of its deviations; stops at the first failure unless
/// told otherwise.
pub fn run_deviations(seed: u64, options: Options) -> Report {
    let mut report = Report::default();
    let mut base = World::new(Plan::short(seed), options, false);
    let result = catch(|| base.run());
    take_note(&mut report, &base, seed, None, result);
    if !report.failures.is_empty() {
        return report;
    }
    for (deviation, number) in deviations(&base).into_iter().zip(0..) {
        let mut world = deviating(seed, deviation, options, false);
        let result = catch(|| world.run());
        take_note(&mut report, &world, seed, Some(number), result);
        if !report.failures.is_empty() && !options.keep_going {
            break;
        }
    }
    report
}

/// The event log of one of the seed's deviations, and what it violated, if anything.
///
/// # Panics
/// If the seed has no deviation of this number.
pub fn replay_deviation(seed: u64, number: u64, options: Options) -> (Vec<String>, Option<String>) {
    let mut base = World::new(Plan::short(seed), options, false);
    base.run().expect("the plan itself runs");
    let deviation = deviations(&base)[number as usize];
    let mut world = deviating(seed, deviation, options, true);
    let result = catch(|| world.run());
    (world.take_log(), result.err())
}

/// Everything that can go wrong once in a run that went like `base`.
fn deviations(base: &World) -> Vec<Deviation> {
    let mut deviations = Vec::new();
    for (&node, state) in &base.nodes {
        for point in 0..state.points {
            for survivors in [Survivors::None, Survivors::All] {
                // Back before anybody suspects it, or after it was taken over.
                let down_us = if point.is_multiple_of(2) { 1_000 } else { 900_000 };
                deviations.push(Deviation::Crash { node, point, survivors, down_us });
            }
        }
    }
    for message in 0..base.messages {
        deviations.push(match message.is_multiple_of(2) {
            true => Deviation::Lose { message },
            false => Deviation::Delay { message, by_us: LATE_US },
        });
    }
    deviations
}

fn deviating(seed: u64, deviation: Deviation, options: Options, log: bool) -> World {
    let plan = Plan { deviation: Some(deviation), ..Plan::short(seed) };
    World::new(plan, options, log)
}

fn take_note(
    report: &mut Report,
    world: &World,
    seed: u64,
    deviation: Option<u64>,
    result: Result<(), String>,
) {
    report.schedules += 1;
    report.totals.add(world.totals());
    if let Err(violation) = result {
        report.failures.push(Failure { seed, deviation, violation });
    }
}

const LATE_US: u64 = 900_000;

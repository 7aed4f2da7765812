//! A whole ring on one thread, from one seed: faulty network, faulty disks, odd clocks.
//!
//! Each simulated node runs the real [`Replica`](crate::consensus::Replica) and the real
//! [`apply`](crate::namespace::apply()) over tables in memory. Invariants are checked at every
//! event; in the end faults stop, and everything that was proposed must complete. The same
//! seed gives the same run, so a failing seed can be replayed with its event log.
//!
//! Two ways to use it: [`run`] takes a plan of many faults from each seed; [`run_deviations`]
//! takes a short plan and runs it again and again, each time with one thing gone wrong, for
//! every effect at which a node can crash and every message that can be lost or late.
//!
//! Reading order: `plan` (what a seed decides), `world` (the loop), `queue`, `driver`, `node`,
//! `disk`, `network`, `fault`, `nemesis`, `membership`, `workload`, `checker` (the invariants), `deviations`.

mod checker;
mod deviations;
mod disk;
mod driver;
mod fault;
mod membership;
mod nemesis;
mod network;
mod node;
mod plan;
mod queue;
mod workload;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use deviations::{replay_deviation, run_deviations};
use plan::Plan;
use world::World;

use crate::ids::NodeId;

/// How to run seeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go on after a failing seed.
    pub keep_going: bool,
    #[cfg(test)]
    pub(crate) mutation: Option<crate::consensus::mutation::Mutation>,
}

/// What a range of seeds gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs, each with another sequence of events.
    pub schedules: u64,
    pub totals: Totals,
    pub failures: Vec<Failure>,
}

/// How much happened, to see that a range exercised something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub events: u64,
    /// Agreements, counted once for each seed.
    pub agreements: u64,
    pub commands: u64,
    pub crashes: u64,
    pub takeovers: u64,
    pub epochs: u64,
    /// Nodes that were removed.
    pub removals: u64,
    pub snapshots: u64,
    pub simulated_us: u64,
}

/// A seed that broke an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub seed: u64,
    /// Which of the seed's deviations, if it was one.
    pub deviation: Option<u64>,
    pub violation: String,
}

/// Runs every seed; stops at the first failure unless told otherwise.
pub fn run(seeds: Range<u64>, options: Options) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        report.schedules += 1;
        let (result, totals) = run_seed(seed, options, false);
        report.totals.add(totals);
        if let Err(violation) = result {
            report.failures.push(Failure { seed, deviation: None, violation });
            if !options.keep_going {
                break;
            }
        }
    }
    report
}

/// Runs one seed and returns its event log, one event a line, and what it violated, if
/// anything.
pub fn replay(seed: u64, options: Options) -> (Vec<String>, Option<String>) {
    let mut world = World::new(Plan::of(seed), options, true);
    let result = catch(|| world.run());
    (world.take_log(), result.err())
}

/// How long commands take in a ring without faults: of each writer, the median µs from
/// proposing to executing there. `rtts_us` is the matrix of round trips between nodes 1, 2,
/// ...; `writers` propose one command at a time.
///
/// # Panics
/// If an invariant is violated.
pub fn latencies_us(seed: u64, rtts_us: &[Vec<u64>], writers: &[NodeId]) -> Vec<u64> {
    let mut world = World::new(Plan::quiet(seed, rtts_us, writers), Options::default(), false);
    world.run().expect("a quiet ring keeps its invariants");
    let median = |node: &NodeId| {
        let waits = world.waits_us.get(node).into_iter().flatten();
        // The first ones find no lane of their own.
        let warm = waits.filter(|(since_us, _)| *since_us > WARM_US);
        let mut waits_us: Vec<u64> = warm.map(|&(_, wait_us)| wait_us).collect();
        waits_us.sort_unstable();
        waits_us.get(waits_us.len() / 2).copied().unwrap_or(u64::MAX)
    };
    writers.iter().map(median).collect()
}

fn run_seed(seed: u64, options: Options, log: bool) -> (Result<(), String>, Totals) {
    let mut world = World::new(Plan::of(seed), options, log);
    let result = catch(|| world.run());
    (result, world.totals())
}

/// An assertion that fails in the core is a violation like any other.
fn catch(run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", text.unwrap_or("(no message)")))
    })
}

impl Report {
    /// Joins the report of further seeds.
    pub fn add(&mut self, other: Report) {
        self.schedules += other.schedules;
        self.totals.add(other.totals);
        self.failures.extend(other.failures);
    }
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.events += other.events;
        self.agreements += other.agreements;
        self.commands += other.commands;
        self.crashes += other.crashes;
        self.takeovers += other.takeovers;
        self.epochs += other.epochs;
        self.removals += other.removals;
        self.snapshots += other.snapshots;
        self.simulated_us += other.simulated_us;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { events, agreements, commands, crashes, takeovers, .. } = self.totals;
        let Totals { epochs, removals, snapshots, .. } = self.totals;
        let hours = self.totals.simulated_us as f64 / 3.6e9;
        writeln!(
            f,
            "{} schedules, {hours:.1} simulated hours: {events} events, {agreements} agreements, \
             {commands} commands, {crashes} crashes, {takeovers} lanes taken over, {epochs} \
             memberships, {removals} nodes removed, {snapshots} snapshots; {} violations",
            self.schedules,
            self.failures.len()
        )?;
        for Failure { seed, deviation, violation } in &self.failures {
            let which = deviation.map(|number| format!(" --deviation {number}"));
            writeln!(f, "seed {seed}: {violation}")?;
            writeln!(f, "  replay: ./x sim --replay {seed}{}", which.unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Some commands of each writer, so that lanes are active and distances known.
const WARM_US: u64 = 5_000_000;

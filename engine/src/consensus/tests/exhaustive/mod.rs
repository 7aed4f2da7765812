//! The real [`Replica`](crate::consensus::Replica) in small configurations, exhaustively: every
//! order of messages, each of them lost, late or repeated, with takeovers, crashes and new
//! memberships at every moment.
//!
//! stateright explores the states. Time stands still, so that nothing happens by itself: what
//! a heartbeat would begin is an event of its own, and a configuration names its events and to
//! whom they happen, each once or not at all. A node's disk is flushed after each step, or the
//! node dies in it and loses what the step wrote; of a node with a slow disk it may lose more.
//! A message that was sent stays, so it may come at any time, and again (forwarded commands
//! come once, since each time makes another entry). Truncation, snapshots
//! and everything that needs time are left to the simulator.
//!
//! Reading order: `ring` (configurations), `node` (one step), `digest` (what tells states of
//! a node apart), `table` (steps are computed once), `model` (the ring), `breaches`.

mod breaches;
mod dead;
mod digest;
mod model;
mod node;
mod ring;
mod schedule;
mod table;

use std::time::{Duration, Instant};

use model::{COMMAND, END, EPOCH, EPOCHS_END, Explored, ONE_ORDER, PROMISES_HOLD};
use ring::{Ring, What};
use stateright::{Checker, HasDiscoveries, Model};

/// What an exploration showed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Findings {
    violated: Option<&'static str>,
    complete: bool,
    /// Of what should happen in some state, what did.
    reached: Vec<&'static str>,
}

fn explore(name: &str, ring: Ring, limit: Duration) -> Findings {
    let begin = Instant::now();
    let broken = ring.mutation;
    let checker = Explored::new(ring, limit)
        .checker()
        .threads(setting("FUSION_EXHAUSTIVE_THREADS").unwrap_or(1) as usize)
        .finish_when(HasDiscoveries::AnyFailures);
    // Breadth first where a violation is expected: its path is short, and can be read.
    let checker: Box<dyn Explore> = match broken {
        Some(_) => Box::new(checker.spawn_bfs().join()),
        None => Box::new(checker.spawn_dfs().join()),
    };
    checker.report(name, broken.is_some(), begin.elapsed())
}

/// Both kinds of searches.
trait Explore {
    fn report(&self, name: &str, broken: bool, took: Duration) -> Findings;
}

impl<C: Checker<Explored>> Explore for C {
    fn report(&self, name: &str, broken: bool, took: Duration) -> Findings {
        let found = self.discoveries();
        // A violation ends the search as well.
        let complete = self.model().is_complete();
        let among = |names: &[&'static str]| {
            names.iter().copied().filter(|name| found.contains_key(name)).collect::<Vec<_>>()
        };
        let violated = among(&[ONE_ORDER, PROMISES_HOLD, EPOCHS_END]).first().copied();
        let reached = among(&[COMMAND, END, EPOCH]);
        println!(
            "{name}, broken: {:?}: {} states, {} steps, depth {}, {:.1} s, complete: {complete}; \
             violated: {violated:?}; {reached:?}; states of nodes, messages, their steps: {:?}",
            self.model().ring.mutation,
            self.unique_state_count(),
            self.state_count(),
            self.max_depth(),
            took.as_secs_f64(),
            self.model().table().sizes(),
        );
        if let Some(violated) = violated
            && (!broken || setting("FUSION_EXHAUSTIVE_PATHS").is_some())
        {
            for action in found[violated].clone().into_actions() {
                println!("  {}", self.model().describe(&action));
            }
        }
        Findings { violated, complete, reached }
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// How long each configuration is explored, FUSION_EXHAUSTIVE_SECONDS if given.
fn limit(seconds: u64) -> Duration {
    Duration::from_secs(setting("FUSION_EXHAUSTIVE_SECONDS").unwrap_or(seconds))
}

/// Configurations by name that are explored completely in every run of the tests, and what
/// happens in them.
fn small() -> Vec<(&'static str, Ring, &'static [&'static str])> {
    let both: &[_] = &[COMMAND, END];
    let epochs: &[_] = &[COMMAND, EPOCH];
    let all: &[_] = &[COMMAND, END, EPOCH];
    vec![
        ("takeover", one().proposes(1).takes_over(&[2], 1), both),
        ("takeover by the owner", one().proposes(1).takes_over(&[1], 1), both),
        ("takeover and crash", one().proposes(1).takes_over(&[2], 1).crashes(&[1, 2, 3]), both),
        ("a voter leaves", one().proposes(1).members(1, &[1, 2]), epochs),
        ("a voter comes", comes().proposes(1), epochs),
        ("own command", one().may(What::Command, &[1]).takes_over(&[2], 1), both),
        ("a voter leaves, takeover", one().members(1, &[1, 2]).takes_over(&[2], 1), all),
        ("two lanes", two().proposes(1).may(What::Beat, &[2]), &[COMMAND]),
        ("two lanes, two commands", two().proposes(1).proposes(2), &[COMMAND]),
        ("unasked promise", unasked(), both),
    ]
}

/// Larger ones, for a day with time.
fn large() -> Vec<(&'static str, Ring)> {
    let promises = |ring: Ring| ring.may(What::Beat, &[1]).may(What::Advance, &[1]);
    vec![
        ("takeover twice", one().proposes(1).takes_over(&[2], 1).takes_over(&[2], 1)),
        ("a voter comes, takeover", comes().takes_over(&[2], 1)),
        (
            "a voter leaves, takeover and crash",
            one().members(1, &[1, 2]).takes_over(&[2], 1).crashes(&[1, 2, 3]),
        ),
        (
            "a voter leaves, command and takeover",
            one().proposes(1).members(1, &[1, 2]).takes_over(&[2], 1),
        ),
        ("two commands, takeover", one().proposes(1).proposes(1).takes_over(&[2], 1)),
        ("owner and taker", one().proposes(1).takes_over(&[2], 1).takes_over(&[1], 1)),
        ("two lanes, takeover", two().proposes(1).proposes(2).takes_over(&[2], 1)),
        ("promises and takeover", promises(two().proposes(2)).takes_over(&[2], 1)),
        (
            "taker with a slow disk dies",
            one().proposes(1).takes_over(&[2], 1).takes_over(&[2], 1).crashes(&[2]).slow(2),
        ),
        (
            "two takeovers and crash",
            one().proposes(1).takes_over(&[2], 1).takes_over(&[3], 1).crashes(&[1, 2, 3]),
        ),
        (
            "taker catches up",
            one().proposes(1).takes_over(&[2], 1).may(What::Fetch { from: 1 }, &[2, 3]),
        ),
    ]
}

fn one() -> Ring {
    Ring::new(&[1])
}

fn two() -> Ring {
    Ring::new(&[1, 2])
}

/// Node 3 promises to node 2 what that one has not asked for.
fn unasked() -> Ring {
    one().proposes(1).takes_over(&[2], 1).may(What::Unasked { taker: 2, of: 1 }, &[3])
}

/// Node 4 is to get a vote, and may ask for the order that it begins with.
fn comes() -> Ring {
    let ring = Ring { nodes: 4, ..one() }.members(1, &[1, 2, 3, 4]);
    ring.may(What::Fetch { from: 1 }, &[4])
}

fn check_complete(name: &str, ring: Ring, reached: &[&'static str]) {
    let findings = explore(name, ring, MINUTES);
    let expected = Findings { violated: None, complete: true, reached: reached.to_vec() };
    assert_eq!(findings, expected, "{name}");
}

#[test]
fn small_configurations_are_safe_in_every_order_of_messages() {
    small().into_iter().for_each(|(name, ring, reached)| check_complete(name, ring, reached));
}

#[test]
fn two_competing_takeovers_are_safe_in_every_order_of_messages() {
    let ring = one().proposes(1).takes_over(&[2], 1).takes_over(&[3], 1);
    check_complete("two takeovers", ring, &[COMMAND, END]);
}

/// Votes that are postponed and messages that are forgotten hide nothing.
fn check_outcomes(ring: Ring) {
    let outcomes = |it: Explored| {
        let checker = it.checker().spawn_dfs().join();
        println!("{} states", checker.unique_state_count());
        assert!(checker.model().is_complete());
        checker.model().outcomes()
    };
    let whole = outcomes(Explored::new(ring.clone(), MINUTES).whole());
    assert_eq!(outcomes(Explored::new(ring, MINUTES)), whole);
    assert!(whole.len() > 3, "{whole:?}");
}

#[test]
fn what_is_left_out_changes_no_outcome() {
    check_outcomes(one().proposes(1).takes_over(&[2], 1));
    check_outcomes(one().proposes(1).crashes(&[2, 3]));
}

#[test]
#[ignore = "minutes to hours"]
fn large_configurations_are_safe() {
    let only = std::env::var("FUSION_EXHAUSTIVE_ONLY").ok();
    for (name, ring) in large().into_iter().chain(breaches::kept()) {
        if only.as_ref().is_none_or(|only| name == only) {
            assert_eq!(explore(name, ring, limit(60)).violated, None, "{name}");
        }
    }
}

/// More than what is to be complete takes.
const MINUTES: Duration = Duration::from_secs(1200);

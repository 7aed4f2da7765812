//! Whether a recorded history of calls can be explained by one order of them.
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with
//! Lowe's memory of what was tried ("Testing for linearizability", 2017): take any call that
//! may come first, see whether a sequential model gives the answer that was recorded, go on,
//! and come back when stuck. A history is checked for each object alone, since linearizability
//! is local to objects (Herlihy and Wing, 1990); an object here is a pair of names, so that
//! renames stay inside.
//!
//! What FusionFS promises is not one rule for all calls (docs/SEMANTICS.md):
//! - A change that **succeeds** takes effect between its call and its return, in an order that
//!   all zones share.
//! - A read, and a refusal, which the kernel may give from what the zone knows, shows the name
//!   at some place of that order: not after its return, and not before what its zone has done
//!   to this name already, or has seen of it. Two names may be at different places for a moment: the
//!   kernel is told of their changes one after the other. So may a name's refusals and reads: the
//!   order refuses what the kernel still shows as it was.
//! - A **rename of two names that the zone takes for one file** succeeds and does nothing, as POSIX
//!   has it. While somebody else's rename of one to the other, or exchange of both, is on its way to
//!   the zone's kernel, that can be so for a moment.
//! - A call that got **no answer** has happened at any time after it began, or never.

use std::collections::HashSet;

/// One call of a client. A client makes one call at a time, in the order of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it has seen and done is one line: here a zone.
    pub client: usize,
    /// On a clock that all clients share, µs.
    pub began_us: u64,
    pub ended_us: u64,
    pub action: Action,
    pub answer: Answer,
}

/// What is done with the names 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// mkdir, symlink, or open with O_EXCL: with this value from the beginning, if any.
    Make { name: usize, value: Option<u32> },
    /// rmdir, unlink.
    Remove { name: usize },
    /// From this name to the other one.
    Rename { from: usize, how: Rename },
    /// setxattr.
    Set { name: usize, value: u32, how: Set },
    /// readlink, getxattr.
    Read { name: usize },
    /// A read that waits until the zone knows everything that was agreed when it began.
    ReadFresh { name: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Any,
    /// XATTR_CREATE
    Create,
    /// XATTR_REPLACE
    Replace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Value(u32),
    /// EEXIST
    Exists,
    /// ENOENT
    Missing,
    /// ENODATA
    NoValue,
    /// None: the daemon died, or the call was given up.
    Unknown,
}

/// What is behind a name: a value, if it has got one.
type Thing = Option<u32>;
type State = [Option<Thing>; 2];

/// Why a history cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The longest part that can be, and the calls of which none can be the next.
    NoOrder { explained: usize, state: State, stuck: Vec<Call> },
    /// Too many orders to try.
    Undecided,
}

/// Checks the history of one pair of names, which are both absent at first.
///
/// # Errors
/// [`Violation`] if no order of the calls explains every answer.
pub fn check(history: &[Call]) -> Result<(), Violation> {
    Search::new(history).run()
}

/// Where a history that cannot be explained goes wrong: the end of the first call after which it
/// cannot, µs.
pub fn goes_wrong_us(history: &[Call]) -> u64 {
    let mut ends: Vec<u64> = history.iter().map(|call| call.ended_us).collect();
    ends.sort_unstable();
    let first = ends.partition_point(|us| check(&until(history, *us)).is_ok());
    ends.get(first).copied().unwrap_or(u64::MAX)
}

/// What was known of a history at a moment: calls under way have no answer.
fn until(history: &[Call], us: u64) -> Vec<Call> {
    let begun = history.iter().filter(|call| call.began_us <= us);
    let known = begun.map(|call| match call.ended_us <= us {
        true => call.clone(),
        false => Call { answer: Answer::Unknown, ..call.clone() },
    });
    known.collect()
}

struct Search<'a> {
    /// Calls with an answer, each line in its order. Seven for each client: what it changed,
    /// and for each name what it read, what was refused because it is there, and what because it
    /// is not.
    lines: Vec<Vec<Seen<'a>>>,
    /// Calls without an answer that may have happened.
    unanswered: Vec<&'a Call>,
    seen: HashSet<Place>,
}

#[derive(Clone, Copy)]
struct Seen<'a> {
    call: &'a Call,
    /// So many changes of its client come before it: up to the last of what it shows.
    after: u32,
    /// Of a rename.
    met: Met,
}

/// Somebody else's renames that a rename may have met on their way to the kernel.
#[derive(Clone, Copy, Default)]
struct Met {
    /// From one name to the other, whichever.
    moved: bool,
    exchanged: bool,
}

const LINES: usize = 7;

/// How much is explained.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    /// Of each line, how many calls.
    done: Vec<u32>,
    /// Which of the unanswered calls.
    happened: Vec<bool>,
    state: State,
}

impl<'a> Search<'a> {
    fn new(history: &'a [Call]) -> Search<'a> {
        let count = history.iter().map(|call| call.client + 1).max().unwrap_or(0);
        let mut lines: Vec<Vec<Seen<'a>>> = vec![Vec::new(); count * LINES];
        let mut unanswered = Vec::new();
        for call in history {
            let changes = call.client * LINES;
            match (call.answer, call.action) {
                (Answer::Unknown, Action::Read { .. } | Action::ReadFresh { .. }) => {}
                (Answer::Unknown, _) => unanswered.push(call),
                (Answer::Done, _) => {
                    lines[changes].push(Seen { call, after: 0, met: met(call, history) });
                }
                _ => {
                    let Some(name) = shown(call) else { continue };
                    let own = lines[changes].iter().rposition(|own| touches(own.call, name));
                    let after = own.map_or(0, |last| last as u32 + 1);
                    let line = match (call.action, call.answer) {
                        (Action::Read { .. } | Action::ReadFresh { .. }, _) => 1,
                        (_, Answer::Exists) => 3,
                        _ => 5,
                    };
                    let line = changes + line + name;
                    lines[line].push(Seen { call, after, met: Met::default() });
                }
            }
        }
        Search { lines, unanswered, seen: HashSet::new() }
    }

    fn run(mut self) -> Result<(), Violation> {
        let start = Place {
            done: vec![0; self.lines.len()],
            happened: vec![false; self.unanswered.len()],
            state: [None, None],
        };
        let start = self.absorb(start);
        let mut farthest = start.clone();
        let mut open = vec![start];
        while let Some(place) = open.pop() {
            if self.is_complete(&place) {
                return Ok(());
            }
            if explained(&place) > explained(&farthest) {
                farthest = place.clone();
            }
            let next = self.next(&place);
            // The last one is tried first: answered calls before those that may never happen.
            open.extend(next.into_iter().filter(|place| self.seen.insert(place.clone())));
            if self.seen.len() > PLACES_MAX {
                return Err(Violation::Undecided);
            }
        }
        let stuck = self.waiting(&farthest).into_iter().cloned().collect();
        let explained = explained(&farthest);
        Err(Violation::NoOrder { explained, state: farthest.state, stuck })
    }

    fn is_complete(&self, place: &Place) -> bool {
        self.lines.iter().zip(&place.done).all(|(calls, done)| calls.len() == *done as usize)
    }

    /// Of each line the first call that is not explained.
    fn waiting(&self, place: &Place) -> Vec<&'a Call> {
        let lines = self.lines.iter().zip(&place.done);
        lines.filter_map(|(calls, &done)| Some(calls.get(done as usize)?.call)).collect()
    }

    /// Whether a call may be the next: whoever began after another had returned comes after it.
    fn in_time(&self, place: &Place) -> impl Fn(&Call) -> bool + use<> {
        let first_end_us = self.waiting(place).iter().map(|call| call.ended_us).min();
        move |call| first_end_us.is_none_or(|us| call.began_us <= us)
    }

    /// Takes the reads and refusals that fit the place. They change nothing, so that nothing is
    /// lost by taking each as early as it fits.
    fn absorb(&self, mut place: Place) -> Place {
        loop {
            let in_time = self.in_time(&place);
            let mut is_done = true;
            for (line, calls) in self.lines.iter().enumerate().filter(|(line, _)| line % LINES > 0)
            {
                let changes = place.done[line - line % LINES];
                let fits = |seen: &&Seen<'a>| {
                    let may_be_next = is_local(seen.call) || in_time(seen.call);
                    changes >= seen.after
                        && may_be_next
                        && explain(place.state, seen.call).is_some()
                };
                while calls.get(place.done[line] as usize).filter(fits).is_some() {
                    place.done[line] += 1;
                    is_done = false;
                }
            }
            if is_done {
                return place;
            }
        }
    }

    /// Where one change more leads to.
    fn next(&self, place: &Place) -> Vec<Place> {
        let in_time = self.in_time(place);
        let mut next = Vec::new();
        for (number, call) in self.unanswered.iter().enumerate() {
            let (state, answer) = apply(place.state, call.action);
            if !place.happened[number] && in_time(call) && answer == Answer::Done {
                let mut happened = place.happened.clone();
                happened[number] = true;
                next.push(Place { done: place.done.clone(), happened, state });
            }
        }
        let mut answered: Vec<(u64, Place)> = Vec::new();
        for (line, calls) in self.lines.iter().enumerate().step_by(LINES) {
            let Some(&Seen { call, met, .. }) = calls.get(place.done[line] as usize) else {
                continue;
            };
            let effect = if in_time(call) { explain(place.state, call) } else { None };
            // As a read, it may show what was.
            let idle = may_be_idle(place.state, call.action, met).then_some(place.state);
            for state in [effect, idle].into_iter().flatten() {
                let mut done = place.done.clone();
                done[line] += 1;
                let happened = place.happened.clone();
                answered.push((call.ended_us, Place { done, happened, state }));
            }
        }
        answered.sort_by_key(|(ended_us, _)| std::cmp::Reverse(*ended_us));
        next.extend(answered.into_iter().map(|(_, place)| place));
        next.into_iter().map(|place| self.absorb(place)).collect()
    }
}

fn explained(place: &Place) -> usize {
    place.done.iter().map(|done| *done as usize).sum()
}

/// The answer may show an earlier state than that at the time of the call.
fn is_local(call: &Call) -> bool {
    match (call.action, call.answer) {
        (Action::ReadFresh { .. }, _) => false,
        (Action::Read { .. }, _) => true,
        (_, answer) => answer != Answer::Done,
    }
}

/// The name whose state a read or a refusal shows; none where it may be either.
fn shown(call: &Call) -> Option<usize> {
    match call.action {
        Action::Make { name, .. }
        | Action::Remove { name }
        | Action::Set { name, .. }
        | Action::Read { name }
        | Action::ReadFresh { name } => Some(name),
        Action::Rename { from, .. } if call.answer == Answer::Exists => Some(1 - from),
        Action::Rename { how: Rename::Exchange, .. } => None,
        Action::Rename { from, .. } => Some(from),
    }
}

/// Whether a change that succeeded is one of this name.
fn touches(call: &Call, name: usize) -> bool {
    matches!(call.action, Action::Rename { .. }) || shown(call) == Some(name)
}

/// The state after `call`, if its answer fits the state before.
fn explain(state: State, call: &Call) -> Option<State> {
    match (call.action, call.answer) {
        // The kernel may refuse for one name without a look at the other.
        (Action::Rename { from, how: Rename::NoReplace }, Answer::Exists) => {
            state[1 - from].map(|_| state)
        }
        (action, answer) => {
            let (after, given) = apply(state, action);
            (given == answer).then_some(after)
        }
    }
}

/// What `call` can have met if it is a rename: calls of others that can have been on their way to
/// the kernel meanwhile.
fn met(call: &Call, history: &[Call]) -> Met {
    let mut met = Met::default();
    let Action::Rename { .. } = call.action else { return met };
    for other in history.iter().filter(|other| other.client != call.client) {
        let Action::Rename { how, .. } = other.action else { continue };
        let happened = matches!(other.answer, Answer::Done | Answer::Unknown);
        let is_near = other.began_us <= call.ended_us
            && (other.answer == Answer::Unknown || other.ended_us + ON_ITS_WAY_US >= call.began_us);
        match how {
            Rename::Exchange => met.exchanged |= happened && is_near,
            Rename::Replace | Rename::NoReplace => met.moved |= happened && is_near,
        }
    }
    met
}

/// Whether the names of a rename can look like one file in its zone's kernel, which knows one of
/// them as it was and the other as it is: since something was moved from one to the other, or
/// since both were exchanged.
fn may_be_idle(state: State, action: Action, met: Met) -> bool {
    let Action::Rename { how: Rename::Replace | Rename::Exchange, .. } = action else {
        return false;
    };
    match state {
        [None, None] => false,
        [Some(_), Some(_)] => met.exchanged,
        [Some(_), None] | [None, Some(_)] => met.moved,
    }
}

/// The sequential model.
fn apply(state: State, action: Action) -> (State, Answer) {
    let refused = |answer| (state, answer);
    let mut new = state;
    match action {
        Action::Make { name, value } => {
            if state[name].is_some() {
                return refused(Answer::Exists);
            }
            new[name] = Some(value);
        }
        Action::Remove { name } => {
            if state[name].is_none() {
                return refused(Answer::Missing);
            }
            new[name] = None;
        }
        Action::Rename { from, how } => match (how, state[from], state[1 - from]) {
            (_, None, _) | (Rename::Exchange, _, None) => return refused(Answer::Missing),
            (Rename::NoReplace, _, Some(_)) => return refused(Answer::Exists),
            (Rename::Exchange, ..) => new.swap(0, 1),
            (Rename::Replace | Rename::NoReplace, ..) => {
                new[1 - from] = state[from];
                new[from] = None;
            }
        },
        Action::Set { name, value, how } => match (state[name], how) {
            (None, _) => return refused(Answer::Missing),
            (Some(Some(_)), Set::Create) => return refused(Answer::Exists),
            (Some(None), Set::Replace) => return refused(Answer::NoValue),
            _ => new[name] = Some(Some(value)),
        },
        Action::Read { name } | Action::ReadFresh { name } => {
            return refused(match state[name] {
                None => Answer::Missing,
                Some(None) => Answer::NoValue,
                Some(Some(value)) => Answer::Value(value),
            });
        }
    }
    (new, Answer::Done)
}

/// Longer than a node that is not cut off is behind.
const ON_ITS_WAY_US: u64 = 1_000_000;
/// Half a minute in a program that is not optimized.
const PLACES_MAX: usize = 300_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const A: usize = 0;
    const B: usize = 1;

    fn call(client: usize, time: (u64, u64), action: Action, answer: Answer) -> Call {
        Call { client, began_us: time.0, ended_us: time.1, action, answer }
    }

    fn make(name: usize, value: u32) -> Action {
        Action::Make { name, value: Some(value) }
    }

    fn remove(name: usize) -> Action {
        Action::Remove { name }
    }

    fn read(name: usize) -> Action {
        Action::Read { name }
    }

    #[track_caller]
    fn check_refused(history: &[Call]) {
        let result = check(history);
        assert!(matches!(result, Err(Violation::NoOrder { .. })), "{result:?}");
    }

    #[test]
    fn calls_at_the_same_time_may_come_in_any_order() {
        // The removal returned first, but the making came before it.
        let history = [
            call(0, (0, 90), make(A, 1), Answer::Done),
            call(1, (10, 20), remove(A), Answer::Done),
            call(2, (30, 40), read(A), Answer::Missing),
        ];
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn two_winners_of_a_name_are_refused() {
        let both = [
            call(0, (0, 90), make(A, 1), Answer::Done),
            call(1, (10, 80), make(A, 2), Answer::Done),
        ];
        check_refused(&both);
        let one = [both[0].clone(), call(1, (10, 80), make(A, 2), Answer::Exists)];
        assert_eq!(check(&one), Ok(()));
    }

    #[test]
    fn a_change_that_returned_comes_before_one_that_begins_later() {
        // Removed at 20..30 before it was made at 40..50.
        check_refused(&[
            call(1, (20, 30), remove(A), Answer::Done),
            call(0, (40, 50), make(A, 1), Answer::Done),
        ]);
    }

    #[test]
    fn an_acknowledged_change_that_is_lost_is_refused() {
        check_refused(&[
            call(0, (0, 10), make(A, 1), Answer::Done),
            call(1, (20, 30), make(A, 2), Answer::Done),
        ]);
    }

    #[test]
    fn reads_may_lag_but_not_go_back() {
        let mut history = vec![
            call(0, (0, 10), make(A, 1), Answer::Done),
            call(0, (20, 30), remove(A), Answer::Done),
            call(1, (100, 101), read(A), Answer::Missing),
            call(1, (110, 111), read(A), Answer::Value(1)),
            call(1, (120, 121), read(A), Answer::Missing),
        ];
        assert_eq!(check(&history), Ok(()));
        history.push(call(1, (130, 131), read(A), Answer::Value(1)));
        check_refused(&history);
    }

    #[test]
    fn two_names_may_be_seen_at_different_places() {
        let mut history = vec![
            call(0, (0, 10), make(A, 1), Answer::Done),
            call(0, (20, 30), remove(A), Answer::Done),
            call(0, (40, 50), make(B, 2), Answer::Done),
            call(1, (60, 61), read(B), Answer::Value(2)),
            call(1, (62, 63), read(A), Answer::Value(1)),
        ];
        assert_eq!(check(&history), Ok(()));
        history.push(call(1, (64, 65), read(B), Answer::Missing));
        check_refused(&history);
        // Each made one name, and did not yet see the other's.
        let crossed = [
            call(0, (0, 20), make(A, 1), Answer::Done),
            call(1, (0, 20), make(B, 2), Answer::Done),
            call(0, (30, 31), read(B), Answer::Missing),
            call(1, (30, 31), read(A), Answer::Missing),
        ];
        assert_eq!(check(&crossed), Ok(()));
    }

    #[test]
    fn a_fresh_read_does_not_lag() {
        let made = call(0, (0, 10), make(A, 1), Answer::Done);
        let stale = Answer::Missing;
        let fresh = Action::ReadFresh { name: A };
        assert_eq!(check(&[made.clone(), call(1, (20, 21), read(A), stale)]), Ok(()));
        check_refused(&[made.clone(), call(1, (20, 21), fresh, stale)]);
        assert_eq!(check(&[made, call(1, (20, 21), fresh, Answer::Value(1))]), Ok(()));
    }

    #[test]
    fn a_client_sees_what_it_did() {
        check_refused(&[
            call(0, (0, 10), make(A, 1), Answer::Done),
            call(0, (20, 21), read(A), Answer::Missing),
        ]);
        // And what it saw was there when it acted: nobody else has removed it.
        check_refused(&[
            call(0, (0, 10), make(A, 1), Answer::Done),
            call(1, (20, 21), read(A), Answer::Value(1)),
            call(1, (30, 40), make(A, 2), Answer::Done),
        ]);
    }

    #[test]
    fn reads_see_no_future_and_no_invention() {
        check_refused(&[
            call(1, (0, 10), read(A), Answer::Value(1)),
            call(0, (20, 30), make(A, 1), Answer::Done),
        ]);
        check_refused(&[
            call(0, (0, 10), make(A, 1), Answer::Done),
            call(1, (20, 30), read(A), Answer::Value(7)),
        ]);
    }

    #[test]
    fn an_unanswered_call_happens_late_or_never_but_not_twice() {
        let lost = call(0, (0, 10), make(A, 1), Answer::Unknown);
        let seen = |at, answer| call(1, (at, at + 1), read(A), answer);
        assert_eq!(check(&[lost.clone(), seen(900, Answer::Missing)]), Ok(()));
        let late = [lost, seen(900, Answer::Missing), seen(950, Answer::Value(1))];
        assert_eq!(check(&late), Ok(()));
        let mut twice = late.to_vec();
        twice.push(call(1, (960, 970), remove(A), Answer::Done));
        assert_eq!(check(&twice), Ok(()));
        twice.push(seen(980, Answer::Value(1)));
        check_refused(&twice);
    }

    #[test]
    fn renames_move_what_is_there() {
        let rename = |from, how| Action::Rename { from, how };
        let mut history = vec![
            call(0, (0, 1), make(A, 1), Answer::Done),
            call(0, (2, 3), make(B, 2), Answer::Done),
            call(0, (4, 5), rename(A, Rename::NoReplace), Answer::Exists),
            call(0, (6, 7), rename(A, Rename::Exchange), Answer::Done),
            call(0, (8, 9), rename(A, Rename::Replace), Answer::Done),
            call(0, (10, 11), read(A), Answer::Missing),
        ];
        assert_eq!(
            check(&[history.clone(), vec![call(0, (12, 13), read(B), Answer::Value(2))]].concat()),
            Ok(())
        );
        history.push(call(0, (12, 13), read(B), Answer::Value(1)));
        check_refused(&history);
    }

    #[test]
    fn a_rename_may_find_its_work_done_only_where_another_is_on_its_way() {
        let rename = |from| Action::Rename { from, how: Rename::Replace };
        let made = call(0, (0, 1), make(A, 1), Answer::Done);
        let here = call(0, (20, 21), rename(A), Answer::Done);
        let met = [made.clone(), call(1, (10, 15), rename(A), Answer::Done), here.clone()];
        assert_eq!(check(&met), Ok(()));
        let own = [made, call(0, (10, 15), rename(A), Answer::Done), here];
        check_refused(&own);
    }

    #[test]
    fn a_rename_may_find_both_names_the_same_while_they_are_exchanged() {
        let rename = |how| Action::Rename { from: A, how };
        let history = |other| {
            [
                call(0, (0, 1), make(A, 1), Answer::Done),
                call(0, (2, 3), make(B, 2), Answer::Done),
                call(1, (10, 15), rename(other), Answer::Done),
                call(0, (12, 16), rename(Rename::Replace), Answer::Done),
                call(1, (20, 21), remove(A), Answer::Done),
                call(1, (22, 23), remove(B), Answer::Done),
            ]
        };
        assert_eq!(check(&history(Rename::Exchange)), Ok(()));
        check_refused(&history(Rename::Replace));
    }

    #[test]
    fn marks_are_set_once_or_again_as_asked() {
        let plain = Action::Make { name: A, value: None };
        let set = |value, how| Action::Set { name: A, value, how };
        let history = [
            call(0, (0, 1), plain, Answer::Done),
            call(0, (2, 3), read(A), Answer::NoValue),
            call(0, (4, 5), set(1, Set::Replace), Answer::NoValue),
            call(0, (6, 7), set(1, Set::Create), Answer::Done),
            call(1, (8, 9), set(2, Set::Create), Answer::Exists),
            call(1, (10, 11), set(2, Set::Replace), Answer::Done),
            call(1, (12, 13), read(A), Answer::Value(2)),
        ];
        assert_eq!(check(&history), Ok(()));
        let both = [
            history[0].clone(),
            call(0, (6, 9), set(1, Set::Create), Answer::Done),
            call(1, (6, 9), set(2, Set::Create), Answer::Done),
        ];
        check_refused(&both);
    }

    /// Histories of a correct object are accepted, however they overlap; with one answer
    /// changed to what the object did not say, most are not.
    #[test]
    fn random_histories_of_a_correct_object_are_accepted() {
        let mut refused = 0;
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut history = Vec::new();
            let mut free_us = [0; 3];
            let mut state = [None, None];
            // Each takes effect at a time of its own, within its call.
            for effect_us in (1..=120).map(|step| step * 10) {
                let client = random.below(3) as usize;
                let name = random.below(2) as usize;
                let action = match random.below(5) {
                    0 | 1 => make(name, effect_us as u32),
                    2 => remove(name),
                    3 => Action::Rename { from: name, how: Rename::Replace },
                    _ => Action::ReadFresh { name },
                };
                let early_us: u64 = effect_us - random.below(10);
                let began_us = early_us.saturating_sub(random.below(40)).max(free_us[client]);
                let ended_us = effect_us + random.below(40);
                if began_us > effect_us {
                    continue; // It is still busy.
                }
                free_us[client] = ended_us + 1;
                let (new, answer) = apply(state, action);
                state = new;
                history.push(call(client, (began_us, ended_us), action, answer));
            }
            assert_eq!(check(&history), Ok(()), "seed {seed}");
            let at = random.below(history.len() as u64) as usize;
            history[at].answer = match history[at].answer {
                Answer::Done => Answer::Missing,
                _ => Answer::Done,
            };
            refused += u32::from(check(&history).is_err());
        }
        assert!(refused > 150, "only {refused} of 200 wrong histories were noticed");
    }
}

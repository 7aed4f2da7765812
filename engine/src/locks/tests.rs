//! Any sequence of requests equals a model that knows each byte by itself.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::NodeId;

/// Bytes of the model's file; ranges that go on to the end of any file end at the last one.
const BYTES: u64 = 12;

/// Who holds each byte, and who waits.
#[derive(Default)]
struct Model {
    bytes: BTreeMap<(LockKind, u64), BTreeMap<LockOwner, LockMode>>,
    waiting: Vec<Waiter>,
}

impl Model {
    fn bytes_of(range: ByteRange) -> std::ops::RangeInclusive<u64> {
        range.start..=range.end.min(BYTES - 1)
    }

    fn is_free(&self, lock: &Lock) -> bool {
        Self::bytes_of(lock.range).all(|at| {
            let others = self.bytes.get(&(lock.kind, at)).into_iter().flatten();
            let mut others = others.filter(|(owner, _)| **owner != lock.owner);
            others.all(|(_, mode)| (*mode, lock.mode) == (LockMode::Shared, LockMode::Shared))
        })
    }

    fn set(&mut self, lock: &Lock, mode: Option<LockMode>) {
        for at in Self::bytes_of(lock.range) {
            let holders = self.bytes.entry((lock.kind, at)).or_default();
            match mode {
                Some(mode) => holders.insert(lock.owner, mode),
                None => holders.remove(&lock.owner),
            };
        }
    }

    fn request(&mut self, lock: &Lock, woken: &mut Vec<u64>) -> bool {
        let holders = self.bytes.get(&(lock.kind, 0));
        let has = holders.and_then(|holders| holders.get(&lock.owner)).copied();
        if lock.kind == LockKind::Flock && has.is_some_and(|mode| mode != lock.mode) {
            self.set(lock, None);
            woken.extend(self.wake());
        }
        let free = self.is_free(lock);
        if free {
            self.set(lock, Some(lock.mode));
        }
        free
    }

    fn wake(&mut self) -> Vec<u64> {
        let mut granted = Vec::new();
        while let Some(at) = self.waiting.iter().position(|waiter| self.is_free(&waiter.lock)) {
            let waiter = self.waiting.remove(at);
            self.set(&waiter.lock, Some(waiter.lock.mode));
            granted.push(waiter.ticket);
        }
        granted
    }

    /// What [`FileLocks::held`] must show of one owner and kind: the longest runs.
    fn runs(&self, owner: LockOwner, kind: LockKind) -> Vec<(u64, u64, LockMode)> {
        let mut runs: Vec<(u64, u64, LockMode)> = Vec::new();
        for at in 0..BYTES {
            let holders = self.bytes.get(&(kind, at));
            let Some(mode) = holders.and_then(|holders| holders.get(&owner)) else { continue };
            match runs.last_mut() {
                Some((_, end, last)) if *end + 1 == at && last == mode => *end = at,
                _ => runs.push((at, at, *mode)),
            }
        }
        runs
    }
}

/// A request by which nobody is woken.
fn request(locks: &mut FileLocks, wanted: Lock) -> bool {
    let mut woken = Vec::new();
    let free = locks.request(wanted, &mut woken);
    assert_eq!(woken, []);
    free
}

fn owner(id: u64) -> LockOwner {
    LockOwner { node: NodeId(1 + (id % 2) as u16), boot: 1, id }
}

fn lock(id: u64, kind: LockKind, mode: LockMode, from: u64, len: u64) -> Lock {
    let range = match kind {
        LockKind::Flock => ByteRange::WHOLE,
        // The last byte stands for the end of every file.
        LockKind::Record if from + len >= BYTES => ByteRange { start: from, end: u64::MAX },
        LockKind::Record => ByteRange { start: from, end: from + len - 1 },
    };
    Lock { range, owner: owner(id), kind, mode, pid: id as u32, solo: false }
}

fn arbitrary_lock() -> impl Strategy<Value = Lock> {
    let kind = prop::sample::select(vec![LockKind::Record, LockKind::Record, LockKind::Flock]);
    let mode = prop::sample::select(vec![LockMode::Shared, LockMode::Exclusive]);
    (0..4u64, kind, mode, 0..BYTES, 1..BYTES)
        .prop_map(|(id, kind, mode, from, len)| lock(id, kind, mode, from, len))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_equals_the_model(
        steps in prop::collection::vec((arbitrary_lock(), 0..5u8), 1..60),
    ) {
        let (mut locks, mut model) = (FileLocks::default(), Model::default());
        for (ticket, (lock, what)) in steps.into_iter().enumerate() {
            let ticket = ticket as u64;
            let (mut woken, mut expected) = (Vec::new(), Vec::new());
            match what {
                0 | 1 => {
                    let gives_up = locks.gives_up_first(&lock);
                    let before = locks.clone();
                    let free = locks.request(lock, &mut woken);
                    prop_assert_eq!(free, model.request(&lock, &mut expected));
                    prop_assert!(free || gives_up || locks == before);
                }
                2 => {
                    let free = locks.request(lock, &mut woken);
                    prop_assert_eq!(free, model.request(&lock, &mut expected));
                    if !free {
                        let waiter = Waiter { ticket, lock, detects: false };
                        locks.wait(waiter);
                        model.waiting.push(waiter);
                    }
                }
                3 => {
                    locks.release(lock.owner, lock.kind, lock.range);
                    model.set(&lock, None);
                }
                _ => {
                    let cancelled = locks.cancel(|_| true, ticket / 2);
                    let at = model.waiting.iter().position(|waiter| waiter.ticket == ticket / 2);
                    prop_assert_eq!(cancelled, at.map(|at| model.waiting.remove(at)));
                }
            }
            woken.extend(locks.wake());
            expected.extend(model.wake());
            let granted: Vec<u64> = woken.iter().map(|waiter| waiter.ticket).collect();
            prop_assert_eq!(granted, expected);
            let waiting: Vec<u64> = locks.waiting().iter().map(|waiter| waiter.ticket).collect();
            let expected: Vec<u64> = model.waiting.iter().map(|waiter| waiter.ticket).collect();
            prop_assert_eq!(waiting, expected);
            for id in 0..4 {
                for kind in [LockKind::Record, LockKind::Flock] {
                    let own = locks.held().iter().filter(|held| {
                        (held.owner, held.kind) == (owner(id), kind)
                    });
                    let runs: Vec<_> = own
                        .map(|held| (held.range.start, held.range.end.min(BYTES - 1), held.mode))
                        .collect();
                    prop_assert_eq!(runs, model.runs(owner(id), kind));
                }
            }
            prop_assert!(locks.held().is_sorted());
        }
    }
}

#[test]
fn the_earliest_waiter_goes_first_and_readers_pass_writers_that_wait() {
    let mut locks = FileLocks::default();
    let whole = |id, mode| lock(id, LockKind::Record, mode, 0, BYTES);
    assert!(request(&mut locks, whole(0, LockMode::Shared)));
    for (ticket, mode) in [(1, LockMode::Exclusive), (2, LockMode::Exclusive)] {
        assert!(!request(&mut locks, whole(ticket, mode)));
        locks.wait(Waiter { ticket, lock: whole(ticket, mode), detects: true });
    }
    assert!(request(&mut locks, whole(3, LockMode::Shared)));
    locks.release(owner(3), LockKind::Record, ByteRange::WHOLE);
    assert_eq!(locks.wake(), []);
    locks.release(owner(0), LockKind::Record, ByteRange::WHOLE);
    let granted: Vec<u64> = locks.wake().iter().map(|waiter| waiter.ticket).collect();
    assert_eq!(granted, [1]);
}

#[test]
fn a_solo_lock_meets_every_lock_of_another_node() {
    let mut locks = FileLocks::default();
    let shared = |id| lock(id, LockKind::Record, LockMode::Shared, 0, 1);
    assert!(request(&mut locks, Lock { solo: true, ..shared(0) }));
    assert!(request(&mut locks, shared(2)), "of the same node");
    assert!(!request(&mut locks, shared(1)), "of another node");
}

#[test]
fn a_range_at_the_end_of_everything_stays_whole() {
    let mut locks = FileLocks::default();
    let to_end = ByteRange { start: 5, end: u64::MAX };
    let first = Lock { range: to_end, ..lock(0, LockKind::Record, LockMode::Shared, 0, 1) };
    assert!(request(&mut locks, first));
    locks.release(owner(0), LockKind::Record, ByteRange { start: 7, end: 7 });
    let ranges: Vec<_> = locks.held().iter().map(|held| held.range).collect();
    assert_eq!(ranges, [ByteRange { start: 5, end: 6 }, ByteRange { start: 8, end: u64::MAX }]);
}

/// A graph of waits between owners of different files, by numbers.
fn closes(waits: &[(u64, u64)], waiter: u64, holders: &[u64]) -> bool {
    let mut locks = FileLocks::default();
    for holder in holders {
        assert!(request(&mut locks, lock(*holder, LockKind::Record, LockMode::Shared, 0, 1)));
    }
    let lock = lock(waiter, LockKind::Record, LockMode::Exclusive, 0, 1);
    let waiter = Waiter { ticket: 1, lock, detects: true };
    let found = closes_cycle(&waiter, &locks, |from| {
        let next = waits.iter().filter(|(waits, _)| owner(*waits) == from);
        Ok::<_, ()>(next.map(|(_, on)| owner(*on)).collect())
    });
    found == Ok(true)
}

#[test]
fn cycles_of_waits_are_found_and_nothing_else() {
    assert!(closes(&[(1, 0)], 0, &[1]));
    assert!(closes(&[(1, 2), (2, 3), (3, 0)], 0, &[4, 1]));
    assert!(!closes(&[(1, 2), (2, 3)], 0, &[1]));
    assert!(!closes(&[(1, 2), (2, 1)], 0, &[1]), "a cycle of others is not the waiter's");
    assert!(!closes(&[], 0, &[1]));
}

#[test]
fn rows_read_back() {
    let mut locks = FileLocks::default();
    assert!(request(&mut locks, lock(0, LockKind::Flock, LockMode::Exclusive, 0, 1)));
    locks.wait(Waiter {
        ticket: 9,
        lock: lock(1, LockKind::Flock, LockMode::Shared, 0, 1),
        detects: true,
    });
    let bytes = minicbor::to_vec(&locks).expect("memory takes any bytes");
    assert_eq!(minicbor::decode::<FileLocks>(&bytes).ok(), Some(locks));
}

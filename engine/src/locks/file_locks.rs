//! What is held of one file, and who waits.

use minicbor::{Decode, Encode};

use super::lock::{ByteRange, Lock, LockKind, LockOwner};

/// Held locks and waiters of one file at most: all of them travel in one command when a node
/// that kept them hands them over, and are rewritten with each agreed change.
pub const LOCKS_MAX: usize = 4096;

/// The locks of one file.
///
/// As on Linux: a request that meets no held lock is granted, whoever waits; what a release
/// frees is granted to the waiters in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(array)]
pub struct FileLocks {
    /// Ordered, and of one owner and kind disjoint; neighbours of one mode are joined.
    #[n(0)]
    held: Vec<Lock>,
    /// In the order of their coming.
    #[n(1)]
    waiting: Vec<Waiter>,
}

/// A request that blocks its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Waiter {
    /// Its node's name for it.
    #[n(0)]
    pub ticket: u64,
    #[n(1)]
    pub lock: Lock,
    /// A cycle of such waits is an error (`EDEADLK`): POSIX locks, and no others.
    #[n(2)]
    pub detects: bool,
}

impl FileLocks {
    pub fn held(&self) -> &[Lock] {
        &self.held
    }

    pub fn waiting(&self) -> &[Waiter] {
        &self.waiting
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.held.len() + self.waiting.len() >= LOCKS_MAX
    }

    /// The held locks that stand against `wanted`, by their place in the file.
    pub fn conflicts(&self, wanted: &Lock) -> impl Iterator<Item = &Lock> {
        self.held.iter().filter(move |held| held.conflicts(wanted))
    }

    /// The owners that `waiter` waits for.
    pub fn blockers(&self, waiter: &Waiter) -> impl Iterator<Item = LockOwner> {
        let wanted = waiter.lock;
        self.held.iter().filter(move |held| held.conflicts(&wanted)).map(|held| held.owner)
    }

    /// The owners that `owner` waits for here, as far as such a wait may be part of a deadlock.
    pub fn waits_of(&self, owner: LockOwner) -> impl Iterator<Item = LockOwner> {
        let of_owner = move |waiter: &&Waiter| waiter.detects && waiter.lock.owner == owner;
        self.waiting.iter().filter(of_owner).flat_map(|waiter| self.blockers(waiter))
    }

    /// Takes `wanted` unless a held lock stands against it. What its owner held of these bytes
    /// becomes what is wanted.
    ///
    /// An flock that changes its mode is given up first, as Linux does: two holders of a
    /// shared lock that both want it exclusive would wait for each other else. Waiters that
    /// get their lock by that are added to `woken`.
    pub fn request(&mut self, wanted: Lock, woken: &mut Vec<Waiter>) -> bool {
        if self.gives_up_first(&wanted) {
            self.release(wanted.owner, wanted.kind, ByteRange::WHOLE);
            woken.extend(self.wake());
        }
        let free = self.conflicts(&wanted).next().is_none();
        if free {
            self.put(wanted);
        }
        free
    }

    /// Whether a [`Self::request`] gives something up, also if it fails then.
    pub fn gives_up_first(&self, wanted: &Lock) -> bool {
        wanted.kind == LockKind::Flock
            && self.held.iter().any(|held| held.is_of_one_owner(wanted) && held.mode != wanted.mode)
    }

    /// Queues a waiter behind the others.
    pub fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// Gives up what `owner` holds within `range`. [`Self::wake`] follows.
    pub fn release(&mut self, owner: LockOwner, kind: LockKind, range: ByteRange) {
        let mut left = Vec::new();
        self.held.retain(|held| {
            let hit = held.owner == owner && held.kind == kind && held.range.overlaps(range);
            if hit {
                left.extend(held.range.without(range).map(|range| Lock { range, ..*held }));
            }
            !hit
        });
        self.held.append(&mut left);
        self.held.sort_unstable();
    }

    /// Gives up everything of the owners that `gone` names, their waits too. [`Self::wake`]
    /// follows.
    pub fn forget(&mut self, gone: impl Fn(LockOwner) -> bool) {
        self.held.retain(|held| !gone(held.owner));
        self.waiting.retain(|waiter| !gone(waiter.lock.owner));
    }

    /// Takes out a waiter; `None` if there is none such (any more).
    pub fn cancel(&mut self, owner_is: impl Fn(LockOwner) -> bool, ticket: u64) -> Option<Waiter> {
        let found = |waiter: &Waiter| waiter.ticket == ticket && owner_is(waiter.lock.owner);
        let at = self.waiting.iter().position(found)?;
        Some(self.waiting.remove(at))
    }

    /// Grants what waiters can get now, and gives those that got it.
    pub fn wake(&mut self) -> Vec<Waiter> {
        let mut granted = Vec::new();
        let mut at = 0;
        while let Some(waiter) = self.waiting.get(at).copied() {
            if self.conflicts(&waiter.lock).next().is_some() {
                at += 1;
                continue;
            }
            self.waiting.remove(at);
            self.put(waiter.lock);
            granted.push(waiter);
            // What it held in another mode may have kept an earlier one out.
            at = 0;
        }
        granted
    }

    /// Sets `lock`, which nothing stands against.
    fn put(&mut self, lock: Lock) {
        let mut joined = lock;
        let mut left = Vec::new();
        self.held.retain(|held| {
            if !held.is_of_one_owner(&lock) {
                return true;
            }
            if held.mode == lock.mode && held.range.joins(lock.range) {
                joined.range = joined.range.union(held.range);
                joined.solo |= held.solo;
                return false;
            }
            if held.range.overlaps(lock.range) {
                left.extend(held.range.without(lock.range).map(|range| Lock { range, ..*held }));
                return false;
            }
            true
        });
        self.held.append(&mut left);
        self.held.push(joined);
        self.held.sort_unstable();
    }
}

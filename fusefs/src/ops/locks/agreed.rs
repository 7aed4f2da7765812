//! Requests that need the other nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::{LockWait, LockWant, Op};
use engine::ids::{Ino, NodeId};
use engine::locks::{Lock, LockKind, LockMode, LockOwner};
use engine::namespace::{Keeper, LockRow};
use engine::outcome::{Outcome, Refusal};

use super::file::Place;
use super::request::{Asked, Wait, What};
use crate::ops::error::FsError;
use crate::ops::fs::Fs;
use crate::ops::ports::{Caller, ProposeError};

/// How long a caller that does not want to wait waits for a keeper that cannot be reached:
/// nobody knows then whether the lock is free.
const KEEPER_WAIT: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// A keeper that answers is asked again at once, so often.
const ASKS_AT_ONCE: u32 = 3;

impl Fs {
    pub(super) fn agree_lock(self: &Arc<Self>, asked: Asked) {
        match asked.what {
            What::Lock { lock, wait } => match self.row(asked.ino) {
                Ok(row) => self.lock_by(&row, asked, lock, wait),
                Err(e) => self.finish(asked.ticket, Err(e)),
            },
            What::Unlock { owner, kind, range } => {
                let fs = Arc::clone(self);
                let done = move |result| fs.finish(asked.ticket, result);
                let op = Op::Unlock { ino: asked.ino, owner: owner.id, kind, range };
                self.unlock_agreed(op, done);
            }
            What::Test(lock) => self.test_agreed(asked, lock),
        }
    }

    pub(super) fn row(&self, ino: Ino) -> Result<LockRow, FsError> {
        Ok(self.ring.view().locks(ino)?)
    }

    /// The other node that keeps the file's locks.
    fn keeper(&self, row: &LockRow) -> Result<Option<NodeId>, FsError> {
        let Some(Keeper { node, boot }) = row.keeper else { return Ok(None) };
        let own = (node, boot) == (self.ring.me(), self.ring.boot());
        Ok((!own && self.ring.view().member(node)?.is_some()).then_some(node))
    }

    fn lock_by(self: &Arc<Self>, row: &LockRow, asked: Asked, lock: Lock, wait: Wait) {
        match self.keeper(row) {
            Ok(Some(keeper)) => return self.ask_keeper(keeper, asked),
            Ok(None) => {}
            Err(e) => return self.finish(asked.ticket, Err(e)),
        }
        if row.keeper.is_some_and(|keeper| keeper.node == self.ring.me()) {
            // A mount before this one kept them, and what it had is being dropped.
            let fs = Arc::clone(self);
            self.share_unused(asked.ino, Box::new(move || fs.attempt(asked)));
        } else if !asked.agreed_only && row.is_calm_for(self.ring.me(), self.ring.now()) {
            self.take(asked);
        } else {
            self.lock_agreed(asked, lock, wait);
        }
    }

    /// Proposes the lock, when everything that it would give up is published.
    fn lock_agreed(self: &Arc<Self>, asked: Asked, lock: Lock, wait: Wait) {
        let detects = wait == Wait::UnlessDeadlock;
        if wait != Wait::No {
            let before = self.held_before(asked.ino, &lock);
            self.locks.state.lock().held_before.insert(asked.ticket, before);
        }
        if detects && !self.wait_agreed(asked) {
            return;
        }
        let want = LockWant {
            owner: lock.owner.id,
            kind: lock.kind,
            mode: lock.mode,
            range: lock.range,
            pid: lock.pid,
            solo: lock.solo,
        };
        let ticket = asked.ticket;
        let wait = (wait != Wait::No).then_some(LockWait { ticket, detects });
        let op = Op::Lock { ino: asked.ino, want, wait };
        let fs = Arc::clone(self);
        let propose = move || {
            let ring = Arc::clone(&fs.ring);
            let done = Box::new(move |result| fs.lock_answered(asked, lock.owner, result));
            ring.propose(Caller::DAEMON, op, done);
        };
        // What becomes shared, others may read; and an flock may be given up for another one.
        if lock.mode == LockMode::Shared || lock.kind == LockKind::Flock {
            self.bodies.publish_written(asked.ino, Box::new(move |_| propose()));
        } else {
            propose();
        }
    }

    /// Notes that a POSIX lock waits in the agreed tables. False while waits that are kept
    /// here must be handed over first; the request then comes again.
    fn wait_agreed(self: &Arc<Self>, asked: Asked) -> bool {
        let mut state = self.locks.state.lock();
        if let Some(pending) = state.pending.get_mut(&asked.ticket) {
            pending.waits_agreed = true;
        }
        let Some(ino) = state.waited_for_here().first().copied() else { return true };
        drop(state);
        let fs = Arc::clone(self);
        self.share_then(ino, Box::new(move || fs.attempt(asked)));
        false
    }

    /// What the owner of `lock` has of it now, to give back when the caller gives up.
    fn held_before(&self, ino: Ino, lock: &Lock) -> Vec<Lock> {
        let Ok(row) = self.row(ino) else { return Vec::new() };
        let held = row.locks.held().iter();
        held.filter(|held| held.is_of_one_owner(lock) && held.range.overlaps(lock.range))
            .copied()
            .collect()
    }

    fn lock_answered(
        self: &Arc<Self>,
        asked: Asked,
        owner: LockOwner,
        result: Result<Outcome, ProposeError>,
    ) {
        let answer = match result {
            Ok(Outcome::Done) => {
                self.locks.state.lock().file(asked.ino).users.insert(owner.id);
                Ok(None)
            }
            Ok(Outcome::Waiting) => return self.cancel_if_abandoned(asked.ticket),
            Ok(Outcome::Busy) => Err(Refusal::Locked.into()),
            Ok(Outcome::Refused(Refusal::LocksKept(keeper))) => {
                return self.ask_keeper(keeper, asked);
            }
            Ok(Outcome::Refused(Refusal::NotFound)) => {
                return match self.is_orphan(asked.ino) {
                    true => {
                        self.keep_orphan(asked.ino, engine::locks::FileLocks::default());
                        self.attempt(asked);
                    }
                    false => self.finish(asked.ticket, Err(FsError::Stale(asked.ino))),
                };
            }
            Ok(Outcome::Refused(Refusal::Locked)) if self.expire_holders(asked) => return,
            Ok(Outcome::Refused(refusal)) => Err(refusal.into()),
            Ok(other) => Err(FsError::Unexpected(other)),
            Err(e) => Err(e.into()),
        };
        self.finish(asked.ticket, answer);
    }

    /// Gives up agreed locks, when what was written under them is published. `done` runs when
    /// both are agreed.
    pub(super) fn unlock_agreed(
        self: &Arc<Self>,
        op: Op,
        done: impl FnOnce(Result<Option<Lock>, FsError>) + Send + 'static,
    ) {
        let Op::Unlock { ino, owner, kind, range } = op else {
            unreachable!("it is called with an Unlock")
        };
        let fs = Arc::clone(self);
        let published = move |_| {
            let (fs, ring) = (Arc::clone(&fs), Arc::clone(&fs.ring));
            let answered = move |result: Result<Outcome, ProposeError>| {
                // The file went meanwhile, and its locks are kept here.
                let mut state = fs.locks.state.lock();
                let woken = match &mut state.file(ino).place {
                    Place::Kept(locks) => {
                        locks.release(fs.own(owner), kind, range);
                        locks.wake()
                    }
                    _ => Vec::new(),
                };
                state.forget_if_idle(ino);
                drop(state);
                fs.granted(&woken);
                done(match result {
                    Ok(Outcome::Refused(refusal)) => Err(refusal.into()),
                    Ok(_) => Ok(None),
                    Err(e) => Err(e.into()),
                });
            };
            ring.propose(Caller::DAEMON, op, Box::new(answered));
        };
        // Also when publishing failed: a lock is not kept for want of room.
        self.bodies.publish_written(ino, Box::new(published));
    }

    /// Looks at the agreed locks as they are after everything that was agreed before.
    fn test_agreed(self: &Arc<Self>, asked: Asked, lock: Lock) {
        let fs = Arc::clone(self);
        let looked = move |result: Result<Outcome, ProposeError>| {
            let row = match result {
                Ok(_) => fs.row(asked.ino),
                Err(e) => Err(e.into()),
            };
            let found = row.and_then(|row| Ok((fs.keeper(&row)?, row)));
            match found {
                Ok((Some(keeper), _)) => fs.ask_keeper(keeper, asked),
                Ok((None, row)) => {
                    fs.finish(asked.ticket, Ok(row.locks.conflicts(&lock).next().copied()));
                }
                Err(e) => fs.finish(asked.ticket, Err(e)),
            }
        };
        self.ring.propose(Caller::DAEMON, Op::Noop, Box::new(looked));
    }

    /// Asks the keeper to hand the file's locks over, then tries again.
    fn ask_keeper(self: &Arc<Self>, keeper: NodeId, mut asked: Asked) {
        asked.asks += 1;
        let fs = Arc::clone(self);
        let answered = move |result: Result<(), ProposeError>| match result {
            Ok(()) if asked.asks <= ASKS_AT_ONCE => fs.attempt(asked),
            Err(_) if !asked.is_patient() && asked.began.elapsed() > KEEPER_WAIT => {
                fs.finish(asked.ticket, Err(Refusal::LocksKept(keeper).into()));
            }
            _ => fs.retry(asked, Instant::now() + ASK_AGAIN),
        };
        self.ring.ask_locks(keeper, asked.ino, Box::new(answered));
    }

    pub(super) fn is_orphan(&self, ino: Ino) -> bool {
        self.orphans.get(ino).is_some()
    }
}

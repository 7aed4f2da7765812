//! Becoming the keeper of a file's locks, and handing them over.

use std::sync::Arc;
use std::time::Duration;

use engine::command::Op;
use engine::ids::Ino;
use engine::locks::{FileLocks, LockOwner};
use engine::outcome::{Outcome, Refusal};

use super::file::{LockFile, Place};
use super::request::Asked;
use crate::ops::error::FsError;
use crate::ops::fs::Fs;
use crate::ops::ports::{Caller, ProposeError};

/// A keeper gives up what nobody here has used for so long, so that the tables don't fill with
/// the names of keepers.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// In one go.
const IDLE_COUNT: usize = 256;

type Then = Box<dyn FnOnce() + Send>;

impl Fs {
    /// Makes this node the keeper of the file's locks, then looks at `asked` again.
    pub(super) fn take(self: &Arc<Self>, asked: Asked) {
        let ino = asked.ino;
        {
            let mut state = self.locks.state.lock();
            let file = state.file(ino);
            file.queue.push(asked);
            if !matches!(file.place, Place::Agreed) {
                return;
            }
            file.place = Place::Taking;
        }
        let fs = Arc::clone(self);
        let answered = move |result| fs.taken(ino, result);
        self.ring.propose(Caller::DAEMON, Op::KeepLocks { ino }, Box::new(answered));
    }

    fn taken(self: &Arc<Self>, ino: Ino, result: Result<Outcome, ProposeError>) {
        let is_orphan = self.is_orphan(ino);
        let failed = match result {
            Ok(Outcome::Done) => None,
            Ok(Outcome::Refused(Refusal::NotFound)) if is_orphan => None,
            Ok(Outcome::Refused(Refusal::NotFound)) => Some(FsError::Stale(ino)),
            Ok(Outcome::Refused(Refusal::LocksKept(_) | Refusal::Locked)) => {
                let mut state = self.locks.state.lock();
                let file = state.file(ino);
                file.place = Place::Agreed;
                for asked in &mut file.queue {
                    asked.agreed_only = true;
                }
                drop(state);
                return self.drain(ino);
            }
            Ok(Outcome::Refused(refusal)) => Some(refusal.into()),
            Ok(other) => Some(FsError::Unexpected(other)),
            Err(e) => Some(e.into()),
        };
        let mut state = self.locks.state.lock();
        let file = state.file(ino);
        let Some(error) = failed else {
            file.place = Place::Kept(FileLocks::default());
            drop(state);
            return self.drain(ino);
        };
        file.place = Place::Agreed;
        let queue = std::mem::take(&mut file.queue);
        state.forget_if_idle(ino);
        drop(state);
        for asked in queue {
            self.finish(asked.ticket, Err(error.clone()));
        }
    }

    /// Looks at the queued requests of a file again.
    pub(super) fn drain(self: &Arc<Self>, ino: Ino) {
        let mut state = self.locks.state.lock();
        let Some(file) = state.files.get_mut(&ino) else { return };
        let (queue, sharers) = (std::mem::take(&mut file.queue), std::mem::take(&mut file.sharers));
        state.forget_if_idle(ino);
        drop(state);
        for asked in queue {
            self.attempt(asked);
        }
        for then in sharers {
            then();
        }
    }

    /// Hands the locks of `ino` over because another node asks for them, as far as they are
    /// kept here. `done` runs when that is agreed.
    pub fn share_locks(self: &Arc<Self>, ino: Ino, done: Then) {
        self.share_then(ino, done);
    }

    pub(super) fn share(self: &Arc<Self>, ino: Ino) {
        self.share_then(ino, Box::new(|| ()));
    }

    pub(super) fn share_then(self: &Arc<Self>, ino: Ino, then: Then) {
        let mut state = self.locks.state.lock();
        let is_orphan = self.is_orphan(ino);
        match state.files.get_mut(&ino) {
            Some(LockFile { place: Place::Sharing(_), sharers, .. }) => return sharers.push(then),
            Some(file) if file.place.kept().is_some() && !is_orphan => {
                let Place::Kept(locks) = std::mem::take(&mut file.place) else {
                    unreachable!("it was looked at")
                };
                file.place = Place::Sharing(locks);
                file.sharers.push(then);
            }
            Some(LockFile { place: Place::Agreed, .. }) | None => {
                drop(state);
                return self.share_unused(ino, then);
            }
            // It asks again.
            Some(_) => {
                drop(state);
                return then();
            }
        }
        drop(state);
        let fs = Arc::clone(self);
        // Also when publishing failed: others must not wait for this node's disk.
        self.bodies.publish_written(ino, Box::new(move |_| fs.propose_share(ino)));
    }

    fn propose_share(self: &Arc<Self>, ino: Ino) {
        let locks = match self.locks.state.lock().files.get(&ino).map(|file| &file.place) {
            Some(Place::Sharing(locks)) => locks.clone(),
            _ => return,
        };
        let fs = Arc::clone(self);
        let answered = move |result| fs.shared(ino, result);
        let op = Op::ShareLocks { ino, locks, asked: true };
        self.ring.propose(Caller::DAEMON, op, Box::new(answered));
    }

    fn shared(self: &Arc<Self>, ino: Ino, result: Result<Outcome, ProposeError>) {
        let mut state = self.locks.state.lock();
        let file = state.file(ino);
        if let Place::Sharing(locks) = std::mem::take(&mut file.place) {
            match result {
                // What is on its way again does so by the agreed tables.
                Ok(Outcome::Done) => {
                    file.users.extend(locks.held().iter().map(|held| held.owner.id));
                    let waiting = locks.waiting().iter().filter(|waiter| waiter.detects);
                    let tickets: Vec<u64> = waiting.map(|waiter| waiter.ticket).collect();
                    for ticket in tickets {
                        if let Some(pending) = state.pending.get_mut(&ticket) {
                            pending.waits_agreed = true;
                        }
                    }
                }
                Ok(Outcome::Refused(_)) if locks.is_empty() => {}
                // The file is gone, and nobody asks for its locks any more.
                _ => file.place = Place::Kept(locks),
            }
        }
        let others = if state.waits_agreed() { state.waited_for_here() } else { Vec::new() };
        drop(state);
        self.drain(ino);
        // A deadlock shows only where all waits of this node are.
        for other in others {
            self.share(other);
        }
    }

    /// The tables name this node as keeper, and it has nothing.
    pub(super) fn share_unused(self: &Arc<Self>, ino: Ino, then: Then) {
        let row = self.ring.view().locks(ino);
        let own = row.is_ok_and(|row| {
            row.keeper.is_some_and(|keeper| {
                (keeper.node, keeper.boot) == (self.ring.me(), self.ring.boot())
            })
        });
        if !own {
            return then();
        }
        let op = Op::ShareLocks { ino, locks: FileLocks::default(), asked: true };
        self.ring.propose(Caller::DAEMON, op, Box::new(move |_| then()));
    }

    /// The file lost its last name while `locks` were agreed, or nobody locked it yet: what
    /// is this node's goes on here.
    pub(super) fn keep_orphan(self: &Arc<Self>, ino: Ino, mut locks: FileLocks) {
        locks.forget(|owner: LockOwner| !self.is_own(owner));
        let mut state = self.locks.state.lock();
        let Some(file) = state.files.get_mut(&ino) else { return };
        if !matches!(file.place, Place::Agreed) {
            return;
        }
        let woken = locks.wake();
        file.place = Place::Kept(locks);
        drop(state);
        self.granted(&woken);
        self.drain(ino);
    }

    /// Gives up what is kept and was not used for long.
    pub(super) fn give_up_idle(self: &Arc<Self>) {
        let mut state = self.locks.state.lock();
        let idle: Vec<Ino> = state
            .files
            .iter()
            .filter(|(_, file)| file.place.kept().is_some_and(FileLocks::is_empty))
            .filter(|(_, file)| file.handles.is_empty() && file.used.elapsed() > IDLE_MAX)
            .map(|(ino, _)| *ino)
            .take(IDLE_COUNT)
            .collect();
        for ino in &idle {
            // As if they were asked for: requests that come meanwhile wait.
            state.file(*ino).place = Place::Sharing(FileLocks::default());
        }
        drop(state);
        for ino in idle {
            let fs = Arc::clone(self);
            let op = Op::ShareLocks { ino, locks: FileLocks::default(), asked: false };
            let answered = move |result| fs.shared(ino, result);
            self.ring.propose(Caller::DAEMON, op, Box::new(answered));
        }
    }
}

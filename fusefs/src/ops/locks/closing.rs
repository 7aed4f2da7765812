//! What close(2), the end of a process, of an open file and of the mount give up.

use std::sync::Arc;
use std::time::Instant;

use engine::command::Op;
use engine::ids::Ino;
use engine::locks::{ByteRange, FileLocks, LockKind};

use super::file::Place;
use super::request::{Asked, What};
use super::waiting::Pending;
use super::{BOTH_KINDS, next_ticket};
use crate::ops::fs::{Fs, FsDone};
use crate::ops::ports::{Caller, Handle, ProposeError};

impl Fs {
    /// A descriptor of `handle` was closed by the process that is `owner`: that gives up all
    /// POSIX locks that it has of the file, through whatever descriptor it got them. `done`
    /// runs when others can have them.
    pub(in crate::ops) fn unlock_closed(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        handle: Handle,
        owner: u64,
        done: FsDone<()>,
    ) {
        let mut state = self.locks.state.lock();
        let Some(file) = state.files.get_mut(&ino) else {
            drop(state);
            return done(Ok(()));
        };
        for uses in file.handles.values_mut() {
            uses.owners.remove(&owner);
        }
        if let Some(uses) = file.handles.get_mut(&handle) {
            uses.closed = Some(Instant::now());
        }
        let own = self.own(owner);
        let has = match &file.place {
            Place::Agreed => file.users.contains(&owner),
            Place::Taking => false,
            Place::Kept(locks) | Place::Sharing(locks) => {
                let mut held = locks.held().iter();
                held.any(|held| held.owner == own && held.kind == LockKind::Record)
            }
        };
        if !has {
            drop(state);
            return done(Ok(()));
        }
        let (kind, range) = (LockKind::Record, ByteRange::WHOLE);
        let asked = Asked::new(next_ticket(), ino, What::Unlock { owner: own, kind, range });
        let fs = Arc::clone(self);
        let unlocked = Box::new(move |result: Result<_, _>| {
            // A signal has ended the wait for it; the descriptor is closed all the same.
            fs.forget_user(ino, owner);
            done(result.map(drop).or(Ok(())));
        });
        state.pending.insert(asked.ticket, Pending::new(asked, caller, unlocked));
        self.locks.changed.notify_one();
        let next = self.decide(&mut state, asked);
        drop(state);
        self.go_on(asked, next);
    }

    fn forget_user(&self, ino: Ino, owner: u64) {
        let mut state = self.locks.state.lock();
        let Some(file) = state.files.get_mut(&ino) else { return };
        file.users.remove(&owner);
        state.forget_if_idle(ino);
    }

    /// The last use of `handle` is over: so are the locks of that open file. (POSIX locks that
    /// were got through it are gone by then: whoever has one has closed it.)
    pub(in crate::ops) fn unlock_released(self: &Arc<Self>, ino: Ino, handle: Handle) {
        let mut state = self.locks.state.lock();
        let Some(file) = state.files.get_mut(&ino) else { return };
        let owners = file.handles.remove(&handle).unwrap_or_default().owners;
        let mut woken = Vec::new();
        let mut agreed = Vec::new();
        for id in owners {
            let owner = self.own(id);
            match &mut file.place {
                Place::Kept(locks) => {
                    locks.forget(|other| other == owner);
                    woken.extend(locks.wake());
                }
                Place::Agreed if !file.users.contains(&id) => {}
                Place::Agreed => {
                    file.releasing += 1;
                    agreed.push(id);
                }
                Place::Taking | Place::Sharing(_) => {
                    for kind in BOTH_KINDS {
                        let what = What::Unlock { owner, kind, range: ByteRange::WHOLE };
                        file.queue.push(Asked::new(next_ticket(), ino, what));
                    }
                }
            }
        }
        let retried = state.take_retries(ino);
        if self.is_orphan(ino)
            && let Some(file) = state.files.get_mut(&ino)
            && file.handles.is_empty()
            && file.place.kept().is_some_and(FileLocks::is_empty)
        {
            file.place = Place::Agreed;
        }
        state.forget_if_idle(ino);
        drop(state);
        self.granted(&woken);
        for asked in retried {
            self.attempt(asked);
        }
        for id in agreed {
            self.release_agreed(ino, id);
        }
    }

    fn release_agreed(self: &Arc<Self>, ino: Ino, owner: u64) {
        let op = |kind| Op::Unlock { ino, owner, kind, range: ByteRange::WHOLE };
        let fs = Arc::clone(self);
        let [record, flock] = BOTH_KINDS.map(op);
        // One after the other, so that the second one has nothing left to publish.
        self.unlock_agreed(record, move |_| {
            let then = Arc::clone(&fs);
            fs.unlock_agreed(flock, move |_| {
                {
                    let mut state = then.locks.state.lock();
                    let file = state.file(ino);
                    file.users.remove(&owner);
                    file.releasing = file.releasing.saturating_sub(1);
                }
                then.drain(ino);
            });
        });
    }

    /// The mount is gone, and with it everybody who had a lock.
    pub fn drop_locks(self: &Arc<Self>) {
        let mut state = self.locks.state.lock();
        state.stopped = true;
        self.locks.changed.notify_all();
        let used = !std::mem::take(&mut state.files).is_empty();
        let pending = std::mem::take(&mut state.pending);
        state.abandoned.clear();
        state.held_before.clear();
        state.retries.clear();
        drop(state);
        for pending in pending.into_values() {
            pending.answer(Err(ProposeError::Stopping.into()));
        }
        if used {
            // This start's too.
            let (node, boot) = (self.ring.me(), self.ring.boot() + 1);
            self.ring.propose(Caller::DAEMON, Op::DropLocks { node, boot }, Box::new(|_| ()));
        }
    }
}

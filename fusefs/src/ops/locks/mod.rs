//! Locks of files: fcntl(2), open file description locks and flock(2), across all nodes.
//!
//! A file's locks are decided in one place (docs/design/0002-locks.md). Mostly that is here:
//! the node that uses them *keeps* them, and grants to its own processes without asking
//! anybody. When another node wants one, the keeper publishes what was written here, hands
//! the file's locks over to the agreed tables, and from then on each change is agreed, until
//! one node has been alone with the file for a while.
//!
//! | file | |
//! |---|---|
//! | `request` | what a caller wants |
//! | `file` | one file's locks on this node, and what to do with a request |
//! | `agreed` | requests that need the other nodes |
//! | `handover` | becoming the keeper, and giving that up |
//! | `lease` | nodes that are silent, this one included |
//! | `closing` | what close(2), the end of a process and of a file give up |
//! | `waiting` | callers that wait: signals, repetition |

mod agreed;
mod closing;
mod file;
mod handover;
mod lease;
mod request;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use engine::ids::Ino;
use engine::locks::{Lock, LockKind, LockOwner, Waiter};
use engine::namespace::Touched;
use engine::outcome::Refusal;
use parking_lot::{Condvar, Mutex};

use super::fs::{Fs, FsDone};
use super::ports::{Caller, Handle};
use file::{LockFile, Next};
use request::{Asked, What};
use waiting::Pending;

pub use request::{LockRequest, LockWish, Wait};

/// What this node knows about locks.
#[derive(Default)]
pub(super) struct Locks {
    state: Mutex<State>,
    /// Told when somebody waits.
    changed: Condvar,
    /// See [`Fs::mark_solo`].
    solo: Mutex<HashSet<Ino>>,
}

#[derive(Default)]
struct State {
    files: HashMap<Ino, LockFile>,
    /// Callers that are not answered yet, by ticket.
    pending: HashMap<u64, Pending>,
    /// Requests of callers that were answered with an error while they were on their way.
    abandoned: HashMap<u64, Asked>,
    /// What the owners of requests that wait had of their bytes, to go back to when a signal
    /// comes first.
    held_before: HashMap<u64, Vec<Lock>>,
    /// Requests to try again.
    retries: Vec<(Instant, Asked)>,
    stopped: bool,
}

/// Tickets are this process's, so that a second mount does not take the first one's news.
static LAST_TICKET: AtomicU64 = AtomicU64::new(0);

impl Fs {
    /// Sets, gives up or tests a lock. `done` gets the lock that stands against a tested one.
    ///
    /// # Errors
    /// Through `done`: [`Refusal::Locked`], [`Refusal::Deadlock`], [`Refusal::TooManyLocks`];
    /// [`Refusal::LocksKept`] when the keeper does not answer, [`FsError::LocksUnknown`] when no
    /// majority can be reached and the file's directory is not one where that is waited for.
    pub fn lock(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        handle: Handle,
        request: LockRequest,
        done: FsDone<Option<Lock>>,
    ) {
        let asked = self.asked(ino, request);
        let mut state = self.locks.state.lock();
        if matches!(asked.what, What::Lock { .. }) {
            state.file(ino).used_by(handle, request.owner);
        }
        let next = self.decide(&mut state, asked);
        if let Next::Answer(result, woken) = next {
            drop(state);
            done(result);
            return self.granted(&woken);
        }
        let call = caller.call.clone();
        state.pending.insert(asked.ticket, Pending::new(asked, caller, done));
        self.locks.changed.notify_one();
        drop(state);
        if let Some(call) = call {
            let fs = Arc::downgrade(self);
            call.on_interrupt(move || {
                if let Some(fs) = fs.upgrade() {
                    fs.interrupt(asked.ticket);
                }
            });
        }
        self.go_on(asked, next);
    }

    /// The kernel knows `ino` as a file that must not be locked by two nodes at once, in
    /// whatever mode: the shared memory of SQLite's WAL mode, which two nodes don't share.
    pub fn mark_solo(&self, ino: Ino) {
        self.locks.solo.lock().insert(ino);
    }

    pub(super) fn unmark_solo(&self, ino: Ino) {
        self.locks.solo.lock().remove(&ino);
    }

    /// What applied commands say about locks: after the kernel's caches were told of them.
    pub fn locks_applied(self: &Arc<Self>, touched: &[Touched]) {
        for touch in touched {
            match touch {
                Touched::LockGranted { owner, ticket, ino } if self.is_own(*owner) => {
                    self.locks.state.lock().file(*ino).users.insert(owner.id);
                    self.finish(*ticket, Ok(None));
                }
                Touched::LockDenied { owner, ticket, .. } if self.is_own(*owner) => {
                    self.finish(*ticket, Err(Refusal::Deadlock.into()));
                }
                Touched::LocksGone { ino, locks } => self.keep_orphan(*ino, locks.clone()),
                Touched::Expired { ino, node, boot, waited }
                    if (*node, *boot) == (self.ring.me(), self.ring.boot()) =>
                {
                    self.locks_expired(*ino, waited);
                }
                _ => {}
            }
        }
    }

    fn asked(&self, ino: Ino, request: LockRequest) -> Asked {
        let owner = self.own(request.owner);
        let solo = self.locks.solo.lock().contains(&ino);
        let lock = |mode| {
            let LockRequest { kind, range, pid, .. } = request;
            Lock { range, owner, kind, mode, pid, solo }
        };
        let what = match request.wish {
            LockWish::Set { mode, wait } => What::Lock { lock: lock(mode), wait },
            LockWish::Clear => What::Unlock { owner, kind: request.kind, range: request.range },
            LockWish::Test { mode } => What::Test(lock(mode)),
        };
        Asked::new(next_ticket(), ino, what)
    }

    fn own(&self, id: u64) -> LockOwner {
        LockOwner { node: self.ring.me(), boot: self.ring.boot(), id }
    }

    fn is_own(&self, owner: LockOwner) -> bool {
        owner == self.own(owner.id)
    }

    /// Looks again at what to do with a request.
    fn attempt(self: &Arc<Self>, asked: Asked) {
        let next = self.decide(&mut self.locks.state.lock(), asked);
        self.go_on(asked, next);
    }

    fn decide(&self, state: &mut State, asked: Asked) -> Next {
        let is_lock = matches!(asked.what, What::Lock { .. });
        if is_lock && state.keeps(asked.ino) && !self.may_grant(asked.ino) {
            return Next::Renew;
        }
        state.decide(asked)
    }

    fn go_on(self: &Arc<Self>, asked: Asked, next: Next) {
        match next {
            Next::Answer(result, woken) => {
                self.finish(asked.ticket, result);
                self.granted(&woken);
            }
            Next::Waits(woken) => self.granted(&woken),
            Next::ShareFirst => self.share(asked.ino),
            Next::Agree => self.agree_lock(asked),
            Next::Renew => self.renew_then(asked),
        }
    }

    /// Answers waiters that have their lock now.
    fn granted(self: &Arc<Self>, woken: &[Waiter]) {
        for waiter in woken {
            self.finish(waiter.ticket, Ok(None));
        }
    }
}

impl State {
    fn file(&mut self, ino: Ino) -> &mut LockFile {
        self.files.entry(ino).or_default()
    }

    /// Whether a POSIX lock of this node waits in the agreed tables: then all such waits of
    /// this node must be there, so that a deadlock shows.
    fn waits_agreed(&self) -> bool {
        self.pending.values().any(|pending| pending.waits_agreed)
    }

    /// Files kept here for which POSIX locks wait.
    fn waited_for_here(&self) -> Vec<Ino> {
        let kept = self.files.iter().filter(|(_, file)| {
            let locks = file.place.kept();
            locks.is_some_and(|locks| locks.waiting().iter().any(|waiter| waiter.detects))
        });
        kept.map(|(ino, _)| *ino).collect()
    }

    /// Drops what nothing needs any more.
    fn forget_if_idle(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(LockFile::is_idle) {
            self.files.remove(&ino);
        }
    }
}

fn next_ticket() -> u64 {
    LAST_TICKET.fetch_add(1, Ordering::Relaxed) + 1
}

const BOTH_KINDS: [LockKind; 2] = [LockKind::Record, LockKind::Flock];

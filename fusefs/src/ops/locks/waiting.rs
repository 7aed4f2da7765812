//! Callers that wait: their answers, signals for them, what is tried again, and the rule that ends
//! waits of a node that is cut off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::{LockWant, Op};
use engine::ids::Ino;
use engine::locks::{ByteRange, Lock};
use engine::outcome::Outcome;

use super::State;
use super::file::Place;
use super::request::{Asked, What};
use crate::ops::error::FsError;
use crate::ops::fs::{Fs, FsDone};
use crate::ops::ports::{Caller, ProposeError};
use crate::ops::rules::{Partition, Rule};

/// A caller that is stopped in a lock call.
pub(super) struct Pending {
    pub asked: Asked,
    caller: Caller,
    done: FsDone<Option<Lock>>,
    /// It may be part of a deadlock that only the agreed tables show.
    pub waits_agreed: bool,
}

impl Pending {
    pub fn new(asked: Asked, caller: Caller, done: FsDone<Option<Lock>>) -> Pending {
        Pending { asked, caller, done, waits_agreed: false }
    }

    pub fn answer(self, result: Result<Option<Lock>, FsError>) {
        (self.done)(result);
    }
}

/// No rule ends a wait that is this short.
const LIMIT_AFTER: Duration = Duration::from_millis(300);
/// A close cannot be interrupted. Where this node is cut off it tells no longer than so whether
/// others can have the locks; they are given up all the same.
const CLOSE_WAIT: Duration = Duration::from_secs(10);
/// How often to look for what is due.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const SILENT_EVERY: Duration = Duration::from_secs(1);
const IDLE_EVERY: Duration = Duration::from_secs(60);

impl Fs {
    /// Looks after callers that wait for locks, until [`Fs::drop_locks`].
    pub fn watch_locks(self: &Arc<Self>) {
        let mut looked_for_idle = Instant::now();
        let mut cut_off_since = None;
        let mut looked_for_silent = Instant::now();
        loop {
            let due = {
                let mut state = self.locks.state.lock();
                if state.stopped {
                    return;
                }
                let busy = !state.pending.is_empty() || !state.retries.is_empty();
                let wait = if busy { LOOK_EVERY } else { IDLE_EVERY };
                self.locks.changed.wait_for(&mut state, wait);
                let now = Instant::now();
                let due = state.retries.extract_if(.., |(when, _)| *when <= now);
                due.map(|(_, asked)| asked).collect::<Vec<_>>()
            };
            for asked in due {
                self.attempt(asked);
            }
            cut_off_since = match self.ring.is_cut_off() {
                true => cut_off_since.or_else(|| Some(Instant::now())),
                false => None,
            };
            if let Some(since) = cut_off_since {
                self.limit(since);
            }
            if looked_for_silent.elapsed() >= SILENT_EVERY {
                self.expire_waited_for();
                looked_for_silent = Instant::now();
            }
            if looked_for_idle.elapsed() >= IDLE_EVERY {
                self.give_up_idle();
                looked_for_idle = Instant::now();
            }
        }
    }

    /// Answers the callers whose directory's rule says that they wait no longer for a majority,
    /// which could not be reached `since` then.
    fn limit(self: &Arc<Self>, since: Instant) {
        let view = self.ring.view();
        let may_grant = |ino| self.may_grant(ino);
        let waiting = self.locks.state.lock().waiting_for_others(may_grant);
        for (ticket, ino, began, is_close) in waiting {
            let waited = began.max(since).elapsed();
            let ends = match Partition::of(&view, ino).unwrap_or_default() {
                Partition::ReadOnly => began.elapsed() >= LIMIT_AFTER,
                Partition::Error => waited >= self.ring.op_timeout(),
                Partition::Wait => is_close && waited >= CLOSE_WAIT,
            };
            if ends {
                self.give_up(ticket, FsError::LocksUnknown);
            }
        }
    }

    pub(super) fn retry(&self, asked: Asked, when: Instant) {
        self.locks.state.lock().retries.push((when, asked));
        self.locks.changed.notify_one();
    }

    /// Answers a caller, if it still waits.
    pub(super) fn finish(self: &Arc<Self>, ticket: u64, result: Result<Option<Lock>, FsError>) {
        let mut state = self.locks.state.lock();
        let (pending, abandoned) = (state.pending.remove(&ticket), state.abandoned.remove(&ticket));
        let held_before = state.held_before.remove(&ticket).unwrap_or_default();
        drop(state);
        if let Some(pending) = pending {
            match pending.caller.end_wait() {
                Ok(()) => pending.answer(result),
                // A signal came first: the caller knows of no lock.
                Err(e) => {
                    if result.is_ok() {
                        self.undo(pending.asked, &held_before);
                    }
                    pending.answer(Err(e.into()));
                }
            }
        } else if let (Some(asked), Ok(_)) = (abandoned, result) {
            self.undo(asked, &held_before);
        }
    }

    /// A signal has come for the caller. What it waits for here is taken back before the caller
    /// hears of that; what waits in the agreed tables, a moment later.
    pub(super) fn interrupt(self: &Arc<Self>, ticket: u64) {
        self.give_up(ticket, ProposeError::Interrupted.into());
    }

    /// Answers a caller that waits no longer.
    fn give_up(self: &Arc<Self>, ticket: u64, why: FsError) {
        let mut state = self.locks.state.lock();
        let Some(pending) = state.pending.remove(&ticket) else { return };
        let on_its_way = !state.take_back(&pending.asked);
        if on_its_way && matches!(pending.asked.what, What::Lock { .. }) {
            state.abandoned.insert(ticket, pending.asked);
        } else {
            state.held_before.remove(&ticket);
        }
        drop(state);
        let why = pending.caller.end_wait().map_or_else(FsError::Order, |()| why);
        pending.answer(Err(why));
        if on_its_way {
            self.cancel_if_abandoned(ticket);
        }
    }

    /// Takes a request back that waits in the agreed tables for nobody.
    pub(super) fn cancel_if_abandoned(self: &Arc<Self>, ticket: u64) {
        let ino = match self.locks.state.lock().abandoned.get(&ticket) {
            Some(asked) => asked.ino,
            None => return,
        };
        let fs = Arc::clone(self);
        let answered = move |result: Result<Outcome, ProposeError>| {
            // Else it was granted, and that is undone; or it is still on its way.
            if let Ok(Outcome::Done) = result {
                let mut state = fs.locks.state.lock();
                state.abandoned.remove(&ticket);
                state.held_before.remove(&ticket);
            }
        };
        let op = Op::CancelLock { ino, ticket };
        self.ring.propose(Caller::DAEMON, op, Box::new(answered));
    }

    /// Gives up a lock that nobody waits for any more, down to what its owner had before.
    fn undo(self: &Arc<Self>, asked: Asked, held_before: &[Lock]) {
        let What::Lock { lock, .. } = asked.what else { return };
        let mut rest = vec![lock.range];
        let mut before = Vec::new();
        for held in held_before {
            let start = held.range.start.max(lock.range.start);
            if let Some(range) = ByteRange::new(start, held.range.end.min(lock.range.end)) {
                rest = rest.into_iter().flat_map(|part| part.without(range)).collect();
                before.push(Lock { range, ..*held });
            }
        }
        let mut state = self.locks.state.lock();
        let mut woken = Vec::new();
        if let Some(Place::Kept(locks)) =
            state.files.get_mut(&asked.ino).map(|file| &mut file.place)
        {
            for part in rest {
                locks.release(lock.owner, lock.kind, part);
            }
            for held in before {
                // Nothing stands against less than what is held.
                locks.request(held, &mut woken);
            }
            woken.extend(locks.wake());
            drop(state);
            return self.granted(&woken);
        }
        drop(state);
        self.undo_agreed(asked.ino, &lock, before, rest);
    }

    fn undo_agreed(&self, ino: Ino, lock: &Lock, before: Vec<Lock>, rest: Vec<ByteRange>) {
        let nothing = |_: Result<Outcome, ProposeError>| ();
        for held in before {
            let want = LockWant {
                owner: held.owner.id,
                kind: held.kind,
                mode: held.mode,
                range: held.range,
                pid: held.pid,
                solo: held.solo,
            };
            let op = Op::Lock { ino, want, wait: None };
            self.ring.propose(Caller::DAEMON, op, Box::new(nothing));
        }
        let (owner, kind) = (lock.owner.id, lock.kind);
        for range in rest {
            let op = Op::Unlock { ino, owner, kind, range };
            self.ring.propose(Caller::DAEMON, op, Box::new(nothing));
        }
    }
}

impl State {
    /// Requests that are not decided here: their tickets, files, when they began, and whether it
    /// is a close.
    fn waiting_for_others(
        &self,
        may_grant: impl Fn(Ino) -> bool,
    ) -> Vec<(u64, Ino, Instant, bool)> {
        let is_decided_here = |asked: &Asked| self.keeps(asked.ino) && may_grant(asked.ino);
        self.pending
            .iter()
            .filter(|(_, pending)| !is_decided_here(&pending.asked))
            .map(|(ticket, pending)| {
                let Asked { ino, began, .. } = pending.asked;
                (*ticket, ino, began, pending.caller.call.is_none())
            })
            .collect()
    }

    /// Takes a request out of where it waits on this node; false if it is not there.
    fn take_back(&mut self, asked: &Asked) -> bool {
        let ticket = asked.ticket;
        let retries = self.retries.len();
        self.retries.retain(|(_, other)| other.ticket != ticket);
        let Some(file) = self.files.get_mut(&asked.ino) else {
            return self.retries.len() < retries;
        };
        let queued = file.queue.len();
        file.queue.retain(|other| other.ticket != ticket);
        let waited = match &mut file.place {
            Place::Kept(locks) => locks.cancel(|_| true, ticket).is_some(),
            _ => false,
        };
        waited || file.queue.len() < queued || self.retries.len() < retries
    }

    /// What waits for the end of an open file.
    pub fn take_retries(&mut self, ino: Ino) -> Vec<Asked> {
        let of_file = |(_, asked): &mut (Instant, Asked)| asked.ino == ino && asked.graced;
        self.retries.extract_if(.., of_file).map(|(_, asked)| asked).collect()
    }
}

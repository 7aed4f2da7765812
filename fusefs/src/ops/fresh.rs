//! Fresh reads: calls that first wait until this node shows everything that was agreed before
//! them. A mount with `consistency=strict` makes every look such a call.
//!
//! One agreement that says nothing is proposed for all calls that came since the last one, so that
//! a thousand lookups at once cost the order a few agreements.

use std::sync::Arc;

use engine::command::Op;
use engine::ids::Ino;
use engine::outcome::Outcome;
use parking_lot::Mutex;

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::ports::{Caller, ProposeError};
use super::rules::{Partition, Rule};

/// Calls that wait for an agreement which is not proposed yet, and how many are on their way.
#[derive(Default)]
pub(super) struct Fresh(Mutex<State>);

#[derive(Default)]
struct State {
    on_their_way: usize,
    next: Vec<Waiter>,
}

struct Waiter {
    caller: Caller,
    done: FsDone<()>,
}

impl Fs {
    /// Runs `done` when this node shows everything that was agreed before the call.
    ///
    /// It takes no lock of the kernel's and waits for none, so that a lookup, during which the
    /// kernel holds its directory, may wait for it.
    ///
    /// Fails with [`FsError::Order`]: without a majority, by the partition rule of `ino`. There
    /// is no reading what may be old, so `readonly` is as `error`, at once.
    pub fn fresh(self: &Arc<Self>, caller: Caller, ino: Ino, done: FsDone<()>) {
        caller.begin_wait();
        match Partition::of(&self.ring.view(), ino) {
            Ok(Partition::Wait) => {
                self.fresh.0.lock().next.push(Waiter { caller, done });
                self.ask_for_all();
            }
            // The order knows its time limits by the agreements' own callers.
            Ok(Partition::Error | Partition::ReadOnly) => {
                let reached = Box::new(move |result: Result<(), _>| {
                    done(result.map_err(FsError::Order));
                });
                self.ring.barrier(caller, ino, reached);
            }
            Err(e) => done(Err(e.into())),
        }
    }

    /// As [`Self::fresh`], and what another node was writing to `ino` by then is published.
    pub fn fresh_content(self: &Arc<Self>, caller: Caller, ino: Ino, done: FsDone<()>) {
        let fs = Arc::clone(self);
        let writing = caller.clone();
        let agreed: FsDone<()> = Box::new(move |result| match result {
            Ok(()) => {
                let told = Arc::clone(&fs);
                writing.begin_wait();
                let written: FsDone<()> = Box::new(move |result| {
                    // The bytes' keeper learns of the version like everybody who follows.
                    told.wait_until_told(told.ring.applied_gsn());
                    done(result.and_then(|()| Ok(writing.end_wait()?)));
                });
                fs.after_writer(ino, written);
            }
            Err(e) => done(Err(e)),
        });
        self.fresh(caller, ino, agreed);
    }

    fn ask_for_all(self: &Arc<Self>) {
        let mut state = self.fresh.0.lock();
        if state.next.is_empty() || state.on_their_way >= ON_THEIR_WAY_MAX {
            return;
        }
        let waiters = std::mem::take(&mut state.next);
        state.on_their_way += 1;
        drop(state);
        let fs = Arc::clone(self);
        let agreed = move |result: Result<Outcome, ProposeError>| {
            fs.fresh.0.lock().on_their_way -= 1;
            fs.ask_for_all();
            for Waiter { caller, done } in waiters {
                let result = result.clone().and_then(|_| caller.end_wait());
                done(result.map_err(FsError::Order));
            }
        };
        self.ring.propose(Caller::DAEMON, Op::Noop, Box::new(agreed));
    }
}

/// A call waits for a round trip, and for a fourth of one more at most where others came before
/// it; more of them would only make the order longer.
const ON_THEIR_WAY_MAX: usize = 4;

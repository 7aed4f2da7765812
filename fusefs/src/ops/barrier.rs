//! A barrier: a place in the order that this node waits for before it answers.

use std::sync::Arc;

use engine::command::Op;
use engine::ids::{Gsn, Ino};

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::ports::Caller;

/// Whether reading the attribute `name` is a barrier.
pub fn is_barrier(name: &[u8]) -> bool {
    name == b"user.fusion.sync"
}

/// Bytes of the GSN that such an attribute tells.
pub const BARRIER_LEN_MAX: usize = 20;

impl Fs {
    /// Waits until this node shows everything that was agreed before the call, and whatever
    /// another node was writing to `ino` by then as a published version. Gives the GSN that is
    /// shown then.
    ///
    /// The first by an agreement of its own: what was agreed before has a lower GSN. The
    /// second by recalling the write token.
    ///
    /// # Errors
    /// [`FsError::Order`] when no majority, or not the writing node, can be reached.
    pub fn barrier(self: &Arc<Self>, caller: Caller, ino: Ino, done: FsDone<Gsn>) {
        let fs = Arc::clone(self);
        let agreed: FsDone<()> = Box::new(move |result| match result {
            Ok(()) => {
                let shown = Arc::clone(&fs);
                let written: FsDone<()> =
                    Box::new(move |result| done(result.map(|()| shown.ring.applied_gsn())));
                fs.after_writer(ino, written);
            }
            Err(e) => done(Err(e)),
        });
        self.agree_done(caller, Op::Noop, agreed);
    }

    pub(super) fn after_writer(&self, ino: Ino, done: FsDone<()>) {
        let holder = match self.ring.view().token_holder(ino) {
            Ok(holder) => holder.filter(|holder| *holder != self.ring.me()),
            Err(e) => return done(Err(e.into())),
        };
        let Some(holder) = holder else { return done(Ok(())) };
        let recalled = Box::new(move |result: Result<(), _>| done(result.map_err(FsError::Order)));
        self.ring.recall(holder, ino, recalled);
    }
}

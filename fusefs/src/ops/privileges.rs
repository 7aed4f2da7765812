//! What a change of a file's content takes away: set-id bits and capabilities.
//!
//! The kernel leaves this to the filesystem (FUSE_HANDLE_KILLPRIV_V2) and says with each change
//! whether the caller may keep set-id bits. They are agreed, so they are gone everywhere before
//! the first changed byte is.

use std::sync::Arc;

use engine::command::{Kill, SetAttr};
use engine::ids::Ino;
use engine::namespace::{CAPABILITY, Inode};

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::ports::Caller;
use super::token::{Attempt, Patience};

impl Fs {
    /// What changing the content of `ino` takes from it: nothing, mostly.
    pub(super) fn privileges(
        &self,
        ino: Ino,
        inode: &Inode,
        kill_set_id: bool,
    ) -> Result<Option<Kill>, FsError> {
        if kill_set_id && inode.has_set_id() {
            return Ok(Some(Kill::SetId));
        }
        let has_capability = inode.xattr_list_len > 0
            && inode.nlink > 0
            && self.ring.view().xattr(ino, CAPABILITY)?.is_some();
        Ok(has_capability.then_some(Kill::Capability))
    }

    /// As [`Self::privileges`], for a file that may be gone by now.
    pub(super) fn privileges_of(
        &self,
        ino: Ino,
        kill_set_id: bool,
    ) -> Result<Option<Kill>, FsError> {
        match self.record(ino) {
            Ok(inode) => self.privileges(ino, &inode, kill_set_id),
            Err(FsError::Stale(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes `kill` from the file. For the daemon: the kernel does not know of it by itself.
    pub(super) fn strip(self: &Arc<Self>, ino: Ino, kill: Kill, done: FsDone<()>) {
        let set = SetAttr { kill: Some(kill), ..SetAttr::default() };
        self.set_rest(Caller::DAEMON, ino, set, done);
    }

    /// As [`Self::with_token`], for changes of content of which the kernel does not say who may
    /// keep set-id bits: root may.
    pub(super) fn change_with_token<T: Send + 'static>(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        attempt: Attempt<T>,
        done: FsDone<T>,
    ) {
        let kill_set_id = caller.cred.uid != 0;
        let patience = Patience::new(caller);
        match self.privileges_of(ino, kill_set_id) {
            Ok(None) => self.with_token(ino, patience, attempt, done),
            Ok(Some(kill)) => {
                let fs = Arc::clone(self);
                let stripped: FsDone<()> = Box::new(move |result| match result {
                    Ok(()) => fs.with_token(ino, patience, attempt, done),
                    Err(e) => done(Err(e)),
                });
                self.strip(ino, kill, stripped);
            }
            Err(e) => done(Err(e)),
        }
    }
}

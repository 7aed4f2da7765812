//! Files without a name (O_TMPFILE): open, close, and linkat, which names them.
//!
//! They are agreed like others, so that attributes, ACLs and tokens need no second way; but
//! nothing of their content goes to other nodes before they have a name. When the kernel
//! forgets one that got none, it is dropped; what a dead daemon left is reaped at its next start.

use std::collections::HashSet;
use std::sync::Arc;

use engine::command::Op;
use engine::ids::Ino;
use parking_lot::Mutex;

use super::error::FsError;
use super::file::body_done;
use super::fs::{Fs, FsDone};
use super::make::expect_made;
use super::ports::{Caller, Handle, ProposeError};

/// A file that is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewUnnamed {
    /// For group and ACL.
    pub parent: Ino,
    /// From [`Fs::alloc_ino`].
    pub ino: Ino,
    /// Permission bits, as the program gave them.
    pub mode: u32,
    pub umask: u32,
}

/// Those that this node's processes have open.
#[derive(Default)]
pub(super) struct Unnamed {
    files: Mutex<HashSet<Ino>>,
}

impl Unnamed {
    pub(super) fn contains(&self, ino: Ino) -> bool {
        self.files.lock().contains(&ino)
    }
}

impl Fs {
    /// Makes a file without a name and opens it.
    pub fn make_unnamed(
        self: &Arc<Self>,
        caller: Caller,
        new: NewUnnamed,
        write: bool,
        done: FsDone<Handle>,
    ) {
        let NewUnnamed { parent, ino, mode, umask } = new;
        let op = Op::MakeUnnamed { parent, ino, mode: mode & 0o7777, umask };
        let (fs, opener) = (Arc::clone(self), caller.clone());
        self.unnamed.files.lock().insert(ino);
        let made: FsDone<()> = Box::new(move |result| match result {
            Ok(()) => fs.open(opener, ino, write, done),
            Err(e) => {
                match &e {
                    // It may still be made.
                    FsError::Order(ProposeError::Interrupted | ProposeError::NoQuorum { .. }) => {
                        fs.drop_unnamed(ino);
                    }
                    _ => {
                        fs.unnamed.files.lock().remove(&ino);
                    }
                }
                done(Err(e));
            }
        });
        self.agree(caller, op, expect_made(made));
    }

    /// Names a file by `op`. Its content is agreed first: whoever finds the name, anywhere,
    /// finds all that was written before.
    pub(super) fn link_unnamed(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        op: Op,
        done: FsDone<()>,
    ) {
        let fs = Arc::clone(self);
        caller.begin_wait();
        let published: FsDone<()> = Box::new(move |result| {
            if let Err(e) = result.and_then(|()| Ok(caller.end_wait()?)) {
                return done(Err(e));
            }
            let named = Arc::clone(&fs);
            let linked: FsDone<()> = Box::new(move |result| {
                if result.is_ok() {
                    named.unnamed.files.lock().remove(&ino);
                }
                done(result);
            });
            fs.agree_done(caller, op, linked);
        });
        self.bodies.publish_file(ino, body_done(published));
    }

    /// The kernel forgot `ino`, or never heard of it: without a name nobody finds it again.
    pub(super) fn drop_unnamed(&self, ino: Ino) {
        if !self.unnamed.files.lock().remove(&ino) {
            return;
        }
        let dropped: FsDone<()> = Box::new(move |result| {
            if let Err(error) = result {
                // The next start finds it.
                tracing::debug!(%ino, %error, "a file without a name was not dropped yet");
            }
        });
        self.agree_done(Caller::DAEMON, Op::DropUnnamed { ino }, dropped);
    }

    /// The mount is gone, and with it everybody who had one open.
    pub fn drop_all_unnamed(&self) {
        let files: Vec<Ino> = self.unnamed.files.lock().iter().copied().collect();
        for ino in files {
            self.drop_unnamed(ino);
        }
    }
}

//! Making inodes: mkdir, mknod, symlink, and create, which also opens.

use std::sync::Arc;

use engine::command::{Kind, Name, Op};
use engine::ids::Ino;
use engine::outcome::{Outcome, Refusal};

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::ports::{Caller, Handle};

/// An inode that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInode {
    pub parent: Ino,
    pub name: Name,
    /// From [`Fs::alloc_ino`].
    pub ino: Ino,
    /// Permission bits, as the program gave them.
    pub mode: u32,
    /// What is taken off them, unless the directory has a default ACL.
    pub umask: u32,
}

impl Fs {
    /// Makes an inode of any kind.
    pub fn make(&self, caller: Caller, new: NewInode, kind: Kind, done: FsDone<()>) {
        let NewInode { parent, name, ino, mode, umask } = new;
        let mode = mode & 0o7777;
        let op = Op::Make { parent, name, ino, kind, mode, exclusive: true, umask };
        self.agree(caller, op, expect_made(done));
    }

    /// open(2) with `O_CREAT` of a name that the kernel takes for absent: makes the file and
    /// opens it, in one agreement.
    ///
    /// When the name was made elsewhere meanwhile, that is an error even without `O_EXCL`: a
    /// file that the kernel has not looked up has had no permission check. It then looks
    /// again, and opens ([`FsError::Overtaken`]).
    pub fn create(
        self: &Arc<Self>,
        caller: Caller,
        new: NewInode,
        (exclusive, write): (bool, bool),
        done: FsDone<Handle>,
    ) {
        let (fs, ino, opener) = (Arc::clone(self), new.ino, caller.clone());
        let made: FsDone<()> = Box::new(move |result| match result {
            Ok(()) => fs.open(opener, ino, write, done),
            Err(FsError::Refused(Refusal::Exists)) if !exclusive => done(Err(FsError::Overtaken)),
            Err(e) => done(Err(e)),
        });
        self.make(caller, new, Kind::File, made);
    }
}

/// Takes [`Outcome::Made`] only.
pub(super) fn expect_made(done: FsDone<()>) -> FsDone<Outcome> {
    Box::new(move |result| {
        done(match result {
            Ok(Outcome::Made { .. }) => Ok(()),
            Ok(other) => Err(FsError::Unexpected(other)),
            Err(e) => Err(e),
        });
    })
}

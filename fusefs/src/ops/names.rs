//! Changing names: link, unlink, rmdir, rename.

use engine::command::{Name, Op, RenameHow};
use engine::ids::Ino;

use super::fs::{Fs, FsDone};
use super::ports::Caller;

impl Fs {
    pub fn link(&self, caller: Caller, ino: Ino, parent: Ino, name: Name, done: FsDone<()>) {
        self.agree_done(caller, Op::Link { ino, parent, name }, done);
    }

    pub fn unlink(&self, caller: Caller, parent: Ino, name: Name, done: FsDone<()>) {
        self.agree_done(caller, Op::Unlink { parent, name }, done);
    }

    pub fn rmdir(&self, caller: Caller, parent: Ino, name: Name, done: FsDone<()>) {
        self.agree_done(caller, Op::Rmdir { parent, name }, done);
    }

    pub fn rename(
        &self,
        caller: Caller,
        (from_parent, from_name): (Ino, Name),
        (to_parent, to_name): (Ino, Name),
        how: RenameHow,
        done: FsDone<()>,
    ) {
        let op = Op::Rename { from_parent, from_name, to_parent, to_name, how };
        self.agree_done(caller, op, done);
    }
}

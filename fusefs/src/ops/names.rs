//! Changing names: link, unlink, rmdir, rename.

use engine::command::{Cred, Name, Op, RenameHow};
use engine::ids::Ino;

use super::fs::{Fs, FsDone};

impl Fs {
    pub fn link(&self, cred: Cred, ino: Ino, parent: Ino, name: Name, done: FsDone<()>) {
        self.agree_done(cred, Op::Link { ino, parent, name }, done);
    }

    pub fn unlink(&self, cred: Cred, parent: Ino, name: Name, done: FsDone<()>) {
        self.agree_done(cred, Op::Unlink { parent, name }, done);
    }

    pub fn rmdir(&self, cred: Cred, parent: Ino, name: Name, done: FsDone<()>) {
        self.agree_done(cred, Op::Rmdir { parent, name }, done);
    }

    pub fn rename(
        &self,
        cred: Cred,
        (from_parent, from_name): (Ino, Name),
        (to_parent, to_name): (Ino, Name),
        how: RenameHow,
        done: FsDone<()>,
    ) {
        let op = Op::Rename { from_parent, from_name, to_parent, to_name, how };
        self.agree_done(cred, op, done);
    }
}

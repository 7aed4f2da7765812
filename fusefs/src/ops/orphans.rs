//! Inodes without a name that this node's kernel still knows.
//!
//! The agreed tables drop an inode with its last link. Whoever has it open goes on with it on
//! this node alone, from a pinned copy of its last record; chmod, chown and utimens change
//! that copy, and its bytes are `body/`'s. The pin ends when the kernel forgets the inode.

use std::collections::HashMap;

use engine::ids::Ino;
use engine::namespace::Inode;
use parking_lot::Mutex;

use super::fs::Fs;

#[derive(Default)]
pub(super) struct Orphans {
    pinned: Mutex<HashMap<Ino, Inode>>,
}

impl Orphans {
    pub(super) fn get(&self, ino: Ino) -> Option<Inode> {
        self.pinned.lock().get(&ino).cloned()
    }

    /// Changes the copy; `None` when `ino` is not pinned.
    pub(super) fn change<T>(&self, ino: Ino, change: impl FnOnce(&mut Inode) -> T) -> Option<T> {
        self.pinned.lock().get_mut(&ino).map(change)
    }
}

impl Fs {
    /// Keeps the last record of an inode that left the agreed tables.
    pub fn pin(&self, ino: Ino, last: &Inode) {
        let inode = Inode { nlink: 0, ..last.clone() };
        self.orphans.pinned.lock().insert(ino, inode);
    }

    /// The kernel forgot `ino`.
    pub fn unpin(&self, ino: Ino) {
        self.unmark_solo(ino);
        self.orphans.pinned.lock().remove(&ino);
        self.drop_unnamed(ino);
    }

    /// How many inodes without a name are kept.
    pub fn pinned(&self) -> usize {
        self.orphans.pinned.lock().len()
    }
}

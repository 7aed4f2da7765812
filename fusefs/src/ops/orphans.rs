//! Inodes without a name that this node's kernel still knows.
//!
//! The agreed tables drop an inode with its last link. Whoever has it open goes on with it on
//! this node alone, from a pinned copy of its last record and its extended attributes; chmod,
//! chown, utimens and setxattr change that copy, and its bytes are `body/`'s. The pin ends when the kernel forgets the inode.

use std::collections::{BTreeMap, HashMap};

use engine::ids::Ino;
use engine::namespace::Inode;
use parking_lot::Mutex;

use super::fs::Fs;

#[derive(Default)]
pub(super) struct Orphans {
    pinned: Mutex<HashMap<Ino, Orphan>>,
}

/// An inode without a name.
pub(super) struct Orphan {
    pub(super) inode: Inode,
    /// As programs see them, ACLs included.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Orphans {
    pub(super) fn get(&self, ino: Ino) -> Option<Inode> {
        self.pinned.lock().get(&ino).map(|orphan| orphan.inode.clone())
    }

    /// Changes the copy; `None` when `ino` is not pinned.
    pub(super) fn change<T>(&self, ino: Ino, change: impl FnOnce(&mut Inode) -> T) -> Option<T> {
        self.with(ino, |orphan| change(&mut orphan.inode))
    }

    /// Looks at the copy and its attributes, or changes them; `None` when `ino` is not pinned.
    pub(super) fn with<T>(&self, ino: Ino, run: impl FnOnce(&mut Orphan) -> T) -> Option<T> {
        self.pinned.lock().get_mut(&ino).map(run)
    }
}

impl Fs {
    /// Keeps the last record of an inode that left the agreed tables.
    pub fn pin(&self, ino: Ino, last: &Inode, xattrs: &[(Vec<u8>, Vec<u8>)]) {
        let inode = Inode { nlink: 0, ..last.clone() };
        let xattrs = xattrs.iter().cloned().collect();
        self.orphans.pinned.lock().insert(ino, Orphan { inode, xattrs });
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

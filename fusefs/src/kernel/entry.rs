//! Telling the kernel about an inode.

use std::sync::Arc;

use engine::ids::Ino;

use super::Kernel;
use crate::ops::{Attr, FsError};

/// An inode about which the next reply tells the kernel; counted as known from the start, so
/// that nothing that is applied meanwhile is missed. Dropped without [`Self::attr`] having
/// succeeded, it is taken back.
pub struct NewEntry {
    kernel: Arc<Kernel>,
    ino: Ino,
    told: bool,
}

impl NewEntry {
    pub fn expect(kernel: &Arc<Kernel>, ino: Ino, parent: Ino) -> NewEntry {
        kernel.known.add(ino, parent);
        NewEntry { kernel: Arc::clone(kernel), ino, told: false }
    }

    /// The attributes for the reply, which must follow.
    pub fn attr(mut self) -> Result<Attr, FsError> {
        let attr = self.kernel.fs.attr(self.ino)?;
        self.told = true;
        Ok(attr)
    }
}

impl Drop for NewEntry {
    fn drop(&mut self) {
        if !self.told {
            self.kernel.forget(self.ino, 1);
        }
    }
}

impl Kernel {
    /// Takes back `count` lookups of `ino`; with the last one its pin goes.
    pub(super) fn forget(&self, ino: Ino, count: u64) {
        self.known.forget(ino, count, || self.fs.unpin(ino));
    }
}

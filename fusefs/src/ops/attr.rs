//! Attributes as stat(2) shows them on this node.

use engine::command::Kind;
use engine::ids::Ino;
use engine::namespace::{FileType, Inode};
use engine::time::Timestamp;

use super::error::FsError;
use super::fs::Fs;
use super::ports::LocalAttr;

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub file_type: FileType,
    /// Permission bits 07777.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number, for devices.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
}

impl Fs {
    /// The attributes of `ino`.
    ///
    /// # Errors
    /// [`FsError::Stale`] when it is gone.
    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        // The stage first: it ends after the tables show what it published, so that the size
        // is never an older one than before.
        let local = self.bodies.local_attr(ino);
        let mut attr = Attr::of(ino, &self.record(ino)?, local);
        attr.atime = self.accesses.newest(ino, attr.atime);
        Ok(attr)
    }
}

impl Attr {
    pub(super) fn of(ino: Ino, inode: &Inode, local: Option<LocalAttr>) -> Attr {
        let mut attr = Attr {
            ino,
            file_type: inode.file_type(),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: match inode.kind {
                Kind::CharDevice(rdev) | Kind::BlockDevice(rdev) => rdev,
                Kind::File | Kind::Directory | Kind::Symlink(_) | Kind::Fifo | Kind::Socket => 0,
            },
            size: inode.size,
            blocks: match inode.kind {
                Kind::File => inode.stored_len.div_ceil(BLOCK_BYTES),
                Kind::Directory => inode.size.div_ceil(BLOCK_BYTES),
                _ => 0,
            },
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
        };
        if let Some(local) = local {
            attr.size = local.size;
            attr.blocks = local.blocks;
            attr.mtime = local.mtime;
            attr.ctime = attr.ctime.max(local.ctime);
        }
        attr
    }
}

const BLOCK_BYTES: u64 = 512;

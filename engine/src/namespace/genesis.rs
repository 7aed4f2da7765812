//! The tables of a new volume.

use super::codec::record;
use super::inode::{Directory, Inode};
use super::keys;
use super::state_hash::{RowSum, Summary, Usage};
use super::tables::Changes;
use crate::command::{Body, Kind};
use crate::ids::{Gsn, Ino, Version};
use crate::time::Timestamp;

/// What decides the first state of a volume. Its creator chooses it, and every other node
/// gets it with its first checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeParams {
    /// Keys all content hashes of the volume, so that they tell an outsider nothing. Random.
    pub key: [u8; 32],
    pub time: Timestamp,
    /// Owner and permission bits (07777) of the root directory.
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

/// The rows of a volume before its first agreement: an empty root directory and no members.
pub fn genesis(params: &VolumeParams) -> Changes {
    let root = Inode {
        kind: Kind::Directory,
        mode: params.mode & 0o7777,
        uid: params.uid,
        gid: params.gid,
        nlink: 2,
        size: Directory::SIZE_BYTES,
        atime: params.time,
        mtime: params.time,
        ctime: params.time,
        btime: params.time,
        changed: Gsn(0),
        xattr_list_len: 0,
        version: Version(0),
        body: Body::Empty,
        valid_len: 0,
        writer: None,
        holder: None,
        directory: Some(Directory::new(Ino::ROOT)),
    };
    let mut volume = record(32);
    volume.extend_from_slice(&params.key);

    let mut usage = Usage::default();
    usage.add(&root);
    let mut rows = RowSum::default();
    let mut changes = Changes::new();
    for (key, value) in [(keys::inode(Ino::ROOT), root.encode()), (keys::VOLUME.to_vec(), volume)] {
        rows.add(&key, &value);
        changes.insert(key, Some(value));
    }
    changes.insert(keys::SUMMARY.to_vec(), Some(Summary { rows, usage }.encode()));
    changes
}

//! The tables of a new volume.

use super::codec::{record, to_cbor};
use super::inode::{Directory, Inode};
use super::keys;
use super::state_hash::{RowSum, Summary, Usage};
use super::tables::Changes;
use crate::command::{Body, Kind, Member};
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

/// The rows of a root volume before its first agreement: an empty root directory and no
/// members; the first node admits itself.
pub fn genesis(params: &VolumeParams) -> Changes {
    genesis_of_child(params, &[])
}

/// The rows of a child volume before its first agreement: an empty root directory, and
/// members that the cluster has admitted already.
pub fn genesis_of_child(params: &VolumeParams, members: &[Member]) -> Changes {
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
        quota: Ino(0),
        version: Version(0),
        body: Body::Empty,
        valid_len: 0,
        stored_len: 0,
        home: Ino(0),
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
    let mut first = vec![(keys::inode(Ino::ROOT), root.encode()), (keys::VOLUME.to_vec(), volume)];
    first.extend(members.iter().map(|member| (keys::member(member.id), to_cbor(member))));
    for (key, value) in first {
        rows.add(&key, &value);
        changes.insert(key, Some(value));
    }
    changes.insert(keys::SUMMARY.to_vec(), Some(Summary { rows, usage }.encode()));
    changes
}

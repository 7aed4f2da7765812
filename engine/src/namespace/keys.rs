//! Builds and takes apart the keys of the tables; `mod.rs` has the table of them.

use crate::command::Name;
use crate::ids::{Ino, NodeId, VolumeId};
use crate::locks::LockOwner;

pub(super) const VOLUME: &[u8] = b"V";
pub(super) const SUMMARY: &[u8] = b"S";
pub(super) const INODES: &[u8] = b"I";
pub(super) const MEMBERS: &[u8] = b"M";
pub(crate) const ORIGINS: &[u8] = b"O";
pub(super) const HELD: &[u8] = b"H";
pub(super) const QUOTAS: &[u8] = b"Q";
pub(super) const RESERVATIONS: &[u8] = b"B";
pub(super) const JOIN_TOKENS: &[u8] = b"J";
pub(super) const VOLUMES: &[u8] = b"W";
pub(super) const LOCKS: &[u8] = b"L";
pub(super) const DEPARTED: &[u8] = b"D";

pub(super) fn inode(ino: Ino) -> Vec<u8> {
    key(b'I', &ino.0.to_be_bytes(), &[])
}

pub(super) fn name(directory: Ino, name: &Name) -> Vec<u8> {
    key(b'N', &directory.0.to_be_bytes(), name.as_bytes())
}

/// What all cookie keys of `directory` begin with.
pub(super) fn cookies(directory: Ino) -> Vec<u8> {
    key(b'C', &directory.0.to_be_bytes(), &[])
}

pub(super) fn cookie(directory: Ino, cookie: u64) -> Vec<u8> {
    key(b'C', &directory.0.to_be_bytes(), &cookie.to_be_bytes())
}

/// What all keys of extended attributes of `ino` begin with.
pub(super) fn xattrs(ino: Ino) -> Vec<u8> {
    key(b'X', &ino.0.to_be_bytes(), &[])
}

pub(super) fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    key(b'X', &ino.0.to_be_bytes(), name)
}

/// What all keys of unnamed files of `node` begin with.
pub(super) fn unnamed_of(node: NodeId) -> Vec<u8> {
    key(b'U', &node.0.to_be_bytes(), &[])
}

/// `None` for the system's numbers, which are never unnamed.
pub(super) fn unnamed(ino: Ino) -> Option<Vec<u8>> {
    Some(key(b'U', &ino.node()?.0.to_be_bytes(), &ino.0.to_be_bytes()))
}

/// The inode of a key of *unnamed*.
pub(super) fn unnamed_ino(key: &[u8]) -> Option<Ino> {
    key.get(3..)?.try_into().ok().map(|bytes| Ino(u64::from_be_bytes(bytes)))
}

pub(super) fn origin(node: NodeId) -> Vec<u8> {
    key(b'O', &node.0.to_be_bytes(), &[])
}

pub(super) fn outcome(node: NodeId, slot: u16) -> Vec<u8> {
    key(b'R', &node.0.to_be_bytes(), &slot.to_be_bytes())
}

pub(super) fn member(node: NodeId) -> Vec<u8> {
    key(b'M', &node.0.to_be_bytes(), &[])
}

pub(super) fn departed(node: NodeId) -> Vec<u8> {
    key(b'D', &node.0.to_be_bytes(), &[])
}

/// What all outcome keys of `node` begin with.
pub(super) fn outcomes(node: NodeId) -> Vec<u8> {
    key(b'R', &node.0.to_be_bytes(), &[])
}

pub(super) fn held(node: NodeId) -> Vec<u8> {
    key(b'H', &node.0.to_be_bytes(), &[])
}

pub(super) fn join_token(id: u64) -> Vec<u8> {
    key(b'J', &id.to_be_bytes(), &[])
}

pub(super) fn volume(id: VolumeId) -> Vec<u8> {
    key(b'W', &id.0.to_be_bytes(), &[])
}

/// The volume behind a one-byte table prefix, for keys of the shape `| table | u32 |`.
pub(super) fn volume_id(key: &[u8]) -> Option<VolumeId> {
    key.get(1..)?.try_into().ok().map(|bytes| VolumeId(u32::from_be_bytes(bytes)))
}

pub(super) fn locks(ino: Ino) -> Vec<u8> {
    key(b'L', &ino.0.to_be_bytes(), &[])
}

/// What all keys of waits of `owner` begin with.
pub(super) fn lock_waits(owner: LockOwner) -> Vec<u8> {
    let mut key = key(b'G', &owner.node.0.to_be_bytes(), &owner.boot.to_be_bytes());
    key.extend_from_slice(&owner.id.to_be_bytes());
    key
}

pub(super) fn lock_wait(owner: LockOwner, ino: Ino) -> Vec<u8> {
    let mut key = lock_waits(owner);
    key.extend_from_slice(&ino.0.to_be_bytes());
    key
}

/// The file behind the owner in a key of [`lock_wait`].
pub(super) fn lock_wait_ino(key: &[u8]) -> Option<Ino> {
    key.get(19..)?.try_into().ok().map(|bytes| Ino(u64::from_be_bytes(bytes)))
}

pub(super) fn quota(directory: Ino) -> Vec<u8> {
    key(b'Q', &directory.0.to_be_bytes(), &[])
}

/// What all keys of reservations in the quota of `directory` begin with.
pub(super) fn reservations(directory: Ino) -> Vec<u8> {
    key(b'B', &directory.0.to_be_bytes(), &[])
}

pub(super) fn reservation(directory: Ino, node: NodeId) -> Vec<u8> {
    key(b'B', &directory.0.to_be_bytes(), &node.0.to_be_bytes())
}

/// The number behind a one-byte table prefix, for keys of the shape `| table | u64 |`.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    key.get(1..)?.try_into().ok().map(u64::from_be_bytes)
}

/// The node behind a one-byte table prefix, for keys of the shape `| table | u16 |`.
pub(super) fn node(key: &[u8]) -> Option<NodeId> {
    key.get(1..)?.try_into().ok().map(|bytes| NodeId(u16::from_be_bytes(bytes)))
}

/// What follows `| table | u64 |`: the name of an entry or an attribute, or a cookie.
pub(super) fn tail(key: &[u8]) -> Option<&[u8]> {
    key.get(9..)
}

fn key(table: u8, first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + first.len() + second.len());
    key.push(table);
    key.extend_from_slice(first);
    key.extend_from_slice(second);
    key
}

//! Leases: what a silent node has of a file is freed without it.

use super::apply::{Stop, Touched};
use super::dedup::Origin;
use super::keys;
use super::lock;
use super::publish::next_version;
use super::state::State;
use super::tables::Tables;
use crate::command::Command;
use crate::ids::{Ino, NodeId};
use crate::outcome::{Outcome, Refusal};

/// Frees the write token and the locks that `node` has of `ino`, if `seen` is still the newest
/// of its commands; else `HeardOf`. `NotFound` if there is no such inode, `Invalid` for the
/// origin itself.
///
/// With the token goes the version: what the node wrote and did not publish is based on one
/// that is not current any more, and never becomes the file's behind somebody's back.
pub(super) fn expire<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    node: NodeId,
    seen: Origin,
) -> Result<Outcome, Stop> {
    if node == command.id.origin {
        return Err(Refusal::Invalid.into());
    }
    let newest = state.get(keys::origin(node))?.map(Origin::decode).transpose()?;
    if newest != Some(seen) {
        return Err(Refusal::HeardOf(node).into());
    }
    let inode = state.inode(ino)?;
    let waited = lock::expire(state, ino, node)?;
    state.touch(Touched::Expired { ino, node, boot: seen.boot, waited });
    if inode.writer == Some(node) {
        let version = next_version(inode.version, state.gsn);
        state.rewrite_inode(ino, |inode| {
            inode.writer = None;
            inode.version = version;
        })?;
        state.touch(Touched::Token { ino, holder: None });
        state.touch(Touched::Content { ino, version });
    }
    Ok(Outcome::Done)
}

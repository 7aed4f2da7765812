//! Write tokens: the right of one node to write a file's body.

use super::apply::{Stop, Touched};
use super::inode::Inode;
use super::member::is_member;
use super::state::State;
use super::tables::Tables;
use crate::command::{Command, Kind};
use crate::ids::{Ino, NodeId};
use crate::outcome::{Outcome, Refusal};

/// Gives the token to `node`, if it is free, `node`'s already, or its holder is no member any
/// more; else `TokenHeld`. A node asks for itself only (`NotPermitted`).
pub(super) fn take<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    node: NodeId,
) -> Result<Outcome, Stop> {
    if node != command.id.origin {
        return Err(Refusal::NotPermitted.into());
    }
    let inode = state.inode(ino)?;
    match inode.kind {
        Kind::File => {}
        Kind::Directory => return Err(Refusal::IsDirectory.into()),
        _ => return Err(Refusal::Invalid.into()),
    }
    check_free_for(state, &inode, node)?;
    if inode.writer != Some(node) {
        state.rewrite_inode(ino, |inode| inode.writer = Some(node))?;
        state.touch(Touched::Token { ino, holder: Some(node) });
    }
    Ok(Outcome::Done)
}

/// Frees the token if `node` has it; otherwise there is nothing to do. A node releases its own
/// only (`NotPermitted`).
pub(super) fn release<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    node: NodeId,
) -> Result<Outcome, Stop> {
    if node != command.id.origin {
        return Err(Refusal::NotPermitted.into());
    }
    let inode = state.inode(ino)?;
    if inode.writer == Some(node) {
        state.rewrite_inode(ino, |inode| inode.writer = None)?;
        state.touch(Touched::Token { ino, holder: None });
    }
    Ok(Outcome::Done)
}

/// `TokenHeld` if a member other than `node` has the token.
pub(super) fn check_free_for<T: Tables>(
    state: &mut State<'_, T>,
    inode: &Inode,
    node: NodeId,
) -> Result<(), Stop> {
    match inode.writer {
        Some(holder) if holder != node && is_member(state, holder)? => {
            Err(Refusal::TokenHeld(holder).into())
        }
        _ => Ok(()),
    }
}

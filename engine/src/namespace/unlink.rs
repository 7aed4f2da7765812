//! unlink and rmdir: taking a name away, and the inode with its last name.

use super::apply::Stop;
use super::directory::Slot;
use super::inode::Inode;
use super::state::State;
use super::tables::{Tables, TablesError};
use crate::command::{Command, Name, Op};
use crate::ids::Ino;
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

/// Takes away a name of anything but a directory (`IsDirectory`).
pub(super) fn unlink<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    parent: Ino,
    name: &Name,
) -> Result<Outcome, Stop> {
    state.directory(parent)?;
    let slot = state.slot(parent, name)?.ok_or(Refusal::NotFound)?;
    let inode = state.inode(slot.ino)?;
    if inode.is_directory() {
        return Err(Refusal::IsDirectory.into());
    }
    state.remove_name(parent, name, slot, command.time)?;
    drop_link(state, slot.ino, inode, command.time)?;
    Ok(Outcome::Done)
}

/// Removes a directory: `NotDirectory`, or `NotEmpty`; `Overtaken` if it is not the victim.
pub(super) fn rmdir<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::Rmdir { parent, name, victim } = &command.op else {
        return Err(Refusal::Invalid.into());
    };
    let parent = *parent;
    state.directory(parent)?;
    let slot = state.slot(parent, name)?.ok_or(Refusal::NotFound)?;
    check_meant(*victim, Some(slot))?;
    let inode = state.inode(slot.ino)?;
    check_empty_directory(&inode)?;
    state.remove_name(parent, name, slot, command.time)?;
    drop_directory(state, parent, slot.ino, inode, command.time)?;
    Ok(Outcome::Done)
}

/// What goes or moves must be what the proposer's kernel takes for gone or moved.
pub(super) fn check_meant(meant: Option<Ino>, slot: Option<Slot>) -> Result<(), Refusal> {
    match meant {
        Some(meant) if slot.is_none_or(|slot| slot.ino != meant) => Err(Refusal::Overtaken),
        _ => Ok(()),
    }
}

pub(super) fn check_empty_directory(inode: &Inode) -> Result<(), Refusal> {
    match inode.directory {
        None => Err(Refusal::NotDirectory),
        Some(directory) if directory.entries > 0 => Err(Refusal::NotEmpty),
        Some(_) => Ok(()),
    }
}

/// Counts one name less; `inode` is how it was read. With the last name it goes.
pub(super) fn drop_link<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    mut inode: Inode,
    time: Timestamp,
) -> Result<(), TablesError> {
    if inode.nlink > 1 {
        return state.change_inode(ino, |inode| {
            inode.nlink -= 1;
            inode.ctime = time;
        });
    }
    inode.ctime = time;
    state.remove_inode(ino, inode)
}

/// Removes the inode of a directory whose name in `parent` is gone: `..` was a link to the
/// parent.
pub(super) fn drop_directory<T: Tables>(
    state: &mut State<'_, T>,
    parent: Ino,
    ino: Ino,
    mut inode: Inode,
    time: Timestamp,
) -> Result<(), TablesError> {
    state.change_inode(parent, |inode| inode.nlink = inode.nlink.saturating_sub(1))?;
    inode.ctime = time;
    state.remove_inode(ino, inode)
}

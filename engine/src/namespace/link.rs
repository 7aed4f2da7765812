//! link: another name for an inode.

use super::LINKS_MAX;
use super::apply::Stop;
use super::state::State;
use super::tables::Tables;
use crate::command::{Command, Name};
use crate::ids::Ino;
use crate::outcome::{Outcome, Refusal};

/// `NotPermitted` for a directory; the order of the checks is Linux's. `CrossesQuota` between
/// quotas: a file counts for one.
pub(super) fn link<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    parent: Ino,
    name: &Name,
) -> Result<Outcome, Stop> {
    let inode = state.inode(ino)?;
    let directory = state.directory(parent)?;
    if state.slot(parent, name)?.is_some() {
        return Err(Refusal::Exists.into());
    }
    if inode.is_directory() {
        return Err(Refusal::NotPermitted.into());
    }
    if inode.nlink >= LINKS_MAX {
        return Err(Refusal::TooManyLinks.into());
    }
    state.check_same_quota(ino, directory.quota)?;
    if inode.nlink == 0 {
        super::unnamed::named(state, ino)?;
    }
    state.change_inode(ino, |inode| {
        if inode.nlink == 0 {
            inode.home = parent;
        }
        inode.nlink += 1;
        inode.ctime = command.time;
    })?;
    state.insert_name(parent, name, ino, inode.file_type(), command.time)?;
    Ok(Outcome::Done)
}

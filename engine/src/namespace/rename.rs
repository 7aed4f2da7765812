//! rename: moving a name, over another one, or against another one.

use super::apply::Stop;
use super::directory::Slot;
use super::inode::FileType;
use super::make;
use super::state::State;
use super::tables::{Tables, TablesError};
use super::unlink::{check_empty_directory, check_meant, drop_directory, drop_link};
use crate::command::{Command, Kind, Name, Op, RenameHow};
use crate::ids::Ino;
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

/// Deeper than any path can be: what walks up further goes in circles.
const DEPTH_MAX: usize = 1 << 20;

/// One end of a rename.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Ino,
    name: &'a Name,
}

/// What the names must lead to, if given: the proposer's kernel does to these what it believes
/// that the command did.
#[derive(Clone, Copy)]
struct Meant {
    source: Option<Ino>,
    victim: Option<Ino>,
}

/// Moves a name. The checks, and their order, are those of Linux's `do_renameat2` and
/// `vfs_rename`: both names first, then loops, quotas, types, and emptiness. Two names of one
/// inode: nothing happens.
pub(super) fn rename<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::Rename { from_parent, from_name, to_parent, to_name, how, victim, source } =
        &command.op
    else {
        return Err(Refusal::Invalid.into());
    };
    let from = Place { parent: *from_parent, name: from_name };
    let to = Place { parent: *to_parent, name: to_name };
    let meant = Meant { source: *source, victim: *victim };
    move_name(state, command, from, to, *how, meant)?;
    Ok(Outcome::Done)
}

/// Moves a name and puts a whiteout in its place: what shows overlay filesystems that a name
/// of the layer below is gone.
pub(super) fn whiteout<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::Whiteout { from_parent, from_name, to_parent, to_name, replace, ino, source } =
        &command.op
    else {
        return Err(Refusal::Invalid.into());
    };
    make::check_ino(state, *ino, command.id.origin)?;
    let from = Place { parent: *from_parent, name: from_name };
    let to = Place { parent: *to_parent, name: to_name };
    let how = if *replace { RenameHow::Replace } else { RenameHow::NoReplace };
    let meant = Meant { source: *source, victim: None };
    if !move_name(state, command, from, to, how, meant)? {
        return Ok(Outcome::Done);
    }
    let directory = state.directory(from.parent)?;
    let kind = Kind::CharDevice(0);
    let inode = make::new_inode(state, command, (from.parent, &directory), &kind, 0)?;
    state.create_inode(*ino, inode)?;
    state.insert_name(from.parent, from.name, *ino, FileType::CharDevice, command.time)?;
    Ok(Outcome::Done)
}

/// False if both are names of one inode, so that nothing happens.
fn move_name<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    from: Place<'_>,
    to: Place<'_>,
    how: RenameHow,
    meant: Meant,
) -> Result<bool, Stop> {
    let from_quota = state.directory(from.parent)?.quota;
    let to_quota = state.directory(to.parent)?.quota;
    let source = state.slot(from.parent, from.name)?.ok_or(Refusal::NotFound)?;
    let target = state.slot(to.parent, to.name)?;
    check_meant(meant.source, Some(source))?;
    check_meant(meant.victim, target)?;
    match (how, target) {
        (RenameHow::NoReplace, Some(_)) => return Err(Refusal::Exists.into()),
        (RenameHow::Exchange, None) => return Err(Refusal::NotFound.into()),
        _ => {}
    }
    check_loops(state, from, to, source, target, how)?;
    if from.parent != to.parent {
        state.check_same_quota(source.ino, to_quota)?;
        if let Some(target) = target.filter(|_| how == RenameHow::Exchange) {
            state.check_same_quota(target.ino, from_quota)?;
        }
    }
    match target {
        Some(target) if target.ino == source.ino => return Ok(false),
        Some(target) if how == RenameHow::Exchange => {
            exchange(state, from, to, source, target, command.time)?;
        }
        Some(target) => replace(state, from, to, source, target, command.time)?,
        None => move_to_free_name(state, from, to, source, command.time)?,
    }
    Ok(true)
}

/// No directory may come to lie below itself (`Invalid`), and none is replaced that `from`
/// lies below, since it cannot be empty (`NotEmpty`).
fn check_loops<T: Tables>(
    state: &mut State<'_, T>,
    from: Place<'_>,
    to: Place<'_>,
    source: Slot,
    target: Option<Slot>,
    how: RenameHow,
) -> Result<(), Stop> {
    if from.parent == to.parent {
        return Ok(());
    }
    if is_directory(source) && lies_below(state, to.parent, source.ino)? {
        return Err(Refusal::Invalid.into());
    }
    if let Some(target) = target.filter(|target| is_directory(*target))
        && lies_below(state, from.parent, target.ino)?
    {
        let exchange = how == RenameHow::Exchange;
        return Err(if exchange { Refusal::Invalid } else { Refusal::NotEmpty }.into());
    }
    Ok(())
}

fn replace<T: Tables>(
    state: &mut State<'_, T>,
    from: Place<'_>,
    to: Place<'_>,
    source: Slot,
    target: Slot,
    time: Timestamp,
) -> Result<(), Stop> {
    let replaced = state.inode(target.ino)?;
    if is_directory(source) {
        check_empty_directory(&replaced)?;
    } else if replaced.is_directory() {
        return Err(Refusal::IsDirectory.into());
    }
    state.remove_name(from.parent, from.name, source, time)?;
    state.replace_name(to.parent, to.name, Slot { cookie: target.cookie, ..source }, time)?;
    if replaced.is_directory() {
        drop_directory(state, to.parent, target.ino, replaced, time)?;
    } else {
        drop_link(state, target.ino, replaced, time)?;
    }
    settle(state, from.parent, to.parent, source, time)
}

fn move_to_free_name<T: Tables>(
    state: &mut State<'_, T>,
    from: Place<'_>,
    to: Place<'_>,
    source: Slot,
    time: Timestamp,
) -> Result<(), Stop> {
    state.remove_name(from.parent, from.name, source, time)?;
    state.insert_name(to.parent, to.name, source.ino, source.file_type, time)?;
    settle(state, from.parent, to.parent, source, time)
}

/// Each name keeps its cookie and gets the other's inode.
fn exchange<T: Tables>(
    state: &mut State<'_, T>,
    from: Place<'_>,
    to: Place<'_>,
    source: Slot,
    target: Slot,
    time: Timestamp,
) -> Result<(), Stop> {
    state.replace_name(from.parent, from.name, Slot { cookie: source.cookie, ..target }, time)?;
    state.replace_name(to.parent, to.name, Slot { cookie: target.cookie, ..source }, time)?;
    settle(state, from.parent, to.parent, source, time)?;
    settle(state, to.parent, from.parent, target, time)
}

/// Stamps the moved inode; a file gets its new home, a directory its new parent, where its `..`
/// is counted.
fn settle<T: Tables>(
    state: &mut State<'_, T>,
    from_parent: Ino,
    to_parent: Ino,
    moved: Slot,
    time: Timestamp,
) -> Result<(), Stop> {
    state.change_inode(moved.ino, |inode| {
        inode.ctime = time;
        match &mut inode.directory {
            Some(directory) => directory.parent = to_parent,
            None if inode.kind == Kind::File => inode.home = to_parent,
            None => {}
        }
    })?;
    if is_directory(moved) && from_parent != to_parent {
        let grows = state.inode(to_parent)?.nlink.checked_add(1).ok_or(Refusal::TooManyLinks)?;
        state.change_inode(to_parent, |inode| inode.nlink = grows)?;
        state.change_inode(from_parent, |inode| inode.nlink = inode.nlink.saturating_sub(1))?;
    }
    Ok(())
}

/// Whether `directory` is `ancestor` or lies somewhere below it.
fn lies_below<T: Tables>(
    state: &mut State<'_, T>,
    directory: Ino,
    ancestor: Ino,
) -> Result<bool, Stop> {
    let mut at = directory;
    for _ in 0..DEPTH_MAX {
        if at == ancestor {
            return Ok(true);
        }
        if at == Ino::ROOT {
            return Ok(false);
        }
        at = match state.find_inode(at)?.and_then(|inode| inode.parent()) {
            Some(parent) => parent,
            None => return Err(TablesError(format!("directory {at} has no parent")).into()),
        };
    }
    Err(TablesError(format!("directory {directory} lies in a circle")).into())
}

fn is_directory(slot: Slot) -> bool {
    slot.file_type == FileType::Directory
}

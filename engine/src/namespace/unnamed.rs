//! Files without a name (O_TMPFILE): made, named by a link, or dropped by their node.
//!
//! Their inodes are in the tables like others, with no links, so that attributes, tokens and
//! versions need no other way for them. A row in *unnamed* says which start of its node made
//! each, so that a later start can remove what is left.

use super::acl;
use super::apply::Stop;
use super::codec::{Reader, record};
use super::keys;
use super::make::{check_ino, new_inode};
use super::state::State;
use super::tables::{Tables, TablesError};
use crate::command::{Command, Kind, Op};
use crate::ids::{Ino, NodeId};
use crate::outcome::{Outcome, Refusal};

/// Makes a file with what its directory passes on, and nothing in the directory.
pub(super) fn make<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::MakeUnnamed { parent, ino, mode, umask } = &command.op else {
        return Err(Refusal::Invalid.into());
    };
    let directory = state.directory(*parent)?;
    check_ino(state, *ino, command.id.origin)?;
    let mut inode = new_inode(state, command, (*parent, &directory), &Kind::File, *mode)?;
    inode.nlink = 0;
    acl::inherit(state, (*parent, &directory), *ino, &mut inode, *umask)?;
    state.create_inode(*ino, inode)?;
    let mut row = record(8);
    row.extend_from_slice(&command.id.boot.to_be_bytes());
    state.put(key(*ino)?, row)?;
    Ok(Outcome::Made { ino: *ino, created: true })
}

/// It is about to get its first name. `NotFound` if it is none of these.
pub(super) fn named<T: Tables>(state: &mut State<'_, T>, ino: Ino) -> Result<(), Stop> {
    let key = key(ino)?;
    if state.get(key.clone())?.is_none() {
        return Err(Refusal::NotFound.into());
    }
    Ok(state.delete(key)?)
}

/// Removes a file that has no name still; else there is nothing to do. A node drops its own
/// only (`NotPermitted`).
pub(super) fn drop<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
) -> Result<Outcome, Stop> {
    if ino.node() != Some(command.id.origin) {
        return Err(Refusal::NotPermitted.into());
    }
    if state.get(key(ino)?)?.is_some() {
        remove(state, ino)?;
    }
    Ok(Outcome::Done)
}

/// Removes what earlier starts of the command's node left.
pub(super) fn reap<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    limit: u32,
) -> Result<Outcome, Stop> {
    let rows = rows(state.before(), command.id.origin)?;
    let old = rows.into_iter().filter(|(_, boot)| *boot < command.id.boot);
    for (ino, _) in old.take(limit as usize) {
        remove(state, ino)?;
    }
    Ok(Outcome::Done)
}

/// Removes all that `node` made: it is no member any more.
pub(super) fn forget_node<T: Tables>(
    state: &mut State<'_, T>,
    node: NodeId,
) -> Result<(), TablesError> {
    for (ino, _) in rows(state.before(), node)? {
        match remove(state, ino) {
            Ok(()) => {}
            Err(Stop::Broken(error)) => return Err(error),
            Err(Stop::Refused(refusal)) => {
                return Err(TablesError(format!("unnamed file {ino} is not whole: {refusal}")));
            }
        }
    }
    Ok(())
}

/// The unnamed files of `node`, each with the start that made it.
pub(super) fn rows(tables: &impl Tables, node: NodeId) -> Result<Vec<(Ino, u64)>, TablesError> {
    let mut rows = Vec::new();
    let mut ended = Ok(());
    tables.scan(&keys::unnamed_of(node), &[], &mut |key, value| {
        match decode(key, value) {
            Ok(row) => rows.push(row),
            Err(error) => ended = Err(error),
        }
        ended.is_ok()
    })?;
    ended.map(|()| rows)
}

fn decode(key: &[u8], value: &[u8]) -> Result<(Ino, u64), TablesError> {
    let mut reader = Reader::new(value, "unnamed")?;
    let boot = reader.u64()?;
    let malformed = || TablesError("a key of unnamed is malformed".to_owned());
    reader.end()?;
    Ok((keys::unnamed_ino(key).ok_or_else(malformed)?, boot))
}

fn remove<T: Tables>(state: &mut State<'_, T>, ino: Ino) -> Result<(), Stop> {
    named(state, ino)?;
    let inode = state.inode(ino)?;
    Ok(state.remove_inode(ino, inode)?)
}

/// Only numbers that a node gave are ever unnamed.
fn key(ino: Ino) -> Result<Vec<u8>, Refusal> {
    keys::unnamed(ino).ok_or(Refusal::NotFound)
}

//! Extended attributes.

use super::apply::Stop;
use super::codec::{Reader, record};
use super::state::State;
use super::tables::{Tables, TablesError};
use super::{XATTR_LIST_LEN_MAX, XATTR_NAME_LEN_MAX, XATTR_VALUE_LEN_MAX, keys};
use crate::acl::AclKind;
use crate::command::{Command, XattrHow};
use crate::ids::Ino;
use crate::outcome::{Outcome, Refusal};

/// `NoSpace` if the list of names would get too long, as on ext4.
pub(super) fn set<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    how: XattrHow,
) -> Result<Outcome, Stop> {
    let inode = state.inode(ino)?;
    check_name(name)?;
    if value.len() > XATTR_VALUE_LEN_MAX {
        return Err(Refusal::AttributeTooLarge.into());
    }
    let key = keys::xattr(ino, name);
    let exists = state.get(key.clone())?.is_some();
    match (how, exists) {
        (XattrHow::Create, true) => return Err(Refusal::Exists.into()),
        (XattrHow::Replace, false) => return Err(Refusal::NoAttribute.into()),
        _ => {}
    }
    let list_len = inode.xattr_list_len + if exists { 0 } else { listed_len(name) };
    if list_len > XATTR_LIST_LEN_MAX {
        return Err(Refusal::NoSpace.into());
    }
    let mut row = record(value.len());
    row.extend_from_slice(value);
    // As ext4, which does not even move ctime then.
    if state.get(key.clone())?.is_some_and(|before| before == row) {
        return Ok(Outcome::Done);
    }
    state.put(key, row)?;
    state.change_inode(ino, |inode| {
        inode.xattr_list_len = list_len;
        inode.ctime = command.time;
    })?;
    Ok(Outcome::Done)
}

/// `NoAttribute` if it is not there.
pub(super) fn remove<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    name: &[u8],
) -> Result<Outcome, Stop> {
    state.inode(ino)?;
    check_name(name)?;
    let key = keys::xattr(ino, name);
    if state.get(key.clone())?.is_none() {
        return Err(Refusal::NoAttribute.into());
    }
    state.delete(key)?;
    state.change_inode(ino, |inode| {
        inode.xattr_list_len = inode.xattr_list_len.saturating_sub(listed_len(name));
        inode.ctime = command.time;
    })?;
    Ok(Outcome::Done)
}

/// The value that programs see, of the row of an attribute.
pub(super) fn value_of(name: &[u8], row: &[u8]) -> Result<Vec<u8>, TablesError> {
    match AclKind::of_xattr(name) {
        Some(_) => Ok(super::acl::decode(row)?.to_xattr()),
        None => Ok(Reader::new(row, "xattrs")?.rest().to_vec()),
    }
}

fn check_name(name: &[u8]) -> Result<(), Refusal> {
    let len_fits = (1..=XATTR_NAME_LEN_MAX).contains(&name.len());
    // ACLs are set as what they are, and nothing else is the system's to keep.
    let is_system = name.starts_with(b"system.");
    if len_fits && !is_system && !name.contains(&0) { Ok(()) } else { Err(Refusal::Invalid) }
}

/// What `listxattr` gives for one name: the name and a NUL.
fn listed_len(name: &[u8]) -> u32 {
    u32::try_from(name.len() + 1).expect("names were checked to be short")
}

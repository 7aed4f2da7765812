//! Access control lists of inodes: setting them, and what new inodes get of them.
//!
//! A list is a row among the extended attributes of its inode, under the name by which
//! programs see it. Owner, mask and others of an access list are the mode's permission bits,
//! which chmod changes without a look at the row, so the row leaves them out; an access list
//! that says no more than the mode has no row.
//!
//! ```text
//! | version u8 | owner u8 | group u8 | mask u8 | other u8 | users u16 | entry .. |
//!   mask: 0xff = none      entry: | id u32 | permissions u8 |, users before groups
//! ```

use super::apply::Stop;
use super::codec::{Reader, record};
use super::inode::Inode;
use super::make::S_ISGID;
use super::state::State;
use super::tables::{Tables, TablesError};
use super::{XATTR_LIST_LEN_MAX, keys};
use crate::acl::{Acl, AclKind};
use crate::command::{Command, Kind};
use crate::ids::Ino;
use crate::outcome::{Outcome, Refusal};

/// Sets a list, or takes it away. An access list sets the permission bits too, and with
/// `kill_sgid` takes the set-group-id bit.
///
/// `Denied` for a default list of something else than a directory, as Linux has it.
pub(super) fn set<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    kind: AclKind,
    acl: Option<&Acl>,
    kill_sgid: bool,
) -> Result<Outcome, Stop> {
    let inode = state.inode(ino)?;
    if matches!(inode.kind, Kind::Symlink(_)) || acl.is_some_and(|acl| !acl.is_valid()) {
        return Err(Refusal::Invalid.into());
    }
    if kind == AclKind::Default && !inode.is_directory() {
        return if acl.is_some() { Err(Refusal::Denied.into()) } else { Ok(Outcome::Done) };
    }
    let mut mode = inode.mode;
    if let (AclKind::Access, Some(acl)) = (kind, acl) {
        mode = (mode & !0o777) | acl.mode();
        if kill_sgid {
            mode &= !S_ISGID;
        }
    }
    let list_len = store(state, ino, inode.xattr_list_len, kind, acl)?;
    state.change_inode(ino, |inode| {
        inode.mode = mode;
        inode.xattr_list_len = list_len;
        inode.ctime = command.time;
    })?;
    Ok(Outcome::Done)
}

/// Gives `inode`, new in `directory`, what the directory's default list says, and else the
/// permission bits of `mode` without those of `umask`.
pub(super) fn inherit<T: Tables>(
    state: &mut State<'_, T>,
    (parent, directory): (Ino, &Inode),
    ino: Ino,
    inode: &mut Inode,
    umask: u32,
) -> Result<(), Stop> {
    if matches!(inode.kind, Kind::Symlink(_)) {
        return Ok(());
    }
    let default = match directory.xattr_list_len {
        0 => None,
        _ => read(state, parent, AclKind::Default)?,
    };
    let Some(default) = default else {
        inode.mode &= !(umask & 0o777);
        return Ok(());
    };
    let access = default.inherited(inode.mode);
    inode.mode = (inode.mode & !0o777) | access.mode();
    inode.xattr_list_len = store(state, ino, 0, AclKind::Access, Some(&access))?;
    if inode.is_directory() {
        let len = inode.xattr_list_len;
        inode.xattr_list_len = store(state, ino, len, AclKind::Default, Some(&default))?;
    }
    Ok(())
}

/// Writes or deletes the row and gives the new length of the inode's list of names.
fn store<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    list_len: u32,
    kind: AclKind,
    acl: Option<&Acl>,
) -> Result<u32, Stop> {
    let key = keys::xattr(ino, kind.xattr_name());
    let listed = kind.xattr_name().len() as u32 + 1;
    let without = match state.get(key.clone())? {
        Some(_) => list_len.saturating_sub(listed),
        None => list_len,
    };
    match acl.filter(|acl| kind == AclKind::Default || !acl.is_minimal()) {
        Some(acl) if without + listed <= XATTR_LIST_LEN_MAX => {
            state.put(key, encode(kind, acl))?;
            Ok(without + listed)
        }
        Some(_) => Err(Refusal::NoSpace.into()),
        None => {
            state.delete(key)?;
            Ok(without)
        }
    }
}

fn read<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    kind: AclKind,
) -> Result<Option<Acl>, TablesError> {
    state.get(keys::xattr(ino, kind.xattr_name()))?.map(decode).transpose()
}

fn encode(kind: AclKind, acl: &Acl) -> Vec<u8> {
    let base = match kind {
        AclKind::Access => [0, acl.group, if acl.mask.is_some() { 0 } else { NO_MASK }, 0],
        AclKind::Default => [acl.owner, acl.group, acl.mask.unwrap_or(NO_MASK), acl.other],
    };
    let mut row = record(6 + 5 * (acl.users.len() + acl.groups.len()));
    row.extend_from_slice(&base);
    let users = u16::try_from(acl.users.len()).expect("a valid list is short");
    row.extend_from_slice(&users.to_be_bytes());
    for (id, perm) in acl.users.iter().chain(&acl.groups) {
        row.extend_from_slice(&id.to_be_bytes());
        row.push(*perm);
    }
    row
}

/// The list in a row; of an access list, what [`Acl::with_mode`] needs.
pub(super) fn decode(row: &[u8]) -> Result<Acl, TablesError> {
    let mut reader = Reader::new(row, "xattrs")?;
    let [owner, group, mask, other] = reader.array()?;
    let users = usize::from(reader.u16()?);
    let mut named = Vec::new();
    while !reader.is_empty() {
        named.push((reader.u32()?, reader.u8()?));
    }
    if users > named.len() {
        return Err(reader.broken("is too short"));
    }
    let groups = named.split_off(users);
    let mask = (mask != NO_MASK).then_some(mask);
    Ok(Acl { owner, group, other, mask, users: named, groups })
}

const NO_MASK: u8 = 0xff;

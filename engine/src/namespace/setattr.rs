//! chmod, chown, truncate, utimes.

use super::apply::{Stop, Touched};
use super::inode::Inode;
use super::make::S_ISGID;
use super::state::State;
use super::tables::{Tables, TablesError};
use super::token;
use super::{FILE_SIZE_MAX, keys, publish};
use crate::command::{Body, Command, Kill, Kind, SetAttr};
use crate::ids::Ino;
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

const S_ISUID: u32 = 0o4000;
const S_IXGRP: u32 = 0o010;
/// The extended attribute that holds a program's capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";

/// Changes attributes; ctime moves even if nothing else does.
///
/// A change of size is for files only (`IsDirectory`, `Invalid`), and `TokenHeld` while
/// another node writes the body: that node's next version would bring the cut bytes back.
pub(super) fn set_attr<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    set: &SetAttr,
) -> Result<Outcome, Stop> {
    let inode = state.inode(ino)?;
    for time in [set.atime, set.mtime].into_iter().flatten() {
        if time.nanos >= 1_000_000_000 {
            return Err(Refusal::Invalid.into());
        }
    }
    // Linux has no mode for symlinks: EOPNOTSUPP before it gets here.
    if set.mode.is_some() && matches!(inode.kind, Kind::Symlink(_)) {
        return Err(Refusal::Invalid.into());
    }
    if let Some(size) = set.size {
        check_resize(state, command, &inode, size)?;
    }
    let gsn = state.gsn;
    let changes_owner = set.uid.is_some() || set.gid.is_some();
    let drops_capability = changes_owner || set.size.is_some() || set.kill.is_some();
    let list_len = match drops_capability {
        true => drop_capability(state, ino, &inode)?,
        false => inode.xattr_list_len,
    };
    state.change_inode(ino, |inode| {
        inode.xattr_list_len = list_len;
        set_owner_and_mode(inode, set);
        if let Some(size) = set.size {
            resize(inode, size, gsn);
        }
        set_times(inode, set, command.time);
    })?;
    if set.size.is_some_and(|size| size != inode.size) {
        touch_content(state, ino)?;
    }
    Ok(Outcome::Done)
}

fn check_resize<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    inode: &Inode,
    size: u64,
) -> Result<(), Stop> {
    match inode.kind {
        Kind::File => {}
        Kind::Directory => return Err(Refusal::IsDirectory.into()),
        _ => return Err(Refusal::Invalid.into()),
    }
    if size > FILE_SIZE_MAX {
        return Err(Refusal::FileTooLarge.into());
    }
    token::check_free_for(state, inode, command.id.origin)
}

/// Bytes beyond `size` are not visible any more, also if the file grows again later.
fn resize(inode: &mut Inode, size: u64, gsn: crate::ids::Gsn) {
    if size == inode.size {
        return;
    }
    inode.size = size;
    inode.valid_len = inode.valid_len.min(size);
    // Which of the stored bytes went is not known here: at most what is visible is left.
    inode.stored_len = inode.stored_len.min(inode.valid_len);
    if inode.valid_len == 0 {
        inode.body = Body::Empty;
        inode.holder = None;
    }
    inode.version = publish::next_version(inode.version, gsn);
}

impl Inode {
    /// Whether the mode has set-id bits that a write by somebody without privileges takes away.
    /// Without group execution S_ISGID is no set-id bit.
    pub fn has_set_id(&self) -> bool {
        let set_group = S_ISGID | S_IXGRP;
        !self.is_directory() && (self.mode & S_ISUID != 0 || self.mode & set_group == set_group)
    }

    /// Takes them away.
    pub fn drop_set_id(&mut self) {
        if self.has_set_id() {
            self.mode &= !S_ISUID;
            if self.mode & S_IXGRP != 0 {
                self.mode &= !S_ISGID;
            }
        }
    }
}

fn set_owner_and_mode(inode: &mut Inode, set: &SetAttr) {
    if let Some(mode) = set.mode {
        inode.mode = mode & 0o7777;
    }
    inode.uid = set.uid.unwrap_or(inode.uid);
    inode.gid = set.gid.unwrap_or(inode.gid);
    // chown takes the set-id bits away, whoever asks (Linux's chown_common).
    let chown = set.uid.is_some() || set.gid.is_some();
    if chown || set.kill == Some(Kill::SetId) {
        inode.drop_set_id();
    }
}

/// What a changed file does not keep: privileges that its content or owner was given. Gives the
/// new length of the list of names.
fn drop_capability<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    inode: &Inode,
) -> Result<u32, TablesError> {
    if inode.xattr_list_len == 0 {
        return Ok(0);
    }
    let key = keys::xattr(ino, CAPABILITY);
    if state.get(key.clone())?.is_none() {
        return Ok(inode.xattr_list_len);
    }
    state.delete(key)?;
    Ok(inode.xattr_list_len.saturating_sub(CAPABILITY.len() as u32 + 1))
}

fn set_times(inode: &mut Inode, set: &SetAttr, now: Timestamp) {
    inode.atime = set.atime.unwrap_or(inode.atime);
    let written = set.size.map(|_| now);
    inode.mtime = set.mtime.or(written).unwrap_or(inode.mtime);
    inode.ctime = now;
}

pub(super) fn touch_content<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
) -> Result<(), TablesError> {
    if let Some(inode) = state.find_inode(ino)? {
        state.touch(Touched::Content { ino, version: inode.version });
    }
    Ok(())
}

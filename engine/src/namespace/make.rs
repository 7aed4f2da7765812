//! create, mkdir, mknod, symlink.

use super::apply::Stop;
use super::inode::{Directory, FileType, Inode};
use super::state::State;
use super::tables::Tables;
use super::{SYMLINK_LEN_MAX, keys};
use crate::command::{Body, Command, Kind, Op};
use crate::ids::{Ino, NodeId, Version};
use crate::outcome::{Outcome, Refusal};

/// Set-group-id: on a directory, what is made in it gets its group.
pub(super) const S_ISGID: u32 = 0o2000;

/// Makes an inode with one name. `QuotaExceeded` if a quota above it has no room.
///
/// A file's write token goes to the origin with it. If the name is there already: `Exists`;
/// without `exclusive`, for files, the file that is there is the outcome, and a directory
/// there is `IsDirectory`, as `open(O_CREAT)` has it. (A symlink or special file there stays
/// `Exists`: the kernel has to look it up and go on from there.)
pub(super) fn make<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::Make { parent, name, ino, kind, mode, exclusive, umask } = &command.op else {
        return Err(Refusal::Invalid.into());
    };
    let directory = state.directory(*parent)?;
    if let Some(slot) = state.slot(*parent, name)? {
        let open = *kind == Kind::File && !exclusive;
        return match slot.file_type {
            FileType::File if open => Ok(Outcome::Made { ino: slot.ino, created: false }),
            FileType::Directory if open => Err(Refusal::IsDirectory.into()),
            _ => Err(Refusal::Exists.into()),
        };
    }
    check_kind(kind)?;
    check_ino(state, *ino, command.id.origin)?;

    let is_directory = *kind == Kind::Directory;
    let grows = directory.nlink.checked_add(1).ok_or(Refusal::TooManyLinks)?;
    let mut inode = new_inode(state, command, (*parent, &directory), kind, *mode)?;
    super::acl::inherit(state, (*parent, &directory), *ino, &mut inode, *umask)?;
    state.create_inode(*ino, inode)?;
    state.insert_name(*parent, name, *ino, FileType::from(kind), command.time)?;
    if is_directory {
        state.change_inode(*parent, |inode| inode.nlink = grows)?;
    }
    Ok(Outcome::Made { ino: *ino, created: true })
}

/// An inode of the caller with the links that its first name makes, before umask and ACLs. The
/// group comes from the directory if that has the set-group-id bit; of a file, the origin has
/// the write token. `QuotaExceeded` if a quota above has no room for it.
pub(super) fn new_inode<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    (parent, directory): (Ino, &Inode),
    kind: &Kind,
    mode: u32,
) -> Result<Inode, Stop> {
    let quota = state.live_quota(directory.quota)?;
    state.check_room_for_inode(quota)?;
    let mut inode = Inode {
        kind: kind.clone(),
        mode: mode & 0o7777,
        uid: command.cred.uid,
        gid: command.cred.gid,
        nlink: 1,
        size: 0,
        atime: command.time,
        mtime: command.time,
        ctime: command.time,
        btime: command.time,
        changed: state.gsn,
        xattr_list_len: 0,
        quota,
        version: Version(0),
        body: Body::Empty,
        valid_len: 0,
        stored_len: 0,
        home: Ino(0),
        writer: None,
        holder: None,
        directory: None,
    };
    if directory.mode & S_ISGID != 0 {
        inode.gid = directory.gid;
        if *kind == Kind::Directory {
            inode.mode |= S_ISGID;
        }
    }
    match kind {
        Kind::File => {
            inode.writer = Some(command.id.origin);
            inode.home = parent;
        }
        Kind::Directory => {
            inode.nlink = 2;
            inode.size = Directory::SIZE_BYTES;
            inode.directory = Some(Directory::new(parent));
        }
        Kind::Symlink(target) => {
            inode.mode = 0o777;
            inode.size = target.len() as u64;
        }
        Kind::Fifo | Kind::Socket | Kind::CharDevice(_) | Kind::BlockDevice(_) => {}
    }
    Ok(inode)
}

fn check_kind(kind: &Kind) -> Result<(), Refusal> {
    match kind {
        Kind::Symlink(target) => {
            let len_fits = (1..=SYMLINK_LEN_MAX).contains(&target.len());
            if len_fits && !target.contains(&0) { Ok(()) } else { Err(Refusal::Invalid) }
        }
        _ => Ok(()),
    }
}

/// The number must be one that the origin may give, and new: two inodes under one number
/// would be one inode.
pub(super) fn check_ino<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    origin: NodeId,
) -> Result<(), Stop> {
    if ino.node() != Some(origin) {
        return Err(Refusal::Invalid.into());
    }
    if state.get(keys::inode(ino))?.is_some() {
        return Err(Refusal::IdInUse.into());
    }
    Ok(())
}

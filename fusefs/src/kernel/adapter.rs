//! Requests from the kernel: decode, call [`Fs`], reply.
//!
//! fuser answers FUSE_INTERRUPT with ENOSYS, so the kernel does not tell us of signals. A call
//! that waits for the order is interrupted all the same: [`Caller::task`] lets the node look
//! for them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use engine::command::{Cred, Kind, Name, RenameHow, XattrHow};
use engine::ids::Ino;
use engine::locks::{Lock, LockKind};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::Kernel;
use super::device::REQUEST_BYTES_MAX;
use super::entry::NewEntry;
use super::errno::errno;
use super::reply::{FOREVER, GENERATION, NO_TIME, file_attr, no_entry, timestamp};
use super::{listing, locks};
use crate::ops::ports::{Caller, Handle};
use crate::ops::{Fs, FsDone, FsError, NewInode, SetTime, Wait, Wanted, Written};

pub struct Adapter {
    kernel: Arc<Kernel>,
}

impl Adapter {
    pub fn new(kernel: Arc<Kernel>) -> Adapter {
        Adapter { kernel }
    }

    fn fs(&self) -> &Arc<Fs> {
        &self.kernel.fs
    }

    /// Makes an inode and replies with its entry.
    fn make(
        &self,
        req: &Request,
        (parent, name): (INodeNo, &OsStr),
        kind: Kind,
        mode: u32,
        reply: ReplyEntry,
    ) {
        match self.new_inode(parent, name, mode) {
            Ok((new, entry)) => {
                self.fs().make(caller(req), new, kind, entry_done(entry, reply));
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn new_inode(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<(NewInode, NewEntry), FsError> {
        let (parent, name, ino) = (Ino(parent.0), parse(name)?, self.fs().alloc_ino()?);
        let entry = NewEntry::expect(&self.kernel, ino, parent);
        self.kernel.note_name(ino, name.as_bytes());
        Ok((NewInode { parent, name, ino, mode }, entry))
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED_FLAGS {
            // Each is an optimisation that older kernels lack.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        // The kernel names the most it would do; asking for more is answered with that.
        if let Err(most) = config.set_max_readahead(REQUEST_BYTES_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        let _ = config.set_congestion_threshold(BACKGROUND_REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = Ino(parent.0);
        let found = parse(name).and_then(|name| {
            let looked = self.kernel.invalidator.look(parent, &name);
            // An inode that goes between the two looks is looked up again: its name then
            // leads elsewhere or nowhere.
            for _ in 0..LOOKUP_ATTEMPTS_MAX {
                let Some(ino) = self.fs().lookup(parent, &name)? else {
                    self.kernel.invalidator.looked(parent, &name, looked);
                    return Ok(None);
                };
                self.kernel.note_name(ino, name.as_bytes());
                match NewEntry::expect(&self.kernel, ino, parent).attr() {
                    Err(FsError::Stale(_)) => continue,
                    result => {
                        self.kernel.invalidator.looked(parent, &name, looked);
                        return result.map(Some);
                    }
                }
            }
            Err(FsError::Overtaken)
        });
        match found {
            Ok(Some(attr)) => reply.entry(&FOREVER, &file_attr(&attr), GENERATION),
            Ok(None) => reply.entry(&FOREVER, &no_entry(), GENERATION),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.kernel.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs().attr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let ino = Ino(ino.0);
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let wanted = Wanted { mode, uid, gid, size, atime, mtime };
        let fs = Arc::clone(self.fs());
        let done: FsDone<()> = Box::new(move |set| match set.and_then(|()| fs.attr(ino)) {
            // The kernel takes these over unchecked: see `invalidate`, the race.
            Ok(attr) => reply.attr(&NO_TIME, &file_attr(&attr)),
            Err(e) => reply.error(errno(&e)),
        });
        self.fs().set_attr(caller(req), ino, wanted, done);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs().read_link(Ino(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Kind::File,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::CharDevice(rdev),
            libc::S_IFBLK => Kind::BlockDevice(rdev),
            _ => return reply.error(Errno::EINVAL),
        };
        self.make(req, (parent, name), kind, mode, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(req, (parent, name), Kind::Directory, mode, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let kind = Kind::Symlink(target.as_os_str().as_bytes().to_vec());
        self.make(req, (parent, link_name), kind, 0o777, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match parse(name) {
            Ok(name) => self.fs().unlink(caller(req), Ino(parent.0), name, empty(reply)),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = Ino(parent.0);
        let meant = parse(name).and_then(|name| {
            // The kernel asks only where it has a directory.
            let victim = self.kernel.victim(parent, &name)?.ok_or(FsError::Overtaken)?;
            Ok((name, victim))
        });
        match meant {
            Ok((name, victim)) => {
                self.fs().rmdir(caller(req), (parent, name), Some(victim), empty(reply));
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // RENAME_WHITEOUT is for the layers of overlay filesystems: not kept here.
        let how = match flags {
            flags if flags.is_empty() => RenameHow::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameHow::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameHow::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let newparent = Ino(newparent.0);
        let meant = parse(name).and_then(|name| {
            let newname = parse(newname)?;
            let victim = match how {
                RenameHow::Replace => self.kernel.victim(newparent, &newname)?,
                RenameHow::NoReplace | RenameHow::Exchange => None,
            };
            Ok((name, newname, victim))
        });
        match meant {
            Ok((name, newname, victim)) => {
                let (from, to) = ((Ino(parent.0), name), (newparent, newname));
                self.fs().rename(caller(req), from, to, how, victim, empty(reply));
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (ino, parent) = (Ino(ino.0), Ino(newparent.0));
        let name = match parse(newname) {
            Ok(name) => name,
            Err(e) => return reply.error(errno(&e)),
        };
        let done = entry_done(NewEntry::expect(&self.kernel, ino, parent), reply);
        self.fs().link(caller(req), ino, parent, name, done);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let write = writes(flags.0);
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let (fs, ino) = (Arc::clone(self.fs()), Ino(ino.0));
        let done: FsDone<Handle> = Box::new(move |opened| match opened {
            Ok(handle) => reply.opened(FileHandle(handle.0), OPEN_FLAGS),
            Err(e) => reply.error(errno(&e)),
        });
        fs.open(caller(req), ino, write, truncate, done);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (new, entry) = match self.new_inode(parent, name, mode) {
            Ok(both) => both,
            Err(e) => return reply.error(errno(&e)),
        };
        let exclusive = flags & libc::O_EXCL != 0;
        let (fs, ino) = (Arc::clone(self.fs()), new.ino);
        let done: FsDone<Handle> = Box::new(move |created| match created {
            Ok(handle) => match entry.attr() {
                Ok(attr) => reply.created(
                    &FOREVER,
                    &file_attr(&attr),
                    GENERATION,
                    FileHandle(handle.0),
                    OPEN_FLAGS,
                ),
                Err(e) => {
                    fs.release(ino, handle);
                    reply.error(errno(&e));
                }
            },
            Err(e) => reply.error(errno(&e)),
        });
        self.fs().create(caller(req), new, exclusive, done);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.fs().read(Handle(fh.0), offset, size, move |read| match read {
            Ok(bytes) => reply.data(bytes),
            Err(e) => reply.error(errno(&e)),
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let ino = Ino(ino.0);
        // Dirty pages of a mapping go where they belong, whatever the descriptor's flags.
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let append = flags.0 & libc::O_APPEND != 0 && !mapped;
        let kernel = Arc::clone(&self.kernel);
        let done: FsDone<Written> = Box::new(move |written| match written {
            Ok(written) => {
                reply.written(written.bytes);
                // The kernel has put the bytes where it took the end of the file to be.
                if append && written.token_moved {
                    kernel.invalidator.inode(ino);
                }
            }
            Err(e) => reply.error(errno(&e)),
        });
        self.fs().write(caller(req), ino, Handle(fh.0), offset, data, append, done);
    }

    fn flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.fs().flush(caller(req), Ino(ino.0), Handle(fh.0), owner.0, empty(reply));
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs().release(Ino(ino.0), Handle(fh.0));
        reply.ok();
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(request) = locks::test(lock_owner.0, (start, end), typ, pid) else {
            return reply.error(Errno::EINVAL);
        };
        let me = self.fs().me();
        let done: FsDone<Option<Lock>> = Box::new(move |found| match found {
            Ok(found) => locks::reply(found, me, reply),
            Err(e) => reply.error(errno(&e)),
        });
        self.fs().lock(caller(req), Ino(ino.0), Handle(fh.0), request, done);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        flock: bool,
        reply: ReplyEmpty,
    ) {
        let kind = if flock { LockKind::Flock } else { LockKind::Record };
        let wait = match (sleep, kind) {
            (false, _) => Wait::No,
            (true, LockKind::Record) if !locks::waits_for_open_file(req.pid()) => {
                Wait::UnlessDeadlock
            }
            (true, _) => Wait::Yes,
        };
        let Some(request) = locks::set(lock_owner.0, kind, (start, end), typ, pid, wait) else {
            return reply.error(Errno::EINVAL);
        };
        let kernel = Arc::clone(&self.kernel);
        let done: FsDone<Option<Lock>> = Box::new(move |locked| match locked {
            // What the owner before wrote, this one must see.
            Ok(_) => kernel.invalidator.when_through(move || reply.ok()),
            Err(e) => reply.error(errno(&e)),
        });
        self.fs().lock(caller(req), Ino(ino.0), Handle(fh.0), request, done);
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.fs().fsync(caller(req), Ino(ino.0), datasync, empty(reply));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Listings need no handle. The kernel then asks neither this nor releasedir again, and
        // caches listings (fuse_kernel.h, FUSE_NO_OPENDIR_SUPPORT).
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match listing::fill(&self.kernel, Ino(ino.0), offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match listing::fill_plus(&self.kernel, Ino(ino.0), offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Every change of a directory is agreed, and so durable, before its caller returns.
        reply.ok();
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.fs().stats(Ino(ino.0)) {
            Ok(stats) => {
                let blocks = |bytes: u64| bytes / u64::from(STATFS_BLOCK_BYTES);
                let available = blocks(stats.available_bytes);
                let free_inodes = stats.free_inodes.unwrap_or(INODES_FREE);
                reply.statfs(
                    blocks(stats.total_bytes),
                    available,
                    available,
                    stats.inodes.saturating_add(free_inodes),
                    free_inodes,
                    STATFS_BLOCK_BYTES,
                    Name::LEN_MAX as u32,
                    STATFS_BLOCK_BYTES,
                );
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            0 => XattrHow::Set,
            libc::XATTR_CREATE => XattrHow::Create,
            libc::XATTR_REPLACE => XattrHow::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        self.fs().set_xattr(caller(req), Ino(ino.0), name.as_bytes(), value, how, empty(reply));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr_reply(self.fs().xattr(Ino(ino.0), name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr_reply(self.fs().xattr_names(Ino(ino.0)), size, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.fs().remove_xattr(caller(req), Ino(ino.0), name.as_bytes(), empty(reply));
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (ino, handle) = (Ino(ino.0), Handle(fh.0));
        let mode = mode as u32;
        self.fs().fallocate(caller(req), ino, handle, offset, length, mode, empty(reply));
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            // The kernel does the others by itself.
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let done: FsDone<u64> = Box::new(move |found| match found {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(e) => reply.error(errno(&e)),
        });
        self.fs().seek(Handle(fh.0), offset, hole, done);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        to_ino: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((Handle(from.0), from_offset), (Handle(to.0), to_offset));
        let done: FsDone<u64> = Box::new(move |copied| match copied {
            Ok(copied) => reply.written(u32::try_from(copied).expect("a call copies less")),
            Err(e) => reply.error(errno(&e)),
        });
        self.fs().copy(caller(req), from, Ino(to_ino.0), to, len, done);
    }
}

fn caller(req: &Request) -> Caller {
    Caller { cred: Cred { uid: req.uid(), gid: req.gid() }, task: Some(req.pid()) }
}

fn parse(name: &OsStr) -> Result<Name, FsError> {
    Ok(Name::parse(name.as_bytes())?)
}

fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// Pages stay over opens, since they are taken back when they change. Each close is told, also
/// a reader's: it gives up the POSIX locks of its process.
const OPEN_FLAGS: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

fn entry_done(entry: NewEntry, reply: ReplyEntry) -> FsDone<()> {
    Box::new(move |result| match result.and_then(|()| entry.attr()) {
        Ok(attr) => reply.entry(&FOREVER, &file_attr(&attr), GENERATION),
        Err(e) => reply.error(errno(&e)),
    })
}

fn empty(reply: ReplyEmpty) -> FsDone<()> {
    Box::new(move |result| match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    })
}

/// Size 0 asks for the size.
fn xattr_reply(value: Result<Vec<u8>, FsError>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(&e)),
    }
}

/// What this filesystem asks of the kernel, beyond fuser's own.
///
/// Absent on purpose: the writeback cache (the kernel would then ignore sizes from elsewhere),
/// AUTO_INVAL_DATA (each local write would drop
/// the pages of its file), EXPORT_SUPPORT (its lookups hold no directory's lock, which
/// `invalidate` relies on).
const WANTED_FLAGS: [InitFlags; 10] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
];
/// Read-ahead and mapped writes on their way at once.
const BACKGROUND_REQUESTS_MAX: u16 = 128;
const LOOKUP_ATTEMPTS_MAX: usize = 16;
const STATFS_BLOCK_BYTES: u32 = 4096;
/// There is no limit; programs that look at free inodes want to see many.
const INODES_FREE: u64 = 1 << 40;

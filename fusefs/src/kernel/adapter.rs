//! Requests from the kernel: decode, call [`Fs`], reply.
//!
//! Requests that may wait for other nodes are told to [`Calls`](super::calls::Calls), which ends
//! them when the kernel tells of a signal.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use engine::acl::AclKind;
use engine::command::{Cred, Kind, Name, RenameHow, XattrHow};
use engine::ids::{Gsn, Ino};
use engine::locks::{Lock, LockKind};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyInterrupt, ReplyLock,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyStatx, ReplyWrite, ReplyXattr, Request, RequestId,
    TimeOrNow, WriteFlags,
};

use super::Kernel;
use super::calls::Pending;
use super::device::REQUEST_BYTES_MAX;
use super::entry::NewEntry;
use super::errno::errno;
use super::options::MountOptions;
use super::reply::{FOREVER, GENERATION, NO_TIME, file_attr, no_entry, timestamp};
use super::{listing, locks};
use crate::ops::ports::{Caller, Handle};
use crate::ops::{
    AtimeRule, Attr, BARRIER_LEN_MAX, Fs, FsDone, FsError, Meant, NewInode, NewUnnamed, SetTime,
    Wait, Wanted, Write, Written, is_barrier,
};

pub struct Adapter {
    kernel: Arc<Kernel>,
    atime: AtimeRule,
    /// Every look shows everything that was agreed before it.
    strict: bool,
    /// How long the kernel may keep names and attributes, and how it treats a file's pages.
    keep: Duration,
    open_flags: FopenFlags,
}

impl Adapter {
    pub fn new(kernel: Arc<Kernel>, options: &MountOptions) -> Adapter {
        let (atime, strict) = (options.atime, options.strict);
        let (keep, open_flags) = match strict {
            true => (NO_TIME, FopenFlags::empty()),
            false => (FOREVER, OPEN_FLAGS),
        };
        Adapter { kernel, atime, strict, keep, open_flags }
    }

    /// Answers a look: at once, or in a strict mount after `fresh`, when this node shows what was
    /// agreed before.
    fn look<R: Send + 'static>(
        &self,
        fresh: fn(&Arc<Fs>, Caller, Ino, FsDone<()>),
        req: &Request,
        ino: Ino,
        reply: R,
        error: fn(R, Errno),
        answer: impl FnOnce(&Arc<Kernel>, R) + Send + 'static,
    ) {
        if !self.strict {
            return answer(&self.kernel, reply);
        }
        let kernel = Arc::clone(&self.kernel);
        let (caller, reply) = self.kernel.calls.open(req, reply, error);
        let done = Box::new(move |result| match (result, reply.take()) {
            (Ok(()), Some(reply)) => answer(&kernel, reply),
            (Err(e), Some(reply)) => error(reply, errno(&e)),
            (_, None) => {}
        });
        fresh(self.fs(), caller, ino, done);
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
        (mode, umask): (u32, u32),
        reply: ReplyEntry,
    ) {
        match self.new_inode(parent, name, mode, umask) {
            Ok((new, entry)) => {
                let (caller, reply) = self.kernel.calls.open(req, reply, ReplyEntry::error);
                self.fs().make(caller, new, kind, entry_done(entry, self.keep, reply));
            }
            Err(e) => reply.error(errno(&e)),
        }
    }

    /// Takes a request that may wait and is answered with nothing but whether it worked.
    fn waiting(&self, req: &Request, reply: ReplyEmpty) -> (Caller, FsDone<()>) {
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyEmpty::error);
        let done = Box::new(move |result| match (result, reply.take()) {
            (Ok(()), Some(reply)) => reply.ok(),
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (_, None) => {}
        });
        (caller, done)
    }

    /// Answers when this node, its kernel's caches included, shows what was agreed before.
    fn barrier(&self, req: &Request, ino: Ino, size: u32, reply: ReplyXattr) {
        if size == 0 {
            return reply.size(BARRIER_LEN_MAX as u32);
        }
        let kernel = Arc::clone(&self.kernel);
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyXattr::error);
        caller.begin_wait();
        let done: FsDone<Gsn> = Box::new(move |reached| match (reached, reply.take()) {
            (Ok(gsn), Some(reply)) => kernel.invalidator.when_through(move || {
                xattr_reply(Ok(gsn.to_string().into_bytes()), size, reply);
            }),
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (_, None) => {}
        });
        self.fs().barrier(caller, ino, done);
    }

    /// Answers a request that makes a file and opens it.
    fn created(&self, entry: NewEntry, ino: Ino, reply: Pending<ReplyCreate>) -> FsDone<Handle> {
        let (fs, keep, flags) = (Arc::clone(self.fs()), self.keep, self.open_flags);
        Box::new(move |created| match (created, reply.take()) {
            (Ok(handle), Some(reply)) => match entry.attr() {
                Ok(attr) => {
                    let handle = FileHandle(handle.0);
                    reply.created(&keep, &file_attr(&attr), GENERATION, handle, flags);
                }
                Err(e) => {
                    fs.release(ino, handle);
                    reply.error(errno(&e));
                }
            },
            (Ok(handle), None) => fs.release(ino, handle),
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (Err(_), None) => {}
        })
    }

    fn new_inode(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<(NewInode, NewEntry), FsError> {
        let (parent, name, ino) = (Ino(parent.0), parse(name)?, self.fs().alloc_ino()?);
        let entry = NewEntry::expect(&self.kernel, ino, parent);
        self.kernel.note_name(ino, name.as_bytes());
        Ok((NewInode { parent, name, ino, mode, umask }, entry))
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in WANTED_FLAGS {
            // A kernel without one of these does that part by itself, or not at all.
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

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, keep) = (Ino(parent.0), self.keep);
        if let Some(above) = is_above(name) {
            return self.look(
                Fs::fresh,
                req,
                parent,
                reply,
                ReplyEntry::error,
                move |kernel, reply| {
                    match find_unnamed(kernel, parent, above) {
                        // See `invalidate` for why the kernel keeps none of it.
                        Ok(attr) => reply.entry(&NO_TIME, &file_attr(&attr), GENERATION),
                        Err(e) => reply.error(errno(&e)),
                    }
                },
            );
        }
        let name = match parse(name) {
            Ok(name) => name,
            Err(e) => return reply.error(errno(&e)),
        };
        self.look(
            Fs::fresh,
            req,
            parent,
            reply,
            ReplyEntry::error,
            move |kernel, reply| match find(kernel, parent, &name) {
                Ok(Some(attr)) => reply.entry(&keep, &file_attr(&attr), GENERATION),
                Ok(None) => reply.entry(&keep, &no_entry(), GENERATION),
                Err(e) => reply.error(errno(&e)),
            },
        );
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.kernel.forget(Ino(ino.0), nlookup);
    }

    fn statx(
        &self,
        req: &Request,
        ino: INodeNo,
        _: Option<FileHandle>,
        _flags: u32,
        _mask: u32,
        reply: ReplyStatx,
    ) {
        let (ino, keep) = (Ino(ino.0), self.keep);
        self.look(Fs::fresh_content, req, ino, reply, ReplyStatx::error, move |kernel, reply| {
            match kernel.fs.attr(ino) {
                Ok(attr) => reply.attr(&keep, &file_attr(&attr)),
                Err(e) => reply.error(errno(&e)),
            }
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (ino, keep) = (Ino(ino.0), self.keep);
        self.look(Fs::fresh_content, req, ino, reply, ReplyAttr::error, move |kernel, reply| {
            match kernel.fs.attr(ino) {
                Ok(attr) => reply.attr(&keep, &file_attr(&attr)),
                Err(e) => reply.error(errno(&e)),
            }
        });
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
        kill_suidgid: bool,
        reply: ReplyAttr,
    ) {
        let ino = Ino(ino.0);
        let (atime, mtime) = (atime.map(set_time), mtime.map(set_time));
        let kill_set_id = kill_suidgid;
        let wanted = Wanted { mode, uid, gid, size, atime, mtime, kill_set_id };
        let fs = Arc::clone(self.fs());
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyAttr::error);
        let done: FsDone<()> = Box::new(move |set| {
            let Some(reply) = reply.take() else { return };
            match set.and_then(|()| fs.attr(ino)) {
                // The kernel takes these over unchecked: see `invalidate`, the race.
                Ok(attr) => reply.attr(&NO_TIME, &file_attr(&attr)),
                Err(e) => reply.error(errno(&e)),
            }
        });
        self.fs().set_attr(caller, ino, wanted, done);
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
        umask: u32,
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
        self.make(req, (parent, name), kind, (mode, umask), reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(req, (parent, name), Kind::Directory, (mode, umask), reply);
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
        self.make(req, (parent, link_name), kind, (0o777, 0), reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match parse(name) {
            Ok(name) => {
                let (caller, done) = self.waiting(req, reply);
                self.fs().unlink(caller, Ino(parent.0), name, done);
            }
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
                let (caller, done) = self.waiting(req, reply);
                self.fs().rmdir(caller, (parent, name), Some(victim), done);
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
        let whiteout = flags.contains(RenameFlags::RENAME_WHITEOUT);
        let how = match flags - RenameFlags::RENAME_WHITEOUT {
            flags if flags.is_empty() => RenameHow::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameHow::NoReplace,
            RenameFlags::RENAME_EXCHANGE if !whiteout => RenameHow::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let newparent = Ino(newparent.0);
        let meant = parse(name).and_then(|name| {
            let newname = parse(newname)?;
            let source = self.kernel.holds(Ino(parent.0), &name)?;
            let victim = match how {
                RenameHow::Replace => self.kernel.victim(newparent, &newname)?,
                RenameHow::Exchange => self.kernel.holds(newparent, &newname)?,
                RenameHow::NoReplace => None,
            };
            let left = if whiteout { Some(self.fs().alloc_ino()?) } else { None };
            Ok((name, newname, Meant { source, victim }, left))
        });
        match meant {
            Ok((name, newname, meant, left)) => {
                let (from, to) = ((Ino(parent.0), name), (newparent, newname));
                let (caller, done) = self.waiting(req, reply);
                match left {
                    None => self.fs().rename(caller, from, to, how, meant, done),
                    // The kernel moves its entry, so it looks the old name up again.
                    Some(left) => {
                        let replace = how == RenameHow::Replace;
                        let left = (left, meant.source);
                        self.fs().rename_with_whiteout(caller, from, to, replace, left, done);
                    }
                }
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
        let entry = NewEntry::expect(&self.kernel, ino, parent);
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyEntry::error);
        self.fs().link(caller, ino, parent, name, entry_done(entry, self.keep, reply));
    }

    fn open(
        &self,
        req: &Request,
        ino: INodeNo,
        flags: OpenFlags,
        _kill_suidgid: bool,
        reply: ReplyOpen,
    ) {
        let write = writes(flags.0);
        let (kernel, ino) = (Arc::clone(&self.kernel), Ino(ino.0));
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyOpen::error);
        let reads = flags.0 & libc::O_ACCMODE != libc::O_WRONLY && flags.0 & libc::O_NOATIME == 0;
        let atime = if reads { self.atime } else { AtimeRule::Never };
        let open_flags = self.open_flags;
        let done: FsDone<Handle> = Box::new(move |opened| match (opened, reply.take()) {
            (Ok(handle), Some(reply)) => {
                let moved = kernel.fs.accessed(ino, atime);
                reply.opened(FileHandle(handle.0), open_flags);
                if moved {
                    kernel.invalidator.attributes(ino);
                }
            }
            (Ok(handle), None) => kernel.fs.release(ino, handle),
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (Err(_), None) => {}
        });
        if !self.strict {
            return self.fs().open(caller, ino, write, done);
        }
        let (fs, opener) = (Arc::clone(self.fs()), caller.clone());
        let fresh: FsDone<()> = Box::new(move |fresh| match fresh {
            Ok(()) => fs.open(opener, ino, write, done),
            Err(e) => done(Err(e)),
        });
        self.fs().fresh_content(caller, ino, fresh);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        _kill_suidgid: bool,
        reply: ReplyCreate,
    ) {
        let (new, entry) = match self.new_inode(parent, name, mode, umask) {
            Ok(both) => both,
            Err(e) => return reply.error(errno(&e)),
        };
        let how = (flags & libc::O_EXCL != 0, writes(flags));
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyCreate::error);
        let done = self.created(entry, new.ino, reply);
        self.fs().create(caller, new, how, done);
    }

    fn tmpfile(
        &self,
        req: &Request,
        parent: INodeNo,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (parent, ino) = match self.fs().alloc_ino() {
            Ok(ino) => (Ino(parent.0), ino),
            Err(e) => return reply.error(errno(&e)),
        };
        let entry = NewEntry::expect(&self.kernel, ino, parent);
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyCreate::error);
        let done = self.created(entry, ino, reply);
        let new = NewUnnamed { parent, ino, mode, umask };
        self.fs().make_unnamed(caller, new, writes(flags), done);
    }

    fn read(
        &self,
        req: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyData::error);
        // All that a read waits for is bytes.
        caller.begin_wait();
        self.fs().read(Handle(fh.0), offset, size, move |read| match (read, reply.take()) {
            (Ok(bytes), Some(reply)) => reply.data(bytes),
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (_, None) => {}
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
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyWrite::error);
        let done: FsDone<Written> = Box::new(move |written| match (written, reply.take()) {
            (Ok(written), Some(reply)) => {
                reply.written(written.bytes);
                // The kernel has put the bytes where it took the end of the file to be.
                if append && written.token_moved {
                    kernel.invalidator.inode(ino);
                }
            }
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (_, None) => {}
        });
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let write = Write { ino, handle: Handle(fh.0), offset, data, append };
        self.fs().write(caller, write, kill, done);
    }

    fn flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // A close is not interrupted: nobody could close again.
        let caller = Caller { cred: cred(req), call: None };
        self.fs().flush(caller, Ino(ino.0), Handle(fh.0), owner.0, empty(reply));
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
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyLock::error);
        caller.begin_wait();
        let done: FsDone<Option<Lock>> = Box::new(move |found| match (found, reply.take()) {
            (Ok(found), Some(reply)) => locks::reply(found, me, reply),
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (_, None) => {}
        });
        self.fs().lock(caller, Ino(ino.0), Handle(fh.0), request, done);
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
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyEmpty::error);
        caller.begin_wait();
        let done: FsDone<Option<Lock>> = Box::new(move |locked| match (locked, reply.take()) {
            // What the owner before wrote, this one must see.
            (Ok(_), Some(reply)) => kernel.invalidator.when_through(move || reply.ok()),
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (_, None) => {}
        });
        self.fs().lock(caller, Ino(ino.0), Handle(fh.0), request, done);
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let (caller, done) = self.waiting(req, reply);
        caller.begin_wait();
        self.fs().fsync(caller, Ino(ino.0), datasync, done);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.strict {
            // Without a listing that is kept.
            return reply.opened(FileHandle(0), FopenFlags::empty());
        }
        // Listings need no handle. The kernel then asks neither this nor releasedir again, and
        // caches listings (fuse_kernel.h, FUSE_NO_OPENDIR_SUPPORT).
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let ino = Ino(ino.0);
        let answer = move |kernel: &Arc<Kernel>, mut reply: ReplyDirectory| match listing::fill(
            kernel, ino, offset, &mut reply,
        ) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(errno(&e)),
        };
        match offset {
            0 => self.look(Fs::fresh, req, ino, reply, ReplyDirectory::error, answer),
            // It goes on with what it began.
            _ => answer(&self.kernel, reply),
        }
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (ino, keep) = (Ino(ino.0), self.keep);
        let answer =
            move |kernel: &Arc<Kernel>, mut reply: ReplyDirectoryPlus| match listing::fill_plus(
                kernel, ino, offset, keep, &mut reply,
            ) {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(errno(&e)),
            };
        match offset {
            0 => self.look(Fs::fresh, req, ino, reply, ReplyDirectoryPlus::error, answer),
            _ => answer(&self.kernel, reply),
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
        acl_kill_sgid: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(kind) = AclKind::of_xattr(name.as_bytes()) {
            let (caller, done) = self.waiting(req, reply);
            return self.fs().set_acl(caller, Ino(ino.0), kind, value, acl_kill_sgid, done);
        }
        const BOTH: i32 = libc::XATTR_CREATE | libc::XATTR_REPLACE;
        let how = match flags {
            0 => XattrHow::Set,
            libc::XATTR_CREATE => XattrHow::Create,
            libc::XATTR_REPLACE => XattrHow::Replace,
            BOTH => {
                let why = self.fs().refuse_xattr(Ino(ino.0), name.as_bytes());
                return reply.error(errno(&why));
            }
            _ => return reply.error(Errno::EINVAL),
        };
        let (caller, done) = self.waiting(req, reply);
        self.fs().set_xattr(caller, Ino(ino.0), name.as_bytes(), value, how, done);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if is_barrier(name.as_bytes()) {
            return self.barrier(req, Ino(ino.0), size, reply);
        }
        let (ino, name) = (Ino(ino.0), name.as_bytes().to_vec());
        // Those of the kernel's own checks come with a name that was just looked up.
        if !name.starts_with(b"user.") && !name.starts_with(b"trusted.") {
            return xattr_reply(self.fs().xattr(ino, &name), size, reply);
        }
        self.look(Fs::fresh, req, ino, reply, ReplyXattr::error, move |kernel, reply| {
            xattr_reply(kernel.fs.xattr(ino, &name), size, reply);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let ino = Ino(ino.0);
        self.look(Fs::fresh, req, ino, reply, ReplyXattr::error, move |kernel, reply| {
            xattr_reply(kernel.fs.xattr_names(ino), size, reply);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, done) = self.waiting(req, reply);
        self.fs().remove_xattr(caller, Ino(ino.0), name.as_bytes(), done);
    }

    fn interrupt(&self, _: &Request, request: RequestId, _: ReplyInterrupt) {
        self.kernel.calls.interrupt(request);
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
        let (caller, done) = self.waiting(req, reply);
        self.fs().fallocate(caller, ino, handle, offset, length, mode as u32, done);
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
        let (caller, reply) = self.kernel.calls.open(req, reply, ReplyWrite::error);
        let done: FsDone<u64> = Box::new(move |copied| match (copied, reply.take()) {
            (Ok(copied), Some(reply)) => {
                reply.written(u32::try_from(copied).expect("a call copies less"));
            }
            (Err(e), Some(reply)) => reply.error(errno(&e)),
            (_, None) => {}
        });
        self.fs().copy(caller, from, Ino(to_ino.0), to, len, done);
    }
}

/// What a name leads to, told to the kernel by the reply that must follow.
fn find(kernel: &Arc<Kernel>, parent: Ino, name: &Name) -> Result<Option<Attr>, FsError> {
    let looked = kernel.invalidator.look(parent, name);
    // An inode that goes between the two looks is looked up again: its name then leads
    // elsewhere or nowhere.
    for _ in 0..LOOKUP_ATTEMPTS_MAX {
        let Some(ino) = kernel.fs.lookup(parent, name)? else {
            kernel.invalidator.looked(parent, name, looked);
            return Ok(None);
        };
        kernel.note_name(ino, name.as_bytes());
        match NewEntry::expect(kernel, ino, parent).attr() {
            Err(FsError::Stale(_)) => continue,
            result => {
                kernel.invalidator.looked(parent, name, looked);
                return result.map(Some);
            }
        }
    }
    Err(FsError::Overtaken)
}

/// Of `.` and `..`, by which the kernel asks for an inode that it has forgotten, and for the
/// directory above one, when it has only a file handle (open_by_handle_at(2), an NFS server):
/// whether it is the one above.
fn is_above(name: &OsStr) -> Option<bool> {
    match name.as_bytes() {
        b"." => Some(false),
        b".." => Some(true),
        _ => None,
    }
}

/// See [`is_above`].
fn find_unnamed(kernel: &Arc<Kernel>, ino: Ino, above: bool) -> Result<Attr, FsError> {
    let found = if above { kernel.fs.above(ino)? } else { ino };
    NewEntry::expect(kernel, found, found).attr()
}

fn cred(req: &Request) -> Cred {
    Cred { uid: req.uid(), gid: req.gid() }
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

fn entry_done(entry: NewEntry, keep: Duration, reply: Pending<ReplyEntry>) -> FsDone<()> {
    Box::new(move |result| {
        let Some(reply) = reply.take() else { return };
        match result.and_then(|()| entry.attr()) {
            Ok(attr) => reply.entry(&keep, &file_attr(&attr), GENERATION),
            Err(e) => reply.error(errno(&e)),
        }
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
/// the pages of its file), ATOMIC_O_TRUNC (the kernel would have a program cut off under its
/// processes before it answers ETXTBSY).
///
/// With ACLs the kernel leaves the umask to the filesystem, which knows of default ACLs
/// (DONT_MASK), and says whether the caller is in the file's group (SETXATTR_EXT). With
/// HANDLE_KILLPRIV_V2 it does not ask for security.capability before each write.
const WANTED_FLAGS: [InitFlags; 14] = [
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_SETXATTR_EXT,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_EXPORT_SUPPORT,
];
/// Read-ahead and mapped writes on their way at once.
const BACKGROUND_REQUESTS_MAX: u16 = 128;
const LOOKUP_ATTEMPTS_MAX: usize = 16;
const STATFS_BLOCK_BYTES: u32 = 4096;
/// There is no limit; programs that look at free inodes want to see many.
const INODES_FREE: u64 = 1 << 40;

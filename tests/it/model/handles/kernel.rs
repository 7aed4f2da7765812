//! What Linux decides above any filesystem: paths, permissions, descriptors, offsets.

use super::call::{Call, Family, Object, PROCESSES, SLOTS, USERS};
use super::filesystem::{
    Entries, Errno, Filesystem, Held, LockCall, Locked, RenameHow, Result, Stat, Wait, Wanted, Who,
};

/// The processes, and the filesystem that they use.
pub struct Kernel<F: Filesystem> {
    pub fs: F,
    files: Vec<Option<OpenFile<F>>>,
    processes: [Process; PROCESSES],
    last_owner: u64,
}

/// An open file description.
struct OpenFile<F: Filesystem> {
    node: F::Node,
    /// `None` of a directory.
    handle: Option<F::Handle>,
    reads: bool,
    writes: bool,
    append: bool,
    /// `O_TMPFILE | O_EXCL`.
    never_named: bool,
    offset: u64,
    /// Whose its locks are; never used again.
    owner: u64,
}

#[derive(Default)]
struct Process {
    /// Places in [`Kernel::files`].
    slots: [Option<usize>; SLOTS],
    umask: u32,
    waits: Option<u64>,
}

impl<F: Filesystem> Copy for OpenFile<F> {}

impl<F: Filesystem> Clone for OpenFile<F> {
    fn clone(&self) -> OpenFile<F> {
        *self
    }
}

/// What a call says, as far as POSIX decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Number(u64),
    Bytes(Vec<u8>),
    Names(Vec<String>),
    /// Of a directory that is read on, which has its own order.
    Entries(Entries),
    Stat(Stat),
    Held(Option<Held>),
    Waits,
    Errno(Errno),
    /// The slot has no open file, or the call is not for it.
    Nothing,
}

/// A directory or file that a path leads to, or would.
struct Found<F: Filesystem> {
    parent: F::Node,
    name: String,
    node: Option<F::Node>,
    /// The directories above, from the root on.
    above: Vec<F::Node>,
}

const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

impl<F: Filesystem> Kernel<F> {
    pub fn new(fs: F) -> Kernel<F> {
        Kernel {
            fs,
            files: Vec::new(),
            processes: Default::default(),
            last_owner: OPEN_FILE_OWNERS,
        }
    }

    /// The inode behind a slot, and its place among the open files.
    pub fn open_at(&self, process: usize, slot: usize) -> Option<(usize, F::Node)> {
        let place = self.processes[process].slots[slot]?;
        Some((place, self.file(place).node))
    }

    pub fn is_directory(&self, place: usize) -> bool {
        self.file(place).handle.is_none()
    }

    /// The lock that a process waits for.
    pub fn waits(&self, process: usize) -> Option<u64> {
        self.processes[process].waits
    }

    pub fn stop_waiting(&mut self, process: usize) {
        self.processes[process].waits = None;
    }

    pub fn run(&mut self, process: usize, call: &Call) -> Answer {
        if self.processes[process].waits.is_some() {
            return Answer::Nothing;
        }
        self.dispatch(process, call).unwrap_or_else(Answer::Errno)
    }

    fn dispatch(&mut self, process: usize, call: &Call) -> Result<Answer> {
        let who = who(process, call);
        match call {
            Call::Open { slot, path, flags, mode } => {
                let file = self.open(who, path, *flags, *mode, self.processes[process].umask)?;
                self.install(process, *slot, file);
            }
            Call::OpenUnnamed { slot, path, exclusive, mode } => {
                let file = self.open_unnamed(process, who, path, *exclusive, *mode)?;
                self.install(process, *slot, file);
            }
            Call::Dup { slot, to } => return Ok(self.share(process, *slot, process, *to)),
            Call::Pass { slot, process: other, to } => {
                return Ok(self.share(process, *slot, *other, *to));
            }
            Call::Close { slot } => self.close(process, *slot),
            Call::Umask { mask } => self.processes[process].umask = *mask,
            Call::Mkdir { path, mode } => {
                let found = self.walk(who, path)?;
                self.may_make(who, &found)?;
                let umask = self.processes[process].umask;
                self.fs.mkdir(who, (found.parent, &found.name), *mode, umask)?;
            }
            Call::Unlink { path, .. } => {
                let found = self.walk(who, path)?;
                self.may_remove(who, &found, false)?;
                self.fs.unlink(who, (found.parent, &found.name))?;
            }
            Call::Rmdir { path, .. } => {
                let found = self.walk(who, path)?;
                self.may_remove(who, &found, true)?;
                self.fs.rmdir(who, (found.parent, &found.name))?;
            }
            Call::Rename { from, to, flags, .. } => self.rename(who, from, to, *flags)?,
            Call::Link { from, to, .. } => {
                let node = self.existing(who, from)?;
                self.link(who, node, to)?;
            }
            Call::LinkOpen { slot, path } => {
                let Some(place) = self.processes[process].slots[*slot] else {
                    return Ok(Answer::Nothing);
                };
                let OpenFile { node, never_named, .. } = *self.file(place);
                self.link_open(who, node, never_named, path)?;
            }
            Call::List { path } => {
                let node = self.existing(who, path)?;
                let stat = self.fs.stat(node)?;
                if !stat.is_directory {
                    return Err(libc::ENOTDIR);
                }
                may(&stat, who, READ)?;
                let mut names = self.fs.names(node);
                names.sort();
                return Ok(Answer::Names(names));
            }
            Call::Publish => self.fs.publish(),
            Call::Truncate { object, size } => {
                return self.truncate(process, who, object, *size);
            }
            Call::Chmod { object, .. }
            | Call::Chown { object, .. }
            | Call::Times { object, .. }
            | Call::Stat { object }
            | Call::SetXattr { object, .. }
            | Call::GetXattr { object, .. }
            | Call::RemoveXattr { object, .. }
            | Call::ListXattrs { object } => {
                let Some(node) = self.object(process, who, object)? else {
                    return Ok(Answer::Nothing);
                };
                return self.on_inode(who, node, call);
            }
            Call::Copy { from, to, len } => return self.copy(process, who, *from, *to, *len),
            Call::Signal { .. } => return Ok(Answer::Nothing),
            _ => return self.on_open_file(process, who, call),
        }
        Ok(Answer::Done)
    }

    // Paths and permissions.

    fn walk(&self, who: Who, path: &str) -> Result<Found<F>> {
        let mut above = vec![self.fs.root()];
        let mut parts = path.split('/').peekable();
        loop {
            let parent = *above.last().expect("the root is there");
            let name = parts.next().expect("paths have parts").to_owned();
            let stat = self.fs.stat(parent)?;
            if !stat.is_directory {
                return Err(libc::ENOTDIR);
            }
            may(&stat, who, SEARCH)?;
            let node = self.fs.lookup(parent, &name);
            if parts.peek().is_none() {
                return Ok(Found { parent, name, node, above });
            }
            above.push(node.ok_or(libc::ENOENT)?);
        }
    }

    fn existing(&self, who: Who, path: &str) -> Result<F::Node> {
        self.walk(who, path)?.node.ok_or(libc::ENOENT)
    }

    fn may_make(&self, who: Who, found: &Found<F>) -> Result {
        if found.node.is_some() {
            return Err(libc::EEXIST);
        }
        may(&self.fs.stat(found.parent)?, who, WRITE | SEARCH)
    }

    fn may_remove(&self, who: Who, found: &Found<F>, directory: bool) -> Result {
        let node = found.node.ok_or(libc::ENOENT)?;
        let (above, stat) = (self.fs.stat(found.parent)?, self.fs.stat(node)?);
        may(&above, who, WRITE | SEARCH)?;
        let is_sticky = above.mode & 0o1000 != 0;
        if is_sticky && who.uid != 0 && who.uid != stat.uid && who.uid != above.uid {
            return Err(libc::EPERM);
        }
        match (directory, stat.is_directory) {
            (true, false) => Err(libc::ENOTDIR),
            (false, true) => Err(libc::EISDIR),
            _ => Ok(()),
        }
    }

    fn rename(&mut self, who: Who, from: &str, to: &str, flags: u32) -> Result {
        let how = match flags {
            libc::RENAME_NOREPLACE => RenameHow::NoReplace,
            libc::RENAME_EXCHANGE => RenameHow::Exchange,
            _ => RenameHow::Replace,
        };
        let (from, to) = (self.walk(who, from)?, self.walk(who, to)?);
        let source = from.node.ok_or(libc::ENOENT)?;
        match (how, to.node) {
            (RenameHow::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameHow::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if to.above.contains(&source) {
            return Err(libc::EINVAL);
        }
        if to.node.is_some_and(|target| from.above.contains(&target)) {
            let exchange = how == RenameHow::Exchange;
            return Err(if exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if to.node == Some(source) {
            return Ok(());
        }
        let stat = self.fs.stat(source)?;
        self.may_remove(who, &from, stat.is_directory)?;
        let mut moved = vec![stat];
        match to.node {
            None => self.may_make(who, &to)?,
            Some(target) if how == RenameHow::Exchange => {
                let other = self.fs.stat(target)?;
                self.may_remove(who, &to, other.is_directory)?;
                moved.push(other);
            }
            Some(_) => self.may_remove(who, &to, stat.is_directory)?,
        }
        if from.parent != to.parent {
            // Its `..` changes.
            for stat in moved.iter().filter(|stat| stat.is_directory) {
                may(stat, who, WRITE)?;
            }
        }
        self.fs.rename(who, (from.parent, &from.name), (to.parent, &to.name), how)
    }

    fn link(&mut self, who: Who, node: F::Node, to: &str) -> Result {
        let found = self.walk(who, to)?;
        self.may_make(who, &found)?;
        let stat = self.fs.stat(node)?;
        if stat.is_directory {
            return Err(libc::EPERM);
        }
        self.fs.link(who, node, (found.parent, &found.name))
    }

    fn link_open(&mut self, who: Who, node: F::Node, never_named: bool, to: &str) -> Result {
        let found = self.walk(who, to)?;
        self.may_make(who, &found)?;
        let stat = self.fs.stat(node)?;
        if stat.is_directory {
            return Err(libc::EPERM);
        }
        if never_named {
            return Err(libc::ENOENT);
        }
        self.fs.link(who, node, (found.parent, &found.name))
    }

    // Attributes.

    fn object(&self, process: usize, who: Who, object: &Object) -> Result<Option<F::Node>> {
        match object {
            Object::Path(path) => self.existing(who, path).map(Some),
            Object::Slot(slot) => Ok(self.open_at(process, *slot).map(|(_, node)| node)),
        }
    }

    fn on_inode(&mut self, who: Who, node: F::Node, call: &Call) -> Result<Answer> {
        let stat = self.fs.stat(node)?;
        let is_owner = who.uid == 0 || who.uid == stat.uid;
        let own = |allowed: bool| if allowed { Ok(()) } else { Err(libc::EPERM) };
        match call {
            Call::Stat { .. } => return Ok(Answer::Stat(stat)),
            Call::Chmod { mode, .. } => {
                own(is_owner)?;
                let keeps_sgid = who.uid == 0 || who.gid == stat.gid;
                let mode = if keeps_sgid { *mode } else { mode & !0o2000 };
                self.fs.set_attr(who, node, Wanted { mode: Some(mode), ..Wanted::default() })?;
            }
            // The product cannot tell it from what Linux asks before a write.
            Call::Chown { uid: None, gid: None, .. } if self.is_open_for_writing(node) => {
                return Ok(Answer::Nothing);
            }
            Call::Chown { uid, gid, .. } => {
                own(uid.is_none_or(|uid| who.uid == 0 || (is_owner && uid == stat.uid)))?;
                let may_group = |gid| is_owner && (gid == who.gid || gid == stat.gid);
                own(gid.is_none_or(|gid| who.uid == 0 || may_group(gid)))?;
                let wanted = Wanted { uid: *uid, gid: *gid, ..Wanted::default() };
                self.fs.set_attr(who, node, wanted)?;
            }
            Call::Times { seconds, .. } => {
                if !is_owner {
                    if seconds.is_some() {
                        return Err(libc::EPERM);
                    }
                    may(&stat, who, WRITE)?;
                }
                let wanted = Wanted { mtime: Some(*seconds), ..Wanted::default() };
                self.fs.set_attr(who, node, wanted)?;
            }
            Call::SetXattr { name, value, flags, .. } => {
                may_set_xattr(&stat, who)?;
                self.fs.set_xattr(who, node, &xattr(*name), value, *flags)?;
            }
            Call::RemoveXattr { name, .. } => {
                may_set_xattr(&stat, who)?;
                self.fs.remove_xattr(who, node, &xattr(*name))?;
            }
            Call::GetXattr { name, .. } => {
                may(&stat, who, READ)?;
                return Ok(Answer::Bytes(self.fs.xattr(node, &xattr(*name))?));
            }
            Call::ListXattrs { .. } => {
                let mut names = self.fs.xattr_names(node)?;
                names.sort();
                return Ok(Answer::Names(names));
            }
            other => panic!("{other:?} is not about an inode"),
        }
        Ok(Answer::Done)
    }

    fn truncate(&mut self, process: usize, who: Who, object: &Object, size: u64) -> Result<Answer> {
        let node = match object {
            Object::Path(path) => {
                let node = self.existing(who, path)?;
                let stat = self.fs.stat(node)?;
                if stat.is_directory {
                    return Err(libc::EISDIR);
                }
                may(&stat, who, WRITE)?;
                node
            }
            Object::Slot(slot) => match self.processes[process].slots[*slot] {
                None => return Ok(Answer::Nothing),
                Some(place) if !self.file(place).writes => return Err(libc::EINVAL),
                Some(place) => self.file(place).node,
            },
        };
        self.resize(who, node, size)?;
        Ok(Answer::Done)
    }

    fn resize(&mut self, who: Who, node: F::Node, size: u64) -> Result {
        let kill_set_id = who.uid != 0;
        self.fs.set_attr(who, node, Wanted { size: Some(size), kill_set_id, ..Wanted::default() })
    }

    fn is_open_for_writing(&self, node: F::Node) -> bool {
        self.files.iter().flatten().any(|file| file.node == node && file.writes)
    }

    // Open files.

    fn file(&self, place: usize) -> &OpenFile<F> {
        self.files[place].as_ref().expect("it is open")
    }

    fn open(
        &mut self,
        who: Who,
        path: &str,
        flags: i32,
        mode: u32,
        umask: u32,
    ) -> Result<OpenFile<F>> {
        let access = flags & libc::O_ACCMODE;
        let (reads, writes) = (access != libc::O_WRONLY, access != libc::O_RDONLY);
        let creates = flags & libc::O_CREAT != 0;
        let found = self.walk(who, path)?;
        let append = flags & libc::O_APPEND != 0;
        let mut file = OpenFile {
            node: found.parent,
            handle: None,
            reads,
            writes,
            append,
            never_named: false,
            offset: 0,
            owner: 0,
        };
        let Some(node) = found.node else {
            if !creates {
                return Err(libc::ENOENT);
            }
            self.may_make(who, &found)?;
            let at = (found.parent, &*found.name);
            let (node, handle) = self.fs.create(who, at, mode, umask, writes)?;
            (file.node, file.handle) = (node, Some(handle));
            return Ok(file);
        };
        if creates && flags & libc::O_EXCL != 0 {
            return Err(libc::EEXIST);
        }
        let stat = self.fs.stat(node)?;
        if stat.is_directory && (creates || writes) {
            return Err(libc::EISDIR);
        }
        let wanted = if reads { READ } else { 0 } | if writes { WRITE } else { 0 };
        may(&stat, who, wanted)?;
        file.node = node;
        if stat.is_directory {
            file.append = false;
            return Ok(file);
        }
        let handle = self.fs.open(who, node, writes)?;
        file.handle = Some(handle);
        if flags & libc::O_TRUNC != 0 {
            let cut = self.resize(who, node, 0);
            if let Err(errno) = cut {
                self.fs.release(node, handle, 0);
                return Err(errno);
            }
        }
        Ok(file)
    }

    fn open_unnamed(
        &mut self,
        process: usize,
        who: Who,
        path: &str,
        exclusive: bool,
        mode: u32,
    ) -> Result<OpenFile<F>> {
        let parent = self.existing(who, path)?;
        let stat = self.fs.stat(parent)?;
        if !stat.is_directory {
            return Err(libc::ENOTDIR);
        }
        may(&stat, who, WRITE | SEARCH)?;
        let umask = self.processes[process].umask;
        let (node, handle) = self.fs.create_unnamed(who, parent, mode, umask)?;
        let handle = Some(handle);
        let (reads, writes, append, never_named) = (true, true, false, exclusive);
        Ok(OpenFile { node, handle, reads, writes, append, never_named, offset: 0, owner: 0 })
    }

    fn install(&mut self, process: usize, slot: usize, file: OpenFile<F>) {
        self.fs.know(file.node);
        let place = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        if place == self.files.len() {
            self.files.push(None);
        }
        self.last_owner += 1;
        self.files[place] = Some(OpenFile { owner: self.last_owner, ..file });
        self.close(process, slot);
        self.processes[process].slots[slot] = Some(place);
    }

    fn share(&mut self, process: usize, slot: usize, other: usize, to: usize) -> Answer {
        let place = self.processes[process].slots[slot];
        let busy = self.processes[other].waits.is_some();
        if place.is_none() || busy || place == self.processes[other].slots[to] {
            return Answer::Nothing;
        }
        self.close(other, to);
        self.processes[other].slots[to] = place;
        Answer::Done
    }

    fn close(&mut self, process: usize, slot: usize) {
        let Some(place) = self.processes[process].slots[slot].take() else { return };
        let OpenFile { node, handle, owner, .. } = *self.file(place);
        if let Some(handle) = handle {
            self.fs.flush(node, handle, process_owner(process));
        }
        let is_open = |process: &Process| process.slots.contains(&Some(place));
        if !self.processes.iter().any(is_open) {
            self.files[place] = None;
            if let Some(handle) = handle {
                self.fs.release(node, handle, owner);
            }
            self.fs.forget(node);
        }
    }

    fn on_open_file(&mut self, process: usize, who: Who, call: &Call) -> Result<Answer> {
        let (Call::Read { slot, .. }
        | Call::ReadAt { slot, .. }
        | Call::Write { slot, .. }
        | Call::WriteAt { slot, .. }
        | Call::Seek { slot, .. }
        | Call::SeekHole { slot, .. }
        | Call::Allocate { slot, .. }
        | Call::Sync { slot, .. }
        | Call::ReadEntries { slot, .. }
        | Call::Lock { slot, .. }
        | Call::TestLock { slot, .. }
        | Call::Recall { slot }
        | Call::UseLocks { slot }) = call
        else {
            panic!("{call:?} is not about an open file");
        };
        let Some(place) = self.processes[process].slots[*slot] else {
            return Ok(Answer::Nothing);
        };
        let file = *self.file(place);
        let Some(handle) = file.handle else {
            return self.on_directory(place, who, call);
        };
        let open = (file.node, handle);
        match call {
            Call::Read { len, .. } => {
                readable(&file)?;
                let bytes = self.fs.read(handle, file.offset, *len)?;
                self.move_to(place, file.offset + bytes.len() as u64);
                Ok(Answer::Bytes(bytes))
            }
            Call::ReadAt { offset, len, .. } => {
                readable(&file)?;
                Ok(Answer::Bytes(self.fs.read(handle, *offset, *len)?))
            }
            Call::Write { len, fill, .. } => {
                writable(&file)?;
                let size = self.fs.stat(file.node)?.size;
                let offset = if file.append { size } else { file.offset };
                let data = vec![*fill; *len];
                let written = self.fs.write(who, open, offset, &data, file.append)?;
                if written > 0 {
                    self.move_to(place, offset + written as u64);
                }
                Ok(Answer::Number(written as u64))
            }
            // With O_APPEND, Linux appends here as well (pwrite(2), BUGS).
            Call::WriteAt { offset, len, fill, .. } => {
                writable(&file)?;
                let data = vec![*fill; *len];
                let written = self.fs.write(who, open, *offset, &data, file.append)?;
                Ok(Answer::Number(written as u64))
            }
            Call::Seek { offset, whence, .. } => {
                let base = match *whence {
                    libc::SEEK_SET => 0,
                    libc::SEEK_CUR => file.offset,
                    _ => self.fs.stat(file.node)?.size,
                };
                let to = base.checked_add_signed(*offset).ok_or(libc::EINVAL)?;
                self.move_to(place, to);
                Ok(Answer::Number(to))
            }
            Call::SeekHole { offset, hole, .. } => {
                // The descriptor's offset would depend on how coarse holes are.
                Ok(Answer::Number(self.fs.seek_hole(handle, *offset, *hole)?))
            }
            Call::Allocate { mode, offset, len, .. } => {
                writable(&file)?;
                self.fs.allocate(who, open, *mode, *offset, *len)?;
                Ok(Answer::Done)
            }
            Call::Sync { data_only, .. } => {
                self.fs.sync(who, file.node, *data_only)?;
                Ok(Answer::Done)
            }
            Call::ReadEntries { .. } => Err(libc::ENOTDIR),
            Call::Lock { .. } => self.lock(process, &file, open, call),
            Call::TestLock { family, mode, start, len, .. } => {
                let call = LockCall {
                    owner: owner(process, &file, *family),
                    is_flock: false,
                    mode: Some(*mode),
                    start: *start,
                    end: end_of(*start, *len),
                    wait: Wait::No,
                    pid: pid(process),
                };
                Ok(Answer::Held(self.fs.test_lock(open, call)?))
            }
            Call::Recall { .. } => {
                self.fs.recall(file.node);
                Ok(Answer::Done)
            }
            Call::UseLocks { .. } => {
                self.fs.use_locks(file.node);
                Ok(Answer::Done)
            }
            other => panic!("{other:?} is not about an open file"),
        }
    }

    fn on_directory(&mut self, place: usize, who: Who, call: &Call) -> Result<Answer> {
        let file = *self.file(place);
        match call {
            Call::Read { .. } | Call::ReadAt { .. } => Err(libc::EISDIR),
            Call::Write { .. } | Call::WriteAt { .. } | Call::Allocate { .. } => Err(libc::EBADF),
            Call::Seek { offset: 0, whence: libc::SEEK_SET, .. } => {
                self.move_to(place, 0);
                Ok(Answer::Number(0))
            }
            Call::ReadEntries { count, .. } => {
                let entries = self.fs.entries(file.node, file.offset, *count)?;
                self.move_to(place, entries.position);
                Ok(Answer::Entries(entries))
            }
            Call::Sync { data_only, .. } => {
                self.fs.sync(who, file.node, *data_only)?;
                Ok(Answer::Done)
            }
            _ => Ok(Answer::Nothing),
        }
    }

    fn move_to(&mut self, place: usize, offset: u64) {
        self.files[place].as_mut().expect("it is open").offset = offset;
    }

    fn copy(
        &mut self,
        process: usize,
        who: Who,
        (from, from_offset): (usize, u64),
        (to, to_offset): (usize, u64),
        len: u64,
    ) -> Result<Answer> {
        let slots = &self.processes[process].slots;
        let (Some(from), Some(to)) = (slots[from], slots[to]) else { return Ok(Answer::Nothing) };
        let (from, to) = (*self.file(from), *self.file(to));
        let (Some(source), Some(target)) = (from.handle, to.handle) else {
            return Err(libc::EISDIR);
        };
        if !from.reads || !to.writes || to.append {
            return Err(libc::EBADF);
        }
        let size = self.fs.stat(from.node)?.size;
        let len = len.min(size.saturating_sub(from_offset));
        let meets = to_offset + len > from_offset && to_offset < from_offset + len;
        if from.node == to.node && meets {
            return Err(libc::EINVAL);
        }
        if len == 0 {
            return Ok(Answer::Number(0));
        }
        let to = (to.node, target, to_offset);
        Ok(Answer::Number(self.fs.copy(who, (source, from_offset), to, len)?))
    }

    fn lock(
        &mut self,
        process: usize,
        file: &OpenFile<F>,
        open: (F::Node, F::Handle),
        call: &Call,
    ) -> Result<Answer> {
        let Call::Lock { family, mode, start, len, wait, .. } = call else {
            panic!("it is a lock call");
        };
        let is_flock = *family == Family::Flock;
        if !is_flock {
            match mode {
                Some(super::call::Mode::Shared) => readable(file)?,
                Some(super::call::Mode::Exclusive) => writable(file)?,
                None => {}
            }
        }
        let wait = match (wait, family) {
            (false, _) => Wait::No,
            (true, Family::Posix) => Wait::UnlessDeadlock,
            (true, _) => Wait::Yes,
        };
        let (start, end) = if is_flock { (0, u64::MAX) } else { (*start, end_of(*start, *len)) };
        let owner = owner(process, file, *family);
        let call = LockCall { owner, is_flock, mode: *mode, start, end, wait, pid: pid(process) };
        match self.fs.lock(open, call)? {
            Locked::Done => Ok(Answer::Done),
            Locked::Waits(ticket) => {
                self.processes[process].waits = Some(ticket);
                Ok(Answer::Waits)
            }
        }
    }
}

fn who(process: usize, call: &Call) -> Who {
    let elsewhere = matches!(
        call,
        Call::Chmod { elsewhere: true, .. }
            | Call::Chown { elsewhere: true, .. }
            | Call::Unlink { elsewhere: true, .. }
            | Call::Rmdir { elsewhere: true, .. }
            | Call::Rename { elsewhere: true, .. }
            | Call::Link { elsewhere: true, .. }
    );
    Who { uid: USERS[process], gid: USERS[process], elsewhere }
}

/// Permission bits as Linux takes them: the owner's, else the group's, else the others'.
fn may(stat: &Stat, who: Who, wanted: u32) -> Result {
    let bits = if who.uid == stat.uid {
        stat.mode >> 6
    } else if who.gid == stat.gid {
        stat.mode >> 3
    } else {
        stat.mode
    };
    if who.uid == 0 || bits & wanted == wanted { Ok(()) } else { Err(libc::EACCES) }
}

fn may_set_xattr(stat: &Stat, who: Who) -> Result {
    let is_owner = who.uid == 0 || who.uid == stat.uid;
    if stat.is_directory && stat.mode & 0o1000 != 0 && !is_owner {
        return Err(libc::EPERM);
    }
    may(stat, who, WRITE)
}

fn readable<F: Filesystem>(file: &OpenFile<F>) -> Result {
    if file.reads { Ok(()) } else { Err(libc::EBADF) }
}

fn writable<F: Filesystem>(file: &OpenFile<F>) -> Result {
    if file.writes { Ok(()) } else { Err(libc::EBADF) }
}

fn xattr(name: u8) -> String {
    format!("user.{name}")
}

fn end_of(start: u64, len: u64) -> u64 {
    if len == 0 { u64::MAX } else { start + len - 1 }
}

fn process_owner(process: usize) -> u64 {
    1 + process as u64
}

fn pid(process: usize) -> u32 {
    101 + process as u32
}

fn owner<F: Filesystem>(process: usize, file: &OpenFile<F>, family: Family) -> u64 {
    match family {
        Family::Posix => process_owner(process),
        Family::OpenFile | Family::Flock => file.owner,
    }
}

/// Above all processes.
const OPEN_FILE_OWNERS: u64 = 1000;

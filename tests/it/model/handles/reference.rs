//! A POSIX filesystem in memory as simple as can be: names lead to inodes, and an inode has its
//! bytes. Links are counted by looking at all names; an inode goes when neither a name nor an
//! open file leads to it.

use std::collections::{BTreeMap, BTreeSet};

use super::call::Mode;
use super::filesystem::{
    Entries, Filesystem, Held, LockCall, Locked, RenameHow, Result, Stat, Time, Wait, Wanted, Who,
};

pub struct Reference {
    inodes: BTreeMap<usize, Inode>,
    next: usize,
    /// Open files by inode.
    known: BTreeMap<usize, usize>,
    /// Moves with each call.
    now: u128,
    waiting: Vec<Waiter>,
    answers: BTreeMap<u64, Result>,
    last_ticket: u64,
}

#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: BTreeMap<String, Vec<u8>>,
    mtime: Time,
    ctime: Time,
    locks: Vec<Lock>,
    /// Has no name yet, and may get one.
    is_unnamed: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    File(Vec<u8>),
    Directory(BTreeMap<String, usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lock {
    owner: u64,
    is_flock: bool,
    mode: Mode,
    start: u64,
    end: u64,
    pid: u32,
}

struct Waiter {
    ticket: u64,
    inode: usize,
    lock: Lock,
    detects: bool,
}

const ROOT: usize = 0;

impl Reference {
    /// An empty directory that everybody may use.
    pub fn new() -> Reference {
        let mut model = Reference {
            inodes: BTreeMap::new(),
            next: ROOT,
            known: BTreeMap::from([(ROOT, 1)]),
            now: 0,
            waiting: Vec::new(),
            answers: BTreeMap::new(),
            last_ticket: 0,
        };
        let who = Who { uid: 0, gid: 0, elsewhere: false };
        model.add(who, Kind::Directory(BTreeMap::new()), 0o777);
        model
    }

    pub fn begin_call(&mut self) {
        self.now += 1;
    }

    fn clock(&self) -> Time {
        Time::Clock(self.now)
    }

    fn inode(&self, node: usize) -> &Inode {
        &self.inodes[&node]
    }

    fn inode_mut(&mut self, node: usize) -> &mut Inode {
        self.inodes.get_mut(&node).expect("it is there")
    }

    fn add(&mut self, who: Who, kind: Kind, mode: u32) -> usize {
        let (node, time) = (self.next, self.clock());
        self.next += 1;
        let inode = Inode {
            kind,
            mode,
            uid: who.uid,
            gid: who.gid,
            xattrs: BTreeMap::new(),
            mtime: time,
            ctime: time,
            locks: Vec::new(),
            is_unnamed: false,
        };
        self.inodes.insert(node, inode);
        node
    }

    /// A new inode in `parent`, which may hand its group down.
    fn add_in(&mut self, who: Who, parent: usize, kind: Kind, mode: u32) -> usize {
        let is_directory = matches!(kind, Kind::Directory(_));
        let node = self.add(who, kind, mode);
        let (group, hands_down) = {
            let above = self.inode(parent);
            (above.gid, above.mode & 0o2000 != 0)
        };
        if hands_down {
            let inode = self.inode_mut(node);
            inode.gid = group;
            inode.mode |= if is_directory { 0o2000 } else { 0 };
        }
        node
    }

    fn entries_of(&mut self, directory: usize) -> &mut BTreeMap<String, usize> {
        match &mut self.inode_mut(directory).kind {
            Kind::Directory(entries) => entries,
            Kind::File(_) => panic!("it is a directory"),
        }
    }

    fn links(&self, node: usize) -> usize {
        let count = |inode: &Inode| match &inode.kind {
            Kind::Directory(entries) => entries.values().filter(|named| **named == node).count(),
            Kind::File(_) => 0,
        };
        self.inodes.values().map(count).sum()
    }

    fn name(&mut self, (parent, name): (usize, &str), node: usize) {
        self.entries_of(parent).insert(name.to_owned(), node);
        self.changed_names(parent);
    }

    fn unname(&mut self, (parent, name): (usize, &str)) -> usize {
        let node = self.entries_of(parent).remove(name).expect("it is there");
        self.changed_names(parent);
        node
    }

    fn changed_names(&mut self, directory: usize) {
        let time = self.clock();
        let inode = self.inode_mut(directory);
        (inode.mtime, inode.ctime) = (time, time);
    }

    fn changed(&mut self, node: usize) {
        let time = self.clock();
        self.inode_mut(node).ctime = time;
    }

    /// Forgets what nothing leads to.
    fn sweep(&mut self, node: usize) {
        if self.links(node) == 0 && !self.known.contains_key(&node) {
            self.inodes.remove(&node);
        }
    }

    fn bytes(&mut self, node: usize) -> &mut Vec<u8> {
        match &mut self.inode_mut(node).kind {
            Kind::File(bytes) => bytes,
            Kind::Directory(_) => panic!("it is a file"),
        }
    }

    /// The content changed, by somebody who may keep set-id bits or not.
    fn wrote(&mut self, node: usize, kill_set_id: bool) {
        let time = self.clock();
        let inode = self.inode_mut(node);
        (inode.mtime, inode.ctime) = (time, time);
        if kill_set_id {
            drop_set_id(inode);
        }
    }

    fn is_empty(&self, directory: usize) -> bool {
        matches!(&self.inode(directory).kind, Kind::Directory(entries) if entries.is_empty())
    }

    fn is_directory(&self, node: usize) -> bool {
        matches!(self.inode(node).kind, Kind::Directory(_))
    }

    // Locks.

    fn conflicts(&self, node: usize, wanted: &Lock) -> Vec<Lock> {
        let conflicts = |held: &&Lock| {
            held.owner != wanted.owner
                && held.is_flock == wanted.is_flock
                && (held.mode == Mode::Exclusive || wanted.mode == Mode::Exclusive)
                && held.start <= wanted.end
                && wanted.start <= held.end
        };
        self.inode(node).locks.iter().filter(conflicts).copied().collect()
    }

    /// What the owner has of these bytes becomes free.
    fn free(&mut self, node: usize, owner: u64, is_flock: bool, start: u64, end: u64) {
        let mut kept = Vec::new();
        for held in std::mem::take(&mut self.inode_mut(node).locks) {
            if held.owner != owner || held.is_flock != is_flock {
                kept.push(held);
                continue;
            }
            if held.end < start || end < held.start {
                kept.push(held);
                continue;
            }
            if held.start < start {
                kept.push(Lock { end: start - 1, ..held });
            }
            if end < held.end {
                kept.push(Lock { start: end + 1, ..held });
            }
        }
        self.inode_mut(node).locks = kept;
    }

    fn grant(&mut self, node: usize, lock: Lock) {
        self.free(node, lock.owner, lock.is_flock, lock.start, lock.end);
        self.inode_mut(node).locks.push(lock);
        self.join(node);
    }

    /// Neighbours of one owner and mode are one lock, and its pid is the newest's.
    fn join(&mut self, node: usize) {
        let locks = &mut self.inode_mut(node).locks;
        let mut at = 0;
        while at < locks.len() {
            let one = locks[at];
            let joins = |other: &Lock| {
                other.owner == one.owner
                    && other.is_flock == one.is_flock
                    && other.mode == one.mode
                    && (other.end.checked_add(1) == Some(one.start)
                        || one.end.checked_add(1) == Some(other.start))
            };
            match locks.iter().position(joins) {
                Some(other) => {
                    let (first, last) = (at.min(other), at.max(other));
                    let newer = locks.remove(last);
                    let older = locks[first];
                    let (start, end) = (older.start.min(newer.start), older.end.max(newer.end));
                    locks[first] = Lock { start, end, ..newer };
                    at = 0;
                }
                None => at += 1,
            }
        }
    }

    /// Waiters get what they can have, in the order in which they came.
    fn wake(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let Waiter { ticket, inode, lock, .. } = self.waiting[at];
            if self.conflicts(inode, &lock).is_empty() {
                self.waiting.remove(at);
                self.grant(inode, lock);
                self.answers.insert(ticket, Ok(()));
                at = 0;
            } else {
                at += 1;
            }
        }
    }

    /// Whether `owner` waits, through others, for itself once it waits for `first`.
    fn is_deadlock(&self, owner: u64, first: &[Lock]) -> bool {
        let mut open: Vec<u64> = first.iter().map(|lock| lock.owner).collect();
        let mut seen = BTreeSet::new();
        while let Some(other) = open.pop() {
            if other == owner {
                return true;
            }
            if seen.insert(other) {
                let waits = self.waiting.iter();
                for waiter in waits.filter(|it| it.detects && it.lock.owner == other) {
                    let blockers = self.conflicts(waiter.inode, &waiter.lock);
                    open.extend(blockers.iter().map(|lock| lock.owner));
                }
            }
        }
        false
    }
}

fn drop_set_id(inode: &mut Inode) {
    inode.mode &= !0o4000;
    // Without the group's right to execute it once meant mandatory locking.
    if inode.mode & 0o010 != 0 {
        inode.mode &= !0o2000;
    }
}

impl Filesystem for Reference {
    type Node = usize;
    type Handle = usize;

    fn root(&self) -> usize {
        ROOT
    }

    fn lookup(&self, parent: usize, name: &str) -> Option<usize> {
        match &self.inode(parent).kind {
            Kind::Directory(entries) => entries.get(name).copied(),
            Kind::File(_) => None,
        }
    }

    fn stat(&self, node: usize) -> Result<Stat> {
        let Inode { kind, mode, uid, gid, .. } = self.inode(node);
        let links = self.links(node) as u32;
        let (is_directory, size) = match kind {
            Kind::File(bytes) => (false, bytes.len() as u64),
            Kind::Directory(_) => (true, 0),
        };
        let links = if node == ROOT { 1 } else { links };
        Ok(Stat { is_directory, mode: *mode, links, uid: *uid, gid: *gid, size })
    }

    fn times(&self, node: usize) -> Result<(Time, Time)> {
        let inode = self.inode(node);
        Ok((inode.mtime, inode.ctime))
    }

    fn know(&mut self, node: usize) {
        *self.known.entry(node).or_default() += 1;
    }

    fn forget(&mut self, node: usize) {
        let count = self.known.get_mut(&node).expect("it is known");
        *count -= 1;
        if *count == 0 {
            self.known.remove(&node);
        }
        self.sweep(node);
    }

    fn create(
        &mut self,
        who: Who,
        at: (usize, &str),
        mode: u32,
        umask: u32,
        _: bool,
    ) -> Result<(usize, usize)> {
        let node = self.add_in(who, at.0, Kind::File(Vec::new()), mode & !umask);
        self.name(at, node);
        Ok((node, node))
    }

    fn create_unnamed(
        &mut self,
        who: Who,
        parent: usize,
        mode: u32,
        umask: u32,
    ) -> Result<(usize, usize)> {
        let node = self.add_in(who, parent, Kind::File(Vec::new()), mode & !umask);
        self.inode_mut(node).is_unnamed = true;
        Ok((node, node))
    }

    fn mkdir(&mut self, who: Who, at: (usize, &str), mode: u32, umask: u32) -> Result {
        let node = self.add_in(who, at.0, Kind::Directory(BTreeMap::new()), mode & !umask);
        self.name(at, node);
        Ok(())
    }

    fn link(&mut self, _: Who, node: usize, at: (usize, &str)) -> Result {
        if self.links(node) == 0 && !self.inode(node).is_unnamed {
            return Err(libc::ENOENT);
        }
        self.inode_mut(node).is_unnamed = false;
        self.name(at, node);
        self.changed(node);
        Ok(())
    }

    fn unlink(&mut self, _: Who, at: (usize, &str)) -> Result {
        let node = self.unname(at);
        self.changed(node);
        self.sweep(node);
        Ok(())
    }

    fn rmdir(&mut self, _: Who, at: (usize, &str)) -> Result {
        let node = self.lookup(at.0, at.1).expect("it is there");
        if !self.is_empty(node) {
            return Err(libc::ENOTEMPTY);
        }
        self.unname(at);
        self.changed(node);
        self.sweep(node);
        Ok(())
    }

    fn rename(&mut self, _: Who, from: (usize, &str), to: (usize, &str), how: RenameHow) -> Result {
        let source = self.lookup(from.0, from.1).expect("it is there");
        let target = self.lookup(to.0, to.1);
        let exchange = how == RenameHow::Exchange;
        if let Some(target) = target
            && !exchange
            && self.is_directory(target)
            && !self.is_empty(target)
        {
            return Err(libc::ENOTEMPTY);
        }
        self.unname(from);
        if let Some(target) = target {
            self.unname(to);
            self.changed(target);
        }
        self.name(to, source);
        self.changed(source);
        match target {
            Some(target) if exchange => self.name(from, target),
            Some(target) => self.sweep(target),
            None => {}
        }
        Ok(())
    }

    fn names(&self, directory: usize) -> Vec<String> {
        match &self.inode(directory).kind {
            Kind::Directory(entries) => entries.keys().cloned().collect(),
            Kind::File(_) => Vec::new(),
        }
    }

    /// In no order; nobody compares this.
    fn entries(&self, _: usize, position: u64, _: usize) -> Result<Entries> {
        Ok(Entries { names: Vec::new(), position, is_end: true })
    }

    fn open(&mut self, _: Who, node: usize, _: bool) -> Result<usize> {
        Ok(node)
    }

    fn flush(&mut self, node: usize, _: usize, owner: u64) {
        self.free(node, owner, false, 0, u64::MAX);
        self.wake();
    }

    fn release(&mut self, node: usize, _: usize, owner: u64) {
        self.free(node, owner, false, 0, u64::MAX);
        self.free(node, owner, true, 0, u64::MAX);
        self.wake();
    }

    fn read(&mut self, node: usize, offset: u64, len: usize) -> Result<Vec<u8>> {
        let bytes = self.bytes(node);
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(start + len);
        Ok(bytes[start..end].to_vec())
    }

    fn write(
        &mut self,
        who: Who,
        (node, _): (usize, usize),
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let bytes = self.bytes(node);
        let start = if append { bytes.len() } else { offset as usize };
        let end = start + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(data);
        self.wrote(node, who.uid != 0);
        Ok(data.len())
    }

    fn allocate(
        &mut self,
        who: Who,
        (node, _): (usize, usize),
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result {
        let (start, end) = (offset as usize, (offset + len) as usize);
        let bytes = self.bytes(node);
        if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
            bytes.resize(bytes.len().max(end), 0);
        }
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
            let (start, end) = (bytes.len().min(start), bytes.len().min(end));
            bytes[start..end].fill(0);
        }
        self.wrote(node, who.uid != 0);
        Ok(())
    }

    fn copy(
        &mut self,
        who: Who,
        (from, from_offset): (usize, u64),
        (to, handle, to_offset): (usize, usize, u64),
        len: u64,
    ) -> Result<u64> {
        let data = self.read(from, from_offset, len as usize)?;
        let copied = self.write(who, (to, handle), to_offset, &data, false)?;
        Ok(copied as u64)
    }

    /// The coarsest answer that is right; [`super::compare`] allows finer ones.
    fn seek_hole(&mut self, node: usize, offset: u64, _: bool) -> Result<u64> {
        let len = self.bytes(node).len() as u64;
        if offset >= len { Err(libc::ENXIO) } else { Ok(len) }
    }

    fn sync(&mut self, _: Who, _: usize, _: bool) -> Result {
        Ok(())
    }

    fn set_attr(&mut self, who: Who, node: usize, wanted: Wanted) -> Result {
        let time = self.clock();
        let Wanted { mode, uid, gid, size, mtime, .. } = wanted;
        let is_plain_chown = mode.or(uid).or(gid).is_none() && size.is_none() && mtime.is_none();
        if let Some(size) = wanted.size {
            self.bytes(node).resize(size as usize, 0);
            self.wrote(node, wanted.kill_set_id);
        }
        let inode = self.inode_mut(node);
        inode.mode = wanted.mode.unwrap_or(inode.mode);
        inode.uid = wanted.uid.unwrap_or(inode.uid);
        inode.gid = wanted.gid.unwrap_or(inode.gid);
        let is_file = matches!(inode.kind, Kind::File(_));
        if is_file && (is_plain_chown || wanted.uid.or(wanted.gid).is_some()) {
            let had = inode.mode;
            drop_set_id(inode);
            // notify_change in Linux: it becomes a chmod, which is for owners.
            if is_plain_chown && inode.mode != had && who.uid != 0 && who.uid != inode.uid {
                inode.mode = had;
                return Err(libc::EPERM);
            }
        }
        match wanted.mtime {
            Some(Some(seconds)) => inode.mtime = Time::Given(seconds),
            Some(None) => inode.mtime = time,
            None => {}
        }
        inode.ctime = time;
        Ok(())
    }

    fn set_xattr(&mut self, _: Who, node: usize, name: &str, value: &[u8], flags: i32) -> Result {
        let xattrs = &mut self.inode_mut(node).xattrs;
        match (flags, xattrs.contains_key(name)) {
            (libc::XATTR_CREATE, true) => return Err(libc::EEXIST),
            (libc::XATTR_REPLACE, false) => return Err(libc::ENODATA),
            _ => {}
        }
        // ext4 leaves ctime where the value stays.
        let is_same = xattrs.get(name).is_some_and(|old| old == value);
        xattrs.insert(name.to_owned(), value.to_vec());
        if !is_same {
            self.changed(node);
        }
        Ok(())
    }

    fn xattr(&self, node: usize, name: &str) -> Result<Vec<u8>> {
        self.inode(node).xattrs.get(name).cloned().ok_or(libc::ENODATA)
    }

    fn xattr_names(&self, node: usize) -> Result<Vec<String>> {
        Ok(self.inode(node).xattrs.keys().cloned().collect())
    }

    fn remove_xattr(&mut self, _: Who, node: usize, name: &str) -> Result {
        self.inode_mut(node).xattrs.remove(name).ok_or(libc::ENODATA)?;
        self.changed(node);
        Ok(())
    }

    fn lock(&mut self, (node, _): (usize, usize), call: LockCall) -> Result<Locked> {
        let LockCall { owner, is_flock, mode, start, end, wait, pid } = call;
        let Some(mode) = mode else {
            self.free(node, owner, is_flock, start, end);
            self.wake();
            return Ok(Locked::Done);
        };
        let lock = Lock { owner, is_flock, mode, start, end, pid };
        let is_own = |held: &Lock| held.owner == owner && held.is_flock && held.mode != mode;
        if is_flock && self.inode(node).locks.iter().any(is_own) {
            // flock(2): "the existing lock is first removed, and then a new lock is
            // established".
            self.free(node, owner, true, 0, u64::MAX);
            self.wake();
        }
        let conflicts = self.conflicts(node, &lock);
        if conflicts.is_empty() {
            self.grant(node, lock);
            // What it held in another mode may have kept others out.
            self.wake();
            return Ok(Locked::Done);
        }
        match wait {
            Wait::No => Err(libc::EAGAIN),
            Wait::UnlessDeadlock if self.is_deadlock(owner, &conflicts) => Err(libc::EDEADLK),
            Wait::Yes | Wait::UnlessDeadlock => {
                self.last_ticket += 1;
                let (ticket, detects) = (self.last_ticket, wait == Wait::UnlessDeadlock);
                self.waiting.push(Waiter { ticket, inode: node, lock, detects });
                Ok(Locked::Waits(ticket))
            }
        }
    }

    fn test_lock(&mut self, (node, _): (usize, usize), call: LockCall) -> Result<Option<Held>> {
        let LockCall { owner, mode, start, end, pid, .. } = call;
        let mode = mode.expect("nobody asks for nothing");
        let wanted = Lock { owner, is_flock: false, mode, start, end, pid };
        let first = self
            .conflicts(node, &wanted)
            .into_iter()
            .min_by_key(|lock| (lock.start, lock.end, lock.owner));
        Ok(first.map(|Lock { mode, start, end, pid, .. }| Held { mode, start, end, pid }))
    }

    fn interrupt(&mut self, ticket: u64) {
        let waits = self.waiting.len();
        self.waiting.retain(|waiter| waiter.ticket != ticket);
        if self.waiting.len() < waits {
            self.answers.insert(ticket, Err(libc::EINTR));
        }
    }

    fn answer(&mut self, ticket: u64, _: bool) -> Option<Result> {
        self.answers.remove(&ticket)
    }

    fn publish(&mut self) {}

    fn recall(&mut self, _: usize) {}

    fn use_locks(&mut self, _: usize) {}
}

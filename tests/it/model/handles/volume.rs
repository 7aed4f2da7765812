//! The product below its kernel adapter: one node's operations and bodies, over an order in
//! memory in which another node takes part.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use engine::command::{Cred, Kind, Name, Op, SetAttr, XattrHow};
use engine::ids::{Gsn, Ino, NodeId, VolumeId};
use engine::locks::{ByteRange, Lock, LockKind, LockMode};
use engine::namespace::Touched;
use engine::outcome::Outcome;
use engine::time::Timestamp;
use fusefs::body::{Asking, BodyService, Config, Peers};
use fusefs::kernel::errno::errno;
use fusefs::ops::ports::{Caller, Handle, OnApplied, Origin, Ring, View};
use fusefs::ops::{
    Call, Fs, FsDone, FsError, LockRequest, LockWish, Meant, NewInode, NewUnnamed, SetTime, Write,
};
use store::{Identity, Options, Store};
use wire::Request;

use super::call::Mode;
use super::filesystem::{
    Entries, Errno, Filesystem, Held, LockCall, Locked, RenameHow, Result, Stat, Time, Wait,
    Wanted, Who,
};
use crate::mount::fake_ring::{FakeRing, HERE, THERE};

/// A node, for many sequences one after the other.
pub struct Node {
    ring: Arc<FakeRing>,
    fs: Arc<Fs>,
    bodies: Arc<BodyService>,
    known: Arc<Known>,
    runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

/// One directory of the node's tree.
pub struct Volume<'a> {
    node: &'a Node,
    root: Ino,
    waiting: BTreeMap<u64, Waiting>,
    last_ticket: u64,
}

struct Waiting {
    call: Call,
    answer: Receiver<std::result::Result<Option<Lock>, FsError>>,
}

/// Which inodes the kernel has open, and what it does when they lose their last name.
#[derive(Default)]
struct Known {
    open: Mutex<HashMap<Ino, usize>>,
    fs: OnceLock<Weak<Fs>>,
}

/// Tells the bodies first, as the applier does.
#[derive(Default)]
struct Bodies(OnceLock<Weak<BodyService>>);

/// Nobody is asked for bytes: all are here.
struct NoPeers;

/// Anything that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

impl Node {
    pub fn start() -> Node {
        // What is synced goes to memory: the disk is not what is tested.
        let shm = std::path::Path::new("/dev/shm");
        let directory = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        let directory = directory.expect("a directory");
        let identity = Identity::new([1; 16], HERE).expect("there is randomness");
        let options =
            Options { reserve_bytes: 0, block_cache_bytes: 4 << 20, ..Options::default() };
        let store = Store::create(directory.path(), &identity, &options).expect("a store is made");
        let (told, known) = (Arc::new(Bodies::default()), Arc::new(Known::default()));
        let listeners: Vec<Arc<dyn OnApplied>> = vec![told.clone(), known.clone()];
        let ring = FakeRing::new(|_| listeners);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let bodies = BodyService::start(Config {
            volume: VolumeId(1),
            store,
            ring: Arc::clone(&ring) as Arc<dyn Ring>,
            wire: NoPeers,
            runtime: runtime.handle().clone(),
            // Sealed by age as fast as it goes, so that changes meet seals everywhere.
            seal_age: Duration::from_millis(1),
            // What only ends by this has failed.
            fetch_timeout: 2 * PATIENCE,
            op_timeout: PATIENCE,
        })
        .expect("the bodies start");
        let fs = Fs::new(ring.clone(), bodies.clone());
        assert!(told.0.set(Arc::downgrade(&bodies)).is_ok(), "set once");
        assert!(known.fs.set(Arc::downgrade(&fs)).is_ok(), "set once");
        let watcher = Arc::clone(&fs);
        std::thread::spawn(move || watcher.watch_locks());
        Node { ring, fs, bodies, known, runtime, _directory: directory }
    }

    /// Everything that was proposed until now is applied, and told to whoever waits.
    fn settle(&self) {
        let none = Caller::DAEMON;
        let done = wait(|done| self.ring.propose(none, Op::Noop, done));
        done.expect("the order goes on");
    }

    fn elsewhere(&self, who: Who, op: Op) -> Result {
        let outcome = self.ring.run_as(THERE, Cred { uid: who.uid, gid: who.gid }, op);
        match outcome {
            Outcome::Refused(refusal) => Err(errno_of(&refusal.into())),
            _ => Ok(()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.fs.drop_locks();
        self.bodies.stop();
    }
}

impl Peers for NoPeers {
    fn ask(&self, _: NodeId, _: Request) -> Asking {
        Box::pin(async { Err("nobody is there".to_owned()) })
    }

    fn links(&self) -> Vec<(NodeId, Duration)> {
        Vec::new()
    }
}

impl OnApplied for Bodies {
    fn applied(&self, gsn: Gsn, touched: &[Touched], origin: Origin) {
        if let Some(bodies) = self.0.get().and_then(Weak::upgrade) {
            bodies.applied(gsn, touched, origin);
        }
    }

    fn replaced(&self, _: Gsn, _: &View, _: &View) {}
}

impl OnApplied for Known {
    fn applied(&self, _: Gsn, touched: &[Touched], _: Origin) {
        let Some(fs) = self.fs.get().and_then(Weak::upgrade) else { return };
        let mut attributes: &[(Vec<u8>, Vec<u8>)] = &[];
        for touch in touched {
            match touch {
                Touched::XattrsGone { xattrs, .. } => attributes = xattrs,
                Touched::Gone { ino, last } => {
                    let attributes = std::mem::take(&mut attributes);
                    if self.open.lock().expect("no panic").contains_key(ino) {
                        fs.pin(*ino, last, attributes);
                    }
                }
                _ => {}
            }
        }
        fs.locks_applied(touched);
    }

    fn replaced(&self, _: Gsn, _: &View, _: &View) {}
}

impl<'a> Volume<'a> {
    /// An empty directory that everybody may use, in the tree of `node`.
    pub fn new(node: &'a Node) -> Volume<'a> {
        let mut volume = Volume { node, root: Ino::ROOT, waiting: BTreeMap::new(), last_ticket: 0 };
        volume.mkdir(ROOT_USER, (Ino::ROOT, NAME), 0o777, 0).expect("the name is free");
        volume.root = volume.lookup(Ino::ROOT, NAME).expect("it is there");
        volume
    }

    /// Removes everything. Nothing of it is left on the node, and nobody has it open.
    pub fn remove(mut self) {
        self.clear(self.root);
        self.rmdir(ROOT_USER, (Ino::ROOT, NAME)).expect("it is empty");
        self.publish();
        self.node.settle();
        assert_eq!(self.node.fs.pinned(), 0, "inodes without names stay");
        until("nothing is staged", || self.node.bodies.load().staged_files == 0);
    }

    fn clear(&mut self, directory: Ino) {
        for name in self.names(directory) {
            let node = self.lookup(directory, &name).expect("it is listed");
            if self.stat(node).expect("it is there").is_directory {
                self.clear(node);
                self.rmdir(ROOT_USER, (directory, &name)).expect("it is empty");
            } else {
                self.unlink(ROOT_USER, (directory, &name)).expect("it is a file");
            }
        }
    }

    fn fs(&self) -> &'a Arc<Fs> {
        &self.node.fs
    }

    fn call<T: Send + 'static>(
        &self,
        who: Who,
        run: impl FnOnce(&Arc<Fs>, Caller, FsDone<T>),
    ) -> Result<T> {
        wait(|done| run(self.fs(), caller(who), done)).map_err(|error| errno_of(&error))
    }

    fn new_inode(&self, (parent, name): (Ino, &str), mode: u32, umask: u32) -> NewInode {
        let ino = self.fs().alloc_ino().expect("there are numbers");
        NewInode { parent, name: parse(name), ino, mode, umask }
    }

    /// Whether a request of `owner` is where it will be granted: in the agreed tables, or with
    /// this node as the keeper.
    fn is_queued(&self, ino: Ino, owner: u64) -> bool {
        self.node.settle();
        let view = self.node.ring.view();
        if view.inode(ino).expect("memory").is_none() {
            return true;
        }
        let row = view.locks(ino).expect("memory");
        let waits = row.locks.waiting().iter().any(|waiter| waiter.lock.owner.id == owner);
        waits || row.keeper.is_some_and(|keeper| keeper.node == HERE)
    }

    /// The end of an open file gives up agreed locks a moment later.
    fn wait_until_given_up(&self, ino: Ino, owner: u64) {
        until("the locks of a closed file are given up", || {
            let view = self.node.ring.view();
            let row = view.locks(ino).expect("memory");
            !row.locks.held().iter().any(|held| held.owner.node == HERE && held.owner.id == owner)
        });
        self.node.settle();
    }

    fn lock_request(call: &LockCall) -> LockRequest {
        let kind = if call.is_flock { LockKind::Flock } else { LockKind::Record };
        let mode = call.mode.map(|mode| match mode {
            Mode::Shared => LockMode::Shared,
            Mode::Exclusive => LockMode::Exclusive,
        });
        let wait = match call.wait {
            Wait::No => fusefs::ops::Wait::No,
            Wait::Yes => fusefs::ops::Wait::Yes,
            Wait::UnlessDeadlock => fusefs::ops::Wait::UnlessDeadlock,
        };
        let wish = mode.map_or(LockWish::Clear, |mode| LockWish::Set { mode, wait });
        let range = ByteRange { start: call.start, end: call.end };
        LockRequest { owner: call.owner, kind, range, pid: call.pid, wish }
    }
}

/// Of the directory in the tree.
const NAME: &str = "sequence";
const ROOT_USER: Who = Who { uid: 0, gid: 0, elsewhere: false };

impl Filesystem for Volume<'_> {
    type Node = Ino;
    type Handle = Handle;

    fn root(&self) -> Ino {
        self.root
    }

    fn lookup(&self, parent: Ino, name: &str) -> Option<Ino> {
        self.fs().lookup(parent, &parse(name)).expect("memory can be read")
    }

    fn stat(&self, node: Ino) -> Result<Stat> {
        let attr = self.fs().attr(node).map_err(|error| errno_of(&error))?;
        let is_directory = attr.file_type == engine::namespace::FileType::Directory;
        let (links, size) =
            if is_directory { (attr.nlink.min(1), 0) } else { (attr.nlink, attr.size) };
        Ok(Stat { is_directory, mode: attr.mode, links, uid: attr.uid, gid: attr.gid, size })
    }

    fn times(&self, node: Ino) -> Result<(Time, Time)> {
        let attr = self.fs().attr(node).map_err(|error| errno_of(&error))?;
        Ok((clock(attr.mtime), clock(attr.ctime)))
    }

    fn know(&mut self, node: Ino) {
        *self.node.known.open.lock().expect("no panic").entry(node).or_default() += 1;
    }

    fn forget(&mut self, node: Ino) {
        let mut open = self.node.known.open.lock().expect("no panic");
        let count = open.get_mut(&node).expect("it is known");
        *count -= 1;
        if *count == 0 {
            open.remove(&node);
            drop(open);
            self.fs().unpin(node);
            self.node.settle();
        }
    }

    fn create(
        &mut self,
        who: Who,
        at: (Ino, &str),
        mode: u32,
        umask: u32,
        write: bool,
    ) -> Result<(Ino, Handle)> {
        let new = self.new_inode(at, mode, umask);
        let ino = new.ino;
        let handle =
            self.call(who, |fs, caller, done| fs.create(caller, new, (false, write), done))?;
        Ok((ino, handle))
    }

    fn create_unnamed(
        &mut self,
        who: Who,
        parent: Ino,
        mode: u32,
        umask: u32,
    ) -> Result<(Ino, Handle)> {
        let ino = self.fs().alloc_ino().expect("there are numbers");
        let new = NewUnnamed { parent, ino, mode, umask };
        let made = self.call(who, |fs, caller, done| fs.make_unnamed(caller, new, true, done));
        Ok((ino, made?))
    }

    fn mkdir(&mut self, who: Who, at: (Ino, &str), mode: u32, umask: u32) -> Result {
        let new = self.new_inode(at, mode, umask);
        self.call(who, |fs, caller, done| fs.make(caller, new, Kind::Directory, done))
    }

    fn link(&mut self, who: Who, node: Ino, (parent, name): (Ino, &str)) -> Result {
        let name = parse(name);
        if who.elsewhere {
            return self.node.elsewhere(who, Op::Link { ino: node, parent, name });
        }
        self.call(who, |fs, caller, done| fs.link(caller, node, parent, name, done))
    }

    fn unlink(&mut self, who: Who, (parent, name): (Ino, &str)) -> Result {
        let name = parse(name);
        if who.elsewhere {
            return self.node.elsewhere(who, Op::Unlink { parent, name });
        }
        self.call(who, |fs, caller, done| fs.unlink(caller, parent, name, done))
    }

    fn rmdir(&mut self, who: Who, (parent, name): (Ino, &str)) -> Result {
        let victim = self.lookup(parent, name);
        let name = parse(name);
        if who.elsewhere {
            return self.node.elsewhere(who, Op::Rmdir { parent, name, victim });
        }
        self.call(who, |fs, caller, done| fs.rmdir(caller, (parent, name), victim, done))
    }

    fn rename(&mut self, who: Who, from: (Ino, &str), to: (Ino, &str), how: RenameHow) -> Result {
        use engine::command::RenameHow as How;
        let (source, target) = (self.lookup(from.0, from.1), self.lookup(to.0, to.1));
        let is_directory = |ino: &Ino| self.stat(*ino).is_ok_and(|stat| stat.is_directory);
        let (how, victim) = match how {
            RenameHow::Replace => (How::Replace, target.filter(is_directory)),
            RenameHow::NoReplace => (How::NoReplace, None),
            RenameHow::Exchange => (How::Exchange, target),
        };
        let (from, to) = ((from.0, parse(from.1)), (to.0, parse(to.1)));
        if who.elsewhere {
            let ((from_parent, from_name), (to_parent, to_name)) = (from, to);
            let op = Op::Rename { from_parent, from_name, to_parent, to_name, how, victim, source };
            return self.node.elsewhere(who, op);
        }
        let meant = Meant { source, victim };
        self.call(who, |fs, caller, done| fs.rename(caller, from, to, how, meant, done))
    }

    fn names(&self, directory: Ino) -> Vec<String> {
        let listing = self.fs().list(directory).expect("it is a directory");
        let entries = listing.after(0, usize::MAX >> 1).expect("memory can be read");
        let names = entries.into_iter().filter(|entry| !entry.is_dot());
        names.map(|entry| text(entry.name)).collect()
    }

    fn entries(&self, directory: Ino, position: u64, count: usize) -> Result<Entries> {
        let listing = self.fs().list(directory).map_err(|error| errno_of(&error))?;
        let entries = listing.after(position, count).map_err(|error| errno_of(&error))?;
        let is_end = entries.len() < count;
        let position = entries.last().map_or(position, |entry| entry.cookie);
        let names = entries.into_iter().filter(|entry| !entry.is_dot());
        Ok(Entries { names: names.map(|entry| text(entry.name)).collect(), position, is_end })
    }

    fn open(&mut self, who: Who, node: Ino, write: bool) -> Result<Handle> {
        self.call(who, |fs, caller, done| fs.open(caller, node, write, done))
    }

    fn flush(&mut self, node: Ino, handle: Handle, owner: u64) {
        // A close is not interrupted.
        let caller = Caller { cred: Cred::default(), call: None };
        let flushed = wait(|done| self.fs().flush(caller, node, handle, owner, done));
        flushed.expect("a close works");
    }

    fn release(&mut self, node: Ino, handle: Handle, owner: u64) {
        self.fs().release(node, handle);
        self.wait_until_given_up(node, owner);
    }

    fn read(&mut self, handle: Handle, offset: u64, len: usize) -> Result<Vec<u8>> {
        let len = u32::try_from(len).expect("reads are small here");
        let (tell, told) = channel();
        self.fs().read(handle, offset, len, move |read| {
            let _ = tell.send(read.map(<[u8]>::to_vec)); // the test has failed if nobody listens
        });
        let read = told.recv_timeout(PATIENCE).expect("a read is answered");
        read.map_err(|error| errno_of(&error))
    }

    fn write(
        &mut self,
        who: Who,
        (ino, handle): (Ino, Handle),
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> Result<usize> {
        let (write, kill) = (Write { ino, handle, offset, data, append }, who.uid != 0);
        let written = self.call(who, |fs, caller, done| fs.write(caller, write, kill, done))?;
        Ok(written.bytes as usize)
    }

    fn allocate(
        &mut self,
        who: Who,
        (node, handle): (Ino, Handle),
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result {
        self.call(who, |fs, caller, done| {
            fs.fallocate(caller, node, handle, offset, len, mode as u32, done);
        })
    }

    fn copy(
        &mut self,
        who: Who,
        from: (Handle, u64),
        (node, to, to_offset): (Ino, Handle, u64),
        len: u64,
    ) -> Result<u64> {
        let to = (to, to_offset);
        self.call(who, |fs, caller, done| fs.copy(caller, from, node, to, len, done))
    }

    fn seek_hole(&mut self, handle: Handle, offset: u64, hole: bool) -> Result<u64> {
        self.call(ROOT_USER, |fs, _, done| fs.seek(handle, offset, hole, done))
    }

    fn sync(&mut self, who: Who, node: Ino, data_only: bool) -> Result {
        // The kernel does not ask for directories: their changes are durable already.
        if self.stat(node)?.is_directory {
            return Ok(());
        }
        self.call(who, |fs, caller, done| fs.fsync(caller, node, data_only, done))
    }

    fn set_attr(&mut self, who: Who, node: Ino, wanted: Wanted) -> Result {
        let Wanted { mode, uid, gid, size, mtime, kill_set_id } = wanted;
        let has_name = self.stat(node)?.links > 0;
        // Only this node's kernel asks for a chown(-1, -1).
        let changes = mode.or(uid).or(gid).is_some();
        if who.elsewhere && has_name && changes {
            let set = SetAttr { mode, uid, gid, ..SetAttr::default() };
            return self.node.elsewhere(who, Op::SetAttr { ino: node, set });
        }
        let mtime = mtime.map(|mtime| match mtime {
            Some(seconds) => SetTime::At(Timestamp::new(seconds, 0)),
            None => SetTime::Now,
        });
        let wanted = fusefs::ops::Wanted { mode, uid, gid, size, atime: mtime, mtime, kill_set_id };
        self.call(who, |fs, caller, done| fs.set_attr(caller, node, wanted, done))
    }

    fn set_xattr(&mut self, who: Who, node: Ino, name: &str, value: &[u8], flags: i32) -> Result {
        let how = match flags {
            libc::XATTR_CREATE => XattrHow::Create,
            libc::XATTR_REPLACE => XattrHow::Replace,
            _ => XattrHow::Set,
        };
        self.call(who, |fs, caller, done| {
            fs.set_xattr(caller, node, name.as_bytes(), value, how, done);
        })
    }

    fn xattr(&self, node: Ino, name: &str) -> Result<Vec<u8>> {
        self.fs().xattr(node, name.as_bytes()).map_err(|error| errno_of(&error))
    }

    fn xattr_names(&self, node: Ino) -> Result<Vec<String>> {
        let list = self.fs().xattr_names(node).map_err(|error| errno_of(&error))?;
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| text(name.to_vec())).collect())
    }

    fn remove_xattr(&mut self, who: Who, node: Ino, name: &str) -> Result {
        let name = name.as_bytes();
        self.call(who, |fs, caller, done| fs.remove_xattr(caller, node, name, done))
    }

    fn lock(&mut self, (node, handle): (Ino, Handle), call: LockCall) -> Result<Locked> {
        let (interruptible, (tell, answer)) = (Call::default(), channel());
        let caller = Caller { cred: Cred::default(), call: Some(interruptible.clone()) };
        caller.begin_wait();
        self.fs().lock(caller, node, handle, Self::lock_request(&call), answer_to(tell));
        if call.wait == Wait::No {
            let answer = answer.recv_timeout(PATIENCE).expect("a lock call is answered");
            return answer.map(|_| Locked::Done).map_err(|error| errno_of(&error));
        }
        // Granted, refused, or waiting where it will be granted.
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer.map(|_| Locked::Done).map_err(|error| errno_of(&error));
            }
            if self.is_queued(node, call.owner) {
                self.node.settle();
                if let Ok(answer) = answer.try_recv() {
                    return answer.map(|_| Locked::Done).map_err(|error| errno_of(&error));
                }
                self.last_ticket += 1;
                let waiting = Waiting { call: interruptible, answer };
                self.waiting.insert(self.last_ticket, waiting);
                return Ok(Locked::Waits(self.last_ticket));
            }
            assert!(Instant::now() < deadline, "a lock call neither waits nor ends: {call:?}");
            std::thread::yield_now();
        }
    }

    fn test_lock(&mut self, (node, handle): (Ino, Handle), call: LockCall) -> Result<Option<Held>> {
        let mut request = Self::lock_request(&call);
        if let LockWish::Set { mode, .. } = request.wish {
            request.wish = LockWish::Test { mode };
        }
        let found = self.call(ROOT_USER, |fs, caller, done| {
            fs.lock(caller, node, handle, request, done);
        })?;
        Ok(found.map(|lock| Held {
            mode: match lock.mode {
                LockMode::Shared => Mode::Shared,
                LockMode::Exclusive => Mode::Exclusive,
            },
            start: lock.range.start,
            end: lock.range.end,
            pid: lock.pid,
        }))
    }

    fn interrupt(&mut self, ticket: u64) {
        let waiting = &self.waiting[&ticket];
        // False where it was granted already.
        waiting.call.interrupt();
    }

    fn answer(&mut self, ticket: u64, due: bool) -> Option<Result> {
        let waiting = self.waiting.get(&ticket)?;
        let answer = match due {
            true => waiting.answer.recv_timeout(PATIENCE).expect("a waiting lock call ends"),
            false => waiting.answer.try_recv().ok()?,
        };
        self.waiting.remove(&ticket);
        self.node.settle();
        Some(answer.map(drop).map_err(|error| errno_of(&error)))
    }

    fn publish(&mut self) {
        self.node.runtime.block_on(self.node.bodies.drain());
    }

    fn recall(&mut self, node: Ino) {
        let view = self.node.ring.view();
        let has_name = |inode: engine::namespace::Inode| inode.nlink > 0;
        if !view.inode(node).expect("memory").is_some_and(has_name) {
            return;
        }
        let recalled = self.node.runtime.block_on(self.node.bodies.recall(node));
        recalled.expect("the token is handed over");
        // Refused if this node has taken it again.
        self.node.ring.run(THERE, Op::TakeToken { ino: node, node: THERE });
    }

    fn use_locks(&mut self, node: Ino) {
        let view = self.node.ring.view();
        if view.inode(node).expect("memory").is_none() {
            return;
        }
        let (tell, told) = channel();
        let done = Box::new(move || {
            let _ = tell.send(()); // the test has failed if nobody listens
        });
        self.fs().share_locks(node, done);
        told.recv_timeout(PATIENCE).expect("locks are handed over");
        self.node.settle();
    }
}

fn caller(who: Who) -> Caller {
    let cred = Cred { uid: who.uid, gid: who.gid };
    Caller { cred, call: Some(Call::default()) }
}

fn parse(name: &str) -> Name {
    Name::parse(name.as_bytes()).expect("it is a name")
}

fn text(name: Vec<u8>) -> String {
    String::from_utf8(name).expect("names are UTF-8 here")
}

fn errno_of(error: &FsError) -> Errno {
    let code = errno(error).code();
    assert!(code != libc::EIO && code != libc::ETIMEDOUT, "{error}");
    code
}

/// A time since long before 1970.
fn clock(time: Timestamp) -> Time {
    let since = i128::from(time.seconds) + (1 << 70);
    Time::Clock((since * 1_000_000_000 + i128::from(time.nanos)) as u128)
}

pub fn clock_at(seconds: i64) -> Time {
    clock(Timestamp::new(seconds, 0))
}

fn answer_to<T: Send + 'static, E: Send + 'static>(
    tell: Sender<std::result::Result<T, E>>,
) -> Box<dyn FnOnce(std::result::Result<T, E>) + Send> {
    Box::new(move |result| {
        let _ = tell.send(result); // the test has failed if nobody listens
    })
}

fn wait<T: Send + 'static, E: Send + 'static>(
    call: impl FnOnce(Box<dyn FnOnce(std::result::Result<T, E>) + Send>),
) -> std::result::Result<T, E> {
    let (tell, told) = channel();
    call(answer_to(tell));
    told.recv_timeout(PATIENCE).expect("every call is answered")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

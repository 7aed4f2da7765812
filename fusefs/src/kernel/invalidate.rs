//! Takes back from the kernel's caches what applied commands changed.
//!
//! Only what the kernel knows, and only what it does not change by itself: the commands of
//! this node's own callers need nothing. Notifications go out on threads of their own, since
//! one of them can wait for a lock that a request holds (libfuse, fuse_lowlevel.h,
//! `fuse_lowlevel_notify_inval_entry`).
//!
//! # The race, and why nothing stale stays
//! A reply that was computed before a command was applied may reach the kernel's caches after
//! the notification for that command, and would then stay there for ever.
//!
//! - Names: a lookup holds its directory's lock in the kernel from before the request until
//!   its reply is in the cache; the notification for an entry takes that lock. So either the
//!   lookup was over, or the notification waits for it.
//! - Attributes of an inode that is in the kernel's cache: the kernel drops those of a reply
//!   that was asked for before a notification (`attr_version`). Replies to SETATTR are
//!   not checked so; they are sent without validity instead. So are those to lookups without a
//!   name (`adapter::is_above`), which hold no directory's lock.
//! - Attributes of an inode that is only now getting into the cache (lookup, create, link,
//!   readdirplus): these too come with the lock of the directory held. So before the
//!   notification for the inode, one goes out for an entry that can't exist in each directory
//!   through which it lately became known: it only waits for the lock.
//! - Pages: the kernel locks them from before the READ until its reply is in them, and the
//!   notification takes that lock.
//! - A rename by a local caller moves what the kernel holds for the old name to the new one,
//!   also if that is stale because the notification for the old name is still waiting
//!   for the directory. So names that such a command touches are taken back as well while
//!   a notification for one of them is on its way.
//!   Whoever reads the new name in that moment would see what was there before the rename; so the
//!   command says which inode the kernel moves, and is refused if it is another's turn.
//! - A directory that a local caller removes or replaces: the kernel marks the inode that it
//!   has for the name as dead, for good. So the command says which inode that is, and is refused
//!   if it is another's turn; and it is not proposed at all while a notification for the name is
//!   on its way, unless the kernel has looked the name up since (`Kernel::victim`); nor is a rename
//!   (`Kernel::holds`).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use engine::command::Name;
use engine::ids::Ino;
use engine::namespace::Touched;
use parking_lot::{Condvar, Mutex};

use super::known::Known;
use crate::ops::ports::Origin;

/// Where notifications go.
pub trait Notify: Send + Sync {
    fn entry(&self, parent: Ino, name: &[u8]) -> io::Result<()>;
    /// Attributes and, with `pages`, bytes (a directory's listing).
    fn inode(&self, ino: Ino, pages: bool) -> io::Result<()>;
}

impl Notify for fuser::Notifier {
    fn entry(&self, parent: Ino, name: &[u8]) -> io::Result<()> {
        self.inval_entry(fuser::INodeNo(parent.0), OsStr::from_bytes(name))
    }

    fn inode(&self, ino: Ino, pages: bool) -> io::Result<()> {
        // A negative offset means the attributes alone; length 0 means to the end.
        self.inval_inode(fuser::INodeNo(ino.0), if pages { 0 } else { -1 }, 0)
    }
}

pub struct Invalidator {
    known: Arc<Known>,
    notify: OnceLock<Box<dyn Notify>>,
    queue: Mutex<Queue>,
    woken: Condvar,
}

/// One lane for each directory (or inode): a notification that waits for a directory's lock
/// holds up that directory only.
#[derive(Default)]
struct Queue {
    lanes: HashMap<Ino, VecDeque<Job>>,
    /// Lanes with jobs that no worker has.
    ready: VecDeque<Ino>,
    /// Entries whose notification is not through.
    pending: HashMap<(Ino, Name), Pending>,
    /// Jobs that are not through, by number.
    open: BTreeSet<u64>,
    last_number: u64,
    /// What waits until no job up to a number is open.
    after: Vec<(u64, Box<dyn FnOnce() + Send>)>,
    workers: usize,
    idle: usize,
    stopped: bool,
}

/// Notifications of one entry that are on their way.
#[derive(Default)]
struct Pending {
    count: u32,
    /// How many there were until now, those that are through included.
    pushed: u64,
    /// The kernel has looked the entry up after the last of them was pushed.
    looked_up: bool,
}

/// What one command changed: entries first, so that the inodes' attributes are taken back
/// when no local operation on those entries is under way.
#[derive(Default)]
struct Job {
    number: u64,
    entries: Vec<(Ino, Name)>,
    inodes: BTreeMap<Ino, Depth>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    Attributes,
    /// And the bytes.
    Pages,
    /// A directory: attributes and listing.
    Listing,
}

impl Invalidator {
    pub fn new(known: Arc<Known>) -> Arc<Invalidator> {
        Arc::new(Invalidator {
            known,
            notify: OnceLock::new(),
            queue: Mutex::default(),
            woken: Condvar::new(),
        })
    }

    /// The mount is there: what is queued goes to `notify`.
    pub fn start(self: &Arc<Self>, notify: Box<dyn Notify>) {
        assert!(self.notify.set(notify).is_ok(), "a Kernel is mounted once");
        let mut queue = self.queue.lock();
        for _ in 0..WORKERS_MIN {
            self.add_worker(&mut queue);
        }
    }

    /// The mount is gone: drops what is queued and ends the workers.
    pub fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.stopped = true;
        queue.lanes.clear();
        queue.ready.clear();
        queue.pending.clear();
        queue.open.clear();
        let after = std::mem::take(&mut queue.after);
        drop(queue);
        for (_, then) in after {
            then();
        }
        self.woken.notify_all();
    }

    /// Queues what an applied command makes stale.
    pub fn applied(self: &Arc<Self>, touched: &[Touched], origin: Origin) {
        let mut job = Job::default();
        for touch in touched {
            match touch {
                Touched::Entry { parent, name } => {
                    if self.known.contains(*parent) {
                        job.entries.push((*parent, name.clone()));
                        job.add(*parent, Depth::Listing);
                    }
                }
                Touched::Attr { ino } | Touched::Gone { ino, .. } => {
                    if self.known.contains(*ino) {
                        job.add(*ino, Depth::Attributes);
                    }
                }
                Touched::Content { ino, .. } => {
                    if self.known.contains(*ino) {
                        // What this node published is in its kernel's pages, or newer.
                        let foreign = origin == Origin::Elsewhere;
                        job.add(*ino, if foreign { Depth::Pages } else { Depth::Attributes });
                    }
                }
                Touched::Token { .. }
                | Touched::Members
                | Touched::Volumes
                | Touched::Held { .. }
                | Touched::LockGranted { .. }
                | Touched::LockDenied { .. }
                | Touched::LocksGone { .. }
                | Touched::Expired { .. }
                | Touched::XattrsGone { .. }
                | Touched::Counted { .. }
                | Touched::Quota { .. }
                | Touched::Reserved { .. }
                | Touched::Reclaimed { .. } => {}
            }
        }
        if !job.inodes.is_empty() || !job.entries.is_empty() {
            self.push(job, origin == Origin::Caller);
        }
    }

    /// Takes back the attributes of one inode.
    pub fn attributes(self: &Arc<Self>, ino: Ino) {
        let mut job = Job::default();
        job.add(ino, Depth::Attributes);
        self.push(job, false);
    }

    /// Runs `then` when everything that was queued before has been taken back.
    pub fn when_through(&self, then: impl FnOnce() + Send + 'static) {
        let mut queue = self.queue.lock();
        if queue.open.is_empty() || queue.stopped {
            drop(queue);
            return then();
        }
        let last = queue.last_number;
        queue.after.push((last, Box::new(then)));
    }

    /// Takes back the pages and attributes of one inode.
    pub fn inode(self: &Arc<Self>, ino: Ino) {
        let mut job = Job::default();
        job.add(ino, Depth::Pages);
        self.push(job, false);
    }

    /// Begins a lookup: to be called before the tables are read, for [`Self::looked`].
    pub fn look(&self, parent: Ino, name: &Name) -> Option<u64> {
        let queue = self.queue.lock();
        // Nothing is pending nearly always: no copy of the name then.
        if queue.pending.is_empty() {
            return None;
        }
        queue.pending.get(&(parent, name.clone())).map(|pending| pending.pushed)
    }

    /// Ends a lookup, before its reply is sent.
    pub fn looked(&self, parent: Ino, name: &Name, look: Option<u64>) {
        let Some(pushed) = look else { return };
        if let Some(pending) = self.queue.lock().pending.get_mut(&(parent, name.clone()))
            && pending.pushed == pushed
        {
            pending.looked_up = true;
        }
    }

    /// True while the kernel may have something else for an entry than it was told of.
    pub fn is_stale(&self, parent: Ino, name: &Name) -> bool {
        let queue = self.queue.lock();
        queue.pending.get(&(parent, name.clone())).is_some_and(|pending| !pending.looked_up)
    }

    /// `by_caller`: only where a notification for one of the job's entries is on its way.
    fn push(self: &Arc<Self>, mut job: Job, by_caller: bool) {
        let mut queue = self.queue.lock();
        if queue.stopped {
            return;
        }
        if by_caller && !job.entries.iter().any(|entry| queue.pending.contains_key(entry)) {
            return;
        }
        let lane = match (job.entries.first(), job.inodes.first_key_value()) {
            (Some((parent, _)), _) => *parent,
            (None, Some((ino, _))) => *ino,
            (None, None) => return,
        };
        queue.last_number += 1;
        job.number = queue.last_number;
        queue.open.insert(job.number);
        for entry in &job.entries {
            let pending = queue.pending.entry(entry.clone()).or_default();
            pending.count += 1;
            pending.pushed += 1;
            pending.looked_up = false;
        }
        let fresh = !queue.lanes.contains_key(&lane);
        queue.lanes.entry(lane).or_default().push_back(job);
        if !fresh {
            return;
        }
        queue.ready.push_back(lane);
        if queue.idle > 0 {
            self.woken.notify_one();
        } else if self.notify.get().is_some() && queue.workers < WORKERS_MAX {
            self.add_worker(&mut queue);
        }
    }

    fn add_worker(self: &Arc<Self>, queue: &mut Queue) {
        let this = Arc::clone(self);
        let spawned =
            std::thread::Builder::new().name("fuse-notify".to_owned()).spawn(move || this.work());
        match spawned {
            Ok(_) => queue.workers += 1,
            // The workers that there are will come to it.
            Err(e) => tracing::warn!(error = %e, "no further thread for notifications"),
        }
    }

    fn work(&self) {
        let notify = self.notify.get().expect("workers begin with the mount").as_ref();
        let mut queue = self.queue.lock();
        while !queue.stopped {
            let Some(lane) = queue.ready.pop_front() else {
                queue.idle += 1;
                self.woken.wait(&mut queue);
                queue.idle -= 1;
                continue;
            };
            // The lane stays in the map while it is worked on, so that it is in one hand.
            let jobs = queue.lanes.get_mut(&lane).map(std::mem::take).unwrap_or_default();
            drop(queue);
            self.run(notify, &jobs);
            queue = self.queue.lock();
            for job in &jobs {
                queue.open.remove(&job.number);
            }
            let due = queue.due();
            if !due.is_empty() {
                drop(queue);
                due.into_iter().for_each(|then| then());
                queue = self.queue.lock();
            }
            for entry in jobs.iter().flat_map(|job| &job.entries) {
                queue.through(entry);
            }
            match queue.lanes.get(&lane) {
                Some(more) if !more.is_empty() => queue.ready.push_back(lane),
                Some(_) => drop(queue.lanes.remove(&lane)),
                None => {}
            }
        }
    }

    /// Entries of all `jobs`, then their inodes, each once.
    fn run(&self, notify: &dyn Notify, jobs: &VecDeque<Job>) {
        let mut inodes = BTreeMap::new();
        for job in jobs {
            for (parent, name) in &job.entries {
                sent(notify.entry(*parent, name.as_bytes()));
            }
            for (ino, depth) in &job.inodes {
                let deepest = inodes.entry(*ino).or_insert(*depth);
                *deepest = (*deepest).max(*depth);
            }
        }
        for (ino, depth) in inodes {
            // A listing that is being read gets into the cache under the directory's own lock.
            if depth == Depth::Listing {
                sent(notify.entry(ino, IMPOSSIBLE_NAME));
            }
            let Some(via) = self.known.take_via(ino) else { continue };
            for parent in via {
                sent(notify.entry(parent, IMPOSSIBLE_NAME));
            }
            sent(notify.inode(ino, depth > Depth::Attributes));
        }
    }
}

impl Job {
    fn add(&mut self, ino: Ino, depth: Depth) {
        let deepest = self.inodes.entry(ino).or_insert(depth);
        *deepest = (*deepest).max(depth);
    }
}

impl Queue {
    /// What waited for the jobs that are through now.
    fn due(&mut self) -> Vec<Box<dyn FnOnce() + Send>> {
        let oldest = self.open.first().copied().unwrap_or(u64::MAX);
        self.after.extract_if(.., |(last, _)| *last < oldest).map(|(_, then)| then).collect()
    }

    fn through(&mut self, entry: &(Ino, Name)) {
        if let Some(pending) = self.pending.get_mut(entry) {
            pending.count -= 1;
            if pending.count == 0 {
                self.pending.remove(entry);
            }
        }
    }
}

/// The kernel does not hold what was named, or the mount is ending: either way nothing stale
/// is left.
fn sent(result: io::Result<()>) {
    if let Err(e) = result {
        let expected = [libc::ENOENT, libc::ENODEV, libc::ENOTCONN, libc::ENOTDIR];
        if !e.raw_os_error().is_some_and(|errno| expected.contains(&errno)) {
            tracing::warn!(error = %e, "the kernel refused to drop what it caches");
        }
    }
}

/// No directory entry has a slash in its name.
const IMPOSSIBLE_NAME: &[u8] = b"/";
const WORKERS_MIN: usize = 2;
/// Each can be held up by one directory that a waiting local operation keeps locked.
const WORKERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Says what it was told; entries in the directory `HELD` wait for `go`.
    struct Recorder {
        said: Mutex<mpsc::Sender<String>>,
        go: Mutex<mpsc::Receiver<()>>,
    }

    const HELD: Ino = Ino(66);

    impl Notify for Recorder {
        fn entry(&self, parent: Ino, name: &[u8]) -> io::Result<()> {
            if parent == HELD {
                self.go.lock().recv().unwrap();
            }
            let name = String::from_utf8_lossy(name);
            self.said.lock().send(format!("{parent:?} {name}")).unwrap();
            Ok(())
        }

        fn inode(&self, ino: Ino, pages: bool) -> io::Result<()> {
            let depth = if pages { "pages" } else { "attributes" };
            self.said.lock().send(format!("{ino:?} {depth}")).unwrap();
            Ok(())
        }
    }

    struct Rig {
        known: Arc<Known>,
        invalidator: Arc<Invalidator>,
        said: mpsc::Receiver<String>,
        go: mpsc::Sender<()>,
    }

    fn rig() -> Rig {
        let known = Arc::new(Known::default());
        let invalidator = Invalidator::new(Arc::clone(&known));
        let (said_sender, said) = mpsc::channel();
        let (go, go_receiver) = mpsc::channel();
        let recorder = Recorder { said: Mutex::new(said_sender), go: Mutex::new(go_receiver) };
        invalidator.start(Box::new(recorder));
        Rig { known, invalidator, said, go }
    }

    impl Rig {
        fn expect(&self, expected: &[&str]) {
            for expected in expected {
                assert_eq!(self.said.recv().unwrap(), *expected);
            }
        }

        /// Nothing was said before this.
        fn expect_nothing(&self) {
            self.known.add(Ino(999), Ino::ROOT);
            self.known.take_via(Ino(999));
            self.invalidator.applied(&[Touched::Attr { ino: Ino(999) }], Origin::Elsewhere);
            self.expect(&["i999 attributes"]);
        }
    }

    fn entry(parent: Ino, name: &str) -> Touched {
        Touched::Entry { parent, name: Name::parse(name.as_bytes()).unwrap() }
    }

    #[test]
    fn entries_go_first_and_a_new_inode_waits_for_its_directory() {
        let rig = rig();
        rig.known.take_via(Ino::ROOT);
        rig.known.add(Ino(20), Ino::ROOT);
        let touched = [Touched::Attr { ino: Ino(20) }, entry(Ino::ROOT, "a")];
        rig.invalidator.applied(&touched, Origin::Elsewhere);
        rig.expect(&["i1 a", "i1 /", "i1 pages", "i1 /", "i20 attributes"]);
        rig.invalidator.applied(&touched[..1], Origin::Elsewhere);
        rig.expect(&["i20 attributes"]);
    }

    #[test]
    fn what_the_kernel_does_not_know_is_not_taken_back() {
        let rig = rig();
        let touched = [entry(Ino(20), "a"), Touched::Attr { ino: Ino(21) }, Touched::Members];
        rig.invalidator.applied(&touched, Origin::Elsewhere);
        rig.expect_nothing();
    }

    #[test]
    fn the_kernel_s_own_changes_are_not_taken_back() {
        let rig = rig();
        rig.invalidator.applied(&[entry(Ino::ROOT, "a")], Origin::Caller);
        rig.expect_nothing();
    }

    #[test]
    fn what_waits_runs_when_everything_queued_before_is_through() {
        let rig = rig();
        let (ran_sender, ran) = mpsc::channel();
        let note = move |text: &'static str| {
            let ran = ran_sender.clone();
            move || ran.send(text).unwrap()
        };
        rig.invalidator.when_through(note("nothing is queued"));
        assert_eq!(ran.recv().unwrap(), "nothing is queued");
        rig.known.take_via(Ino::ROOT);
        rig.known.add(HELD, Ino::ROOT);
        rig.known.take_via(HELD);
        rig.invalidator.applied(&[entry(HELD, "a")], Origin::Elsewhere);
        rig.invalidator.when_through(note("after a"));
        rig.invalidator.applied(&[Touched::Attr { ino: Ino::ROOT }], Origin::Elsewhere);
        rig.expect(&["i1 attributes"]);
        assert!(ran.try_recv().is_err());
        for _ in 0..2 {
            rig.go.send(()).unwrap();
        }
        assert_eq!(ran.recv().unwrap(), "after a");
        rig.expect(&["i66 a", "i66 /", "i66 pages"]);
    }

    #[test]
    fn an_entry_is_stale_until_it_was_looked_up_or_taken_back() {
        let rig = rig();
        rig.known.add(HELD, Ino::ROOT);
        rig.known.take_via(HELD);
        let name = Name::parse(b"a").unwrap();
        let is_stale = || rig.invalidator.is_stale(HELD, &name);
        assert!(!is_stale());
        rig.invalidator.applied(&[entry(HELD, "a")], Origin::Elsewhere);
        assert!(is_stale());
        let look = rig.invalidator.look(HELD, &name);
        rig.invalidator.applied(&[entry(HELD, "a")], Origin::Elsewhere);
        rig.invalidator.looked(HELD, &name, look);
        assert!(is_stale(), "what was looked up may be what was before");
        let look = rig.invalidator.look(HELD, &name);
        rig.invalidator.looked(HELD, &name, look);
        assert!(!is_stale());
        for _ in 0..4 {
            rig.go.send(()).unwrap();
        }
        rig.expect(&["i66 a"]);
    }

    #[test]
    fn a_held_directory_holds_up_itself_only_and_taints_local_renames() {
        let rig = rig();
        rig.known.take_via(Ino::ROOT);
        rig.known.add(HELD, Ino::ROOT);
        rig.known.take_via(HELD);
        rig.invalidator.applied(&[entry(HELD, "old")], Origin::Elsewhere);
        rig.expect_nothing();
        // The kernel moves whatever it has for "old" to "new".
        rig.invalidator.applied(&[entry(HELD, "old"), entry(HELD, "new")], Origin::Caller);
        for _ in 0..5 {
            rig.go.send(()).unwrap();
        }
        rig.expect(&["i66 old", "i66 /", "i66 pages"]);
        rig.expect(&["i66 old", "i66 new"]);
    }
}

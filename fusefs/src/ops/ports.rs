//! What an operation needs from the rest of the daemon, as traits: the order ([`Ring`]), the
//! bytes ([`Bodies`]), and who is told when a command was applied ([`OnApplied`]).
//!
//! `node/` implements [`Ring`], `body/` implements [`Bodies`]; `kernel/` and `body/` implement
//! [`OnApplied`]. Every method may be called from any thread. A method with a `done` callback
//! never blocks its caller for the network or for another operation; it may call `done` before
//! it returns. `done` is called exactly once, and must itself not block.

use std::sync::Arc;
use std::time::Duration;

use engine::command::{Cred, Op};
use engine::ids::{Gsn, Ino, NodeId};
use engine::namespace::tables::{Tables, TablesError};
use engine::namespace::{Inode, Touched};
use engine::outcome::Outcome;
use engine::time::Timestamp;

use super::call::Call;
use super::rules::{Durability, Partition};

/// Tables behind one pointer, so that a view is one type over RocksDB and over memory.
#[derive(Clone)]
pub struct SharedTables(pub Arc<dyn Tables + Send + Sync>);

impl Tables for SharedTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.0.get(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        self.0.scan(prefix, from, visit)
    }
}

/// The agreed state at one GSN.
pub type View = engine::namespace::View<SharedTables>;

/// Called once with the result of an operation that may take a while.
pub type Done<T, E> = Box<dyn FnOnce(Result<T, E>) + Send>;

/// The agreed order of one volume, as this node sees it.
pub trait Ring: Send + Sync {
    /// Who this node is.
    fn me(&self) -> NodeId;

    /// The agreed state as it is now, consistent in itself: later applies don't show in it.
    /// Shows every command whose `done` was called before.
    fn view(&self) -> View;

    /// Counts the starts of this node.
    fn boot(&self) -> u64;

    /// The newest GSN that [`Self::view`] shows.
    fn applied_gsn(&self) -> Gsn;

    /// The newest GSN that the tables show at this moment; a little ahead of
    /// [`Self::applied_gsn`] while a command is being applied.
    fn shown_gsn(&self) -> Gsn {
        self.applied_gsn()
    }

    /// The newest GSN of which every [`OnApplied`] was told.
    fn told_gsn(&self) -> Gsn {
        self.applied_gsn()
    }

    /// An inode number that was never used before.
    fn alloc_ino(&self) -> Result<Ino, ProposeError>;

    /// This node's clock.
    fn now(&self) -> Timestamp;

    /// Proposes `op`, with the time of now. `done` runs when it was applied here, after
    /// every [`OnApplied`] was told; with an error, the operation may still happen later, and
    /// is then applied with [`Origin::Elsewhere`]. The commands of one thread keep their order.
    /// The caller's wait ends ([`Call::end_wait`]) before anybody is told that it was applied:
    /// if a signal was first, it comes from elsewhere.
    fn propose(&self, caller: Caller, op: Op, done: Done<Outcome, ProposeError>);

    /// Runs `done` when everything that was agreed before the call is applied here; the partition
    /// rule of `ino` says how long that may take. With [`ProposeError::NoQuorum`] where the rule
    /// ends it.
    fn barrier(&self, caller: Caller, ino: Ino, done: Done<(), ProposeError>) {
        let _ = ino;
        self.propose(caller, Op::Noop, Box::new(move |result| done(result.map(drop))));
    }

    /// Asks `holder` to seal what it wrote to `ino` and to release the write token, or frees it
    /// if the holder's lease has ended. `done` runs when that is agreed, or with an error when
    /// the holder could not be asked or did not answer in time; the caller then takes the token
    /// again, which shows what became of it.
    fn recall(&self, holder: NodeId, ino: Ino, done: Done<(), ProposeError>);

    /// Whether what this node holds of files, write tokens and locks, is its own at this moment:
    /// whether anything of it was agreed lately (docs/design/0003-leases.md).
    fn has_lease(&self) -> bool {
        true
    }

    /// Whether the lease of `node` has ended, so that [`Self::expire`] can free what it holds.
    fn lease_ended(&self, node: NodeId) -> bool {
        let _ = node;
        false
    }

    /// Frees what `node` holds of `ino`, if its lease has ended. `done` runs when that is agreed
    /// or refused, at once if the lease has not ended.
    fn expire(&self, node: NodeId, ino: Ino, done: Done<(), ProposeError>) {
        let _ = (node, ino);
        done(Ok(()));
    }

    /// Whether this node knows that it cannot reach a majority.
    fn is_cut_off(&self) -> bool {
        false
    }

    /// How long a call waits for a majority where its directory's rule is `error`.
    fn op_timeout(&self) -> Duration {
        Duration::MAX
    }

    /// Asks `keeper` to hand over the locks of `ino`, after publishing what was written
    /// there, or frees them. `done` as for [`Self::recall`].
    fn ask_locks(&self, keeper: NodeId, ino: Ino, done: Done<(), ProposeError>);
}

/// Who wants an operation and waits for it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub cred: Cred,
    /// What a signal ends. `None`: the daemon, for itself.
    pub call: Option<Call>,
}

impl Caller {
    /// This node's daemon.
    pub const DAEMON: Caller = Caller { cred: Cred::SYSTEM, call: None };

    /// As [`Call::begin_wait`].
    pub fn begin_wait(&self) {
        if let Some(call) = &self.call {
            call.begin_wait();
        }
    }

    /// Whether a signal came while it waited.
    pub fn is_interrupted(&self) -> bool {
        self.call.as_ref().is_some_and(Call::is_interrupted)
    }

    /// As [`Call::end_wait`].
    ///
    /// # Errors
    /// [`ProposeError::Interrupted`].
    pub fn end_wait(&self) -> Result<(), ProposeError> {
        self.call.as_ref().map_or(Ok(()), Call::end_wait)
    }
}

/// Why an operation has no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    #[error("no majority of the ring answered within {waited_ms} ms")]
    NoQuorum { waited_ms: u64 },
    /// The directory's rule: no waiting.
    #[error("no majority of the ring can be reached, and the directory is read-only then")]
    ReadOnly,
    #[error("a signal came while the operation waited; it may still happen")]
    Interrupted,
    #[error("this node is stopping")]
    Stopping,
    #[error("this node cut itself off from its order: {0}")]
    Broken(String),
}

/// Told about every applied command, in GSN order, on the apply thread, after the tables show
/// it and before its proposer's `done`. Must be quick and must not call [`Ring::propose`].
/// The applier tells `body/` before `kernel/`.
pub trait OnApplied: Send + Sync {
    fn applied(&self, gsn: Gsn, touched: &[Touched], origin: Origin);

    /// A checkpoint took the place of the tables: `after` is the state at `gsn`, and the
    /// commands since `before` are not told one by one. `replaced::changes` tells what is
    /// different about an inode.
    fn replaced(&self, gsn: Gsn, before: &View, after: &View);
}

/// Where a command came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A caller on this node waits for it: its `done` comes next. The kernel of this node
    /// therefore knows about the change by itself.
    Caller,
    /// This node's daemon for itself: a seal of what was written here, a token, a watermark.
    /// The kernel's pages are what was published or newer; its attributes may be old.
    Daemon,
    /// Another node, an earlier start of this node, or a caller that was already answered
    /// with an error.
    Elsewhere,
}

/// An open file. Made by [`Bodies::open`], ended by [`Bodies::release`]; never 0, never reused
/// within one start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// The bytes of files on this node: sealed bodies, wherever they lie, below stages that are
/// being written here.
///
/// A *stage* exists from the first change (write, truncate, fallocate, `open` with `truncate`)
/// until its `Publish` was applied here; while it does, the stage decides size, mtime and
/// bytes on this node, and [`Self::local_attr`] answers. Only the node with the write token
/// stages an inode: each changing call returns [`BodyError::NeedsToken`] when
/// the token is not here (never held, or recalled since); the caller then has
/// `Op::TakeToken` agreed and calls again; so it does at [`BodyError::NeedsLease`], when nothing
/// of this node was agreed lately. A node whose `Make` created a file has its token.
/// `NeedsToken` always comes before the call returns, so that the caller still has its data.
///
/// After [`Touched::Gone`] the body (stage or sealed) of the inode stays for the handles open
/// at that time, readable and writable locally without a token and never published; it goes
/// with the last handle's release. Without handles it goes at once; an `open` of it after that
/// (its `inode` then has `nlink` 0) starts again from `inode.body`, or empty.
pub trait Bodies: Send + Sync {
    /// Opens the body of `ino`. `inode` is its agreed (or, after `Gone`, pinned) record as
    /// read just now. With `truncate` the file is empty afterwards (a new stage).
    ///
    /// # Errors
    /// [`BodyError::NeedsToken`] for `write` or `truncate` without the token.
    fn open(
        &self,
        ino: Ino,
        inode: &Inode,
        write: bool,
        truncate: bool,
    ) -> Result<Handle, BodyError>;

    /// Reads up to `len` bytes at `offset`; fewer only at the end of the file. The bytes are
    /// of one version. Fetches what is not here; `done` fails with [`BodyError::Unreachable`]
    /// after the fetch timeout.
    fn read(&self, handle: Handle, offset: u64, len: u32, done: ReadDone);

    /// Writes all of `data` at `offset` (at the end of the file with `append`, decided here
    /// under the stage's lock) and gives the bytes written. Done before it returns unless old
    /// bytes of the file must be fetched first.
    fn write(
        &self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        append: bool,
        done: Done<u32, BodyError>,
    );

    /// Makes the file `size` bytes long, through its stage, which begins with this if the file
    /// is open for writing. Gives false, with nothing done, when there is no stage (and `ino` is
    /// not gone): the caller then proposes
    /// `Op::SetAttr { size }`. A stage whose `Publish` is on its way counts as a stage.
    fn truncate(&self, ino: Ino, size: u64, done: Done<bool, BodyError>);

    /// Sets the mtime that the stage will publish, and its ctime to now. Gives false, with nothing done, when there
    /// is no stage or its `Publish` is on its way already: the caller then proposes
    /// `Op::SetAttr { mtime }`, which is agreed after it.
    fn set_mtime(&self, ino: Ino, mtime: Timestamp) -> bool;

    /// Has room for `bytes` more reserved in a quota, after a call said
    /// [`BodyError::NeedsQuota`]; the caller then calls again. `partition` says how long to wait for
    /// a majority; the request goes on all the same.
    fn reserve(&self, quota: Ino, bytes: u64, partition: Partition, done: Done<(), BodyError>);

    /// fallocate(2). `mode` is its flags (`FALLOC_FL_*`); unknown ones are
    /// [`BodyError::Unsupported`].
    fn fallocate(
        &self,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: u32,
        done: Done<(), BodyError>,
    );

    /// Makes the bytes and, unless `data_only`, size and times durable as demanded. Also without
    /// a handle's own writes: it is the file's.
    fn fsync(&self, ino: Ino, data_only: bool, demand: Demand, done: Done<(), BodyError>);

    /// Seals and publishes what is written of `ino`. `done` runs when all that was written
    /// before the call is agreed. A file without a name, of which nothing is published
    /// otherwise, is like others from here on.
    fn publish_file(&self, ino: Ino, done: Done<(), BodyError>);

    /// A file descriptor of `handle` was closed (close(2) waits for this). Reports errors of
    /// earlier background writes of this file once.
    fn flush(&self, handle: Handle, done: Done<(), BodyError>);

    /// The last use of `handle` (mappings too) is over. The seal follows in the background.
    fn release(&self, handle: Handle);

    /// The process behind `handle` relied on a lock that others were given: what it still does
    /// through `handle` fails with [`BodyError::Expired`], until [`Self::release`].
    fn revoke(&self, handle: Handle);

    /// Seals and publishes what this node's processes have written until now: to `ino`, to
    /// every file that they have closed, and to those that are open and not large. `done` runs
    /// when the versions are agreed or refused.
    fn publish_written(&self, ino: Ino, done: Done<(), BodyError>);

    /// Has what is written now proposed, and then runs `done`: what its caller proposes there
    /// comes after it in the order. After a bounded time `done` runs all the same.
    fn offer(&self, what: Offer, done: OfferDone);

    /// lseek(2) with SEEK_DATA (`hole` false) or SEEK_HOLE. `done` fails with
    /// [`BodyError::NoData`] beyond the last data, or at or beyond the end.
    fn seek(&self, handle: Handle, offset: u64, hole: bool, done: Done<u64, BodyError>);

    /// copy_file_range(2): copies up to `len` bytes between two handles' files, each with the
    /// offset there, and gives how many; 0 only at the end of the source. What can be shared is
    /// not copied.
    fn copy(&self, from: (Handle, u64), to: (Handle, u64), len: u64, done: Done<u64, BodyError>);

    /// Whether a handle that may write to `ino` is open here.
    fn is_open_for_writing(&self, ino: Ino) -> bool;

    /// Size and times while a stage is newer than the agreed inode, or the orphan's.
    fn local_attr(&self, ino: Ino) -> Option<LocalAttr>;

    /// Where the bytes are, for people (`user.fusion.zones`, `user.fusion.state`).
    fn residence(&self, ino: Ino, inode: &Inode) -> Residence;

    /// Room for bodies on this node.
    fn space(&self) -> Space;
}

/// Gets the bytes of a read; they are copied to the kernel before it returns.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8], BodyError>) + Send>;

/// How durable an fsync has to make a file, and how long it may wait for that.
#[derive(Clone, Debug)]
pub struct Demand {
    pub durability: Durability,
    pub partition: Partition,
    /// Whose signals end the wait.
    pub caller: Caller,
}

/// Which files' versions to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// One file's, whether it is open or not.
    File(Ino),
    /// All that were closed, except for one that is about to go.
    ClosedBut(Option<Ino>),
}

/// Runs once, on any thread.
pub type OfferDone = Box<dyn FnOnce() + Send>;

/// What a stage says about its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAttr {
    /// Bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    pub mtime: Timestamp,
    /// The file's ctime is the later of this and the agreed one.
    pub ctime: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residence {
    /// Names of the zones that hold the current version, sorted.
    pub zones: Vec<String>,
    /// One word: `empty`, `inline`, `staged`, `held`, `arriving`, `remote`.
    pub state: &'static str,
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// Free, less the reserve that keeps the log writable.
    pub available_bytes: u64,
}

/// Why bytes could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    #[error("this node does not hold the write token of {0}")]
    NeedsToken(Ino),
    /// The token is here, but this node's lease has ended.
    #[error("this node was silent for so long that it may not write {0} now")]
    NeedsLease(Ino),
    /// The lease ended, and others were given the file.
    #[error("this node was silent for so long that others were given the file")]
    Expired,
    #[error("no holder of the bytes could be reached within {waited_ms} ms")]
    Unreachable { waited_ms: u64 },
    /// Always told before the call returns, so that the caller still has its data.
    #[error("{bytes} bytes of the quota {quota} must be reserved first")]
    NeedsQuota { quota: Ino, bytes: u64 },
    /// `short` = by how many bytes the room that is left does not do.
    #[error("a quota has {short} bytes too few")]
    QuotaExceeded { short: u64 },
    #[error("no space left on this node for bodies")]
    NoSpace,
    #[error("the file would be too large")]
    TooLarge,
    #[error("no data from there on")]
    NoData,
    #[error("not supported for this file")]
    Unsupported,
    #[error("the arguments make no sense")]
    Invalid,
    /// The handle is not open, or not open for this use.
    #[error("bad file handle")]
    BadHandle,
    #[error("local storage failed: {0}")]
    Storage(String),
    #[error("the local bytes are damaged and no other copy answered: {0}")]
    Damaged(String),
    #[error(transparent)]
    Order(#[from] ProposeError),
}

//! What Linux asks of a filesystem, as a trait: the model and the product both answer it.

use std::fmt::Debug;

use super::call::Mode;

/// An error number.
pub type Errno = i32;
pub type Result<T = ()> = std::result::Result<T, Errno>;

/// Who calls, and from which node.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    /// Another node's process does it.
    pub elsewhere: bool,
}

/// What stat(2) tells; sizes and links of directories are each filesystem's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub is_directory: bool,
    pub mode: u32,
    /// 0 of a directory that has none, else 1.
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
}

/// Attributes to set; `None` leaves them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    /// mtime: now, or so many seconds.
    pub mtime: Option<Option<i64>>,
    pub kill_set_id: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameHow {
    Replace,
    NoReplace,
    Exchange,
}

/// A lock call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockCall {
    pub owner: u64,
    pub is_flock: bool,
    /// `None` gives up.
    pub mode: Option<Mode>,
    pub start: u64,
    pub end: u64,
    pub wait: Wait,
    pub pid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    No,
    Yes,
    UnlessDeadlock,
}

/// What became of a lock call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    Done,
    /// Its caller waits, under this number.
    Waits(u64),
}

/// A lock that stands against another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub mode: Mode,
    pub start: u64,
    pub end: u64,
    pub pid: u32,
}

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    pub names: Vec<String>,
    /// Where it goes on.
    pub position: u64,
    pub is_end: bool,
}

/// A time of change, to be compared with itself and with what was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Time {
    /// It was set to so many seconds.
    Given(i64),
    /// Of a clock that never shows the same time twice.
    Clock(u128),
}

/// One filesystem below one kernel.
pub trait Filesystem {
    type Node: Copy + Eq + Ord + Debug;
    type Handle: Copy + Eq + Debug;

    fn root(&self) -> Self::Node;
    fn lookup(&self, parent: Self::Node, name: &str) -> Option<Self::Node>;
    fn stat(&self, node: Self::Node) -> Result<Stat>;
    /// Of the content, and of the inode.
    fn times(&self, node: Self::Node) -> Result<(Time, Time)>;

    /// The kernel begins and ends to know an inode by an open file.
    fn know(&mut self, node: Self::Node);
    fn forget(&mut self, node: Self::Node);

    fn create(
        &mut self,
        who: Who,
        at: (Self::Node, &str),
        mode: u32,
        umask: u32,
        write: bool,
    ) -> Result<(Self::Node, Self::Handle)>;
    fn create_unnamed(
        &mut self,
        who: Who,
        parent: Self::Node,
        mode: u32,
        umask: u32,
    ) -> Result<(Self::Node, Self::Handle)>;
    fn mkdir(&mut self, who: Who, at: (Self::Node, &str), mode: u32, umask: u32) -> Result;
    fn link(&mut self, who: Who, node: Self::Node, at: (Self::Node, &str)) -> Result;
    fn unlink(&mut self, who: Who, at: (Self::Node, &str)) -> Result;
    fn rmdir(&mut self, who: Who, at: (Self::Node, &str)) -> Result;
    fn rename(
        &mut self,
        who: Who,
        from: (Self::Node, &str),
        to: (Self::Node, &str),
        how: RenameHow,
    ) -> Result;
    /// All names, without dots.
    fn names(&self, directory: Self::Node) -> Vec<String>;
    /// The next names of a directory.
    fn entries(&self, directory: Self::Node, position: u64, count: usize) -> Result<Entries>;

    fn open(&mut self, who: Who, node: Self::Node, write: bool) -> Result<Self::Handle>;
    /// A descriptor was closed by the process that is `owner`.
    fn flush(&mut self, node: Self::Node, handle: Self::Handle, owner: u64);
    /// The last descriptor is closed: so are the locks of the open file `owner`.
    fn release(&mut self, node: Self::Node, handle: Self::Handle, owner: u64);
    fn read(&mut self, handle: Self::Handle, offset: u64, len: usize) -> Result<Vec<u8>>;
    /// Writes `data`, at the end with `append`.
    fn write(
        &mut self,
        who: Who,
        open: (Self::Node, Self::Handle),
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> Result<usize>;
    fn allocate(
        &mut self,
        who: Who,
        open: (Self::Node, Self::Handle),
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result;
    fn copy(
        &mut self,
        who: Who,
        from: (Self::Handle, u64),
        to: (Self::Node, Self::Handle, u64),
        len: u64,
    ) -> Result<u64>;
    fn seek_hole(&mut self, handle: Self::Handle, offset: u64, hole: bool) -> Result<u64>;
    fn sync(&mut self, who: Who, node: Self::Node, data_only: bool) -> Result;
    fn set_attr(&mut self, who: Who, node: Self::Node, wanted: Wanted) -> Result;

    fn set_xattr(
        &mut self,
        who: Who,
        node: Self::Node,
        name: &str,
        value: &[u8],
        flags: i32,
    ) -> Result;
    fn xattr(&self, node: Self::Node, name: &str) -> Result<Vec<u8>>;
    fn xattr_names(&self, node: Self::Node) -> Result<Vec<String>>;
    fn remove_xattr(&mut self, who: Who, node: Self::Node, name: &str) -> Result;

    fn lock(&mut self, open: (Self::Node, Self::Handle), call: LockCall) -> Result<Locked>;
    fn test_lock(
        &mut self,
        open: (Self::Node, Self::Handle),
        call: LockCall,
    ) -> Result<Option<Held>>;
    /// A signal for a caller that waits; the answer follows.
    fn interrupt(&mut self, ticket: u64);
    /// The answer to a caller that waited, if there is one; `due` if there must be.
    fn answer(&mut self, ticket: u64, due: bool) -> Option<Result>;

    /// Things that happen in the background, and must change nothing.
    fn publish(&mut self);
    fn recall(&mut self, node: Self::Node);
    fn use_locks(&mut self, node: Self::Node);
}

//! What a caller wants.

use std::time::Instant;

use engine::ids::Ino;
use engine::locks::{ByteRange, Lock, LockKind, LockMode, LockOwner};

/// A lock call, as the kernel passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// The kernel's name for the owner: of a process, or of an open file.
    pub owner: u64,
    pub kind: LockKind,
    pub range: ByteRange,
    /// The calling process.
    pub pid: u32,
    pub wish: LockWish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWish {
    Set {
        mode: LockMode,
        wait: Wait,
    },
    Clear,
    /// Say what stands against it.
    Test {
        mode: LockMode,
    },
}

/// What to do while another one holds the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    No,
    Yes,
    /// And fail if that would be a deadlock: POSIX locks.
    UnlessDeadlock,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub ticket: u64,
    pub ino: Ino,
    pub what: What,
    pub began: Instant,
    /// This node could not become the keeper: the request is agreed.
    pub agreed_only: bool,
    /// How often a keeper was asked for it.
    pub asks: u32,
    /// A close that is under way was given the time to end.
    pub graced: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Lock { lock: Lock, wait: Wait },
    Unlock { owner: LockOwner, kind: LockKind, range: ByteRange },
    Test(Lock),
}

impl Asked {
    pub fn new(ticket: u64, ino: Ino, what: What) -> Asked {
        let began = Instant::now();
        Asked { ticket, ino, what, began, agreed_only: false, asks: 0, graced: false }
    }

    /// Whether its caller waits for as long as it takes.
    pub fn is_patient(&self) -> bool {
        !matches!(self.what, What::Lock { wait: Wait::No, .. } | What::Test(_))
    }
}

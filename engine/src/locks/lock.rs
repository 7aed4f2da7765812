//! One lock: who, how, and which bytes.

use minicbor::{Decode, Encode};

use crate::ids::NodeId;

/// Whose lock it is. A node numbers its owners by itself (a process for POSIX locks, an open
/// file for the others), so the number counts only together with the node and its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct LockOwner {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub boot: u64,
    #[n(2)]
    pub id: u64,
}

/// Locks of different kinds never meet, as on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LockKind {
    /// fcntl(2): of a process (`F_SETLK`) or of an open file (`F_OFD_SETLK`).
    #[n(0)]
    Record,
    /// flock(2): of an open file, always the whole of it.
    #[n(1)]
    Flock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LockMode {
    #[n(0)]
    Shared,
    #[n(1)]
    Exclusive,
}

/// Bytes `start ..= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct ByteRange {
    #[n(0)]
    pub start: u64,
    #[n(1)]
    pub end: u64,
}

impl ByteRange {
    pub const WHOLE: ByteRange = ByteRange { start: 0, end: u64::MAX };

    pub fn new(start: u64, end: u64) -> Option<ByteRange> {
        (start <= end).then_some(ByteRange { start, end })
    }

    pub fn overlaps(self, other: ByteRange) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether the two together are one range.
    pub fn joins(self, other: ByteRange) -> bool {
        self.start <= other.end.saturating_add(1) && other.start <= self.end.saturating_add(1)
    }

    /// The smallest range with both in it.
    pub fn union(self, other: ByteRange) -> ByteRange {
        ByteRange { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// What of `self` lies before and behind `hole`.
    pub fn without(self, hole: ByteRange) -> impl Iterator<Item = ByteRange> {
        let before =
            hole.start.checked_sub(1).and_then(|end| ByteRange::new(self.start, end.min(self.end)));
        let behind = hole
            .end
            .checked_add(1)
            .and_then(|start| ByteRange::new(start.max(self.start), self.end));
        [before, behind].into_iter().flatten()
    }
}

/// A lock that is held or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct Lock {
    #[n(0)]
    pub range: ByteRange,
    #[n(1)]
    pub owner: LockOwner,
    #[n(2)]
    pub kind: LockKind,
    #[n(3)]
    pub mode: LockMode,
    /// The process that asked, by its number on its node: for `F_GETLK`.
    #[n(4)]
    pub pid: u32,
    /// Meets every lock of another node, also where both are shared: for files that are the
    /// memory of one node's processes (docs/SEMANTICS.md, "SQLite in WAL mode").
    #[n(5)]
    pub solo: bool,
}

impl Lock {
    /// Whether the two cannot be held together.
    pub fn conflicts(&self, other: &Lock) -> bool {
        let modes = self.mode == LockMode::Exclusive || other.mode == LockMode::Exclusive;
        let nodes = (self.solo || other.solo) && self.owner.node != other.owner.node;
        self.owner != other.owner
            && self.kind == other.kind
            && (modes || nodes)
            && self.range.overlaps(other.range)
    }

    /// Whether the two are of one owner and kind, so that the newer one replaces the older one.
    pub fn is_of_one_owner(&self, other: &Lock) -> bool {
        self.owner == other.owner && self.kind == other.kind
    }
}

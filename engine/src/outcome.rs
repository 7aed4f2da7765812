//! What applying a command produced: a result or a POSIX refusal. Both are agreed.

use minicbor::{Decode, Encode};

use crate::ids::{Ino, NodeId, Version};

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    #[n(0)]
    Done,
    /// `created` is false when a `Make` that was not exclusive found the file there.
    #[n(1)]
    Made {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        created: bool,
    },
    #[n(2)]
    Published(#[n(0)] Version),
    #[n(3)]
    Refused(#[n(0)] Refusal),
    /// The lock is another's; the request waits.
    #[n(4)]
    Waiting,
    /// The lock is another's, and what its owner held in another mode is given up (flock).
    #[n(5)]
    Busy,
}

/// What came of a command in its place in the order, for those who read the order later. A
/// function of the order alone, like the outcome: every node finds the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Verdict {
    /// It happened.
    #[n(0)]
    Done,
    #[n(1)]
    Refused(#[n(0)] Refusal),
    /// The lock is another's; the request waits.
    #[n(2)]
    Waiting,
    /// The lock is another's, and what its owner held in another mode is given up.
    #[n(3)]
    Busy,
    /// It had been agreed before, under the same id: what came of it is told there.
    #[n(4)]
    Repeated,
    /// It changed nothing and nobody was told anything: one before it is missing, or its node
    /// has started anew.
    #[n(5)]
    Skipped,
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    #[n(0)]
    #[error("no such file or directory")]
    NotFound,
    #[n(1)]
    #[error("the name exists")]
    Exists,
    #[n(2)]
    #[error("not a directory")]
    NotDirectory,
    #[n(3)]
    #[error("is a directory")]
    IsDirectory,
    #[n(4)]
    #[error("the directory is not empty")]
    NotEmpty,
    #[n(5)]
    #[error("operation not permitted")]
    NotPermitted,
    #[n(6)]
    #[error("permission denied")]
    Denied,
    #[n(7)]
    #[error("the file has too many links")]
    TooManyLinks,
    #[n(8)]
    #[error("invalid argument")]
    Invalid,
    #[n(9)]
    #[error("no such attribute")]
    NoAttribute,
    #[n(10)]
    #[error("the attribute is too large")]
    AttributeTooLarge,
    #[n(11)]
    #[error("the file is too large")]
    FileTooLarge,
    /// The base of a publish is no longer current.
    #[n(12)]
    #[error("a newer version {0} was published")]
    Superseded(#[n(0)] Version),
    #[n(13)]
    #[error("node {0} holds the write token")]
    TokenHeld(#[n(0)] NodeId),
    /// The id in the command names something else already, or was used before.
    #[n(14)]
    #[error("the id is in use")]
    IdInUse,
    #[n(15)]
    #[error("the join token is unknown, used, revoked or expired")]
    BadJoinToken,
    /// The command's id is older than what its origin's newest start has proposed.
    #[n(16)]
    #[error("the command comes from an earlier start of its node")]
    OldBoot,
    #[n(17)]
    #[error("no space left for this operation")]
    NoSpace,
    #[n(18)]
    #[error("another owner holds a lock there")]
    Locked,
    #[n(19)]
    #[error("waiting for this lock would never end")]
    Deadlock,
    #[n(20)]
    #[error("the file has too many locks")]
    TooManyLocks,
    #[n(21)]
    #[error("node {0} keeps the locks of this file")]
    LocksKept(#[n(0)] NodeId),
    #[n(22)]
    #[error("the name leads elsewhere now")]
    Overtaken,
    #[n(23)]
    #[error("a quota is used up")]
    QuotaExceeded,
    #[n(24)]
    #[error("the two places count for different quotas")]
    CrossesQuota,
    #[n(25)]
    #[error("the node drains: it changes nothing any more")]
    Draining,
    /// Something of the node was agreed meanwhile.
    #[n(26)]
    #[error("node {0} has been heard of")]
    HeardOf(#[n(0)] NodeId),
}

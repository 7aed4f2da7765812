//! Why an operation failed.

use engine::command::NameError;
use engine::ids::{Ino, NodeId};
use engine::namespace::TablesError;
use engine::outcome::{Outcome, Refusal};

use super::ports::{BodyError, ProposeError};

/// Why an operation failed. `kernel/errno.rs` says which errno each becomes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FsError {
    /// The agreed order refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Order(#[from] ProposeError),
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error("inode {0} is gone")]
    Stale(Ino),
    /// The caller looked the name up before another node made it; it must look again.
    #[error("another node made the name meanwhile")]
    Overtaken,
    #[error("node {holder} keeps the write token after {waited_ms} ms")]
    TokenKept { holder: NodeId, waited_ms: u64 },
    #[error("no majority can be reached that could say whether the lock is free")]
    LocksUnknown,
    #[error("{0} is no regular file")]
    NotFile(Ino),
    #[error("{0} is a directory")]
    IsDirectory(Ino),
    #[error("{0} is no directory")]
    NotDirectory(Ino),
    #[error("{0} is no symbolic link")]
    NotSymlink(Ino),
    #[error("the attribute is read-only")]
    ReadOnlyAttribute,
    #[error("no such attribute")]
    NoAttribute,
    #[error("not supported")]
    Unsupported,
    #[error("invalid argument")]
    Invalid,
    /// Our bug: the order answered a question that was not asked.
    #[error("unexpected outcome {0:?}")]
    Unexpected(Outcome),
}

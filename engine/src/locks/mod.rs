//! Locks of one file: fcntl(2) record locks, open file description locks and flock(2).
//!
//! [`FileLocks`] says what is held and who waits; it is the same code wherever a file's locks
//! are decided: in the agreed tables (`namespace/lock.rs`) while several nodes use the file,
//! and on one node alone while that node keeps them (docs/design/0002-locks.md).
//!
//! Reading order: [`Lock`] and its parts, [`FileLocks`], [`closes_cycle`].

mod deadlock;
mod file_locks;
mod lock;

#[cfg(test)]
mod tests;

pub use deadlock::closes_cycle;
pub use file_locks::{FileLocks, LOCKS_MAX, Waiter};
pub use lock::{ByteRange, Lock, LockKind, LockMode, LockOwner};

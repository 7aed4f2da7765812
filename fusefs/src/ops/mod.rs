//! What a POSIX operation means: decisions only, no kernel and no I/O of its own.
//!
//! [`Fs`] is the tree as the processes of this node see it. Reads look at what is local to
//! this node (stages, pinned orphans) above the agreed tables; changes become proposals and
//! answer through a callback, never by waiting.
//!
//! Reading order: [`ports`] (what this needs from the rest), [`Fs`], `call`, `attr`, `atime`,
//! `lookup`, `make`, `names`, `setattr`, `file`, `privileges`, `token`, `barrier`, `fresh`,
//! `locks`, `xattr`, `rules`, `orphans`, `unnamed`, `replaced`.

mod atime;
mod attr;
mod barrier;
mod call;
mod error;
mod file;
mod fresh;
mod fs;
mod locks;
mod lookup;
mod make;
mod names;
mod orphans;
pub mod ports;
mod privileges;
pub mod replaced;
pub mod rules;
mod setattr;
mod token;
mod unnamed;
mod xattr;

pub use atime::AtimeRule;
pub use attr::Attr;
pub use barrier::{BARRIER_LEN_MAX, is_barrier};
pub use call::Call;
pub use error::FsError;
pub use file::{Write, Written};
pub use fs::{Fs, FsDone, Stats};
pub use locks::{LockRequest, LockWish, Wait};
pub use lookup::{Entry, Listing};
pub use make::NewInode;
pub use names::Meant;
pub use setattr::{SetTime, Wanted};
pub use unnamed::NewUnnamed;

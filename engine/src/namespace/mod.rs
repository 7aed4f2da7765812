//! The namespace: what agreed commands change.
//!
//! [`apply()`] runs one agreed command against the tables. It is total and deterministic: a
//! refused operation is an outcome, and nothing but the command and the tables decides the
//! result. [`View`] reads the tables. [`genesis()`] makes the tables of a new volume.
//!
//! # Tables
//!
//! All keys of one volume, as [`Tables`] sees them; the store puts the volume before each.
//! Integers are big-endian, so that keys sort by number. Every value begins with a version
//! byte, 1 today.
//!
//! | table      | key                           | value after the version byte |
//! |------------|-------------------------------|------------------------------|
//! | inodes     | `I`, ino u64                  | [`Inode`], drawn in `inode.rs` |
//! | names      | `N`, directory u64, name      | file type u8, ino u64, cookie u64 |
//! | cookies    | `C`, directory u64, cookie u64| file type u8, ino u64, name |
//! | xattrs     | `X`, ino u64, xattr name      | the attribute's value; ACLs as drawn in `acl.rs` |
//! | unnamed    | `U`, node u16, ino u64        | boot u64 |
//! | origins    | `O`, node u16                 | boot u64, last seq u64 |
//! | outcomes   | `R`, node u16, seq mod 4096 u16 | boot u64, seq u64, outcome in CBOR |
//! | members    | `M`, node u16                 | member in CBOR |
//! | held       | `H`, node u16                 | gsn u64 |
//! | join tokens| `J`, id u64                   | join token in CBOR |
//! | volumes    | `W`, volume u32               | child volume in CBOR; in the root volume only |
//! | locks      | `L`, ino u64                  | [`LockRow`] in CBOR |
//! | lock waits | `G`, node u16, boot u64, owner u64, ino u64 | nothing: that owner of a POSIX lock waits there |
//! | quotas     | `Q`, directory u64            | drawn in `quota.rs` |
//! | reservations | `B`, directory u64, node u16 | drawn in `quota.rs` |
//! | departed   | `D`, node u16                 | removed node in CBOR |
//! | volume     | `V`                           | volume key, 32 bytes |
//! | summary    | `S`                           | row hash 32 bytes, inodes u64, bytes u64 |
//!
//! A directory entry is a row in *names* and one in *cookies*: by name for lookups, by cookie
//! for listing. A cookie is never used twice in one directory, except that a name whose inode
//! is replaced keeps its cookie: a listing shows the name exactly once.
//!
//! # State hash
//!
//! The sum of the hashes of all rows but the summary, kept up to date with each row written
//! (see [`state_hash`]). Nodes at the same GSN compare it.
//!
//! # What is absent
//!
//! No orphans: when the last link goes, the inode leaves the tables at once, and
//! [`Touched::Gone`] carries its last record, so that a node with an open handle can pin it.
//! Files that have had no name yet are there, in *unnamed* as well, until their node drops them.
//! No permission checks: the kernel makes them, by the attributes kept here.

pub mod tables;

mod acl;
mod apply;
mod codec;
mod dedup;
mod departed;
mod directory;
mod genesis;
mod inode;
mod join_token;
pub(crate) mod keys;
mod lease;
mod link;
mod lock;
mod make;
mod member;
mod publish;
mod quota;
mod rename;
mod setattr;
mod state;
pub mod state_hash;
mod token;
mod unlink;
mod unnamed;
mod view;
mod volume;
mod xattr;

#[cfg(test)]
mod tests;

pub use apply::{Applied, Touched, apply};
pub use dedup::{OUTCOMES_KEPT, Origin};
pub use departed::{Departed, retire};
pub use directory::DirEntry;
pub use genesis::{VolumeParams, genesis, genesis_of_child};
pub use inode::{Directory, FileType, Inode};
pub use join_token::JoinToken;
pub use lock::{Keeper, LockRow, LockUse};
pub use quota::{MARK_ENTRIES_MAX, Quota, QuotaState, QuotaUse, Reservation};
pub use setattr::CAPABILITY;
pub use state_hash::{Usage, recompute};
pub use tables::{Changes, MemoryTables, Overlay, Tables, TablesError};
pub use view::View;
pub use volume::VolumeRecord;

/// Most links of a file that is no directory, as on ext4.
pub const LINKS_MAX: u32 = 65_000;
/// Largest file, in bytes. Every node's disk must be able to hold every file: 16 TiB is ext4's
/// largest, less room for the list of chunks behind a body's bytes.
pub const FILE_SIZE_MAX: u64 = (16 << 40) - (4 << 30);
/// Longest symlink target, in bytes: `PATH_MAX` without its NUL.
pub const SYMLINK_LEN_MAX: usize = 4095;
/// Longest name of an extended attribute, in bytes, with its prefix.
pub const XATTR_NAME_LEN_MAX: usize = 255;
/// Largest value of an extended attribute, in bytes.
pub const XATTR_VALUE_LEN_MAX: usize = 64 << 10;
/// Most bytes that `listxattr` of one inode may give, counting a NUL for each name.
pub const XATTR_LIST_LEN_MAX: u32 = 64 << 10;

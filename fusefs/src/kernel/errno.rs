//! The only errno table.

use engine::command::NameError;
use engine::outcome::Refusal;
use fuser::Errno;

use crate::ops::FsError;
use crate::ops::ports::{BodyError, ProposeError};

/// What a caller of the mount gets for `error`.
pub fn errno(error: &FsError) -> Errno {
    match error {
        FsError::Refused(refusal) => of_refusal(refusal),
        FsError::Name(NameError::TooLong) => Errno::ENAMETOOLONG,
        FsError::Name(NameError::Invalid) => Errno::EINVAL,
        FsError::Body(error) => of_body(error),
        FsError::Order(error) => of_order(error),
        FsError::Tables(_) => Errno::EIO,
        FsError::Stale(_) => Errno::ESTALE,
        // The kernel looks again at ESTALE, without what it has cached (namei.c,
        // LOOKUP_REVAL).
        FsError::Overtaken => Errno::ESTALE,
        // As for a missing quorum: a retry can succeed.
        FsError::TokenKept { .. } => Errno::ETIMEDOUT,
        // As when the keeper cannot be reached.
        FsError::LocksUnknown => Errno::ENOLCK,
        FsError::NotFile(_) => Errno::EINVAL,
        FsError::IsDirectory(_) => Errno::EISDIR,
        FsError::NotDirectory(_) => Errno::ENOTDIR,
        FsError::NotSymlink(_) => Errno::EINVAL,
        FsError::ReadOnlyAttribute => Errno::EPERM,
        FsError::NoAttribute => Errno::NO_XATTR,
        FsError::Unsupported => Errno::EOPNOTSUPP,
        FsError::Invalid => Errno::EINVAL,
        FsError::Unexpected(_) => Errno::EIO,
    }
}

fn of_refusal(refusal: &Refusal) -> Errno {
    named(refusal).0
}

/// The name of what a caller of the mount gets for a refusal, as in `ENOENT`.
pub fn name(refusal: &Refusal) -> &'static str {
    named(refusal).1
}

/// An errno and its name.
macro_rules! named {
    ($name:ident) => {
        (Errno::$name, stringify!($name))
    };
}

fn named(refusal: &Refusal) -> (Errno, &'static str) {
    match refusal {
        Refusal::NotFound => named!(ENOENT),
        Refusal::Exists => named!(EEXIST),
        Refusal::NotDirectory => named!(ENOTDIR),
        Refusal::IsDirectory => named!(EISDIR),
        Refusal::NotEmpty => named!(ENOTEMPTY),
        Refusal::NotPermitted => named!(EPERM),
        Refusal::Denied => named!(EACCES),
        Refusal::TooManyLinks => named!(EMLINK),
        Refusal::Invalid => named!(EINVAL),
        Refusal::NoAttribute => (Errno::NO_XATTR, "ENODATA"),
        // As ext4 for a value that does not fit.
        Refusal::AttributeTooLarge => named!(ENOSPC),
        Refusal::FileTooLarge => named!(EFBIG),
        // These are answered inside the daemon; should one get here, the caller may retry.
        Refusal::Superseded(_) | Refusal::TokenHeld(_) | Refusal::HeardOf(_) => named!(EAGAIN),
        // Not for callers of the mount: our bug if they see it.
        Refusal::IdInUse | Refusal::BadJoinToken | Refusal::OldBoot => named!(EIO),
        Refusal::NoSpace => named!(ENOSPC),
        Refusal::Locked => named!(EAGAIN),
        Refusal::Deadlock => named!(EDEADLK),
        // fcntl(2) names both: a full table, and a failed protocol to other machines.
        Refusal::TooManyLocks | Refusal::LocksKept(_) => named!(ENOLCK),
        // The kernel looks again, as for `FsError::Overtaken`.
        Refusal::Overtaken => named!(ESTALE),
        Refusal::QuotaExceeded => named!(EDQUOT),
        // As XFS and ext4 between projects: mv copies then.
        Refusal::CrossesQuota => named!(EXDEV),
        Refusal::Draining => named!(EROFS),
    }
}

fn of_body(error: &BodyError) -> Errno {
    match error {
        // The token is taken and the call repeated, as long as patience lasts.
        BodyError::NeedsToken(_) | BodyError::NeedsLease(_) => Errno::ETIMEDOUT,
        // As for locks that NFS lost.
        BodyError::Expired => Errno::EIO,
        // docs/SEMANTICS.md: never ENODATA or EHOSTUNREACH for bytes that have not arrived.
        BodyError::Unreachable { .. } => Errno::EIO,
        // Room is reserved and the call repeated, as long as patience lasts.
        BodyError::NeedsQuota { .. } => Errno::ETIMEDOUT,
        BodyError::QuotaExceeded { .. } => Errno::EDQUOT,
        BodyError::NoSpace => Errno::ENOSPC,
        BodyError::TooLarge => Errno::EFBIG,
        BodyError::NoData => Errno::ENXIO,
        BodyError::Unsupported => Errno::EOPNOTSUPP,
        BodyError::Invalid => Errno::EINVAL,
        BodyError::BadHandle => Errno::EBADF,
        BodyError::Storage(_) | BodyError::Damaged(_) => Errno::EIO,
        BodyError::Order(error) => of_order(error),
    }
}

fn of_order(error: &ProposeError) -> Errno {
    match error {
        // Why not EIO: a retry can succeed.
        ProposeError::NoQuorum { .. } => Errno::ETIMEDOUT,
        ProposeError::ReadOnly => Errno::EROFS,
        ProposeError::Interrupted => Errno::EINTR,
        ProposeError::Stopping => Errno::ESHUTDOWN,
        ProposeError::Broken(_) => Errno::EIO,
    }
}

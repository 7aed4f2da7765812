//! Engine types to fuser's, and back.

use std::time::{Duration, SystemTime};

use engine::namespace::FileType;
use engine::time::Timestamp;
use fuser::{FileAttr, Generation, INodeNo};

use crate::ops::Attr;

/// How long the kernel may keep names and attributes: until they are taken back. The kernel
/// cuts it to what its clock can count.
pub const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// For attributes that the kernel must ask for again.
pub const NO_TIME: Duration = Duration::ZERO;
/// Inode numbers are never used again.
pub const GENERATION: Generation = Generation(0);

pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.file_type),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// The reply for a name that leads nowhere: the kernel remembers that as well.
pub fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub fn file_type(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::File => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = match time.seconds >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(seconds),
        false => SystemTime::UNIX_EPOCH.checked_sub(seconds),
    };
    // Outside of what the clock can say: no use in being exact.
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A time as it came from the kernel through fuser.
pub fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(before) => {
            // Nanoseconds count forwards, also before 1970.
            let (seconds, nanos) = (before.duration().as_secs(), before.duration().subsec_nanos());
            let seconds = 0_i64.saturating_sub_unsigned(seconds);
            match nanos {
                0 => Timestamp { seconds, nanos },
                _ => Timestamp { seconds: seconds.saturating_sub(1), nanos: NANOS - nanos },
            }
        }
    }
}

const NANOS: u32 = 1_000_000_000;
/// What programs should read and write at least at once.
const BLOCK_BYTES: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_go_out_right() {
        let half_past = Timestamp::new(-1, 500_000_000);
        let out = system_time(half_past);
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(out).unwrap(), Duration::from_millis(500));
    }

    #[test]
    fn every_time_comes_back() {
        for seconds in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
            for nanos in [0, 1, 999_999_999] {
                let time = Timestamp::new(seconds, nanos);
                assert_eq!(timestamp(system_time(time)), time);
            }
        }
    }
}

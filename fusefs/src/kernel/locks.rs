//! Lock calls between the kernel's words and ours.

use std::fs;

use engine::ids::NodeId;
use engine::locks::{ByteRange, Lock, LockKind, LockMode};
use fuser::ReplyLock;

use crate::ops::{LockRequest, LockWish, Wait};

/// `F_SETLK`, `F_SETLKW`, flock(2); `None` for what is none of them.
pub fn set(
    owner: u64,
    kind: LockKind,
    (start, end): (u64, u64),
    typ: i32,
    pid: u32,
    wait: Wait,
) -> Option<LockRequest> {
    let range = match kind {
        LockKind::Record => range(start, end)?,
        LockKind::Flock => ByteRange::WHOLE,
    };
    let wish = match mode(typ) {
        Some(mode) => LockWish::Set { mode, wait },
        None if typ == libc::F_UNLCK => LockWish::Clear,
        None => return None,
    };
    Some(LockRequest { owner, kind, range, pid, wish })
}

/// `F_GETLK`, also of open file description locks.
pub fn test(owner: u64, (start, end): (u64, u64), typ: i32, pid: u32) -> Option<LockRequest> {
    let (range, mode) = (range(start, end)?, mode(typ)?);
    let (kind, wish) = (LockKind::Record, LockWish::Test { mode });
    Some(LockRequest { owner, kind, range, pid, wish })
}

fn range(start: u64, end: u64) -> Option<ByteRange> {
    // The kernel's end of every file is the largest offset; ours the largest number.
    ByteRange::new(start, if end >= OFFSET_MAX { u64::MAX } else { end })
}

fn mode(typ: i32) -> Option<LockMode> {
    match typ {
        libc::F_RDLCK => Some(LockMode::Shared),
        libc::F_WRLCK => Some(LockMode::Exclusive),
        _ => None,
    }
}

/// Tells the kernel what stands against a lock. A process of another node has no number here:
/// it is 0 then.
pub fn reply(found: Option<Lock>, me: NodeId, reply: ReplyLock) {
    let Some(lock) = found else { return reply.locked(0, 0, libc::F_UNLCK, 0) };
    let typ = match lock.mode {
        LockMode::Shared if !lock.solo || lock.owner.node == me => libc::F_RDLCK,
        _ => libc::F_WRLCK,
    };
    let pid = if lock.owner.node == me { lock.pid } else { 0 };
    reply.locked(lock.range.start, lock.range.end.min(OFFSET_MAX), typ, pid);
}

/// Whether a thread that is stopped in a lock call wants a lock of an open file: those take no
/// part in the search for deadlocks, and nothing in the request tells them from POSIX locks.
/// What cannot be read is taken for a POSIX lock.
pub fn waits_for_open_file(task: u32) -> bool {
    let syscall = fs::read_to_string(format!("/proc/{task}/syscall"));
    syscall.is_ok_and(|syscall| is_open_file_wait(&syscall))
}

fn is_open_file_wait(syscall: &str) -> bool {
    let mut words = syscall.split_whitespace();
    let number = words.next().and_then(|word| word.parse().ok());
    let command =
        words.nth(1).and_then(|word| i64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    number == Some(libc::SYS_fcntl) && command == Some(i64::from(F_OFD_SETLKW))
}

/// The file that SQLite's WAL mode maps into the memory of all its processes; across nodes
/// that is not one memory.
pub fn is_shared_memory(name: &[u8]) -> bool {
    name.ends_with(b"-shm")
}

const OFFSET_MAX: u64 = i64::MAX as u64;
/// uapi/asm-generic/fcntl.h; libc has it for few targets.
const F_OFD_SETLKW: i32 = 38;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_open_files_are_told_by_their_system_call() {
        let fcntl = libc::SYS_fcntl;
        assert!(is_open_file_wait(&format!("{fcntl} 0x3 0x26 0x7ffd 0x0 0x0 0x0 0x7ffc 0x7f00")));
        assert!(!is_open_file_wait(&format!("{fcntl} 0x3 0x7 0x7ffd 0x0 0x0 0x0 0x7ffc 0x7f00")));
        assert!(!is_open_file_wait("0 0x3 0x26 0x7ffd 0x0 0x0 0x0 0x7ffc 0x7f00"));
        assert!(!is_open_file_wait("running\n"));
        assert!(!is_open_file_wait(""));
    }

    #[test]
    fn ends_of_files_are_ends_of_numbers() {
        let whole = test(7, (5, OFFSET_MAX), libc::F_RDLCK, 1).map(|request| request.range);
        assert_eq!(whole, Some(ByteRange { start: 5, end: u64::MAX }));
        assert_eq!(test(7, (5, 4), libc::F_RDLCK, 1), None);
        assert_eq!(test(7, (5, 6), libc::F_UNLCK, 1), None);
    }
}

//! Access times: this node's own, since no other could see a read.
//!
//! The kernel does not tell of reads from its cache, so opening a regular file for reading
//! counts as reading it. A time that utimens agrees counts from then on.

use std::collections::HashMap;

use engine::ids::Ino;
use engine::time::Timestamp;
use parking_lot::Mutex;

use super::attr::Attr;
use super::fs::Fs;

/// When reading moves a file's access time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AtimeRule {
    /// If it was changed since its last access, or that is a day ago (mount(8), relatime).
    #[default]
    Relative,
    /// Always.
    Strict,
    Never,
}

/// Accesses since this node's start.
#[derive(Default)]
pub(super) struct Accesses {
    last: Mutex<HashMap<Ino, Access>>,
}

#[derive(Clone, Copy)]
struct Access {
    at: Timestamp,
    /// The agreed access time then.
    agreed: Timestamp,
}

impl Accesses {
    /// The access time of `ino`, whose agreed one is `agreed`.
    pub(super) fn newest(&self, ino: Ino, agreed: Timestamp) -> Timestamp {
        match self.last.lock().get(&ino) {
            Some(access) if access.agreed == agreed => access.at,
            _ => agreed,
        }
    }

    fn add(&self, ino: Ino, access: Access) {
        let mut last = self.last.lock();
        if last.len() >= ACCESSES_MAX {
            // The oldest half shows the agreed times again.
            let mut times: Vec<Timestamp> = last.values().map(|access| access.at).collect();
            let (_, middle, _) = times.select_nth_unstable(ACCESSES_MAX / 2);
            let middle = *middle;
            last.retain(|_, access| access.at > middle);
        }
        last.insert(ino, access);
    }
}

impl Fs {
    /// A file was opened for reading. True if that moved its access time.
    pub fn accessed(&self, ino: Ino, rule: AtimeRule) -> bool {
        if rule == AtimeRule::Never {
            return false;
        }
        let (Ok(attr), Ok(inode)) = (self.attr(ino), self.record(ino)) else { return false };
        let now = self.ring.now();
        if rule == AtimeRule::Relative && !is_due(&attr, now) {
            return false;
        }
        self.accesses.add(ino, Access { at: now, agreed: inode.atime });
        true
    }
}

fn is_due(attr: &Attr, now: Timestamp) -> bool {
    attr.atime <= attr.mtime
        || attr.atime <= attr.ctime
        || now.seconds.saturating_sub(attr.atime.seconds) >= DAY_SECONDS
}

const DAY_SECONDS: i64 = 86_400;
/// About 10 MiB.
const ACCESSES_MAX: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::new(seconds, 0)
    }

    #[test]
    fn a_time_that_is_set_later_counts() {
        let accesses = Accesses::default();
        assert_eq!(accesses.newest(Ino(20), time(5)), time(5));
        accesses.add(Ino(20), Access { at: time(9), agreed: time(5) });
        assert_eq!(accesses.newest(Ino(20), time(5)), time(9));
        assert_eq!(accesses.newest(Ino(20), time(7)), time(7));
    }

    #[test]
    fn the_newest_accesses_are_kept() {
        let accesses = Accesses::default();
        for number in 0..=ACCESSES_MAX as i64 {
            let ino = Ino(20 + number as u64);
            accesses.add(ino, Access { at: time(1 + number), agreed: time(0) });
        }
        assert!(accesses.last.lock().len() <= ACCESSES_MAX);
        assert_eq!(accesses.newest(Ino(20), time(0)), time(0));
        let last = ACCESSES_MAX as i64;
        assert_eq!(accesses.newest(Ino(20 + last as u64), time(0)), time(1 + last));
    }
}

//! Which inodes the kernel knows, by counting what it looked up and forgot.
//!
//! What it does not know it does not cache, so nothing of it needs to be taken back, and an
//! inode that loses its last name needs a pin only while it is known here.
//!
//! An inode is added *before* the attributes for its reply are read: a command applied after
//! that reading then finds it known, and takes the attributes back. See `invalidate` for what
//! `via` is for.

use std::collections::HashMap;

use engine::ids::Ino;
use parking_lot::{Mutex, MutexGuard};

pub struct Known {
    shards: [Mutex<HashMap<Ino, Lookups>>; SHARDS],
}

struct Lookups {
    count: u64,
    /// Directories through which replies told the kernel about the inode since its attributes
    /// were taken back last; mostly one.
    via: Ino,
    via_more: Vec<Ino>,
}

impl Default for Known {
    fn default() -> Known {
        let known = Known { shards: std::array::from_fn(|_| Mutex::default()) };
        // The kernel knows the root from the start and never forgets it.
        known.add(Ino::ROOT, Ino::ROOT);
        known
    }
}

impl Known {
    /// The next reply tells the kernel about `ino` as an entry of `via`.
    pub fn add(&self, ino: Ino, via: Ino) {
        let mut shard = self.shard(ino);
        let lookups =
            shard.entry(ino).or_insert(Lookups { count: 0, via: NONE, via_more: Vec::new() });
        lookups.count += 1;
        if lookups.via == NONE {
            lookups.via = via;
        } else if lookups.via != via && !lookups.via_more.contains(&via) {
            lookups.via_more.push(via);
        }
    }

    /// Takes back `count` of [`Self::add`]: forgotten by the kernel, or the reply told it
    /// nothing. Runs `last` when nothing is left, in one step with that.
    pub fn forget(&self, ino: Ino, count: u64, last: impl FnOnce()) {
        let mut shard = self.shard(ino);
        let Some(lookups) = shard.get_mut(&ino) else { return };
        lookups.count = lookups.count.saturating_sub(count);
        if lookups.count == 0 && ino != Ino::ROOT {
            shard.remove(&ino);
            last();
        }
    }

    pub fn contains(&self, ino: Ino) -> bool {
        self.shard(ino).contains_key(&ino)
    }

    /// Runs `then` if the kernel knows `ino`; it can't be forgotten meanwhile.
    pub fn if_known(&self, ino: Ino, then: impl FnOnce()) {
        let shard = self.shard(ino);
        if shard.contains_key(&ino) {
            then();
        }
    }

    /// The directories through which `ino` became known since the last call; `None` when it
    /// is not known.
    pub fn take_via(&self, ino: Ino) -> Option<Vec<Ino>> {
        let mut shard = self.shard(ino);
        let lookups = shard.get_mut(&ino)?;
        let mut via = std::mem::take(&mut lookups.via_more);
        if lookups.via != NONE {
            via.push(std::mem::replace(&mut lookups.via, NONE));
        }
        Some(via)
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Ino> {
        let shards = self.shards.iter();
        shards.flat_map(|shard| shard.lock().keys().copied().collect::<Vec<_>>()).collect()
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn shard(&self, ino: Ino) -> MutexGuard<'_, HashMap<Ino, Lookups>> {
        self.shards[ino.0 as usize % SHARDS].lock()
    }
}

const NONE: Ino = Ino(0);
/// Inode numbers count up, so the low bits spread well. More than the threads that ask.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_forget_ends_it() {
        let known = Known::default();
        let ino = Ino(77);
        known.add(ino, Ino(1));
        known.add(ino, Ino(2));
        known.add(ino, Ino(2));
        known.forget(ino, 2, || panic!("one lookup is left"));
        assert!(known.contains(ino));
        let mut ended = false;
        known.forget(ino, 1, || ended = true);
        assert!(ended && !known.contains(ino));
        assert_eq!(known.take_via(ino), None);
    }

    #[test]
    fn via_is_told_once() {
        let known = Known::default();
        let ino = Ino(77);
        for parent in [5, 6, 5, 6] {
            known.add(ino, Ino(parent));
        }
        assert_eq!(known.take_via(ino), Some(vec![Ino(6), Ino(5)]));
        assert_eq!(known.take_via(ino), Some(vec![]));
    }

    #[test]
    fn the_root_stays() {
        let known = Known::default();
        known.forget(Ino::ROOT, 5, || panic!("the root is never forgotten"));
        assert!(known.contains(Ino::ROOT));
    }
}

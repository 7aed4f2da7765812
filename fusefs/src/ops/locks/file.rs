//! One file's locks on this node, and what to do with a request.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use engine::locks::{FileLocks, Lock, LockOwner, Waiter, closes_cycle};
use engine::outcome::Refusal;

use super::State;
use super::request::{Asked, Wait, What};
use crate::ops::error::FsError;
use crate::ops::ports::Handle;

/// A file whose locks were used here.
pub(super) struct LockFile {
    pub place: Place,
    /// Requests that wait until the place is known.
    pub queue: Vec<Asked>,
    /// Who waits until the locks are handed over.
    pub sharers: Vec<Box<dyn FnOnce() + Send>>,
    /// Owners that hold agreed locks.
    pub users: HashSet<u64>,
    /// The owners that asked through each open file. Its end gives up what they have: the
    /// kernel tells a process's end for POSIX locks, but for those of an open file nothing
    /// else.
    pub handles: HashMap<Handle, Uses>,
    /// Agreed locks of closed files that are being given up.
    pub releasing: u32,
    pub used: Instant,
}

#[derive(Default)]
pub(super) struct Uses {
    pub owners: HashSet<u64>,
    /// When a descriptor of it was closed last: perhaps the last one, and its end follows.
    pub closed: Option<Instant>,
}

/// Where the file's locks are decided.
#[derive(Default)]
pub(super) enum Place {
    /// In the agreed tables, or with another node.
    #[default]
    Agreed,
    /// This node has asked to be the keeper.
    Taking,
    /// Here. Also those of a file without a name, which no other node opens any more.
    Kept(FileLocks),
    /// Here, on their way to the agreed tables.
    Sharing(FileLocks),
}

/// What to do with a request.
pub(super) enum Next {
    /// It is answered; the waiters have their locks by it.
    Answer(Result<Option<Lock>, FsError>, Vec<Waiter>),
    /// It is queued, and its caller waits; others may have their locks by it.
    Waits(Vec<Waiter>),
    /// As [`Next::Waits`], once the file's locks are handed over.
    ShareFirst,
    /// The other nodes are to be asked.
    Agree,
    /// It is decided here, when this node has its lease again.
    Renew,
}

/// How long the end of an open file may be behind the close of its last descriptor: the kernel
/// tells of it right after that, but another thread may take the news.
const CLOSING: Duration = Duration::from_millis(50);

impl Default for LockFile {
    fn default() -> LockFile {
        LockFile {
            place: Place::Agreed,
            queue: Vec::new(),
            sharers: Vec::new(),
            users: HashSet::new(),
            handles: HashMap::new(),
            releasing: 0,
            used: Instant::now(),
        }
    }
}

impl LockFile {
    pub fn used_by(&mut self, handle: Handle, owner: u64) {
        self.used = Instant::now();
        self.handles.entry(handle).or_default().owners.insert(owner);
    }

    /// Whether nothing would be lost without it: what is kept is.
    pub fn is_idle(&self) -> bool {
        matches!(self.place, Place::Agreed)
            && self.queue.is_empty()
            && self.users.is_empty()
            && self.handles.is_empty()
            && self.releasing == 0
    }

    /// Whether `owner` is that of an open file that is perhaps being closed right now.
    fn is_closing(&self, owner: LockOwner) -> bool {
        self.handles.values().any(|uses| {
            uses.owners.contains(&owner.id)
                && uses.closed.is_some_and(|closed| closed.elapsed() < CLOSING)
        })
    }
}

impl State {
    pub fn decide(&mut self, asked: Asked) -> Next {
        let Some(file) = self.files.get_mut(&asked.ino) else {
            return match asked.what {
                What::Unlock { .. } => Next::Answer(Ok(None), Vec::new()),
                What::Lock { .. } | What::Test(_) => Next::Agree,
            };
        };
        match &mut file.place {
            Place::Agreed => match asked.what {
                What::Lock { .. } if file.releasing > 0 => {
                    file.queue.push(asked);
                    Next::Waits(Vec::new())
                }
                What::Unlock { owner, .. } if !file.users.contains(&owner.id) => {
                    Next::Answer(Ok(None), Vec::new())
                }
                _ => Next::Agree,
            },
            Place::Taking | Place::Sharing(_) => {
                file.queue.push(asked);
                Next::Waits(Vec::new())
            }
            Place::Kept(locks) => match asked.what {
                What::Test(lock) => {
                    Next::Answer(Ok(locks.conflicts(&lock).next().copied()), Vec::new())
                }
                What::Unlock { owner, kind, range } => {
                    locks.release(owner, kind, range);
                    Next::Answer(Ok(None), locks.wake())
                }
                What::Lock { lock, wait } => self.decide_lock(asked, lock, wait),
            },
        }
    }

    /// A lock of a file that is kept here.
    fn decide_lock(&mut self, asked: Asked, lock: Lock, wait: Wait) -> Next {
        let refused = |refusal: Refusal| Next::Answer(Err(refusal.into()), Vec::new());
        let detects = wait == Wait::UnlessDeadlock;
        let must_share = detects && self.waits_agreed();
        let Some(file) = self.files.get_mut(&asked.ino) else { return Next::Agree };
        let in_closing = file
            .place
            .kept()
            .is_some_and(|locks| locks.conflicts(&lock).any(|held| file.is_closing(held.owner)));
        if wait == Wait::No && in_closing && !asked.graced {
            self.retries.push((Instant::now() + CLOSING, Asked { graced: true, ..asked }));
            return Next::Waits(Vec::new());
        }
        let Place::Kept(locks) = &mut file.place else { return Next::Agree };
        if locks.is_full() {
            return refused(Refusal::TooManyLocks);
        }
        let mut woken = Vec::new();
        if locks.request(lock, &mut woken) {
            woken.extend(locks.wake());
            return Next::Answer(Ok(None), woken);
        }
        woken.extend(locks.wake());
        if wait == Wait::No {
            return Next::Answer(Err(Refusal::Locked.into()), woken);
        }
        if must_share {
            file.queue.push(asked);
            return Next::ShareFirst;
        }
        let waiter = Waiter { ticket: asked.ticket, lock, detects };
        if self.is_deadlock(&asked, &waiter) {
            return refused(Refusal::Deadlock);
        }
        if let Some(Place::Kept(locks)) = self.files.get_mut(&asked.ino).map(|file| &mut file.place)
        {
            let own = locks.held().iter().filter(|held| held.is_of_one_owner(&lock));
            let own = own.filter(|held| held.range.overlaps(lock.range)).copied().collect();
            self.held_before.insert(asked.ticket, own);
            locks.wait(waiter);
        }
        Next::Waits(woken)
    }

    fn is_deadlock(&self, asked: &Asked, waiter: &Waiter) -> bool {
        let Some(locks) = self.files.get(&asked.ino).and_then(|file| file.place.kept()) else {
            return false;
        };
        let kept = || self.files.values().filter_map(|file| file.place.kept());
        let found = closes_cycle(waiter, locks, |owner| {
            Ok::<_, ()>(kept().flat_map(|locks| locks.waits_of(owner)).collect())
        });
        found == Ok(true)
    }
}

impl Place {
    pub fn kept(&self) -> Option<&FileLocks> {
        match self {
            Place::Kept(locks) => Some(locks),
            Place::Agreed | Place::Taking | Place::Sharing(_) => None,
        }
    }
}

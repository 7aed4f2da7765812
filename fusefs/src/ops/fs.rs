//! The tree as this node's processes see it, and what every operation shares.

use std::sync::Arc;

use engine::command::Op;
use engine::ids::{Gsn, Ino, NodeId};
use engine::namespace::Inode;
use engine::outcome::Outcome;

use super::atime::Accesses;
use super::error::FsError;
use super::fresh::Fresh;
use super::locks::Locks;
use super::orphans::Orphans;
use super::ports::{Bodies, Caller, Ring, View};
use super::unnamed::Unnamed;

/// One volume, as the processes of this node see it.
pub struct Fs {
    pub(super) ring: Arc<dyn Ring>,
    pub(super) bodies: Arc<dyn Bodies>,
    pub(super) orphans: Orphans,
    pub(super) locks: Locks,
    pub(super) unnamed: Unnamed,
    pub(super) accesses: Accesses,
    pub(super) fresh: Fresh,
}

/// Called once with an operation's result, on the thread that brought it.
pub type FsDone<T> = Box<dyn FnOnce(Result<T, FsError>) + Send>;

/// What statfs(2) tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    pub total_bytes: u64,
    pub available_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// How many more may be made; `None` = no end in sight.
    pub free_inodes: Option<u64>,
}

impl Fs {
    pub fn new(ring: Arc<dyn Ring>, bodies: Arc<dyn Bodies>) -> Arc<Fs> {
        Arc::new(Fs {
            ring,
            bodies,
            orphans: Orphans::default(),
            locks: Locks::default(),
            unnamed: Unnamed::default(),
            accesses: Accesses::default(),
            fresh: Fresh::default(),
        })
    }

    /// Who this node is.
    pub fn me(&self) -> NodeId {
        self.ring.me()
    }

    /// An inode number for the next [`Self::make`].
    ///
    /// # Errors
    /// [`FsError::Order`] when this node can't get one.
    pub fn alloc_ino(&self) -> Result<Ino, FsError> {
        Ok(self.ring.alloc_ino()?)
    }

    /// Room on this node, and the volume's inodes. Below a quota, it is the quota that limits
    /// most that is told, as far as this node has the room.
    ///
    /// # Errors
    /// [`FsError::Tables`].
    pub fn stats(&self, ino: Ino) -> Result<Stats, FsError> {
        let space = self.bodies.space();
        let view = self.ring.view();
        let mut stats = Stats {
            total_bytes: space.total_bytes,
            available_bytes: space.available_bytes,
            inodes: view.usage()?.inodes,
            free_inodes: None,
        };
        let mark = view.inode(ino)?.map_or(Ino(0), |inode| inode.quota);
        for quota in view.quotas_from(mark)? {
            if let Some(limit) = quota.limits.bytes {
                let left = limit.saturating_sub(quota.used.bytes);
                if left < stats.available_bytes || limit < stats.total_bytes {
                    stats.available_bytes = left.min(stats.available_bytes);
                    stats.total_bytes = stats.available_bytes.saturating_add(quota.used.bytes);
                }
            }
            if let Some(limit) = quota.limits.inodes {
                let left = limit.saturating_sub(quota.used.inodes);
                if stats.free_inodes.is_none_or(|free| left < free) {
                    stats.free_inodes = Some(left);
                    stats.inodes = quota.used.inodes;
                }
            }
        }
        Ok(stats)
    }

    /// The record of `ino`, agreed or pinned.
    ///
    /// # Errors
    /// [`FsError::Stale`] when it has none.
    pub(super) fn record(&self, ino: Ino) -> Result<Inode, FsError> {
        self.record_in(&self.ring.view(), ino)
    }

    pub(super) fn record_in(&self, view: &View, ino: Ino) -> Result<Inode, FsError> {
        if let Some(inode) = self.orphans.get(ino) {
            return Ok(inode);
        }
        if let Some(inode) = view.inode(ino)? {
            return Ok(inode);
        }
        // It may have gone between the two looks; and the tables show that a moment before it is
        // pinned. A call that was agreed must not fail for that: the kernel would repeat it.
        self.wait_until_told(self.ring.shown_gsn());
        self.orphans.get(ino).ok_or(FsError::Stale(ino))
    }

    /// Waits until everybody who follows the order was told of what the tables show at `gsn`;
    /// false when that takes unusually long.
    pub(super) fn wait_until_told(&self, gsn: Gsn) -> bool {
        // The telling has begun already, and waits for nothing.
        for _ in 0..TOLD_LOOKS_MAX {
            if self.ring.told_gsn() >= gsn {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    /// Proposes `op`; a refusal is an error.
    pub(super) fn agree(&self, caller: Caller, op: Op, done: FsDone<Outcome>) {
        caller.begin_wait();
        self.ring.propose(
            caller,
            op,
            Box::new(move |result| {
                done(match result {
                    Ok(Outcome::Refused(refusal)) => Err(refusal.into()),
                    Ok(outcome) => Ok(outcome),
                    Err(e) => Err(e.into()),
                });
            }),
        );
    }

    /// As [`Self::agree`], for commands whose outcome says nothing more.
    pub(super) fn agree_done(&self, caller: Caller, op: Op, done: FsDone<()>) {
        self.agree(caller, op, expect_done(done));
    }
}

/// Far more than it takes.
const TOLD_LOOKS_MAX: usize = 100_000;

/// Takes [`Outcome::Done`] only.
pub(super) fn expect_done(done: FsDone<()>) -> FsDone<Outcome> {
    Box::new(move |result| {
        done(match result {
            Ok(Outcome::Done) => Ok(()),
            Ok(other) => Err(FsError::Unexpected(other)),
            Err(e) => Err(e),
        });
    })
}

//! Nodes that are silent for longer than their lease: their locks go to others, and this one
//! grants nothing while its own has ended (docs/design/0003-leases.md).

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use engine::ids::{Ino, NodeId};
use engine::locks::{Lock, LockOwner};

use super::State;
use super::file::{LockFile, Place};
use super::request::{Asked, What};
use crate::ops::error::FsError;
use crate::ops::fs::Fs;
use crate::ops::ports::{Caller, Handle};

impl Fs {
    /// Whether this node may grant locks of a file that it keeps. Those of a file without a name
    /// are nobody else's business.
    pub(super) fn may_grant(&self, ino: Ino) -> bool {
        self.ring.has_lease() || self.is_orphan(ino)
    }

    /// Whether a program here relies on a lock that others may want.
    pub fn needs_lease(&self) -> bool {
        let state = self.locks.state.lock();
        state.files.iter().any(|(ino, file)| file.has_locks() && !self.is_orphan(*ino))
    }

    /// Looks at a request again when this node has its lease: anything that is agreed renews it.
    pub(super) fn renew_then(self: &Arc<Self>, asked: Asked) {
        let fs = Arc::clone(self);
        let renewed = Box::new(move |result: Result<(), _>| match result {
            Ok(()) => fs.attempt(asked),
            Err(e) => fs.finish(asked.ticket, Err(FsError::Order(e))),
        });
        self.ring.barrier(Caller::DAEMON, asked.ino, renewed);
    }

    /// A request was refused for locks in the agreed tables. Frees those of silent nodes and then
    /// looks at it again; false, with nothing done, if there are none.
    pub(super) fn expire_holders(self: &Arc<Self>, asked: Asked) -> bool {
        let What::Lock { lock, .. } = asked.what else { return false };
        let Some(node) = self.silent_holders(asked.ino, &lock).pop_first() else { return false };
        let fs = Arc::clone(self);
        self.ring.expire(node, asked.ino, Box::new(move |_| fs.attempt(asked)));
        true
    }

    /// Frees the locks of silent nodes that callers here wait for; what is granted by that is
    /// told as always.
    pub(super) fn expire_waited_for(&self) {
        let waiting: Vec<(Ino, Lock)> = {
            let state = self.locks.state.lock();
            let pending = state.pending.values().filter(|pending| !state.keeps(pending.asked.ino));
            let locks = pending.filter_map(|pending| match pending.asked.what {
                What::Lock { lock, .. } => Some((pending.asked.ino, lock)),
                What::Unlock { .. } | What::Test(_) => None,
            });
            locks.collect()
        };
        let silent: BTreeSet<(NodeId, Ino)> = waiting
            .into_iter()
            .flat_map(|(ino, lock)| {
                let nodes = self.silent_holders(ino, &lock);
                nodes.into_iter().map(move |node| (node, ino))
            })
            .collect();
        for (node, ino) in silent {
            self.ring.expire(node, ino, Box::new(|_| ()));
        }
    }

    /// Whose locks stand against `lock` in the agreed tables, and have outlasted their leases.
    fn silent_holders(&self, ino: Ino, lock: &Lock) -> BTreeSet<NodeId> {
        let Ok(row) = self.row(ino) else { return BTreeSet::new() };
        let nodes: BTreeSet<NodeId> =
            row.locks.conflicts(lock).map(|held| held.owner.node).collect();
        nodes
            .into_iter()
            .filter(|node| *node != self.ring.me() && self.ring.lease_ended(*node))
            .collect()
    }

    /// What this node's processes held of `ino` is others'. They cannot be told, but for what they
    /// do with the file next; requests that wait begin anew.
    pub(super) fn locks_expired(self: &Arc<Self>, ino: Ino, waited: &[(LockOwner, u64)]) {
        let mut state = self.locks.state.lock();
        let unlocks = state.unlocks(ino);
        let file = state.file(ino);
        let mut lost: HashSet<u64> = std::mem::take(&mut file.users);
        // An earlier start's tickets are none of ours.
        let own = waited.iter().filter(|(owner, _)| self.is_own(*owner));
        let mut waiting: Vec<u64> = own.map(|(_, ticket)| *ticket).collect();
        if let Place::Kept(locks) | Place::Sharing(locks) = &file.place {
            lost.extend(locks.held().iter().map(|held| held.owner.id));
            waiting.extend(locks.waiting().iter().map(|waiter| waiter.ticket));
            file.place = Place::Agreed;
        }
        let relied = file.handles.iter().filter(|(_, uses)| {
            uses.owners.iter().any(|owner| lost.contains(owner) && !unlocks.contains(owner))
        });
        let revoked: Vec<Handle> = relied.map(|(handle, _)| *handle).collect();
        let mut again: Vec<Asked> = Vec::new();
        for ticket in waiting {
            again.extend(state.pending.get(&ticket).map(|pending| pending.asked));
            state.held_before.remove(&ticket);
            state.abandoned.remove(&ticket);
        }
        state.forget_if_idle(ino);
        drop(state);
        for handle in revoked {
            tracing::warn!(%ino, "a lock was lost to others while this node was silent");
            self.bodies.revoke(handle);
        }
        // On another thread: this one applies, and proposes nothing. What is queued behind a
        // handover follows when that is refused.
        for asked in again {
            self.retry(asked, Instant::now());
        }
    }
}

impl LockFile {
    fn has_locks(&self) -> bool {
        match &self.place {
            Place::Agreed | Place::Taking => !self.users.is_empty(),
            Place::Kept(locks) | Place::Sharing(locks) => !locks.held().is_empty(),
        }
    }
}

impl State {
    /// Whether the locks of `ino` are decided here.
    pub fn keeps(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(|file| file.place.kept().is_some())
    }

    /// Owners that are giving up their locks of `ino` just now.
    fn unlocks(&self, ino: Ino) -> HashSet<u64> {
        let of_ino = self.pending.values().filter(|pending| pending.asked.ino == ino);
        let owners = of_ino.filter_map(|pending| match pending.asked.what {
            What::Unlock { owner, .. } => Some(owner.id),
            What::Lock { .. } | What::Test(_) => None,
        });
        owners.collect()
    }
}

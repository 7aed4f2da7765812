//! Where bytes are and what there is to do, for people.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::command::{Body, Member};
use engine::ids::{Ino, NodeId};
use engine::namespace::Inode;
use engine::placement::{Placement, should_hold};
use parking_lot::Mutex;

use super::error::tables;
use super::{BodyService, Counters};
use crate::ops::ports::{BodyError, Residence, Space};

/// What is under way on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Files with bytes that are not published.
    pub staged_files: usize,
    /// Files that wait for their seal.
    pub seal_queue: usize,
    /// Bytes of stages in memory.
    pub stage_memory_bytes: u64,
    /// Bodies that are being fetched chunk by chunk.
    pub arriving: usize,
}

/// The agreed members, until they change.
#[derive(Default)]
pub(super) struct MembersCache {
    members: Mutex<Option<Known>>,
    changes: AtomicU64,
    /// The nodes of this node's zone on which copies may be placed.
    fellows: Mutex<Vec<NodeId>>,
}

#[derive(Clone)]
struct Known {
    all: Arc<Vec<Member>>,
    /// Those that copies are placed on.
    takers: Arc<Vec<Member>>,
}

impl BodyService {
    pub fn load(&self) -> Load {
        let is_staged = |body: &Arc<super::table::OpenBody>| {
            body.loaded().is_some_and(|state| state.is_staged())
        };
        Load {
            staged_files: self.table.all().iter().filter(|body| is_staged(body)).count(),
            seal_queue: self.queue.len(),
            stage_memory_bytes: self.stages.memory.used_bytes(),
            arriving: self.arrivals.len(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn residence_of(&self, ino: Ino, inode: &Inode) -> Residence {
        let is_staged = self
            .table
            .find(ino)
            .is_some_and(|body| body.loaded().is_some_and(|state| state.is_staged()));
        let view = self.ring.view();
        let members = self.members().map(|members| members.to_vec()).unwrap_or_default();
        let held = view.held().unwrap_or_default();
        let me = self.ring.me();
        let (state, here) = match inode.body {
            _ if is_staged => ("staged", true),
            Body::Empty => ("empty", true),
            Body::Inline(_) => ("inline", true),
            Body::Sealed { id, .. } if self.holds(id) => ("held", true),
            Body::Sealed { .. } if self.wants.lock().list.contains(ino) => ("arriving", false),
            Body::Sealed { .. } => ("remote", false),
        };
        let everywhere = !matches!(inode.body, Body::Sealed { .. });
        let takers = self.takers().unwrap_or_default();
        let placement = Placement::everywhere(&takers);
        let holds = |member: &&Member| {
            let should = match inode.body {
                Body::Sealed { id, .. } => should_hold(member.id, id, &takers, &placement),
                Body::Empty | Body::Inline(_) => true,
            };
            let confirmed = should
                && held.iter().any(|&(node, upto)| node == member.id && upto.0 >= inode.version.0);
            everywhere
                || inode.holder == Some(member.id)
                || if member.id == me { here && !is_staged } else { confirmed }
        };
        let mut zones: Vec<String> =
            members.iter().filter(holds).map(|member| member.zone_name.clone()).collect();
        zones.sort_unstable();
        zones.dedup();
        Residence { zones, state }
    }

    pub(super) fn space_left(&self) -> Space {
        match self.store.bodies().space() {
            Ok(space) => Space {
                total_bytes: space.total_bytes,
                available_bytes: space.free_bytes.saturating_sub(space.reserve_bytes),
            },
            Err(error) => {
                tracing::error!(error = %error.chain(), "the store's filesystem does not answer");
                Space { total_bytes: 0, available_bytes: 0 }
            }
        }
    }

    /// The agreed members.
    pub(super) fn members(&self) -> Result<Arc<Vec<Member>>, BodyError> {
        self.known().map(|known| known.all)
    }

    /// The members that copies are placed on.
    pub(super) fn takers(&self) -> Result<Arc<Vec<Member>>, BodyError> {
        self.known().map(|known| known.takers)
    }

    fn known(&self) -> Result<Known, BodyError> {
        if let Some(known) = &*self.members.members.lock() {
            return Ok(known.clone());
        }
        let before = self.members.changes.load(Ordering::Acquire);
        let all = self.ring.view().members().map_err(tables)?;
        let takers = all.iter().filter(|member| member.takes_bodies()).cloned().collect();
        let known = Known { all: Arc::new(all), takers: Arc::new(takers) };
        let mut cached = self.members.members.lock();
        // What was read before a change must not stay.
        if self.members.changes.load(Ordering::Acquire) == before {
            *cached = Some(known.clone());
        }
        Ok(known)
    }

    /// From the apply thread.
    pub(super) fn members_changed(&self) {
        self.members.changes.fetch_add(1, Ordering::AcqRel);
        *self.members.members.lock() = None;
        match self.members() {
            Ok(members) => self.follow_members(&members),
            Err(error) => tracing::error!(%error, "the members cannot be read"),
        }
        self.wants_changed.notify_one();
    }

    fn follow_members(&self, members: &[Member]) {
        let Some(own) = members.iter().find(|member| member.id == self.ring.me()) else { return };
        let fellows: Vec<NodeId> = members
            .iter()
            .filter(|member| member.zone == own.zone && member.takes_bodies())
            .map(|member| member.id)
            .collect();
        let moved = {
            let mut known = self.members.fellows.lock();
            let moved = *known != fellows;
            *known = fellows;
            moved
        };
        // The copies of the zone lie on other nodes now.
        if moved {
            self.wants.lock().rescan();
        }
        if own.draining {
            self.arc().hand_all_over();
        }
    }

    /// This node is among those that copies are placed on.
    pub(super) fn takes_bodies(&self) -> bool {
        let me = self.ring.me();
        self.takers().is_ok_and(|takers| takers.iter().any(|member| member.id == me))
    }
}

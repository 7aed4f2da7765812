//! Where bytes are and what there is to do, for people.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::command::{Body, Member};
use engine::ids::Ino;
use engine::namespace::Inode;
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
    members: Mutex<Option<Arc<Vec<Member>>>>,
    changes: AtomicU64,
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
        let holds = |member: &&Member| {
            let confirmed =
                held.iter().any(|&(node, upto)| node == member.id && upto.0 >= inode.version.0);
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
        if let Some(members) = &*self.members.members.lock() {
            return Ok(Arc::clone(members));
        }
        let before = self.members.changes.load(Ordering::Acquire);
        let members = Arc::new(self.ring.view().members().map_err(tables)?);
        let mut cached = self.members.members.lock();
        // What was read before a change must not stay.
        if self.members.changes.load(Ordering::Acquire) == before {
            *cached = Some(Arc::clone(&members));
        }
        Ok(members)
    }

    /// From the apply thread.
    pub(super) fn members_changed(&self) {
        self.members.changes.fetch_add(1, Ordering::AcqRel);
        *self.members.members.lock() = None;
        self.wants_changed.notify_one();
    }
}

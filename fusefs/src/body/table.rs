//! The files that are open on this node or have a stage here, and their handles.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::ids::Ino;
use engine::namespace::Inode;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::state::{Base, Stages, State};
use crate::ops::ports::{BodyError, Handle, Ring};

/// One file's entry.
#[derive(Debug)]
pub struct OpenBody {
    pub ino: Ino,
    /// Held over every change of the file, also while its bytes go to the disk: makes changes
    /// and freezes atomic towards each other. Taken before `state`.
    pub writing: Mutex<()>,
    /// Held shortly, never during I/O, since the apply thread takes it too. `None` until the
    /// first look at the tables.
    state: Mutex<Option<State>>,
    /// Held while the write token is handed over.
    pub handing_over: tokio::sync::Mutex<()>,
    /// Told when a version was proposed, and when it left the way into the order.
    pub settled: Notify,
}

/// All entries. An entry goes when nothing needs it.
#[derive(Default)]
pub struct Table {
    bodies: Mutex<HashMap<Ino, Arc<OpenBody>>>,
    handles: Mutex<HashMap<u64, OpenHandle>>,
    last_handle: AtomicU64,
}

/// What a handle may do, to what.
#[derive(Clone, Debug)]
pub struct OpenHandle {
    pub body: Arc<OpenBody>,
    pub write: bool,
    /// Its process relied on a lock that is another's now.
    pub revoked: bool,
}

impl OpenBody {
    fn new(ino: Ino) -> OpenBody {
        OpenBody {
            ino,
            writing: Mutex::new(()),
            state: Mutex::new(None),
            handing_over: tokio::sync::Mutex::default(),
            settled: Notify::new(),
        }
    }

    /// The state, loaded from the tables if this is its first use. The tables are read under
    /// the lock and after the entry is in the table: an apply in between is either seen here
    /// or finds the entry and waits.
    ///
    /// An inode that is not in the tables is gone; `pinned` is its last record, if known.
    ///
    /// # Errors
    /// [`BodyError::Storage`] if the tables cannot be read.
    pub fn state(
        &self,
        ring: &dyn Ring,
        stages: &Stages,
        pinned: Option<&Inode>,
    ) -> Result<MappedMutexGuard<'_, State>, BodyError> {
        let mut guard = self.state.lock();
        if guard.is_none() {
            let inode = ring.view().inode(self.ino);
            let inode = inode.map_err(|error| BodyError::Storage(error.to_string()))?;
            let gone = inode.is_none();
            let base = inode.as_ref().or(pinned).map(Base::of).unwrap_or_default();
            let mut state = State::new(base, stages.clone());
            state.gone = gone;
            state.unnamed = inode.is_some_and(|inode| inode.nlink == 0);
            *guard = Some(state);
        }
        Ok(MutexGuard::map(guard, |state| state.as_mut().expect("loaded above")))
    }

    /// The state if it was loaded.
    pub fn loaded(&self) -> Option<MappedMutexGuard<'_, State>> {
        MutexGuard::try_map(self.state.lock(), Option::as_mut).ok()
    }

    /// Puts in a state that the journal brought back.
    pub fn restore(&self, state: State) {
        *self.state.lock() = Some(state);
    }
}

impl Table {
    pub fn find(&self, ino: Ino) -> Option<Arc<OpenBody>> {
        self.bodies.lock().get(&ino).cloned()
    }

    pub fn find_or_add(&self, ino: Ino) -> Arc<OpenBody> {
        let mut bodies = self.bodies.lock();
        Arc::clone(bodies.entry(ino).or_insert_with(|| Arc::new(OpenBody::new(ino))))
    }

    pub fn all(&self) -> Vec<Arc<OpenBody>> {
        self.bodies.lock().values().cloned().collect()
    }

    /// Removes the entry if it is idle and nobody else is about to use it. The caller's own
    /// reference is `body`.
    pub fn forget_if_idle(&self, body: Arc<OpenBody>) {
        let mut bodies = self.bodies.lock();
        // One reference is the table's and one the caller's; others are taken under this lock.
        if Arc::strong_count(&body) > 2 {
            return;
        }
        let idle = body.state.lock().as_ref().is_none_or(State::is_idle);
        if idle {
            bodies.remove(&body.ino);
        }
    }

    /// Removes what is idle and was in use at the moment when it became so.
    pub fn sweep(&self) {
        let idle = |body: &Arc<OpenBody>| {
            Arc::strong_count(body) == 1 && body.state.lock().as_ref().is_none_or(State::is_idle)
        };
        self.bodies.lock().retain(|_, body| !idle(body));
    }

    pub fn add_handle(&self, body: Arc<OpenBody>, write: bool) -> Handle {
        let handle = self.last_handle.fetch_add(1, Ordering::Relaxed) + 1;
        self.handles.lock().insert(handle, OpenHandle { body, write, revoked: false });
        Handle(handle)
    }

    /// # Errors
    /// [`BodyError::BadHandle`] for one that is not open, [`BodyError::Expired`] after
    /// [`Self::revoke`].
    pub fn handle(&self, handle: Handle) -> Result<OpenHandle, BodyError> {
        let open = self.handles.lock().get(&handle.0).cloned().ok_or(BodyError::BadHandle)?;
        if open.revoked { Err(BodyError::Expired) } else { Ok(open) }
    }

    pub fn revoke(&self, handle: Handle) {
        if let Some(open) = self.handles.lock().get_mut(&handle.0) {
            open.revoked = true;
        }
    }

    pub fn remove_handle(&self, handle: Handle) -> Option<OpenHandle> {
        self.handles.lock().remove(&handle.0)
    }
}

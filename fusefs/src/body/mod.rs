//! The bytes of files on this node: written, sealed, published, fetched, read and served.
//!
//! ```text
//!  application ─▶ stage ─▶ layer ─▶ seal ─▶ publish ─▶ the agreed order
//!                   │                │                      │
//!  application ◀── read ◀── sealed bodies (store) ◀── fetch ◀── arrive
//!                                    │
//!                                  serve ─▶ other nodes
//! ```
//! Nothing on the way of a write waits for chunking, hashing or the network. What is sealed
//! never changes. Several versions of one file may be here at once: the agreed one, one on
//! its way into the order, and the layer that is being written ([`state`]).
//!
//! | thread or task | does | file |
//! |---|---|---|
//! | caller | open, read, write, fsync | `stage`, `read`, `journal` |
//! | seal (2) | hashes and stores frozen layers, proposes | `seal`, `publish` |
//! | settle | finishes versions: records, conflicts | `publish`, `conflict` |
//! | apply (the node's) | is told what was agreed | `publish` |
//! | arrivals | fetches what should be here | `arrive`, `fetch` |
//! | watermark | tells how far everything is here | `arrive` |
//! | quota | reserves room in quotas, and returns it | `quota` |
//!
//! Locks, in the order of taking: a file's `writing`, its `state`, then the leaf locks
//! (queue, wants, table, quotas). `state` is never held during I/O on bodies, since the apply thread
//! takes it.

mod arrive;
mod arriving;
mod conflict;
mod content;
mod copy;
mod counters;
mod error;
mod extents;
mod fetch;
mod holes;
mod journal;
mod layer;
mod offer;
mod publish;
mod queue;
mod quota;
mod read;
mod recall;
mod restore;
mod seal;
mod sealed;
mod secure;
mod serve;
mod source;
mod stage;
mod state;
mod status;
mod table;
mod want;

#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::chunking::ContentKey;
use engine::ids::{Gsn, Ino, VolumeId};
use engine::namespace::Inode;
use engine::time::Timestamp;
use parking_lot::Mutex;
use store::{Store, StoreError};
use tokio::runtime;
use tokio::sync::{Notify, watch};

pub use self::arrive::Progress;
pub use self::conflict::Conflict;
pub use self::counters::{Counter, Counters};
pub use self::source::{Asking, Peers};
pub use self::status::Load;

use self::arrive::Wants;
use self::arriving::Arrivals;
use self::layer::LayerId;
use self::publish::Settled;
use self::queue::SealQueue;
use self::quota::Quotas;
use self::sealed::SealedBodies;
use self::source::Reputation;
use self::state::Stages;
use self::status::MembersCache;
use self::table::Table;
use crate::ops::ports::{
    Bodies, BodyError, Demand, Done, Handle, LocalAttr, Offer, OfferDone, ReadDone, Residence,
    Ring, Space,
};
use crate::ops::rules::{Durability, Partition};

/// What the service works with.
pub struct Config<P> {
    pub volume: VolumeId,
    pub store: Store,
    pub ring: Arc<dyn Ring>,
    /// The way to other nodes: the wire.
    pub wire: P,
    pub runtime: runtime::Handle,
    /// A file that stays open is sealed when its oldest change is this old.
    pub seal_age: Duration,
    /// How long a reader waits for bytes that nobody gives.
    pub fetch_timeout: Duration,
    /// How long a call waits for others where its directory says that it fails then.
    pub op_timeout: Duration,
}

/// The bodies of one volume on this node.
pub struct BodyService {
    /// For what goes on after a call has returned.
    this: Weak<BodyService>,
    settings: Settings,
    store: Store,
    ring: Arc<dyn Ring>,
    peers: Box<dyn Peers>,
    runtime: runtime::Handle,
    key: ContentKey,
    stages: Stages,
    table: Table,
    queue: SealQueue,
    quotas: Quotas,
    settled: Sender<Settled>,
    sealed: SealedBodies,
    wants: Mutex<Wants>,
    wants_changed: Notify,
    /// What this node holds may reach farther now.
    held_changed: Notify,
    peers_changed: Notify,
    /// Told when a body was fetched completely.
    body_arrived: Notify,
    /// What the apply thread told last.
    applied: watch::Sender<Gsn>,
    arrivals: Arrivals,
    reputation: Reputation,
    members: MembersCache,
    counters: Counters,
    reporting: AtomicBool,
    stopping: Stopping,
    threads: Mutex<Vec<JoinHandle<()>>>,
    on_reverted: OnceLock<Box<dyn Fn(Ino) + Send + Sync>>,
}

struct Settings {
    volume: VolumeId,
    seal_age: Duration,
    fetch_timeout: Duration,
    op_timeout: Duration,
}

/// Tells tasks to end.
struct Stopping(watch::Sender<bool>);

/// One hashes a large file while the other goes on with small ones.
const SEALERS: usize = 2;

impl BodyService {
    /// Brings back what the journal has, and starts the threads and tasks. The tables of the
    /// volume must be there.
    ///
    /// # Errors
    /// When the tables or the journal cannot be read.
    pub fn start<P: Peers + 'static>(config: Config<P>) -> Result<Arc<BodyService>, StoreError> {
        let Config { volume, store, ring, wire, runtime, seal_age, fetch_timeout, op_timeout } =
            config;
        let key = ring.view().volume_key().map_err(|error| StoreError::Damaged {
            what: "the tables".into(),
            detail: error.to_string(),
        })?;
        let (settled, news) = channel();
        let service = Arc::new_cyclic(|this| BodyService {
            this: this.clone(),
            settings: Settings { volume, seal_age, fetch_timeout, op_timeout },
            // Ids of this start are above those of the starts before.
            stages: Stages::after(LayerId(store.boot() << LAYER_BITS)),
            store,
            ring,
            peers: Box::new(wire),
            runtime,
            key: ContentKey::new(key),
            table: Table::default(),
            queue: SealQueue::default(),
            quotas: Quotas::default(),
            settled,
            sealed: SealedBodies::default(),
            wants: Mutex::new(Wants::new()),
            wants_changed: Notify::new(),
            held_changed: Notify::new(),
            peers_changed: Notify::new(),
            body_arrived: Notify::new(),
            applied: watch::Sender::new(Gsn(0)),
            arrivals: Arrivals::default(),
            reputation: Reputation::default(),
            members: MembersCache::default(),
            counters: Counters::default(),
            reporting: AtomicBool::new(false),
            stopping: Stopping(watch::Sender::new(false)),
            threads: Mutex::default(),
            on_reverted: OnceLock::new(),
        });
        service.note_applied(service.ring.applied_gsn(), Vec::new());
        service.restore()?;
        service.restore_quotas().map_err(|error| StoreError::Damaged {
            what: "the tables".into(),
            detail: error.to_string(),
        })?;
        let settler = Arc::clone(&service);
        service.spawn("settle", move || settler.run_settler(&news))?;
        for _ in 0..SEALERS {
            let sealer = Arc::clone(&service);
            service.spawn("seal", move || sealer.run_sealer())?;
        }
        service.runtime.spawn(Arc::clone(&service).run_arrivals());
        service.runtime.spawn(Arc::clone(&service).run_watermark());
        service.runtime.spawn(Arc::clone(&service).run_quota_returns());
        Ok(service)
    }

    /// Sets who is told when a file's content went back to the agreed version here without
    /// any new agreement (a conflict, a failed sync), so that caches forget it.
    pub fn set_on_reverted(&self, tell: impl Fn(Ino) + Send + Sync + 'static) {
        assert!(self.on_reverted.set(Box::new(tell)).is_ok(), "there is one listener");
    }

    /// Journals and seals everything that was written, and waits until it is published.
    pub async fn drain(self: &Arc<Self>) {
        self.journal_all();
        for body in self.table.all() {
            loop {
                let settled = body.settled.notified();
                tokio::pin!(settled);
                settled.as_mut().enable();
                if body.loaded().is_none_or(|state| !state.is_published() || !state.is_staged()) {
                    break;
                }
                self.queue.add(body.ino, Instant::now());
                settled.await;
            }
        }
        self.return_quotas().await;
    }

    /// Ends threads and tasks. What is not published is in the journal; the caller syncs the
    /// store afterwards.
    pub fn stop(&self) {
        self.stopping.0.send_replace(true);
        self.queue.stop();
        let _ = self.settled.send(Settled::Stop);
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the bodies had panicked");
            }
        }
        self.journal_all();
        self.arrivals.persist();
    }

    /// Ends as a process that is killed: nothing is journaled.
    #[cfg(test)]
    fn crash(&self) {
        self.stopping.0.send_replace(true);
        self.queue.stop();
        let _ = self.settled.send(Settled::Stop);
        for thread in std::mem::take(&mut *self.threads.lock()) {
            thread.join().expect("no thread panicked");
        }
    }

    fn journal_all(&self) {
        for body in self.table.all() {
            if body.loaded().is_none_or(|state| !state.is_staged()) {
                continue;
            }
            if let Err(error) = self.journal(&body, false, false) {
                tracing::error!(ino = %body.ino, %error, "a stage could not be journaled");
            }
        }
    }

    fn arc(&self) -> Arc<BodyService> {
        self.this.upgrade().expect("whoever calls holds the service")
    }

    fn reverted(&self, ino: Ino) {
        if let Some(tell) = self.on_reverted.get() {
            tell(ino);
        }
    }

    fn admit(&self, bytes: u64) -> Result<(), BodyError> {
        self.store.bodies().admit(bytes).map_err(error::stored)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread =
            thread.map_err(|error| StoreError::Invalid(format!("no thread '{name}': {error}")))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Runs what waits for the disk away from the caller's thread.
    fn in_background<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&BodyService) -> Result<T, BodyError> + Send + 'static,
        done: Done<T, BodyError>,
    ) {
        let service = Arc::clone(self);
        self.runtime.spawn_blocking(move || done(run(&service)));
    }
}

/// Layers of one start: 2^40 of them, and 2^24 starts.
const LAYER_BITS: u32 = 40;

impl Stopping {
    async fn cancelled(&self) {
        let mut stopping = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// The service as operations use it.
impl Bodies for BodyService {
    fn open(
        &self,
        ino: Ino,
        inode: &Inode,
        write: bool,
        truncate: bool,
    ) -> Result<Handle, BodyError> {
        self.open_body(ino, inode, write, truncate)
    }

    fn read(&self, handle: Handle, offset: u64, len: u32, done: ReadDone) {
        self.arc().read_handle(handle, offset, len, done);
    }

    fn write(
        &self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        append: bool,
        done: Done<u32, BodyError>,
    ) {
        done(self.write_body(handle, offset, data, append));
    }

    fn truncate(&self, ino: Ino, size: u64, done: Done<bool, BodyError>) {
        done(self.truncate_body(ino, size));
    }

    fn set_mtime(&self, ino: Ino, mtime: Timestamp) -> bool {
        let now = self.ring.now();
        let body = self.table.find(ino);
        body.is_some_and(|body| body.loaded().is_some_and(|mut state| state.set_mtime(mtime, now)))
    }

    fn fallocate(
        &self,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: u32,
        done: Done<(), BodyError>,
    ) {
        done(self.fallocate_body(handle, offset, len, mode));
    }

    fn reserve(&self, quota: Ino, bytes: u64, partition: Partition, done: Done<(), BodyError>) {
        let service = self.arc();
        self.runtime.spawn(async move {
            done(service.reserve_within(quota, bytes, partition).await);
        });
    }

    fn fsync(&self, ino: Ino, data_only: bool, demand: Demand, done: Done<(), BodyError>) {
        let service = self.arc();
        let local = move |service: &BodyService| service.fsync_body(ino, data_only);
        if demand.durability == Durability::Local {
            return service.in_background(local, done);
        }
        let waiting = Arc::clone(&service);
        service.in_background(
            local,
            Box::new(move |synced| match synced {
                Err(error) => done(Err(error)),
                Ok(()) => {
                    let runtime = waiting.runtime.clone();
                    runtime.spawn(async move { done(waiting.secure(ino, demand).await) });
                }
            }),
        );
    }

    fn publish_file(&self, ino: Ino, done: Done<(), BodyError>) {
        self.arc().publish_body(ino, done);
    }

    fn flush(&self, handle: Handle, done: Done<(), BodyError>) {
        done(self.table.handle(handle).and_then(|open| {
            let Some(mut state) = open.body.loaded() else { return Ok(()) };
            if let (true, Some(top)) = (open.write, &mut state.top) {
                top.closed = true;
            }
            state.failed.take().map_or(Ok(()), Err)
        }));
    }

    fn release(&self, handle: Handle) {
        self.release_body(handle);
    }

    fn revoke(&self, handle: Handle) {
        self.table.revoke(handle);
    }

    fn publish_written(&self, ino: Ino, done: Done<(), BodyError>) {
        self.arc().publish_until_now(ino, done);
    }

    fn seek(&self, handle: Handle, offset: u64, hole: bool, done: Done<u64, BodyError>) {
        self.arc().seek_handle(handle, offset, hole, done);
    }

    fn copy(&self, from: (Handle, u64), to: (Handle, u64), len: u64, done: Done<u64, BodyError>) {
        self.arc().copy_handle(from, to, len, done);
    }

    fn offer(&self, what: Offer, done: OfferDone) {
        self.arc().offer_bodies(what, done);
    }

    fn is_open_for_writing(&self, ino: Ino) -> bool {
        let body = self.table.find(ino);
        body.is_some_and(|body| body.loaded().is_some_and(|state| state.writers > 0))
    }

    fn local_attr(&self, ino: Ino) -> Option<LocalAttr> {
        let body = self.table.find(ino)?;
        let state = body.loaded()?;
        state.attr()
    }

    fn residence(&self, ino: Ino, inode: &Inode) -> Residence {
        self.residence_of(ino, inode)
    }

    fn space(&self) -> Space {
        self.space_left()
    }
}

//! How the node does: what its threads publish, and what others wait for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use engine::consensus::RingStatus;
use engine::consensus::record::Header;
use engine::ids::{Gsn, NodeId, StateHash};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub struct Pulse {
    applied: AtomicU64,
    told: AtomicU64,
    applied_watch: watch::Sender<Gsn>,
    header: RwLock<Arc<Header>>,
    hashes: Mutex<VecDeque<(Gsn, StateHash)>>,
    ring: RwLock<Option<(Instant, Arc<RingStatus>)>>,
    catch_up: Mutex<Option<CatchUp>>,
    installs: AtomicU64,
    retained: Mutex<Retained>,
    failure: watch::Sender<Option<Failure>>,
    removed: OnceLock<Gsn>,
    lane_ended: watch::Sender<bool>,
}

/// Why a node stopped, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub cure: Cure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// The database is not to be believed: a restart gives it up and takes a peer's state.
    Repair,
    /// The state differs from the majority's. The daemon stays, so that people can look; a
    /// restart repairs as above.
    Diverged,
    /// Somebody has to look at the machine.
    Operator,
    /// The node was removed: it is not to come back.
    None,
}

/// A node on its way to the newest agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Agreements from peers, up to the newest known one.
    Log { from: Gsn, upto: Gsn },
    /// A copy of a peer's tables.
    Checkpoint { peer: NodeId, gsn: Gsn, bytes: u64, total_bytes: u64 },
}

/// What is kept of the agreed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    pub oldest: Gsn,
    pub bytes: u64,
    /// Members that are away for longer than that.
    pub sidelined: BTreeSet<NodeId>,
}

/// So many state hashes are kept: enough to compare nodes that lag behind each other.
const HASHES_KEPT: usize = 65_536;

impl Pulse {
    pub fn new(header: Header, hash: StateHash) -> Pulse {
        let gsn = header.gsn;
        Pulse {
            applied: AtomicU64::new(gsn.0),
            told: AtomicU64::new(gsn.0),
            applied_watch: watch::Sender::new(gsn),
            header: RwLock::new(Arc::new(header)),
            hashes: Mutex::new(VecDeque::from([(gsn, hash)])),
            ring: RwLock::new(None),
            catch_up: Mutex::default(),
            installs: AtomicU64::new(0),
            retained: Mutex::default(),
            failure: watch::Sender::new(None),
            removed: OnceLock::new(),
            lane_ended: watch::Sender::new(false),
        }
    }

    /// The newest agreement in the tables.
    pub fn applied(&self) -> Gsn {
        Gsn(self.applied.load(Ordering::Acquire))
    }

    /// The newest agreement of which all followers were told.
    pub fn told(&self) -> Gsn {
        Gsn(self.told.load(Ordering::Acquire))
    }

    /// Called by the apply thread after it has told them.
    pub fn record_told(&self, gsn: Gsn) {
        self.told.store(gsn.0, Ordering::Release);
    }

    /// Follows [`Self::applied`].
    pub fn watch_applied(&self) -> watch::Receiver<Gsn> {
        self.applied_watch.subscribe()
    }

    /// Called by the apply thread after the tables show the last of `hashes`.
    pub fn record_applied(&self, hashes: &[(Gsn, StateHash)], header: &Arc<Header>) {
        let mut kept = self.hashes.lock();
        kept.extend(hashes);
        let excess = kept.len().saturating_sub(HASHES_KEPT);
        kept.drain(..excess);
        drop(kept);
        *self.header.write() = header.clone();
        self.applied.store(header.gsn.0, Ordering::Release);
        self.applied_watch.send_replace(header.gsn);
    }

    pub fn header(&self) -> Arc<Header> {
        self.header.read().clone()
    }

    /// The newest applied GSN and the state hash there.
    pub fn newest_hash(&self) -> (Gsn, StateHash) {
        *self.hashes.lock().back().expect("the hash at the start is kept until a newer one comes")
    }

    /// The state hash at `gsn`, if it is among the last ones.
    pub fn hash_at(&self, gsn: Gsn) -> Option<StateHash> {
        let hashes = self.hashes.lock();
        let at = hashes.binary_search_by_key(&gsn, |(gsn, _)| *gsn).ok()?;
        hashes.get(at).map(|(_, hash)| *hash)
    }

    /// Publishes the replica's own account.
    pub fn record_ring(&self, status: RingStatus) {
        *self.ring.write() = Some((Instant::now(), Arc::new(status)));
    }

    /// The replica's last account of itself.
    pub fn ring(&self) -> Option<Arc<RingStatus>> {
        self.ring.read().as_ref().map(|(_, status)| status.clone())
    }

    /// The newest agreement that this node knows of: at least what it has applied, as
    /// [`Self::newest_hash`] had it before this call.
    pub fn agreed(&self) -> Gsn {
        let here = self.newest_hash().0;
        self.ring().map_or(here, |ring| ring.gsn.max(ring.gsn_of_peers).max(here))
    }

    /// Forgets the hashes of states that a checkpoint replaced.
    pub fn record_installed(&self, hash: (Gsn, StateHash), header: &Arc<Header>) {
        *self.hashes.lock() = VecDeque::from([hash]);
        self.record_applied(&[], header);
        self.installs.fetch_add(1, Ordering::Relaxed);
    }

    /// Checkpoints that took the place of the tables since the start.
    pub fn installs(&self) -> u64 {
        self.installs.load(Ordering::Relaxed)
    }

    pub fn record_retained(&self, retained: Retained) {
        *self.retained.lock() = retained;
    }

    pub fn retained(&self) -> Retained {
        self.retained.lock().clone()
    }

    /// How the node gets to the newest agreement; `None` when it is there.
    pub fn record_catch_up(&self, catch_up: Option<CatchUp>) {
        *self.catch_up.lock() = catch_up;
    }

    pub fn catch_up(&self) -> Option<CatchUp> {
        self.catch_up.lock().clone()
    }

    /// The node can't go on: it stops voting, applying and acknowledging. The first reason
    /// stays.
    pub fn fail(&self, reason: String) {
        self.end(Failure { reason, cure: Cure::Operator });
    }

    /// As [`Self::fail`], because the database is not what it was.
    pub fn fail_damaged(&self, reason: String) {
        self.end(Failure { reason, cure: Cure::Repair });
    }

    /// As [`Self::fail`], because the state is another one than the majority's.
    pub fn fail_diverged(&self, reason: String) {
        self.end(Failure { reason, cure: Cure::Diverged });
    }

    fn end(&self, why: Failure) {
        self.failure.send_if_modified(|failure| {
            if failure.is_some() {
                return false;
            }
            tracing::error!(reason = why.reason, "the node stops");
            *failure = Some(why);
            true
        });
    }

    /// This node is no member any more since the agreement `gsn`: it stops like one that failed.
    pub fn removed(&self, gsn: Gsn) {
        let gsn = *self.removed.get_or_init(|| gsn);
        self.end(Failure { reason: super::farewell::sentence(gsn), cure: Cure::None });
    }

    /// The agreement that removed this node, if it knows of one.
    pub fn removed_at(&self) -> Option<Gsn> {
        self.removed.get().copied()
    }

    pub fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    /// Why nothing here is to be believed, if so.
    pub fn diverged(&self) -> Option<String> {
        let failure = self.failure.borrow();
        let diverged = failure.as_ref().filter(|failure| failure.cure == Cure::Diverged);
        diverged.map(|failure| failure.reason.clone())
    }

    pub fn watch_failure(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }

    /// The own lane is closed: nobody waits for this node any more.
    pub fn lane_ended(&self) {
        self.lane_ended.send_replace(true);
    }

    pub fn watch_lane_ended(&self) -> watch::Receiver<bool> {
        self.lane_ended.subscribe()
    }
}

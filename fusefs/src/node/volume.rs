//! One volume on this node: its replica, its threads, its bodies and its mounts.
//!
//! A node runs several over the same store and connections. Each has its own ring, order and
//! state; nothing here knows of the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::command::Op;
use engine::consensus::{Input, Message, Replica};
use engine::ids::{Ino, NodeId, VolumeId};
use engine::namespace::{TablesError, View};
use parking_lot::{Mutex, RwLock};
use store::Store;
use tokio::runtime::Handle;
use tokio::task::JoinHandle as Task;
use wire::{Ask, PeerInfo, RefusedCode, Request, Response, Wire};

use super::agreements::{self, Agreements, Source};
use super::apply::{ApplyThread, Finished};
use super::catchup::{CatchUpSignal, CatchUpTask};
use super::checkpoint::CheckpointService;
use super::clock::Clock;
use super::driver::{self, Backlog, Event, Outlets};
use super::inodes::InodeNumbers;
use super::lease::{Lease, Silences};
use super::local_ring::LocalRing;
use super::log::LogThread;
use super::members::Members;
use super::mounts::Mounts;
use super::order::{OrderService, OrderThread};
use super::promoter::Promoter;
use super::proposals::{LIMIT_EVERY, Proposals};
use super::pulse::{Cure, Pulse};
use super::queue::{Incoming, Outgoing, Taken, bounded, queue};
use super::quotas::Quotas;
use super::report::Reporter;
use super::retain::{Keep, RetainThread};
use super::setup::failed;
use super::stage::{Stage, Stages};
use super::suspicion::Suspicion;
use super::underway::Underway;
use super::waiting;
use crate::admin::control::ControlError;
use crate::body::BodyService;
use crate::config::Settings;
use crate::ops::ports::{Bodies, Caller, OnApplied, ProposeError, Ring};

/// A running volume.
pub struct Volume {
    pub id: VolumeId,
    pub name: String,
    pub ring: Arc<dyn Ring>,
    pub pulse: Arc<Pulse>,
    pub proposals: Arc<Proposals>,
    pub events: Outgoing<Event>,
    pub bodies: Arc<BodyService>,
    pub mounts: Arc<Mounts>,
    pub reporter: Arc<Reporter>,
    pub agreements: Arc<Agreements>,
    pub stages: Arc<Stages>,
    pub promoter: Arc<Promoter>,
    members: Arc<Members>,
    checkpoints: Arc<CheckpointService>,
    order: OrderThread,
    order_service: Arc<OrderService>,
    backlog: Arc<Backlog>,
    /// Dropped, it ends the thread that truncates the order.
    stop_retaining: Mutex<Option<Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    tasks: Vec<Task<()>>,
}

/// What the volumes of a node share.
pub struct Shared {
    pub me: NodeId,
    pub store: Store,
    pub wire: Arc<Wire>,
    pub settings: Settings,
    pub inodes: Arc<InodeNumbers>,
}

/// What people call the root volume.
pub const ROOT_NAME: &str = "root";

/// The own lane ends in about one round trip to a majority; a node without one does not wait
/// longer than this to stop.
const LANE_END_TIMEOUT: Duration = Duration::from_secs(4);
/// What was written is sealed and published before a graceful stop, for so long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Records and messages that wait for the disk. More, and the ring waits as well: a node whose
/// disk is slower than the others' falls behind instead of filling its memory.
const LOG_QUEUE_BYTES: usize = 64 << 20;
/// Agreements that wait to be applied; as above.
const APPLY_QUEUE_BYTES: usize = 64 << 20;

impl Volume {
    /// Starts the volume from what the store holds of it. Its tables must be there. A child
    /// volume follows the members of the `root` volume, as far as they take part in it. The
    /// `followers` are told of what is applied after those that every volume has.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(
        id: VolumeId,
        name: &str,
        shared: &Shared,
        root: Option<Arc<dyn Ring>>,
        followers: Vec<Arc<dyn OnApplied>>,
    ) -> Result<Arc<Volume>, ControlError> {
        let Shared { me, store, wire, settings, inodes } = shared;
        let (me, boot) = (*me, store.boot());
        let recovered = {
            let store = store.clone();
            let recovered = tokio::task::spawn_blocking(move || store.recover(id)).await;
            recovered.map_err(failed)?.map_err(failed)?
        };
        let forgetful = recovered.forgetful;
        let hash = View::new(store.tables(id)).state_hash().map_err(failed)?;
        let pulse = Arc::new(Pulse::new(recovered.header.clone(), hash));
        let stages = Arc::new(Stages::default());
        let (events, event_queue) = queue(&stages.received);
        let proposals = Arc::new(Proposals::new(me, boot, events.clone()));
        let (lease, silences) = (Arc::new(Lease::default()), Arc::new(Silences::default()));
        let local = Arc::new(LocalRing {
            me,
            volume: id,
            store: store.clone(),
            wire: wire.clone(),
            pulse: pulse.clone(),
            proposals: proposals.clone(),
            lease: lease.clone(),
            silences: silences.clone(),
            inodes: inodes.clone(),
            runtime: Handle::current(),
            op_timeout: settings.op_timeout(),
        });
        let ring: Arc<dyn Ring> = local.clone();
        let bodies = BodyService::start(crate::body::Config {
            volume: id,
            store: store.clone(),
            ring: ring.clone(),
            wire: wire.clone(),
            runtime: Handle::current(),
            seal_age: settings.seal_age(),
            fetch_timeout: settings.fetch_timeout(),
            op_timeout: settings.op_timeout(),
        })
        .map_err(failed)?;
        let mounts = Arc::new(Mounts::new(ring.clone(), bodies.clone()));
        {
            let mounts = mounts.clone();
            bodies.set_on_reverted(move |ino| mounts.content_reverted(ino));
        }
        // The root volume's members are the cluster: whom the network may talk to.
        let network = (id == VolumeId::ROOT).then(|| wire.clone());
        let members = Arc::new(Members::new(id, ring.clone(), store.dir().to_owned(), network));
        members.publish().map_err(failed)?;
        let mut all_followers: Vec<Arc<dyn OnApplied>> =
            vec![members.clone(), bodies.clone(), mounts.clone()];
        all_followers.extend(followers);

        let mut threads = Threads::default();
        let (jobs, job_queue) = bounded(LOG_QUEUE_BYTES, &stages.persisted);
        let (agreed, agreed_queue) = bounded(APPLY_QUEUE_BYTES, &stages.agreed);
        let agreed = Arc::new(agreed);
        let (replies, reply_queue) = queue(&stages.replied);
        let log = LogThread {
            volume: id,
            me,
            store: store.clone(),
            wire: wire.clone(),
            events: events.clone(),
            pulse: pulse.clone(),
            stage: stages.persisted.clone(),
        };
        threads.spawn("log", move || log.run(&job_queue))?;
        let apply = ApplyThread {
            volume: id,
            store: store.clone(),
            proposals: proposals.clone(),
            lease: lease.clone(),
            pulse: pulse.clone(),
            events: events.clone(),
            replies,
            stages: stages.clone(),
            followers: all_followers,
        };
        threads.spawn("apply", move || apply.run(&agreed_queue))?;
        let replied = stages.replied.clone();
        threads.spawn("reply", move || answer(&reply_queue, &replied))?;
        let order = OrderThread {
            volume: id,
            store: store.clone(),
            wire: wire.clone(),
            pulse: pulse.clone(),
        };
        let order_service = Arc::new(OrderService::default());
        {
            let (order, service) = (order.clone(), order_service.clone());
            threads.spawn("order", move || order.run(&service))?;
        }
        let (agreements, reads) = Agreements::new(Source {
            volume: id,
            store: store.clone(),
            ring: ring.clone(),
            pulse: pulse.clone(),
        });
        threads.spawn("readers", move || agreements::serve(&reads))?;
        let checkpoints = Arc::new(CheckpointService::new(id, store.clone()));
        let retain = RetainThread {
            volume: id,
            store: store.clone(),
            ring: ring.clone(),
            pulse: pulse.clone(),
            checkpoints: checkpoints.clone(),
            limits: Keep {
                keep_gsn: settings.order_keep_gsn,
                keep_bytes: settings.order_keep_bytes,
            },
        };
        let (stop_retaining, retain_stopped) = channel();
        threads.spawn("retain", move || retain.run(&retain_stopped))?;
        let backlog = Arc::new(Backlog::default());
        let signal = Arc::new(CatchUpSignal::default());
        let outlets = Outlets {
            volume: id,
            me,
            wire: wire.clone(),
            log: jobs,
            apply: agreed.clone(),
            order: order_service.clone(),
            pulse: pulse.clone(),
            backlog: backlog.clone(),
            catch_up: signal.clone(),
            suspicion: Suspicion { volume: id, store: store.clone(), pulse: pulse.clone() },
            stages: stages.clone(),
        };
        let seed = u64::from_be_bytes(wire::identity::random());
        let replica = Replica::recover(me, boot, recovered, seed);
        let underway = Underway::new(me, boot, stages.proposed.clone());
        threads.spawn("ring", move || {
            driver::run(replica, &Clock::default(), &event_queue, &outlets, underway);
        })?;

        drop_old_locks(&ring, &bodies).map_err(failed)?;
        let promoter = Arc::new(Promoter::new(
            ring.clone(),
            root,
            pulse.clone(),
            events.clone(),
            settings.failover_after(),
        ));
        let catch_up = CatchUpTask {
            volume: id,
            store: store.clone(),
            wire: wire.clone(),
            pulse: pulse.clone(),
            events: events.clone(),
            backlog: backlog.clone(),
            apply: agreed,
            signal,
        };
        let silence = Silence {
            pulse: pulse.clone(),
            proposals: proposals.clone(),
            events: events.clone(),
            store: store.clone(),
        };
        let reporter = Arc::new(Reporter {
            ring: ring.clone(),
            pulse: pulse.clone(),
            bodies: bodies.clone(),
            store: store.clone(),
            volume: id,
        });
        let is_relied_on = {
            let (bodies, mounts) = (bodies.clone(), mounts.clone());
            move || bodies.needs_lease() || mounts.needs_lease()
        };
        let looked_at = {
            let ring = ring.clone();
            move || ring.view()
        };
        let tasks = vec![
            tokio::spawn(promoter.clone().run()),
            tokio::spawn(catch_up.run()),
            tokio::spawn(Quotas::new(name, &ring, &proposals).resume()),
            tokio::spawn(limit(proposals.clone(), local)),
            tokio::spawn(lease.keep(proposals.clone(), is_relied_on)),
            tokio::spawn(silences.watch(looked_at)),
            tokio::spawn(reap_unnamed(ring.clone(), proposals.clone(), boot)),
            tokio::spawn(silence.fall()),
        ];
        if forgetful {
            // Shows, when it is executed, in which epochs this node may have voted before.
            proposals.propose(Caller::DAEMON, Op::Noop, Box::new(|_| {}));
        }
        Ok(Arc::new(Volume {
            id,
            name: name.to_owned(),
            ring,
            pulse,
            proposals,
            events,
            bodies,
            mounts,
            reporter,
            agreements,
            stages,
            promoter,
            members,
            checkpoints,
            order,
            order_service,
            backlog,
            stop_retaining: Mutex::new(Some(stop_retaining)),
            threads: Mutex::new(threads.0),
            tasks,
        }))
    }

    /// Whether `node` takes part in this volume, as far as it is applied here.
    fn admits(&self, node: NodeId) -> bool {
        self.members.contains(node)
    }

    /// A ring message of a node of the cluster.
    pub fn deliver(&self, from: NodeId, bytes: &[u8]) {
        if !self.admits(from) {
            return tracing::debug!(%from, volume = self.name, "ring message of a stranger");
        }
        match Message::decode(bytes) {
            Ok(message) => {
                let bytes = bytes.len();
                if self.backlog.admit(bytes) {
                    self.events.send(Event::Message { from, message, bytes });
                }
            }
            Err(error) => tracing::warn!(%from, %error, "ring message refused"),
        }
    }

    /// Bytes that wait for the ring, the disk and the tables: the bounded queues.
    pub fn waiting_bytes(&self) -> [(&'static str, u64); 3] {
        let Stages { persisted, agreed, .. } = &*self.stages;
        let received = self.backlog.bytes() as u64;
        [("received", received), ("persisted", persisted.bytes()), ("agreed", agreed.bytes())]
    }

    /// Hands an input to the replica. Without effect once the volume stops.
    pub fn input(&self, input: Input) {
        self.events.send(Event::Input(input));
    }

    /// Answers what a node of the cluster asks about this volume.
    pub async fn serve(&self, from: PeerInfo, request: Request) -> Response {
        if !self.admits(from.node) {
            return Response::refused(RefusedCode::Forbidden, "you take no part in this volume");
        }
        match request.ask {
            Ask::Manifest { .. }
            | Ask::Read { .. }
            | Ask::Small { .. }
            | Ask::Which { .. }
            | Ask::Hold { .. }
            | Ask::Recall { .. } => self.bodies.clone().serve(from, request).await,
            Ask::ShareLocks { ino } => self.mounts.clone().share_locks(ino).await,
            Ask::Checkpoint { gsn, after } => self.checkpoints.serve(gsn, after).await,
            Ask::Reached { gsn, bodies, wait_ms } => {
                waiting::answer(self, gsn, bodies, wait_ms).await
            }
            // By a member, as far as its daemon knows; what it asks for must follow the present
            // membership, or nothing happens.
            Ask::Reconfigure { epoch, voters, remove } => {
                self.input(Input::Reconfigure { epoch, voters, remove });
                Response::At(self.pulse.applied())
            }
            Ask::Order { from, upto } => self.order.bulk(from, upto).await,
            Ask::Status | Ask::Renew { .. } => {
                Response::refused(RefusedCode::Unsupported, "that is asked of the node")
            }
        }
    }

    /// Stops what brings new work: mounts, then the lane, when what was written is published.
    pub async fn drain(&self) -> Result<(), ControlError> {
        let mounts = self.mounts.clone();
        tokio::task::spawn_blocking(move || mounts.unmount_all()).await.map_err(failed)?;
        if self.pulse.failure().is_some() {
            return Ok(());
        }
        // What is not published in time is in the stage journal, and is at the next start.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, self.bodies.clone().drain()).await;
        let mut lane_ended = self.pulse.watch_lane_ended();
        self.input(Input::Shutdown);
        let ended = lane_ended.wait_for(|ended| *ended);
        let _ = tokio::time::timeout(LANE_END_TIMEOUT, ended).await;
        Ok(())
    }

    /// Ends everything; whoever waits is told. [`Self::join`] waits for the threads.
    pub fn stop(&self) {
        for task in &self.tasks {
            task.abort();
        }
        self.proposals.close(&ProposeError::Stopping);
        self.order_service.stop();
        self.agreements.stop();
        drop(self.stop_retaining.lock().take());
        self.events.send(Event::Stop);
        self.bodies.stop();
    }

    /// Waits for the threads to end, after [`Self::stop`].
    pub fn join(&self) {
        // Each thread ends when the one before it in the path has closed its channel.
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!(volume = %self.id, "a thread of the volume had panicked");
            }
        }
    }
}

/// The volumes that run here.
#[derive(Default)]
pub struct Volumes(RwLock<BTreeMap<VolumeId, Arc<Volume>>>);

impl Volumes {
    pub fn add(&self, volume: Arc<Volume>) {
        let before = self.0.write().insert(volume.id, volume);
        assert!(before.is_none(), "a volume runs once on a node");
    }

    pub fn get(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.0.read().get(&id).cloned()
    }

    pub fn by_name(&self, name: &str) -> Option<Arc<Volume>> {
        self.0.read().values().find(|volume| volume.name == name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Volume>> {
        self.0.read().values().cloned().collect()
    }
}

/// A volume that failed answers its callers at once instead of letting them wait. Its replica
/// falls silent, so that the others take over its lane.
struct Silence {
    pulse: Arc<Pulse>,
    proposals: Arc<Proposals>,
    events: Outgoing<Event>,
    store: Store,
}

impl Silence {
    async fn fall(self) {
        let mut failure = self.pulse.watch_failure();
        let failed = failure.wait_for(Option::is_some).await;
        let Some(failure) = failed.ok().and_then(|failure| failure.clone()) else { return };
        self.events.send(Event::Stop);
        if failure.cure == Cure::Repair
            && let Err(error) = self.store.distrust(&failure.reason)
        {
            tracing::error!(%error, "the store could not be marked as damaged");
        }
        self.proposals.close(&ProposeError::Broken(failure.reason));
    }
}

/// Ends waits by the rules of their directories.
async fn limit(proposals: Arc<Proposals>, limits: Arc<LocalRing>) {
    let mut ticks = tokio::time::interval(LIMIT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        proposals.limit(&*limits);
    }
}

/// Gives up the locks of earlier starts of this node, once what was written under them and
/// survived is published. Nothing waits for that: it may need a majority that is not there.
fn drop_old_locks(ring: &Arc<dyn Ring>, bodies: &Arc<BodyService>) -> Result<(), TablesError> {
    let (node, boot) = (ring.me(), ring.boot());
    let is_old = |of: NodeId, of_boot: u64| of == node && of_boot < boot;
    let has_old = ring.view().locked()?.iter().any(|(_, row)| {
        let mut owners = row.locks.held().iter().map(|held| held.owner);
        let mut waiting = row.locks.waiting().iter().map(|waiter| waiter.lock.owner);
        row.keeper.is_some_and(|keeper| is_old(keeper.node, keeper.boot))
            || owners.any(|owner| is_old(owner.node, owner.boot))
            || waiting.any(|owner| is_old(owner.node, owner.boot))
    });
    if has_old {
        let ring = Arc::clone(ring);
        let published = move |_| {
            ring.propose(Caller::DAEMON, Op::DropLocks { node, boot }, Box::new(|_| ()));
        };
        bodies.publish_written(Ino::ROOT, Box::new(published));
    }
    Ok(())
}

/// Removes files that earlier starts of this node left without a name. At least once, because
/// some may have been on their way into the order when this start began.
async fn reap_unnamed(ring: Arc<dyn Ring>, proposals: Arc<Proposals>, boot: u64) {
    loop {
        let op = Op::ReapUnnamed { limit: REAPED_AT_ONCE };
        if proposals.propose_and_wait(op).await.is_err() {
            // The node stops; its next start goes on.
            return;
        }
        match ring.view().unnamed(ring.me()) {
            Ok(left) if left.iter().any(|(_, made)| *made < boot) => {}
            _ => return,
        }
    }
}

/// So many that one command holds up no others for long.
const REAPED_AT_ONCE: u32 = 1000;

/// The reply thread: callers are answered in the order of their agreements.
fn answer(replies: &Incoming<Finished>, stage: &Stage) {
    while let Some(Taken { item: Finished { done, result, .. }, .. }) = replies.recv() {
        let begun = Instant::now();
        done(result);
        stage.service.observe(begun.elapsed());
    }
}

/// Named threads, to be joined at the end.
#[derive(Default)]
struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), ControlError> {
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        self.0.push(thread);
        Ok(())
    }
}

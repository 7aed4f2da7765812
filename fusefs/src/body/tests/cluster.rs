//! Nodes that share one agreed state without any agreement protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use engine::command::{Body, Command, Kind, Member, MemberRole, Name, Op};
use engine::ids::{Gsn, Ino, NodeId, OpId, VolumeId, ZoneId};
use engine::namespace::{Inode, MemoryTables, Overlay, Tables, VolumeParams, apply, genesis};
use engine::outcome::Outcome;
use engine::time::Timestamp;
use parking_lot::{Condvar, Mutex};
use store::{Identity, Options, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use wire::{PeerInfo, Request, Response};

use super::super::source::{Asking, Peers};
use super::super::{BodyService, Config};
use crate::ops::ports::{
    Bodies, BodyError, Caller, Demand, Done, Handle, OnApplied, Origin, ProposeError, Ring,
    SharedTables, View,
};
use crate::ops::rules::{Durability, Partition};

pub const VOLUME: VolumeId = VolumeId(1);

/// As `tests::wait::PATIENCE`.
const PATIENCE: Duration = Duration::from_secs(180);

/// Everything that the nodes share.
pub struct Cluster {
    // Declared before `nodes`, so dropped before them: its tasks write into their directories.
    runtime: Runtime,
    pub nodes: Vec<Node>,
    world: Arc<World>,
    pub seal_age: Duration,
    pub fetch_timeout: Duration,
}

pub struct Node {
    pub id: NodeId,
    pub bodies: Option<Arc<BodyService>>,
    ring: Arc<FakeRing>,
    dir: TempDir,
}

/// The agreed state, and who is told about it.
struct World {
    tables: Mutex<(Gsn, Arc<MemoryTables>)>,
    services: Mutex<BTreeMap<NodeId, Weak<BodyService>>>,
    proposals: Sender<Proposal>,
    paused: Mutex<bool>,
    resumed: Condvar,
    /// Links that are down, both ways.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// The next answer with bytes is damaged.
    damage: AtomicBool,
    asked: AtomicU64,
    kinds: Mutex<Vec<Op>>,
    /// Starts of nodes whose commands are lost.
    lost: Mutex<BTreeSet<(NodeId, u64)>>,
}

struct Proposal {
    command: Command,
    done: Done<Outcome, ProposeError>,
}

pub struct FakeRing {
    me: NodeId,
    world: Arc<World>,
    /// (boot, number of the last command)
    last: Mutex<(u64, u64)>,
    inos: AtomicU64,
}

struct FakeWire {
    me: NodeId,
    world: Arc<World>,
}

impl Cluster {
    pub fn new(count: u16) -> Cluster {
        Cluster::with(count, Duration::from_millis(50), Duration::from_secs(20))
    }

    pub fn with(count: u16, seal_age: Duration, fetch_timeout: Duration) -> Cluster {
        // `RUST_LOG=fusefs=debug` shows what happened before a failure.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer();
        let _ = log.try_init(); // another test was first
        let (proposals, queue) = channel::<Proposal>();
        let mut tables = MemoryTables::default();
        let time = Timestamp::new(1, 0);
        let params = VolumeParams { key: [7; 32], time, uid: 0, gid: 0, mode: 0o755 };
        tables.absorb(genesis(&params));
        let world = Arc::new(World {
            tables: Mutex::new((Gsn(0), Arc::new(tables))),
            services: Mutex::default(),
            proposals,
            paused: Mutex::new(false),
            resumed: Condvar::new(),
            cut: Mutex::default(),
            damage: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            kinds: Mutex::default(),
            lost: Mutex::default(),
        });
        let applier = Arc::clone(&world);
        std::thread::spawn(move || {
            while let Ok(proposal) = queue.recv() {
                applier.apply(proposal);
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let mut cluster = Cluster { runtime, nodes: Vec::new(), world, seal_age, fetch_timeout };
        for number in 1..=count {
            cluster.add(NodeId(number));
        }
        cluster
    }

    fn add(&mut self, id: NodeId) {
        let dir = TempDir::new().expect("there is a temporary directory");
        let identity = Identity::new([1; 16], id).expect("there is randomness");
        let store = Store::create(dir.path(), &identity, &options()).expect("a store is made");
        let world = Arc::clone(&self.world);
        let ring = FakeRing { me: id, world, last: Mutex::new((1, 0)), inos: AtomicU64::new(16) };
        let ring = Arc::new(ring);
        let member = Member {
            id,
            name: format!("n{id}"),
            zone: ZoneId(id.0),
            zone_name: format!("z{id}"),
            address: format!("127.0.0.1:{id}"),
            key_hash: [id.0 as u8; 32],
            role: MemberRole::Voter,
            draining: false,
        };
        // The first node admits itself, and then the others.
        let admitter = self.nodes.first().map_or(&ring, |node| &node.ring);
        let mut token = None;
        if !self.nodes.is_empty() {
            let (zone, expires) = (member.zone_name.clone(), Timestamp::new(i64::MAX, 0));
            let id = u64::from(id.0);
            let op = Op::CreateJoinToken {
                id,
                secret_hash: [1; 32],
                zone,
                expires,
                role: MemberRole::Voter,
            };
            assert_eq!(admitter.agree(op), Outcome::Done);
            token = Some(id);
        }
        assert_eq!(admitter.agree(Op::AdmitNode { node: member, token }), Outcome::Done);
        let bodies = Some(self.start(&ring, store));
        self.nodes.push(Node { id, bodies, ring, dir });
    }

    fn start(&self, ring: &Arc<FakeRing>, store: Store) -> Arc<BodyService> {
        let wire = FakeWire { me: ring.me, world: Arc::clone(&self.world) };
        let service = BodyService::start(Config {
            volume: VOLUME,
            store,
            ring: Arc::clone(ring) as Arc<dyn Ring>,
            wire,
            runtime: self.runtime.handle().clone(),
            seal_age: self.seal_age,
            fetch_timeout: self.fetch_timeout,
            op_timeout: Duration::from_secs(20),
        })
        .expect("the service starts");
        self.world.services.lock().insert(ring.me, Arc::downgrade(&service));
        service
    }

    /// The node dies: nothing is journaled that was not.
    pub fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        self.world.services.lock().remove(&node.id);
        let service = node.bodies.take().expect("it runs");
        service.crash();
    }

    /// A crashed node starts again.
    pub fn restart(&mut self, at: usize) {
        let dir = self.nodes[at].dir.path().to_owned();
        let store = until("the old store is closed", || Store::open(&dir, &options()).ok());
        let ring = Arc::clone(&self.nodes[at].ring);
        {
            let mut last = ring.last.lock();
            *last = (last.0 + 1, 0);
        }
        self.nodes[at].bodies = Some(self.start(&ring, store));
    }

    /// Agreements wait until [`Self::resume`].
    pub fn pause(&self) {
        *self.world.paused.lock() = true;
    }

    pub fn resume(&self) {
        *self.world.paused.lock() = false;
        self.world.resumed.notify_all();
    }

    /// Lets go on, but what waits now is lost.
    pub fn resume_without(&self, at: usize) {
        let node = &self.nodes[at];
        self.world.lost.lock().insert((node.id, node.ring.last.lock().0));
        self.resume();
    }

    pub fn cut(&self, a: usize, b: usize) {
        let (a, b) = (self.nodes[a].id, self.nodes[b].id);
        self.world.cut.lock().extend([(a, b), (b, a)]);
    }

    pub fn heal(&self) {
        self.world.cut.lock().clear();
        for node in &self.nodes {
            for other in &self.nodes {
                node.service().peer_up(other.id);
            }
        }
    }

    pub fn damage_next(&self) {
        self.world.damage.store(true, Ordering::Relaxed);
    }

    pub fn is_damage_done(&self) -> bool {
        !self.world.damage.load(Ordering::Relaxed)
    }

    /// Operations that were agreed.
    pub fn agreed(&self) -> Vec<Op> {
        self.world.kinds.lock().clone()
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Waits until every node holds everything that was agreed until now.
    pub fn settle(&self) {
        for node in &self.nodes {
            self.block_on(node.service().drain());
        }
        let gsn = self.gsn();
        for node in &self.nodes {
            until("everything is held", || (node.service().held_upto() >= gsn).then_some(()));
        }
    }

    pub fn gsn(&self) -> Gsn {
        self.world.tables.lock().0
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.resume();
        for node in &self.nodes {
            if let Some(service) = &node.bodies {
                service.stop();
            }
        }
    }
}

impl Node {
    pub fn service(&self) -> &Arc<BodyService> {
        self.bodies.as_ref().expect("the node runs")
    }

    pub fn agree(&self, op: Op) -> Outcome {
        self.ring.agree(op)
    }

    pub fn view(&self) -> View {
        self.ring.view()
    }

    /// A new file with the write token here.
    pub fn create(&self, name: &str) -> Ino {
        let ino = self.ring.alloc_ino().expect("there are numbers");
        let name = Name::parse(name.as_bytes()).expect("a plain name");
        let (kind, mode, exclusive) = (Kind::File, 0o644, true);
        let op = Op::Make { parent: Ino::ROOT, name, ino, kind, mode, exclusive, umask: 0 };
        assert_eq!(self.agree(op), Outcome::Made { ino, created: true });
        ino
    }

    pub fn unlink(&self, name: &str) {
        let name = Name::parse(name.as_bytes()).expect("a plain name");
        assert_eq!(self.agree(Op::Unlink { parent: Ino::ROOT, name }), Outcome::Done);
    }

    pub fn inode(&self, ino: Ino) -> Inode {
        self.ring.view().inode(ino).expect("tables can be read").expect("the file exists")
    }

    pub fn open(&self, ino: Ino, write: bool) -> Handle {
        let inode = self.inode(ino);
        self.service().open(ino, &inode, write, false).expect("the file can be opened")
    }

    pub fn write(&self, handle: Handle, offset: u64, bytes: &[u8]) {
        let written = wait(|done| self.service().write(handle, offset, bytes, false, done));
        assert_eq!(written.expect("writing works"), bytes.len() as u32);
    }

    /// Reads as the kernel does: in pieces.
    pub fn read(&self, handle: Handle, offset: u64, len: u64) -> Result<Vec<u8>, BodyError> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let at = offset + bytes.len() as u64;
            let piece = (len - bytes.len() as u64).min(128 << 10) as u32;
            let (tell, told) = channel();
            let done = Box::new(move |read: Result<&[u8], BodyError>| {
                let _ = tell.send(read.map(<[u8]>::to_vec));
            });
            self.service().read(handle, at, piece, done);
            let part = told.recv().expect("every read is answered")?;
            if part.is_empty() {
                break;
            }
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// All of a file, as an application of this node sees it.
    pub fn content(&self, ino: Ino) -> Vec<u8> {
        let handle = self.open(ino, false);
        let bytes = self.read(handle, 0, u64::MAX).expect("reading works");
        self.service().release(handle);
        bytes
    }

    /// A new file with this content, closed.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Ino {
        let ino = self.create(name);
        let handle = self.open(ino, true);
        for (at, piece) in bytes.chunks(1 << 20).enumerate() {
            self.write(handle, (at << 20) as u64, piece);
        }
        self.service().release(handle);
        ino
    }

    pub fn truncate(&self, ino: Ino, size: u64) -> bool {
        wait(|done| self.service().truncate(ino, size, done)).expect("truncating works")
    }

    pub fn fsync(&self, ino: Ino) {
        self.fsync_as(ino, Durability::Local).expect("fsync works");
    }

    pub fn fsync_as(&self, ino: Ino, durability: Durability) -> Result<(), BodyError> {
        let (partition, caller) = (Partition::Wait, Caller::DAEMON);
        let demand = Demand { durability, partition, caller };
        wait(|done| self.service().fsync(ino, false, demand, done))
    }
}

pub fn wait<T: Send + 'static, E: Send + 'static>(call: impl FnOnce(Done<T, E>)) -> Result<T, E> {
    let (tell, told) = channel();
    call(Box::new(move |result| {
        let _ = tell.send(result);
    }));
    told.recv().expect("every call is answered")
}

/// Looks again and again, as a person would.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes without a pattern, the same everywhere.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn sealed_id(inode: &Inode) -> engine::ids::BodyId {
    match inode.body {
        Body::Sealed { id, .. } => id,
        _ => panic!("the body is not a sealed one: {:?}", inode.body),
    }
}

fn options() -> Options {
    Options { reserve_bytes: 0, block_cache_bytes: 4 << 20, ..Options::default() }
}

impl World {
    fn apply(&self, Proposal { command, done }: Proposal) {
        {
            let mut paused = self.paused.lock();
            while *paused {
                self.resumed.wait(&mut paused);
            }
        }
        if self.lost.lock().contains(&(command.id.origin, command.id.boot)) {
            return;
        }
        let applied = {
            let mut tables = self.tables.lock();
            let gsn = tables.0.next();
            let mut overlay = Overlay::new(&*tables.1);
            let applied = apply(&mut overlay, gsn, &command).expect("memory can be read");
            let changes = overlay.into_changes();
            Arc::make_mut(&mut tables.1).absorb(changes);
            tables.0 = gsn;
            (gsn, applied)
        };
        let (gsn, applied) = applied;
        self.kinds.lock().push(command.op);
        let services: Vec<_> = self.services.lock().values().cloned().collect();
        for service in services.iter().filter_map(Weak::upgrade) {
            service.applied(gsn, &applied.touched, Origin::Elsewhere);
        }
        done(Ok(applied.outcome.expect("every command is new")));
    }
}

impl FakeRing {
    pub fn agree(&self, op: Op) -> Outcome {
        wait(|done| self.propose(Caller::DAEMON, op, done)).expect("there is always a quorum")
    }
}

impl Ring for FakeRing {
    fn me(&self) -> NodeId {
        self.me
    }

    fn view(&self) -> View {
        struct Snapshot(Arc<MemoryTables>);
        impl Tables for Snapshot {
            fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, engine::namespace::TablesError> {
                self.0.get(key)
            }

            fn scan(
                &self,
                prefix: &[u8],
                from: &[u8],
                visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
            ) -> Result<(), engine::namespace::TablesError> {
                self.0.scan(prefix, from, visit)
            }
        }
        let tables = Arc::clone(&self.world.tables.lock().1);
        View::new(SharedTables(Arc::new(Snapshot(tables))))
    }

    fn boot(&self) -> u64 {
        self.last.lock().0
    }

    fn applied_gsn(&self) -> Gsn {
        self.world.tables.lock().0
    }

    fn alloc_ino(&self) -> Result<Ino, ProposeError> {
        Ok(Ino::of(self.me, self.inos.fetch_add(1, Ordering::Relaxed)))
    }

    fn now(&self) -> Timestamp {
        let since = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970");
        Timestamp::new(since.as_secs() as i64, since.subsec_nanos())
    }

    fn propose(&self, Caller { cred, .. }: Caller, op: Op, done: Done<Outcome, ProposeError>) {
        let mut last = self.last.lock();
        last.1 += 1;
        let id = OpId { origin: self.me, boot: last.0, seq: last.1 };
        let command = Command { id, time: self.now(), cred, op };
        self.world.proposals.send(Proposal { command, done }).expect("the applier runs");
    }

    fn ask_locks(&self, _: NodeId, _: Ino, done: Done<(), ProposeError>) {
        done(Ok(()));
    }

    fn recall(&self, holder: NodeId, ino: Ino, done: Done<(), ProposeError>) {
        let service = self.world.services.lock().get(&holder).and_then(Weak::upgrade);
        let Some(service) = service else {
            return done(Err(ProposeError::NoQuorum { waited_ms: 0 }));
        };
        let runtime = service.runtime.clone();
        runtime.spawn(async move {
            let recalled = service.recall(ino).await;
            done(recalled.map(drop).map_err(|_| ProposeError::NoQuorum { waited_ms: 0 }));
        });
    }
}

impl Peers for FakeWire {
    fn ask(&self, to: NodeId, request: Request) -> Asking {
        let (me, world) = (self.me, Arc::clone(&self.world));
        world.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            // The real way: everything goes through its encoding.
            let request = Request::decode(&request.encode()).map_err(|error| error.to_string())?;
            let service = world.services.lock().get(&to).and_then(Weak::upgrade);
            let is_cut = || world.cut.lock().contains(&(me, to));
            let service = service.filter(|_| !is_cut()).ok_or("no connection")?;
            let from = PeerInfo {
                node: me,
                name: format!("n{me}"),
                zone: format!("z{me}"),
                remote: ([127, 0, 0, 1], me.0).into(),
            };
            let response = service.serve(from, request).await;
            if is_cut() {
                return Err("the connection was lost".to_owned());
            }
            let pieces = response.encode().map_err(|error| error.to_string())?;
            let mut bytes = bytes::BytesMut::new();
            pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
            let mut response =
                Response::decode(bytes.freeze()).map_err(|error| error.to_string())?;
            if let Response::Read(bytes) = &mut response
                && world.damage.swap(false, Ordering::Relaxed)
            {
                let mut damaged = bytes.to_vec();
                damaged[0] ^= 1;
                *bytes = damaged.into();
            }
            Ok(response)
        })
    }

    fn links(&self) -> Vec<(NodeId, Duration)> {
        let cut = self.world.cut.lock();
        let up = self.world.services.lock();
        let linked = up.keys().filter(|node| !cut.contains(&(self.me, **node)));
        linked.map(|node| (*node, Duration::from_millis(1))).collect()
    }
}

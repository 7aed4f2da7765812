//! A ring of which everybody is this process: commands are applied in memory, on a thread of
//! their own, in the order in which they come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, mpsc};

use engine::command::{Command, Cred, Member, MemberRole, Op};
use engine::ids::{Gsn, Ino, NodeId, OpId, ZoneId};
use engine::locks::FileLocks;
use engine::namespace::tables::{MemoryTables, Overlay, Tables, TablesError};
use engine::namespace::{VolumeParams, apply, genesis};
use engine::outcome::{Outcome, Refusal};
use engine::time::Timestamp;
use fusefs::ops::ports::{Caller, Done, OnApplied, Origin, ProposeError, Ring, SharedTables, View};

/// The node whose mount is tested.
pub const HERE: NodeId = NodeId(1);
/// Another member, which tests speak for.
pub const THERE: NodeId = NodeId(2);

pub struct FakeRing {
    tables: Arc<Live>,
    gsn: AtomicU64,
    next_ino: AtomicU64,
    proposals: Mutex<mpsc::Sender<Proposal>>,
    /// Held while a command is applied, so that a test can stop the order.
    gate: Mutex<()>,
    /// Held while the listeners are told, so that a test can make them be told late.
    telling: Mutex<()>,
    told: AtomicU64,
    looks: AtomicU64,
    waiting: AtomicU64,
    /// Keepers of locks don't answer.
    pub is_silent: AtomicBool,
}

struct Proposal {
    node: NodeId,
    caller: Caller,
    op: Op,
    origin: Origin,
    done: Done<Outcome, ProposeError>,
}

/// The tables as they are at each look; consistent enough for one look, as the commands of
/// these tests are small.
struct Live(RwLock<Arc<MemoryTables>>, Mutex<Option<Trap>>);

/// Holds up the next reader of one row after it has read it.
struct Trap {
    key: Vec<u8>,
    caught: mpsc::Sender<()>,
    go: mpsc::Receiver<()>,
}

impl Tables for Live {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let value = self.0.read().unwrap().get(key);
        let trap = self.1.lock().unwrap().take_if(|trap| trap.key == key);
        if let Some(trap) = trap {
            trap.caught.send(()).expect("the test waits");
            trap.go.recv().expect("the test lets go");
        }
        value
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        // Whoever looks again while it visits must not wait for somebody who waits for it.
        let tables = Arc::clone(&self.0.read().unwrap());
        tables.scan(prefix, from, visit)
    }
}

impl FakeRing {
    /// A volume with the members [`HERE`] and [`THERE`], and a root that everybody may write.
    pub fn new(listeners: impl FnOnce(&Arc<FakeRing>) -> Vec<Arc<dyn OnApplied>>) -> Arc<FakeRing> {
        let mut tables = MemoryTables::default();
        tables.absorb(genesis(&VolumeParams {
            key: [7; 32],
            time: clock(),
            uid: 0,
            gid: 0,
            mode: 0o1777,
        }));
        let (proposals, inbox) = mpsc::channel();
        let ring = Arc::new(FakeRing {
            tables: Arc::new(Live(RwLock::new(Arc::new(tables)), Mutex::new(None))),
            gsn: AtomicU64::new(0),
            next_ino: AtomicU64::new(16),
            proposals: Mutex::new(proposals),
            gate: Mutex::new(()),
            telling: Mutex::new(()),
            told: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            is_silent: AtomicBool::new(false),
        });
        let listeners = listeners(&ring);
        let weak = Arc::downgrade(&ring);
        std::thread::spawn(move || {
            let mut sequences = HashMap::new();
            for proposal in inbox {
                let Some(ring) = weak.upgrade() else { return };
                ring.apply(proposal, &mut sequences, &listeners);
            }
        });
        ring.admit();
        ring
    }

    /// Applies `op` as a command of `node`, and waits for its outcome.
    pub fn run(&self, node: NodeId, op: Op) -> Outcome {
        self.run_as(node, caller(), op)
    }

    /// As [`Self::run`], for one of the node's users.
    pub fn run_as(&self, node: NodeId, cred: Cred, op: Op) -> Outcome {
        let (sender, outcome) = mpsc::channel();
        let done = Box::new(move |result: Result<Outcome, ProposeError>| {
            sender.send(result).expect("the test waits");
        });
        let caller = Caller { cred, call: None };
        self.send(Proposal { node, caller, op, origin: Origin::Elsewhere, done });
        outcome.recv().expect("the order goes on").expect("the fake ring has no failures")
    }

    /// Applies `op` as another node's, which must succeed.
    pub fn elsewhere(&self, op: Op) -> Outcome {
        let outcome = self.run(THERE, op.clone());
        assert!(!matches!(outcome, Outcome::Refused(_)), "{op:?}: {outcome:?}");
        outcome
    }

    /// Proposes for the daemon itself.
    pub fn propose_as_daemon(&self, op: Op, done: Done<Outcome, ProposeError>) {
        let (node, caller, origin) = (HERE, Caller::DAEMON, Origin::Daemon);
        self.send(Proposal { node, caller, op, origin, done });
    }

    /// Nothing is applied until the guard is dropped.
    pub fn stop_order(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap()
    }

    /// Commands are applied, and nobody is told before the guard is dropped.
    pub fn stop_telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap()
    }

    /// The next reader of the record of `ino` says so on the receiver, after reading it, and
    /// goes on when the sender says so.
    pub fn trap(&self, ino: Ino) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (caught, catching) = mpsc::channel();
        let (letting_go, go) = mpsc::channel();
        // Keys of inodes: see engine::namespace.
        let key = [&b"I"[..], &ino.0.to_be_bytes()].concat();
        *self.tables.1.lock().unwrap() = Some(Trap { key, caught, go });
        (catching, letting_go)
    }

    /// How often somebody looked at the tables.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// How many proposals are not applied yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::SeqCst)
    }

    fn send(&self, proposal: Proposal) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.proposals.lock().unwrap().send(proposal).expect("the apply thread lives");
    }

    fn apply(
        &self,
        proposal: Proposal,
        sequences: &mut HashMap<NodeId, u64>,
        listeners: &[Arc<dyn OnApplied>],
    ) {
        let Proposal { node, caller, op, origin, done } = proposal;
        let gate = self.gate.lock().unwrap();
        let seq = sequences.entry(node).or_default();
        *seq += 1;
        let id = OpId { origin: node, boot: 1, seq: *seq };
        let command = Command { id, time: clock(), cred: caller.cred, op };
        let gsn = Gsn(self.gsn.load(Ordering::SeqCst) + 1);
        let mut overlay = Overlay::new(&*self.tables);
        let applied = apply(&mut overlay, gsn, &command).expect("memory is readable");
        let changes = overlay.into_changes();
        Arc::make_mut(&mut self.tables.0.write().unwrap()).absorb(changes);
        self.gsn.store(gsn.0, Ordering::SeqCst);
        let waited = caller.end_wait();
        let origin = if waited.is_ok() { origin } else { Origin::Elsewhere };
        let telling = self.telling.lock().unwrap();
        for listener in listeners {
            listener.applied(gsn, &applied.touched, origin);
        }
        self.told.store(gsn.0, Ordering::SeqCst);
        drop((telling, gate));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        done(waited.map(|()| applied.outcome.expect("sequences have no gaps")));
    }

    fn admit(&self) {
        let member = |id: NodeId| Member {
            id,
            name: format!("z{id}"),
            zone: ZoneId(id.0),
            zone_name: format!("z{id}"),
            address: format!("node{id}:7777"),
            key_hash: [id.0 as u8; 32],
            role: MemberRole::Voter,
            draining: false,
        };
        assert_eq!(
            self.run(HERE, Op::AdmitNode { node: member(HERE), token: None }),
            Outcome::Done
        );
        let expires = Timestamp::new(i64::MAX, 0);
        let zone = "z2".to_owned();
        self.run(
            HERE,
            Op::CreateJoinToken {
                id: 1,
                secret_hash: [1; 32],
                zone,
                expires,
                role: MemberRole::Voter,
            },
        );
        let admitted = self.run(HERE, Op::AdmitNode { node: member(THERE), token: Some(1) });
        assert_eq!(admitted, Outcome::Done);
    }
}

impl Ring for FakeRing {
    fn me(&self) -> NodeId {
        HERE
    }

    fn view(&self) -> View {
        self.looks.fetch_add(1, Ordering::SeqCst);
        View::new(SharedTables(self.tables.clone()))
    }

    fn boot(&self) -> u64 {
        1
    }

    fn applied_gsn(&self) -> Gsn {
        Gsn(self.gsn.load(Ordering::SeqCst))
    }

    fn told_gsn(&self) -> Gsn {
        Gsn(self.told.load(Ordering::SeqCst))
    }

    fn alloc_ino(&self) -> Result<Ino, ProposeError> {
        Ok(Ino::of(HERE, self.next_ino.fetch_add(1, Ordering::Relaxed)))
    }

    fn now(&self) -> Timestamp {
        clock()
    }

    fn propose(&self, caller: Caller, op: Op, done: Done<Outcome, ProposeError>) {
        let origin = if caller.call.is_some() { Origin::Caller } else { Origin::Daemon };
        self.send(Proposal { node: HERE, caller, op, origin, done });
    }

    /// The keeper has nothing, and hands that over at once; while it is silenced, it can't be
    /// reached.
    fn ask_locks(&self, keeper: NodeId, ino: Ino, done: Done<(), ProposeError>) {
        if self.is_silent.load(Ordering::SeqCst) {
            return done(Err(ProposeError::NoQuorum { waited_ms: 0 }));
        }
        let op = Op::ShareLocks { ino, locks: FileLocks::default(), asked: true };
        let shared = Box::new(move |_: Result<Outcome, ProposeError>| done(Ok(())));
        let (caller, origin) = (Caller::DAEMON, Origin::Elsewhere);
        self.send(Proposal { node: keeper, caller, op, origin, done: shared });
    }

    /// The holder hands over at once.
    fn recall(&self, holder: NodeId, ino: Ino, done: Done<(), ProposeError>) {
        let op = Op::ReleaseToken { ino, node: holder };
        let released = Box::new(move |result: Result<Outcome, ProposeError>| match result {
            Ok(Outcome::Done | Outcome::Refused(Refusal::NotFound)) => done(Ok(())),
            other => panic!("a token is released: {other:?}"),
        });
        let (caller, origin) = (Caller::DAEMON, Origin::Elsewhere);
        self.send(Proposal { node: holder, caller, op, origin, done: released });
    }
}

/// Whoever runs the tests.
fn caller() -> Cred {
    Cred { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

pub fn clock() -> Timestamp {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("the clock is past 1970");
    Timestamp::new(now.as_secs() as i64, now.subsec_nanos())
}

//! The agreed order as the rest of the daemon uses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::Op;
use engine::ids::{Gsn, Ino, NodeId, VolumeId};
use engine::namespace::tables::{Tables, TablesError};
use engine::outcome::Outcome;
use engine::time::Timestamp;
use store::Store;
use tokio::runtime::Handle;
use wire::{Ask, Request, Response, Wire};

use super::clock;
use super::inodes::InodeNumbers;
use super::lease::{Lease, Silences};
use super::proposals::{Limits, Proposals, subject};
use super::pulse::Pulse;
use crate::ops::ports::{Caller, Done, ProposeError, Ring, SharedTables, View};
use crate::ops::rules::{Partition, Rule};

pub struct LocalRing {
    pub me: NodeId,
    pub volume: VolumeId,
    pub store: Store,
    pub wire: Arc<Wire>,
    pub pulse: Arc<Pulse>,
    pub proposals: Arc<Proposals>,
    pub lease: Arc<Lease>,
    pub silences: Arc<Silences>,
    pub inodes: Arc<InodeNumbers>,
    pub runtime: Handle,
    /// For directories whose rule is [`Partition::Error`].
    pub op_timeout: Duration,
}

/// Sealing a large file takes its holder a while; the caller asks again after that.
const RECALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Whoever recalls asks again at once when it was in vain: not all the time.
const RECALL_PAUSE: Duration = Duration::from_millis(500);

/// Tables of a store that has stopped: each read says why.
struct Unreadable(String);

impl Tables for Unreadable {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        Err(TablesError(self.0.clone()))
    }

    fn scan(
        &self,
        _: &[u8],
        _: &[u8],
        _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        Err(TablesError(self.0.clone()))
    }
}

impl Ring for LocalRing {
    fn me(&self) -> NodeId {
        self.me
    }

    fn view(&self) -> View {
        if let Some(failure) = self.pulse.diverged() {
            // Wrong answers would be worse than none.
            return View::new(SharedTables(Arc::new(Unreadable(failure))));
        }
        View::new(SharedTables(match self.store.snapshot(self.volume) {
            Ok(tables) => Arc::new(tables),
            Err(error) => Arc::new(Unreadable(error.to_string())),
        }))
    }

    fn boot(&self) -> u64 {
        self.store.boot()
    }

    fn applied_gsn(&self) -> Gsn {
        self.pulse.applied()
    }

    fn shown_gsn(&self) -> Gsn {
        let snapshot = self.store.snapshot(self.volume);
        snapshot.map_or_else(|_| self.pulse.applied(), |tables| tables.header().gsn)
    }

    fn told_gsn(&self) -> Gsn {
        self.pulse.told()
    }

    fn alloc_ino(&self) -> Result<Ino, ProposeError> {
        self.inodes.next().map_err(|error| ProposeError::Broken(error.to_string()))
    }

    fn now(&self) -> Timestamp {
        clock::timestamp()
    }

    fn propose(&self, caller: Caller, op: Op, done: Done<Outcome, ProposeError>) {
        if caller.call.is_some()
            && Ring::is_cut_off(self)
            && let Some(ino) = subject(&op)
            && self.partition(ino) == Partition::ReadOnly
        {
            return done(Err(ProposeError::ReadOnly));
        }
        self.proposals.propose(caller, op, done);
    }

    fn barrier(&self, caller: Caller, ino: Ino, done: Done<(), ProposeError>) {
        let done = move |result: Result<(), ProposeError>| {
            done(result.map_err(|error| match error {
                // Nothing was to be written: what cannot be had is the newest state.
                ProposeError::ReadOnly => ProposeError::NoQuorum { waited_ms: 0 },
                error => error,
            }));
        };
        if Ring::is_cut_off(self) && self.partition(ino) == Partition::ReadOnly {
            return done(Err(ProposeError::ReadOnly));
        }
        let agreed = Box::new(move |result: Result<Outcome, _>| done(result.map(drop)));
        self.proposals.propose_for(caller, Op::Noop, Some(ino), agreed);
    }

    fn is_cut_off(&self) -> bool {
        self.pulse.ring().is_some_and(|ring| !ring.quorum)
    }

    fn has_lease(&self) -> bool {
        self.lease.stands()
    }

    fn lease_ended(&self, node: NodeId) -> bool {
        let Some(newest) = self.silences.ended(node, Instant::now()) else { return false };
        // It may have been heard of since the last look.
        self.view().origin(node).is_ok_and(|origin| origin == Some(newest))
    }

    fn expire(&self, node: NodeId, ino: Ino, done: Done<(), ProposeError>) {
        let Some(op) = self.of_holder(node, ino).expiry() else { return done(Ok(())) };
        tracing::info!(%node, %ino, "the locks of a silent node are to be freed");
        let agreed = Box::new(move |result: Result<Outcome, _>| done(result.map(drop)));
        self.proposals.propose(Caller::DAEMON, op, agreed);
    }

    fn op_timeout(&self) -> Duration {
        self.op_timeout
    }

    fn recall(&self, holder: NodeId, ino: Ino, done: Done<(), ProposeError>) {
        self.ask_to_give((holder, ino, Ask::Recall { ino }), RECALL_PAUSE, done);
    }

    fn ask_locks(&self, keeper: NodeId, ino: Ino, done: Done<(), ProposeError>) {
        self.ask_to_give((keeper, ino, Ask::ShareLocks { ino }), Duration::ZERO, done);
    }
}

impl LocalRing {
    fn of_holder(&self, node: NodeId, ino: Ino) -> Holder {
        Holder { node, ino, pulse: self.pulse.clone(), silences: self.silences.clone() }
    }

    /// Asks `node` to give `ino` up by an agreement, and waits until that shows here. A node that
    /// is not there loses it when its lease has ended; before that, waits for `pause`.
    fn ask_to_give(
        &self,
        (node, ino, ask): (NodeId, Ino, Ask),
        pause: Duration,
        done: Done<(), ProposeError>,
    ) {
        let (wire, proposals) = (self.wire.clone(), self.proposals.clone());
        let holder = self.of_holder(node, ino);
        let mut applied = self.pulse.watch_applied();
        let request = Request::new(self.volume, self.pulse.applied(), ask);
        self.runtime.spawn(async move {
            let given = async {
                let answer = tokio::select! {
                    biased;
                    () = holder.is_lost() => None,
                    answer = wire.call(node, request) => answer.ok(),
                };
                if let Some(Response::At(gsn)) = answer {
                    // It shows here before the caller tries again.
                    return applied.wait_for(|applied| *applied >= gsn).await.is_ok();
                }
                match holder.expiry() {
                    Some(op) => proposals.propose_and_wait(op).await.is_ok(),
                    None => {
                        tokio::time::sleep(pause).await;
                        false
                    }
                }
            };
            let result = match tokio::time::timeout(RECALL_TIMEOUT, given).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(ProposeError::NoQuorum { waited_ms: 0 }),
                Err(_) => Err(ProposeError::NoQuorum {
                    waited_ms: u64::try_from(RECALL_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
                }),
            };
            done(result);
        });
    }
}

/// A node that has something of a file.
struct Holder {
    node: NodeId,
    ino: Ino,
    pulse: Arc<Pulse>,
    silences: Arc<Silences>,
}

impl Holder {
    /// What frees what it has, if its lease has ended.
    fn expiry(&self) -> Option<Op> {
        let Holder { node, ino, .. } = *self;
        let newest = self.silences.ended(node, Instant::now())?;
        Some(Op::Expire { ino, node, boot: newest.boot, seq: newest.last_seq })
    }

    /// Ready when its lease has ended and it is not even heard: asking it makes no sense.
    async fn is_lost(&self) {
        while self.is_heard() || self.expiry().is_none() {
            tokio::time::sleep(RECALL_PAUSE).await;
        }
    }

    fn is_heard(&self) -> bool {
        self.pulse.ring().is_none_or(|ring| {
            let peer = ring.peers.iter().find(|peer| peer.node == self.node);
            peer.is_none_or(|peer| !peer.suspected)
        })
    }
}

impl Limits for LocalRing {
    fn op_timeout(&self) -> Duration {
        self.op_timeout
    }

    fn is_cut_off(&self) -> bool {
        Ring::is_cut_off(self)
    }

    fn partition(&self, ino: Ino) -> Partition {
        // What cannot be looked up waits.
        Partition::of(&self.view(), ino).unwrap_or_default()
    }
}

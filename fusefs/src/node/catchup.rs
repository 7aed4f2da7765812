//! Catching up with what the others have agreed meanwhile: the log in several pieces at once,
//! or a checkpoint where the log does not reach back any more. The mount stays, and shows the
//! state of before until the newer one is complete.
//!
//! The replica asks for agreements itself when it lags a little, one piece after the other.
//! This takes over when it lags by much.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::consensus::record::OrderRecord;
use engine::consensus::{Message, RingStatus};
use engine::ids::{Gsn, NodeId, VolumeId};
use store::Store;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use wire::{Ask, RefusedCode, Request, Response, Wire};

use super::apply::{ApplyJob, Install};
use super::checkpoint::{Fetch, FetchError};
use super::driver::{Backlog, Event};
use super::pulse::{CatchUp, Pulse};
use super::queue::{Outgoing, QueueSender};

/// How the ring thread and the task know of each other.
#[derive(Default)]
pub struct CatchUpSignal {
    needed: Notify,
    busy: AtomicBool,
}

impl CatchUpSignal {
    /// A peer's log begins above what this node needs.
    pub fn needed(&self) {
        self.needed.notify_one();
    }

    /// Agreements come in bulk: the replica need not ask for them.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }
}

pub struct CatchUpTask {
    pub volume: VolumeId,
    pub store: Store,
    pub wire: Arc<Wire>,
    pub pulse: Arc<Pulse>,
    pub events: Outgoing<Event>,
    pub backlog: Arc<Backlog>,
    pub apply: Arc<QueueSender<ApplyJob>>,
    pub signal: Arc<CatchUpSignal>,
}

/// Behind by so many agreements the log comes in bulk: some messages' worth.
const BULK_GSN: u64 = 4096;
/// Agreements of one question.
const PIECE_GSN: u64 = 2048;
/// Questions on their way at once, over all peers: fills a link with a long round trip.
const ASKING_MAX: usize = 6;
/// Pieces that have come or are on their way beyond the one that is next: bounds memory.
const AHEAD_PIECES: u64 = 12;
/// Bytes that wait for the ring or the apply thread before more is handed to them.
const WAITING_BYTES_MAX: usize = 16 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Room comes with what is applied, but also with what the ring drops.
const ROOM_EVERY: Duration = Duration::from_millis(100);
/// What waits is at most [`WAITING_BYTES_MAX`]: it is applied in much less.
const APPLY_MAX: Duration = Duration::from_secs(5);
/// After peers failed or refused.
const PAUSE: Duration = Duration::from_millis(500);

/// How a round of asking for the log ended.
enum Round {
    Done,
    /// Nobody goes on for now.
    Failed,
    /// Nobody has the next agreement any more.
    TooOld,
}

impl CatchUpTask {
    pub async fn run(self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let needed = tokio::select! {
                _ = looks.tick() => false,
                () = self.signal.needed.notified() => true,
            };
            let Some(status) = self.pulse.ring() else { continue };
            if self.pulse.failure().is_some() {
                return;
            }
            let behind = status.gsn_of_peers.0.saturating_sub(status.gsn.0);
            if behind == 0 || behind < BULK_GSN && !needed {
                continue;
            }
            self.signal.set_busy(true);
            let round = self.by_log(&status).await;
            match round {
                Round::Done => self.wait_for(status.gsn_of_peers).await,
                Round::TooOld => self.by_checkpoint().await,
                Round::Failed => {}
            }
            self.signal.set_busy(false);
            self.pulse.record_catch_up(None);
            if let Round::Failed = round {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Waits until what was handed on is applied, so that it is not fetched again.
    async fn wait_for(&self, upto: Gsn) {
        let mut applied = self.pulse.watch_applied();
        let _ = tokio::time::timeout(APPLY_MAX, applied.wait_for(|gsn| *gsn >= upto)).await;
    }

    /// Live peers that have executed more than `gsn`, the nearest first.
    fn peers(status: &RingStatus, gsn: Gsn) -> Vec<NodeId> {
        let ahead = status.peers.iter().filter(|peer| peer.gsn > gsn && !peer.suspected);
        let mut peers: Vec<_> =
            ahead.map(|peer| (peer.rtt_us.unwrap_or(u64::MAX), peer.node)).collect();
        peers.sort_unstable();
        peers.into_iter().map(|(_, node)| node).collect()
    }

    /// Fetches the log up to where the peers are now.
    async fn by_log(&self, status: &RingStatus) -> Round {
        let upto = status.gsn_of_peers;
        let mut pieces = Pieces::new(status.gsn.next(), upto);
        let mut peers: VecDeque<NodeId> = Self::peers(status, status.gsn).into();
        let mut too_old = 0;
        let all = peers.len();
        let mut asking = JoinSet::new();
        tracing::info!(from = %status.gsn.next(), %upto, peers = all, "catching up by log");
        loop {
            while asking.len() < ASKING_MAX
                && let Some(&peer) = peers.front()
                && let Some((from, to)) = pieces.next()
            {
                peers.rotate_left(1);
                let (wire, volume) = (self.wire.clone(), self.volume);
                asking.spawn(
                    async move { (peer, from, to, ask(&wire, volume, peer, from, to).await) },
                );
            }
            let Some(answered) = asking.join_next().await else {
                return match pieces.is_done() {
                    true => Round::Done,
                    false if all > 0 && too_old == all => Round::TooOld,
                    false => Round::Failed,
                };
            };
            let Ok((peer, from, to, answer)) = answered else { return Round::Failed };
            match answer {
                Answer::Records(records) => {
                    pieces.came(from, to, records);
                    while let Some(records) = pieces.take() {
                        self.hand_on(peer, records, upto).await;
                    }
                    self.pulse.record_catch_up(Some(CatchUp::Log { from: status.gsn, upto }));
                }
                Answer::TooOld => {
                    // A later piece may be there, but nothing fills the hole before it.
                    let before = peers.len();
                    peers.retain(|known| *known != peer);
                    too_old += before - peers.len();
                    pieces.failed(from, to);
                }
                Answer::Failed(error) => {
                    tracing::info!(%peer, error, "no agreements from there");
                    peers.retain(|known| *known != peer);
                    pieces.failed(from, to);
                }
            }
        }
    }

    /// Gives agreements to the replica, as if the peer had sent them to it; waits while it or
    /// the apply thread has enough to do.
    async fn hand_on(&self, from: NodeId, records: Vec<OrderRecord>, gsn: Gsn) {
        let bytes = records.iter().map(|record| record.entry.size_hint()).sum();
        let mut applied = self.pulse.watch_applied();
        let busy = || self.backlog.bytes() + self.apply.bytes() > WAITING_BYTES_MAX;
        while busy() || !self.backlog.admit(bytes) {
            let _ = tokio::time::timeout(ROOM_EVERY, applied.changed()).await;
        }
        let oldest = records[0].gsn;
        let message = Message::Order { records, oldest, gsn };
        self.events.send(Event::Message { from, message, bytes });
    }

    /// Takes a peer's tables over, from whoever gives them, for as long as it takes.
    async fn by_checkpoint(&self) {
        let mut fetch = Fetch::new(&self.wire, &self.store, self.volume).shown_by(&self.pulse);
        loop {
            let Some(status) = self.pulse.ring() else { return };
            let applied = self.pulse.applied();
            if self.pulse.failure().is_some() {
                return;
            }
            match fetch.run(&Self::peers(&status, applied)).await {
                Ok(checkpoint) => {
                    let gsn = checkpoint.header().gsn;
                    let (done, installed) = oneshot::channel();
                    let (apply, job) = (self.apply.clone(), Install { checkpoint, done });
                    // The queue may be full: not on a thread of the runtime.
                    let sent = tokio::task::spawn_blocking(move || {
                        apply.send(0, ApplyJob::Install(job));
                    });
                    if sent.await.is_ok() && installed.await.is_ok_and(|installed| installed) {
                        tracing::info!(%gsn, "checkpoint installed");
                    }
                    return;
                }
                // Overtaken by the log, or the disk is full: the next look decides.
                Err(FetchError::Store(error)) => {
                    tracing::warn!(%error, "the checkpoint cannot be taken over");
                    tokio::time::sleep(PAUSE).await;
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "no checkpoint yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

enum Answer {
    Records(Vec<OrderRecord>),
    TooOld,
    Failed(String),
}

async fn ask(wire: &Wire, volume: VolumeId, peer: NodeId, from: Gsn, upto: Gsn) -> Answer {
    let request = Request::new(volume, Gsn(0), Ask::Order { from, upto });
    let packed = match wire.call(peer, request).await {
        Ok(Response::Order { records, .. }) => records,
        Ok(Response::Refused { code: RefusedCode::TooOld, .. }) => return Answer::TooOld,
        Ok(Response::Refused { message, .. }) => return Answer::Failed(message),
        Ok(_) => return Answer::Failed("the answer is no order".into()),
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let unpacked = tokio::task::spawn_blocking(move || {
        let bytes = packed.unpack().map_err(|error| error.to_string())?;
        minicbor::decode::<Vec<OrderRecord>>(&bytes).map_err(|error| error.to_string())
    });
    match unpacked.await {
        Ok(Ok(records)) => {
            let in_place = (from.0..).zip(&records).all(|(gsn, record)| record.gsn.0 == gsn);
            match in_place && !records.is_empty() && records.len() as u64 <= upto.0 - from.0 + 1 {
                true => Answer::Records(records),
                false => Answer::Failed("it gave other agreements than asked for".into()),
            }
        }
        Ok(Err(error)) => Answer::Failed(error),
        Err(_) => Answer::Failed("the runtime is stopping".into()),
    }
}

/// The pieces of a stretch of the order: asked for in any order, handed on in theirs.
struct Pieces {
    /// The next agreement to hand on.
    next: Gsn,
    /// The next one that nobody was asked for.
    unasked: Gsn,
    upto: Gsn,
    /// Pieces to be asked for again.
    again: Vec<(Gsn, Gsn)>,
    here: BTreeMap<Gsn, Vec<OrderRecord>>,
}

impl Pieces {
    fn new(from: Gsn, upto: Gsn) -> Pieces {
        let (again, here) = (Vec::new(), BTreeMap::new());
        Pieces { next: from, unasked: from, upto, again, here }
    }

    /// What to ask for next, if there is something and room for it.
    fn next(&mut self) -> Option<(Gsn, Gsn)> {
        if let Some(piece) = self.again.pop() {
            return Some(piece);
        }
        if self.unasked > self.upto || self.unasked.0 >= self.next.0 + AHEAD_PIECES * PIECE_GSN {
            return None;
        }
        let (from, to) = (self.unasked, self.upto.min(Gsn(self.unasked.0 + PIECE_GSN - 1)));
        self.unasked = to.next();
        Some((from, to))
    }

    fn failed(&mut self, from: Gsn, to: Gsn) {
        self.again.push((from, to));
    }

    /// A piece came, perhaps only its first part.
    fn came(&mut self, from: Gsn, to: Gsn, records: Vec<OrderRecord>) {
        let last = Gsn(from.0 + records.len() as u64 - 1);
        self.here.insert(from, records);
        if last < to {
            self.again.push((last.next(), to));
        }
    }

    /// The next piece in order, if it is here.
    fn take(&mut self) -> Option<Vec<OrderRecord>> {
        let records = self.here.remove(&self.next)?;
        self.next = Gsn(self.next.0 + records.len() as u64);
        Some(records)
    }

    fn is_done(&self) -> bool {
        self.next > self.upto
    }
}

#[cfg(test)]
mod tests {
    use engine::consensus::{Entry, EntryKind};
    use engine::ids::{Epoch, Idx, LaneId, Term, Ts};

    use super::*;

    fn records(from: u64, to: u64) -> Vec<OrderRecord> {
        let lane = LaneId { epoch: Epoch(1), node: NodeId(1), term: Term(0) };
        let record = |gsn| OrderRecord {
            gsn: Gsn(gsn),
            lane,
            idx: Idx(gsn),
            entry: Entry { ts: Ts(gsn), kind: EntryKind::Tick },
        };
        (from..=to).map(record).collect()
    }

    #[test]
    fn pieces_come_in_any_order_and_in_parts_and_leave_in_theirs() {
        let mut pieces = Pieces::new(Gsn(10), Gsn(10 + 2 * PIECE_GSN));
        let first = pieces.next().expect("there is more");
        let second = pieces.next().expect("there is more");
        let third = pieces.next().expect("there is more");
        assert_eq!(pieces.next(), None);
        assert_eq!(third, (Gsn(10 + 2 * PIECE_GSN), Gsn(10 + 2 * PIECE_GSN)));
        pieces.came(third.0, third.1, records(third.0.0, third.1.0));
        pieces.came(second.0, second.1, records(second.0.0, second.1.0));
        assert_eq!(pieces.take(), None);
        pieces.failed(first.0, first.1);
        assert_eq!(pieces.next(), Some(first));
        pieces.came(first.0, first.1, records(10, 14));
        let rest = pieces.next().expect("only a part came");
        assert_eq!(rest, (Gsn(15), first.1));
        pieces.came(rest.0, rest.1, records(15, first.1.0));
        let mut expected = 10;
        while let Some(records) = pieces.take() {
            for record in records {
                assert_eq!(record.gsn.0, expected);
                expected += 1;
            }
        }
        assert!(pieces.is_done());
    }

    #[test]
    fn not_everything_is_asked_for_at_once() {
        let mut pieces = Pieces::new(Gsn(1), Gsn(u64::MAX / 2));
        let mut asked = 0;
        while pieces.next().is_some() {
            asked += 1;
        }
        assert_eq!(asked, AHEAD_PIECES);
    }
}

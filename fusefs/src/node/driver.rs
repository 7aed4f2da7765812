//! The loop of a volume's replica: one thread, one place where its state changes.
//!
//! Inputs come from everywhere through one channel; the replica's effects go out in order: to
//! the network at once, to the log thread what must be durable first, to the apply thread what
//! was agreed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use engine::command::Command;
use engine::consensus::{Effect, Input, Message, Replica};
use engine::ids::{NodeId, VolumeId};

use super::apply::{Agreed, ApplyJob};
use super::catchup::CatchUpSignal;
use super::clock::Clock;
use super::log::LogJob;
use super::order::OrderService;
use super::pulse::Pulse;
use super::queue::{Incoming, QueueSender, Taken};
use super::stage::Stages;
use super::suspicion::Suspicion;
use super::underway::Underway;

/// What the ring thread is woken for.
pub enum Event {
    /// Commands with their ids already in sequence.
    Commands(Vec<Command>),
    Input(Input),
    /// From a peer. It has taken its place in the [`Backlog`].
    Message {
        from: NodeId,
        message: Message,
        bytes: usize,
    },
    /// The thread ends; nothing more is stepped.
    Stop,
}

impl Event {
    fn into_input(self, backlog: &Backlog) -> Option<Input> {
        match self {
            Event::Input(input) => Some(input),
            Event::Message { from, message, bytes } => {
                backlog.done(bytes);
                Some(Input::Message { from, message })
            }
            Event::Commands(_) | Event::Stop => None,
        }
    }
}

/// What peers have sent and the ring thread has not come to: bounded, since messages may be
/// lost and whoever needs an answer asks again. (Commands are bounded by the callers that wait
/// for them, the other events by the jobs that they answer.)
#[derive(Default)]
pub struct Backlog {
    bytes: AtomicUsize,
}

/// A second of a fast network.
const BACKLOG_BYTES_MAX: usize = 64 << 20;

impl Backlog {
    /// Takes a place for a message; false if there is no room for it.
    pub fn admit(&self, bytes: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= BACKLOG_BYTES_MAX;
        if !fits {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn done(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Where effects go.
pub struct Outlets {
    pub volume: VolumeId,
    pub me: NodeId,
    pub wire: Arc<wire::Wire>,
    pub log: QueueSender<LogJob>,
    pub apply: Arc<QueueSender<ApplyJob>>,
    pub order: Arc<OrderService>,
    pub pulse: Arc<Pulse>,
    pub backlog: Arc<Backlog>,
    pub catch_up: Arc<CatchUpSignal>,
    pub suspicion: Suspicion,
    pub stages: Arc<Stages>,
}

/// Inputs taken in one turn at most: bounds how long an effect waits for the end of its turn.
const TURN_INPUTS_MAX: usize = 512;
/// The account for `fusion status` is made so often at most: it is for people.
const STATUS_EVERY_US: u64 = 20_000;

/// Runs until [`Event::Stop`] comes or every sender is gone.
pub fn run(
    mut replica: Replica,
    clock: &Clock,
    events: &Incoming<Event>,
    outlets: &Outlets,
    mut underway: Underway,
) {
    let mut effects = Vec::new();
    let mut published_us = 0;
    replica.step(clock.now_us(), Input::Start, &mut effects);
    carry_out(&mut effects, outlets, &mut underway);
    loop {
        let now_us = clock.now_us();
        let wait = match replica.next_timer() {
            Some(at_us) => Duration::from_micros(at_us.saturating_sub(now_us)),
            None => Duration::from_secs(3600),
        };
        let first = if wait.is_zero() {
            events.try_recv()
        } else {
            match events.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        let begun = Instant::now();
        // All commands of a turn become one proposal: many callers share one agreement.
        let mut commands = Vec::new();
        let mut next = first;
        let mut taken = 0;
        while let Some(Taken { item, waited }) = next {
            match item {
                Event::Commands(more) => {
                    underway.proposed(&more, waited);
                    commands.extend(more);
                }
                Event::Stop => return,
                event => {
                    if let Some(input) = event.into_input(&outlets.backlog) {
                        if let Input::Installed { finished_seq, .. } = &input {
                            underway.finished(*finished_seq);
                        }
                        replica.step(clock.now_us(), input, &mut effects);
                    }
                }
            }
            taken += 1;
            next = if taken < TURN_INPUTS_MAX { events.try_recv() } else { None };
        }
        if !commands.is_empty() {
            replica.step(clock.now_us(), Input::Propose(commands), &mut effects);
        }
        let now_us = clock.now_us();
        if replica.next_timer().is_some_and(|at_us| at_us <= now_us) {
            replica.step(now_us, Input::Timer, &mut effects);
        }
        carry_out(&mut effects, outlets, &mut underway);
        if taken > 0 {
            outlets.stages.received.service.observe(begun.elapsed());
        }
        let now_us = clock.now_us();
        if now_us.saturating_sub(published_us) >= STATUS_EVERY_US {
            published_us = now_us;
            outlets.pulse.record_ring(replica.status());
        }
    }
}

/// Executes effects in order. Everything that must be durable goes to the log thread in one
/// job, with the messages that wait for it; that is never weaker than the order of effects.
fn carry_out(effects: &mut Vec<Effect>, outlets: &Outlets, underway: &mut Underway) {
    let mut job = LogJob::default();
    for effect in effects.drain(..) {
        match effect {
            Effect::Persist(record) => job.records.push(record),
            Effect::SendDurable { to, message } => job.then_send.push((to, message)),
            // Catching up in bulk brings the same sooner.
            Effect::Send { message: Message::Fetch { .. }, .. } if outlets.catch_up.is_busy() => {}
            Effect::Send { to, message } => send(outlets, to, &message),
            Effect::Agreed { record, header } => {
                underway.agreed(&record.entry);
                let bytes = record.entry.size_hint();
                // Waits while the disk is slower than the ring: this node then falls behind,
                // and the others go on without it.
                outlets.apply.send(bytes, ApplyJob::Agreed(Agreed { record, header }));
            }
            Effect::ServeOrder { to, from } => outlets.order.serve(to, from),
            Effect::NeedSnapshot { peer, oldest } => {
                tracing::info!(%peer, %oldest, "the peer's order begins above what is needed here");
                outlets.catch_up.needed();
            }
            Effect::Diverged { gsn, peer } => outlets.suspicion.diverged(peer, gsn),
            Effect::PeerDiverged { gsn, peer } => outlets.suspicion.peer_diverged(peer, gsn),
            Effect::MemoryWhole => outlets.suspicion.memory_whole(),
            Effect::Removed { gsn } => outlets.pulse.removed(gsn),
            Effect::ShutdownDone => outlets.pulse.lane_ended(),
        }
    }
    if !job.is_empty() {
        outlets.log.send(job.bytes(), job);
    }
}

fn send(outlets: &Outlets, to: NodeId, message: &Message) {
    debug_assert_ne!(to, outlets.me, "the replica talks to itself only through the log");
    outlets.wire.send_ring(to, outlets.volume, message.encode());
}

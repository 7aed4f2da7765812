//! The loop of a volume's replica: one thread, one place where its state changes.
//!
//! Inputs come from everywhere through one channel; the replica's effects go out in order: to
//! the network at once, to the log thread what must be durable first, to the apply thread what
//! was agreed.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use engine::command::Command;
use engine::consensus::{Effect, Input, Message, Replica};
use engine::ids::{NodeId, VolumeId};

use super::apply::Agreed;
use super::clock::Clock;
use super::log::LogJob;
use super::order::OrderService;
use super::pulse::Pulse;

/// What the ring thread is woken for.
pub enum Event {
    /// Commands with their ids already in sequence.
    Commands(Vec<Command>),
    Input(Input),
    /// The thread ends; nothing more is stepped.
    Stop,
}

/// Where effects go.
pub struct Outlets {
    pub volume: VolumeId,
    pub me: NodeId,
    pub wire: Arc<wire::Wire>,
    pub log: Sender<LogJob>,
    pub apply: Sender<Agreed>,
    pub order: OrderService,
    pub pulse: Arc<Pulse>,
}

/// Inputs taken in one turn at most: bounds how long an effect waits for the end of its turn.
const TURN_INPUTS_MAX: usize = 512;
/// The account for `fusion status` is made so often at most: it is for people.
const STATUS_EVERY_US: u64 = 20_000;

/// Runs until [`Event::Stop`] comes or every sender is gone.
pub fn run(mut replica: Replica, clock: &Clock, events: &Receiver<Event>, outlets: &Outlets) {
    let mut effects = Vec::new();
    let mut published_us = 0;
    replica.step(clock.now_us(), Input::Start, &mut effects);
    carry_out(&mut effects, outlets);
    loop {
        let now_us = clock.now_us();
        let wait = match replica.next_timer() {
            Some(at_us) => Duration::from_micros(at_us.saturating_sub(now_us)),
            None => Duration::from_secs(3600),
        };
        let first = if wait.is_zero() {
            events.try_recv().ok()
        } else {
            match events.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        };
        // All commands of a turn become one proposal: many callers share one agreement.
        let mut commands = Vec::new();
        let mut next = first;
        for _ in 0..TURN_INPUTS_MAX {
            match next {
                Some(Event::Commands(more)) => commands.extend(more),
                Some(Event::Input(input)) => {
                    replica.step(clock.now_us(), input, &mut effects);
                }
                Some(Event::Stop) => return,
                None => break,
            }
            next = events.try_recv().ok();
        }
        match next {
            Some(Event::Commands(more)) => commands.extend(more),
            Some(Event::Input(input)) => replica.step(clock.now_us(), input, &mut effects),
            Some(Event::Stop) => return,
            None => {}
        }
        if !commands.is_empty() {
            replica.step(clock.now_us(), Input::Propose(commands), &mut effects);
        }
        let now_us = clock.now_us();
        if replica.next_timer().is_some_and(|at_us| at_us <= now_us) {
            replica.step(now_us, Input::Timer, &mut effects);
        }
        carry_out(&mut effects, outlets);
        let now_us = clock.now_us();
        if now_us.saturating_sub(published_us) >= STATUS_EVERY_US {
            published_us = now_us;
            outlets.pulse.record_ring(replica.status());
        }
    }
}

/// Executes effects in order. Everything that must be durable goes to the log thread in one
/// job, with the messages that wait for it; that is never weaker than the order of effects.
fn carry_out(effects: &mut Vec<Effect>, outlets: &Outlets) {
    let mut job = LogJob::default();
    for effect in effects.drain(..) {
        match effect {
            Effect::Persist(record) => job.records.push(record),
            Effect::SendDurable { to, message } => job.then_send.push((to, message)),
            Effect::Send { to, message } => send(outlets, to, &message),
            Effect::Agreed { record, header } => {
                // A closed channel means that the node is stopping.
                let _ = outlets.apply.send(Agreed { record, header });
            }
            Effect::ServeOrder { to, from } => outlets.order.serve(to, from),
            // A node that joined later keeps no older agreements. Others do, since nobody
            // truncates the order; the replica asks them next.
            Effect::NeedSnapshot { peer, oldest } => {
                tracing::warn!(%peer, %oldest, "the peer's order begins above what is needed here");
            }
            Effect::Diverged { gsn, peer } => outlets.pulse.fail(format!(
                "the state hash differs from node {peer}'s at GSN {gsn}: this node or that one \
                 applied something else. It stops applying; keep the store as evidence"
            )),
            Effect::ShutdownDone => outlets.pulse.lane_ended(),
        }
    }
    if !job.is_empty() {
        let _ = outlets.log.send(job);
    }
}

fn send(outlets: &Outlets, to: NodeId, message: &Message) {
    debug_assert_ne!(to, outlets.me, "the replica talks to itself only through the log");
    outlets.wire.send_ring(to, outlets.volume, message.encode());
}

//! Own commands between their proposal and their outcome.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use engine::command::{Command, Cred, Op};
use engine::ids::{NodeId, OpId};
use engine::outcome::Outcome;
use parking_lot::Mutex;

use super::clock;
use super::driver::Event;
use crate::ops::ports::{Done, ProposeError};

/// Gives commands their ids and remembers who waits for them. The ring proposes a command
/// again, under its id, until it is applied, so each waiting caller is answered once.
pub struct Proposals {
    me: NodeId,
    boot: u64,
    events: Sender<Event>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_seq: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Set when the node stops or fails: nobody will be answered any more.
    closed: Option<ProposeError>,
}

/// Who waits for a command.
pub struct Waiting {
    pub done: Done<Outcome, ProposeError>,
    /// False for the daemon's own commands, of whose effects the kernel does not know.
    pub is_caller: bool,
}

impl Proposals {
    pub fn new(me: NodeId, boot: u64, events: Sender<Event>) -> Proposals {
        Proposals { me, boot, events, state: Mutex::default() }
    }

    pub fn propose(&self, cred: Cred, op: Op, done: Done<Outcome, ProposeError>) {
        let is_caller = !matches!(
            op,
            Op::Publish { .. }
                | Op::TakeToken { .. }
                | Op::ReleaseToken { .. }
                | Op::HeldUpto { .. }
                | Op::AdmitNode { .. }
                | Op::MoveNode { .. }
                | Op::Noop
        );
        let time = clock::timestamp();
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            let error = error.clone();
            drop(state);
            return done(Err(error));
        }
        state.last_seq += 1;
        let id = OpId { origin: self.me, boot: self.boot, seq: state.last_seq };
        state.waiting.insert(id.seq, Waiting { done, is_caller });
        // Under the lock: the sequence in the channel is the sequence of the ids.
        let _ = self.events.send(Event::Commands(vec![Command { id, time, cred, op }]));
    }

    /// As [`Self::propose`], for async callers.
    pub async fn propose_and_wait(&self, cred: Cred, op: Op) -> Result<Outcome, ProposeError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // The receiver is gone when the caller gave up; the command happens all the same.
        self.propose(cred, op, Box::new(move |result| drop(sender.send(result))));
        receiver.await.unwrap_or(Err(ProposeError::Stopping))
    }

    /// Takes out who waits for `id`; `None` for other nodes' and earlier starts' commands.
    pub fn finish(&self, id: OpId) -> Option<Waiting> {
        if (id.origin, id.boot) != (self.me, self.boot) {
            return None;
        }
        self.state.lock().waiting.remove(&id.seq)
    }

    /// Commands without an outcome yet.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Answers everybody who waits, and everybody who comes, with `error`.
    pub fn close(&self, error: &ProposeError) {
        let mut state = self.state.lock();
        state.closed.get_or_insert_with(|| error.clone());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for (_, waiting) in waiting {
            (waiting.done)(Err(error.clone()));
        }
    }
}

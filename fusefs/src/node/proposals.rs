//! Own commands between their proposal and their outcome.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine::command::{Command, Op};
use engine::ids::{Ino, NodeId, OpId};
use engine::outcome::Outcome;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::clock;
use super::driver::Event;
use super::queue::Outgoing;
use crate::ops::ports::{Caller, Done, Origin, ProposeError};
use crate::ops::rules::Partition;

/// Gives commands their ids and remembers who waits for them. The ring proposes a command
/// again, under its id, until it is applied, so each waiting caller is answered once.
pub struct Proposals {
    me: NodeId,
    boot: u64,
    events: Outgoing<Event>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_seq: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Set when the node stops or fails: nobody will be answered any more.
    closed: Option<ProposeError>,
}

struct Waiting {
    done: Done<Outcome, ProposeError>,
    caller: Caller,
    since: Instant,
    /// As [`clock::since_boot`].
    proposed: Duration,
    /// Whose directory's rule says how long to wait.
    subject: Option<Ino>,
}

/// Who is to be told the outcome of an applied command.
pub struct Waiter {
    pub done: Done<Outcome, ProposeError>,
    /// What the followers are told; [`Origin::Elsewhere`] if a signal ended the caller's wait.
    pub origin: Origin,
    /// Whether the caller is still there.
    pub waited: Result<(), ProposeError>,
    /// When it was proposed, as [`clock::since_boot`].
    pub proposed: Duration,
}

impl Proposals {
    pub fn new(me: NodeId, boot: u64, events: Outgoing<Event>) -> Proposals {
        Proposals { me, boot, events, state: Mutex::default() }
    }

    pub fn propose(&self, caller: Caller, op: Op, done: Done<Outcome, ProposeError>) {
        let subject = subject(&op);
        self.propose_for(caller, op, subject, done);
    }

    /// As [`Self::propose`], for a call that follows the rule of `subject`.
    pub fn propose_for(
        &self,
        caller: Caller,
        op: Op,
        subject: Option<Ino>,
        done: Done<Outcome, ProposeError>,
    ) {
        let (time, proposed) = (clock::timestamp(), clock::since_boot());
        let mut state = self.state.lock();
        if let Some(error) = &state.closed {
            let error = error.clone();
            drop(state);
            return done(Err(error));
        }
        state.last_seq += 1;
        let id = OpId { origin: self.me, boot: self.boot, seq: state.last_seq };
        let (cred, since) = (caller.cred, Instant::now());
        state.waiting.insert(id.seq, Waiting { done, caller, since, proposed, subject });
        // Under the lock: the sequence in the channel is the sequence of the ids.
        self.events.send(Event::Commands(vec![Command { id, time, cred, op }]));
    }

    /// A command of the daemon itself, for async callers.
    pub async fn propose_and_wait(&self, op: Op) -> Result<Outcome, ProposeError> {
        self.propose_soon(op).await.unwrap_or(Err(ProposeError::Stopping))
    }

    /// As [`Self::propose_and_wait`], for callers that wait later.
    pub fn propose_soon(&self, op: Op) -> oneshot::Receiver<Result<Outcome, ProposeError>> {
        let (sender, receiver) = oneshot::channel();
        // The receiver is gone when the caller gave up; the command happens all the same.
        self.propose(Caller::DAEMON, op, Box::new(move |result| drop(sender.send(result))));
        receiver
    }

    /// Takes out who waits for `id`, whose wait ends here. `None`: it is of another node or
    /// start, or was answered with an error.
    pub fn finish(&self, id: OpId) -> Option<Waiter> {
        if (id.origin, id.boot) != (self.me, self.boot) {
            return None;
        }
        Some(self.state.lock().waiting.remove(&id.seq)?.finish())
    }

    /// The node and the start whose commands these are.
    pub fn origin(&self) -> (NodeId, u64) {
        (self.me, self.boot)
    }

    /// Takes out everybody who waits for a command of this start up to `seq`.
    pub fn finish_upto(&self, seq: u64) -> Vec<(OpId, Waiter)> {
        let mut state = self.state.lock();
        let later = state.waiting.split_off(&(seq + 1));
        let finished = std::mem::replace(&mut state.waiting, later);
        let id = |seq| OpId { origin: self.me, boot: self.boot, seq };
        finished.into_iter().map(|(seq, waiting)| (id(seq), waiting.finish())).collect()
    }

    /// Answers the callers whose directory's rule says that they wait no longer. Their commands
    /// stay proposed: they may happen later, as if somebody else had wanted them.
    pub fn limit(&self, limits: &dyn Limits) {
        let mut state = self.state.lock();
        let slow = state.waiting.iter().filter(|(_, waiting)| {
            waiting.caller.call.is_some() && waiting.since.elapsed() >= LIMIT_AFTER
        });
        let ended: Vec<(u64, ProposeError)> =
            slow.filter_map(|(seq, waiting)| Some((*seq, waiting.end(limits)?))).collect();
        let ended: Vec<(Waiting, ProposeError)> = ended
            .into_iter()
            .filter_map(|(seq, error)| Some((state.waiting.remove(&seq)?, error)))
            .collect();
        drop(state);
        for (waiting, error) in ended {
            (waiting.done)(Err(error));
        }
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

impl Waiting {
    /// Its wait ends here.
    fn finish(self) -> Waiter {
        let Waiting { done, caller, proposed, .. } = self;
        let waited = caller.end_wait();
        let origin = match (&waited, caller.call) {
            (Ok(()), Some(_)) => Origin::Caller,
            (Ok(()), None) => Origin::Daemon,
            (Err(_), _) => Origin::Elsewhere,
        };
        Waiter { done, origin, waited, proposed }
    }

    /// Why it does not wait any longer, if it doesn't.
    fn end(&self, limits: &dyn Limits) -> Option<ProposeError> {
        let waited = self.since.elapsed();
        let is_late = waited >= limits.op_timeout();
        if !is_late && !limits.is_cut_off() {
            return None;
        }
        match limits.partition(self.subject?) {
            Partition::ReadOnly if limits.is_cut_off() => Some(ProposeError::ReadOnly),
            Partition::Error if is_late => {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                Some(ProposeError::NoQuorum { waited_ms })
            }
            _ => None,
        }
    }
}

/// How long callers wait.
pub trait Limits {
    fn op_timeout(&self) -> Duration;
    /// Whether no majority can be reached.
    fn is_cut_off(&self) -> bool;
    /// The rule for an inode.
    fn partition(&self, ino: Ino) -> Partition;
}

/// Whose rule a caller's command follows: the directory that it changes, or the inode.
pub fn subject(op: &Op) -> Option<Ino> {
    match op {
        Op::Make { parent, .. }
        | Op::Link { parent, .. }
        | Op::Unlink { parent, .. }
        | Op::Rmdir { parent, .. }
        | Op::Rename { to_parent: parent, .. }
        | Op::Whiteout { to_parent: parent, .. }
        | Op::MakeUnnamed { parent, .. } => Some(*parent),
        Op::SetAttr { ino, .. }
        | Op::SetAcl { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::RemoveXattr { ino, .. }
        | Op::Publish { ino, .. }
        | Op::TakeToken { ino, .. }
        | Op::ReleaseToken { ino, .. } => Some(*ino),
        _ => None,
    }
}

/// No rule ends a wait that is this short.
const LIMIT_AFTER: Duration = Duration::from_millis(300);
/// How often to look: what a person at a terminal does not notice.
pub const LIMIT_EVERY: Duration = Duration::from_millis(100);

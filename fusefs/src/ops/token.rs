//! The write token: a body has one writing node at a time.
//!
//! `body/` says when the token is missing; then it is taken by an agreement. Where another
//! node holds it, that node is asked to seal and hand over, and the agreement is tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::Op;
use engine::ids::{Ino, NodeId};
use engine::outcome::{Outcome, Refusal};

use super::error::FsError;
use super::fs::{Fs, FsDone, expect_done};
use super::ports::{BodyError, Caller, ProposeError};
use super::rules::{Partition, Rule};

/// How long one call goes on asking for a token that other nodes keep taking back.
#[derive(Clone)]
pub(super) struct Patience {
    /// Whose signals end the waiting.
    caller: Caller,
    began: Instant,
    attempts_left: u32,
}

impl Patience {
    pub(super) fn new(caller: Caller) -> Patience {
        Patience { caller, began: Instant::now(), attempts_left: ATTEMPTS_MAX }
    }

    /// Counts one more attempt; `None` when there were enough.
    fn again(mut self) -> Option<Patience> {
        self.attempts_left = self.attempts_left.checked_sub(1)?;
        (self.began.elapsed() < WAIT_MAX).then_some(self)
    }

    fn kept_by(self, holder: NodeId) -> FsError {
        FsError::TokenKept { holder, waited_ms: self.began.elapsed().as_millis() as u64 }
    }
}

/// An attempt that can be repeated.
pub(super) type Attempt<T> = Arc<dyn Fn(&Arc<Fs>, FsDone<T>) + Send + Sync>;

impl Fs {
    /// Runs `attempt`. While that fails for want of the write token of `ino`, of this node's
    /// lease, or of room in a quota, gets that and runs it again. A signal ends these waits, and
    /// never an attempt.
    pub(super) fn with_token<T: Send + 'static>(
        self: &Arc<Self>,
        ino: Ino,
        patience: Patience,
        attempt: Attempt<T>,
        done: FsDone<T>,
    ) {
        let fs = Arc::clone(self);
        let repeat = Arc::clone(&attempt);
        attempt(
            self,
            Box::new(move |result| match (result, patience.clone().again()) {
                // Whatever is agreed renews the lease. That may take as long as the rule lets
                // it, and nobody else's patience is on trial.
                (Err(FsError::Body(BodyError::NeedsLease(_))), _) => {
                    let patience = Patience::new(patience.caller);
                    fs.clone().token_then(ino, patience, repeat, done);
                }
                (Err(FsError::Body(BodyError::NeedsToken(_))), Some(patience)) => {
                    fs.clone().token_then(ino, patience, repeat, done);
                }
                (Err(FsError::Body(BodyError::NeedsQuota { quota, bytes })), Some(patience)) => {
                    fs.clone().quota_then(ino, (quota, bytes), patience, repeat, done);
                }
                (result, _) => done(result),
            }),
        );
    }

    /// Takes the token of `ino`, then goes on as [`Self::with_token`].
    pub(super) fn token_then<T: Send + 'static>(
        self: &Arc<Self>,
        ino: Ino,
        patience: Patience,
        attempt: Attempt<T>,
        done: FsDone<T>,
    ) {
        let fs = Arc::clone(self);
        let op = Op::TakeToken { ino, node: self.ring.me() };
        // The daemon's command, but this caller's wait.
        let caller = Caller { call: patience.caller.call.clone(), ..Caller::DAEMON };
        let waiting = patience.clone();
        let taken: FsDone<()> = Box::new(move |result| {
            let result = match result {
                // It lost its last name, and needs no token any more.
                Err(FsError::Refused(Refusal::NotFound)) if fs.orphans.get(ino).is_some() => Ok(()),
                result => result,
            };
            match result.and_then(|()| Ok(patience.caller.end_wait()?)) {
                Ok(()) => fs.with_token(ino, patience, attempt, done),
                Err(e) => done(Err(e)),
            }
        });
        self.agree_recalling(caller, ino, op, waiting, expect_done(taken));
    }

    /// Has room reserved in a quota, then goes on as [`Self::with_token`].
    pub(super) fn quota_then<T: Send + 'static>(
        self: &Arc<Self>,
        ino: Ino,
        (quota, bytes): (Ino, u64),
        patience: Patience,
        attempt: Attempt<T>,
        done: FsDone<T>,
    ) {
        let fs = Arc::clone(self);
        let partition = match Partition::of(&self.ring.view(), ino) {
            Ok(partition) => partition,
            Err(e) => return done(Err(e.into())),
        };
        patience.caller.begin_wait();
        let reserved = Box::new(move |result: Result<(), BodyError>| {
            let result = result.map_err(FsError::Body);
            match result.and_then(|()| Ok(patience.caller.end_wait()?)) {
                Ok(()) => fs.with_token(ino, patience, attempt, done),
                Err(e) => done(Err(e)),
            }
        });
        self.bodies.reserve(quota, bytes, partition, reserved);
    }

    /// Has `op` on `ino` agreed; while another node's write token stands against it, recalls
    /// that and tries again.
    pub(super) fn agree_recalling(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        op: Op,
        patience: Patience,
        done: FsDone<Outcome>,
    ) {
        let fs = Arc::clone(self);
        let repeat = op.clone();
        self.agree(
            caller.clone(),
            op,
            Box::new(move |result| {
                let Err(FsError::Refused(Refusal::TokenHeld(holder))) = result else {
                    return done(result);
                };
                let Some(patience) = patience.clone().again() else {
                    return done(Err(patience.kept_by(holder)));
                };
                caller.begin_wait();
                let ring = Arc::clone(&fs.ring);
                let recalled = Box::new(move |result| match result {
                    // The holder may have given it up meanwhile, or not know the file any more:
                    // the next attempt shows what became of it.
                    Ok(()) | Err(ProposeError::NoQuorum { .. }) => {
                        fs.agree_recalling(caller, ino, repeat, patience, done);
                    }
                    Err(e) => done(Err(FsError::Order(e))),
                });
                ring.recall(holder, ino, recalled);
            }),
        );
    }
}

/// As long as a mount waits for a slow holder to seal; longer than a seal of what is written
/// within the age limit takes over a slow link.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Several nodes may take turns, and a holder that is not there is asked again each half second:
/// more than the time allows.
const ATTEMPTS_MAX: u32 = 256;

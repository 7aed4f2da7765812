//! Gives the write token of a file back when another node asks for it, and publishes what was
//! written before a lock is given up.

use std::sync::Arc;
use std::time::Instant;

use engine::command::Op;
use engine::ids::{Gsn, Ino};
use tokio::sync::oneshot;

use super::BodyService;
use super::error::tables;
use super::layer::LayerId;
use super::state::Token;
use super::table::OpenBody;
use crate::ops::ports::{BodyError, Caller, Done, ProposeError};

/// What is written to a larger file that is still open is published with its close or its own
/// lock: sealing all of it for somebody else's lock would take too long.
const OPEN_BYTES_MAX: u64 = 64 << 20;

impl BodyService {
    /// Stops writes of `ino`, seals and publishes what was written, and has the release of
    /// the token agreed. Gives an agreement at or after the release. Goes on also when the
    /// caller gives up, since half a recall would leave a stage without a token.
    ///
    /// # Errors
    /// When the tables cannot be read or the node stops.
    pub async fn recall(self: &Arc<Self>, ino: Ino) -> Result<Gsn, BodyError> {
        let service = Arc::clone(self);
        let recalled = self.runtime.spawn(async move {
            let body = service.table.find_or_add(ino);
            let result = service.hand_over(&body).await;
            service.table.forget_if_idle(body);
            result
        });
        recalled.await.map_err(|error| BodyError::Storage(error.to_string()))?
    }

    /// Hands over every write token of this node, in the background: for a node that drains.
    pub(super) fn hand_all_over(self: Arc<Self>) {
        let service = Arc::clone(&self);
        self.runtime.spawn(async move {
            let reading = Arc::clone(&service);
            let own = tokio::task::spawn_blocking(move || {
                let (me, view) = (reading.ring.me(), reading.ring.view());
                let mut own = Vec::new();
                view.inodes(Ino(0), &mut |ino, inode| {
                    own.extend((inode.writer == Some(me)).then_some(ino));
                    true
                })
                .map(|()| own)
            });
            let own = match own.await {
                Ok(Ok(own)) => own,
                Ok(Err(error)) => return tracing::error!(%error, "the tables cannot be read"),
                Err(_) => return, // the runtime is going
            };
            for ino in own {
                if let Err(error) = service.recall(ino).await {
                    tracing::warn!(%ino, %error, "a write token could not be handed over");
                }
            }
        });
    }

    /// Whether this node has to keep its lease: see [`needs_lease`](super::state::State::needs_lease).
    pub fn needs_lease(&self) -> bool {
        let needs = |body: &Arc<OpenBody>| body.loaded().is_some_and(|state| state.needs_lease());
        self.table.all().iter().any(needs)
    }

    async fn hand_over(self: &Arc<Self>, body: &Arc<OpenBody>) -> Result<Gsn, BodyError> {
        // One after the other: the first lets writers take the token again when it ends, and a
        // second one's release would then take it from under what they have written.
        let _alone = body.handing_over.lock().await;
        let me = self.ring.me();
        if self.ring.view().token_holder(body.ino).map_err(tables)? != Some(me) {
            return Ok(self.ring.applied_gsn());
        }
        self.counters.recalls.add(1);
        body.state(&*self.ring, &self.stages, None)?.token = Token::Recalled;
        let released = self.seal_and_release(body).await;
        body.state(&*self.ring, &self.stages, None)?.token = Token::Unknown;
        released.map(|()| self.ring.applied_gsn())
    }

    /// See [`Bodies::publish_written`](crate::ops::ports::Bodies::publish_written).
    pub(super) fn publish_until_now(self: &Arc<Self>, ino: Ino, done: Done<(), BodyError>) {
        let mut written = Vec::new();
        for body in self.table.all() {
            let Some(state) = body.loaded() else { continue };
            let wanted = body.ino == ino || state.writers == 0 || state.size() <= OPEN_BYTES_MAX;
            // What has no name is not published, however long anybody waits.
            let wanted = wanted && state.is_published();
            if let (true, Some(newest)) = (wanted, state.newest_layer()) {
                drop(state);
                written.push((body, newest));
            }
        }
        if written.is_empty() {
            return done(Ok(()));
        }
        let service = Arc::clone(self);
        self.runtime.spawn(async move {
            for (body, newest) in written {
                service.published_upto(&body, newest).await;
                service.table.forget_if_idle(body);
            }
            done(Ok(()));
        });
    }

    /// Waits until what was written up to `newest` is on no way any more.
    async fn published_upto(&self, body: &Arc<OpenBody>, newest: LayerId) {
        loop {
            // Registered before the look, so that no news is missed.
            let settled = body.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let is_there = body
                .loaded()
                .is_none_or(|state| !state.is_published() || !state.has_layer_upto(newest));
            if is_there {
                return;
            }
            self.queue.add(body.ino, Instant::now());
            settled.await;
        }
    }

    async fn seal_and_release(self: &Arc<Self>, body: &Arc<OpenBody>) -> Result<(), BodyError> {
        loop {
            // Registered before the look, so that no news is missed.
            let settled = body.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let state = body.state(&*self.ring, &self.stages, None)?;
                if !state.is_published() || !state.is_staged() {
                    break;
                }
            }
            self.queue.add(body.ino, Instant::now());
            settled.await;
        }
        loop {
            let (tell, told) = oneshot::channel();
            let op = Op::ReleaseToken { ino: body.ino, node: self.ring.me() };
            let done = Box::new(move |outcome: Result<_, _>| {
                let _ = tell.send(outcome.map(drop));
            });
            self.ring.propose(Caller::DAEMON, op, done);
            match told.await {
                // A refusal says that the file is gone, or the token elsewhere already.
                Ok(Ok(())) => return Ok(()),
                Ok(Err(ProposeError::NoQuorum { .. })) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(ProposeError::Stopping.into()),
            }
        }
    }
}

//! Brings stored versions into the agreed order, and handles what becomes of them.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use engine::command::Op;
use engine::ids::{Gsn, Ino, Version};
use engine::namespace::{Inode, Touched};
use engine::outcome::{Outcome, Refusal};

use super::BodyService;
use super::layer::LayerId;
use super::queue::due_by_age;
use super::state::{Base, Sealing, Step, Token};
use super::table::OpenBody;
use crate::ops::ports::{Caller, OnApplied, Origin, ProposeError, View};
use crate::ops::replaced::changes;

/// News for the thread that finishes versions: it may do I/O, the apply and reply threads may
/// not.
#[derive(Debug)]
pub(super) enum Settled {
    /// The version was seen in the tables.
    Arrived(Arc<OpenBody>, Sealing),
    /// The proposal was answered.
    Answered(Arc<OpenBody>, LayerId, Result<Outcome, ProposeError>),
    /// The file lost its last name and nobody has it open.
    Gone(Arc<OpenBody>),
    Stop,
}

/// After no quorum or no room: long enough not to fill the log with tries.
const AGAIN: Duration = Duration::from_secs(1);

impl BodyService {
    /// Proposes the stored version of a file.
    pub(super) fn propose(self: &Arc<Self>, body: &Arc<OpenBody>) {
        let Some(mut state) = body.loaded() else { return };
        let Some(sealing) = &mut state.sealing else { return };
        let content = match (&sealing.stored, sealing.step) {
            (Some(content), Step::Stored | Step::Unanswered) => content,
            _ => return,
        };
        let op = Op::Publish {
            ino: body.ino,
            base: sealing.base,
            body: content.body.clone(),
            size: content.size,
            mtime: sealing.mtime,
            holder: self.ring.me(),
            stored_len: content.stored_len,
            ctime: sealing.ctime,
        };
        sealing.step = Step::Proposed;
        let (news, layer) = (self.settled.clone(), sealing.frozen.layer.id());
        let answered = Arc::clone(body);
        // Under the lock: a utimes is either in this command or proposed after it.
        self.ring.propose(
            Caller::DAEMON,
            op,
            Box::new(move |outcome| {
                // The receiver is gone only when the node stops; the journal has the version.
                let _ = news.send(Settled::Answered(answered, layer, outcome));
            }),
        );
        drop(state);
        body.settled.notify_waiters();
    }

    /// The thread that finishes versions.
    pub(super) fn run_settler(self: &Arc<Self>, news: &Receiver<Settled>) {
        while let Ok(next) = news.recv() {
            let body = match next {
                Settled::Arrived(body, sealing) => {
                    self.arrived(&body, &sealing);
                    body
                }
                Settled::Answered(body, layer, outcome) => {
                    self.answered(&body, layer, outcome);
                    body
                }
                Settled::Gone(body) => {
                    self.drop_gone(&body);
                    body
                }
                Settled::Stop => return,
            };
            body.settled.notify_waiters();
            self.table.forget_if_idle(body);
        }
    }

    fn arrived(&self, body: &Arc<OpenBody>, sealing: &Sealing) {
        self.counters.published.add(1);
        self.journal_arrival(body, sealing);
        self.go_on(body);
    }

    /// Seals what was written while a version was on its way.
    fn go_on(&self, body: &OpenBody) {
        if let Some(state) = body.loaded()
            && let Some(top) = &state.top
            && !state.gone
        {
            let due = if state.writers == 0 || state.is_recalled() {
                Instant::now()
            } else {
                due_by_age(top.since, self.settings.seal_age, state.last_seal)
            };
            self.queue.add(body.ino, due);
        }
    }

    fn answered(
        self: &Arc<Self>,
        body: &Arc<OpenBody>,
        layer: LayerId,
        outcome: Result<Outcome, ProposeError>,
    ) {
        // What the tables say comes first: the version may have arrived by an earlier try.
        match self.ring.view().inode(body.ino) {
            Ok(Some(inode)) => self.content_is(body, &inode),
            Ok(None) => return self.drop_gone(body),
            Err(error) => return tracing::error!(%error, "a published version is not followed"),
        }
        let mut again = None;
        let mut is_outlived = false;
        {
            let Some(mut state) = body.loaded() else { return };
            let base = state.base.version;
            let Some(sealing) = state.sealing_of(layer) else { return };
            match outcome {
                Ok(Outcome::Refused(Refusal::Superseded(_))) if sealing.rebase => {
                    sealing.rebase = false;
                    sealing.base = base;
                    sealing.step = Step::Stored;
                    again = Some(Duration::ZERO);
                }
                Ok(Outcome::Refused(Refusal::NoSpace)) => {
                    sealing.step = Step::Stored;
                    again = Some(AGAIN);
                }
                Err(
                    ProposeError::NoQuorum { .. }
                    | ProposeError::Interrupted
                    | ProposeError::ReadOnly,
                ) => {
                    sealing.step = Step::Unanswered;
                    again = Some(AGAIN);
                }
                // The next start finds the version in the journal.
                Err(ProposeError::Stopping | ProposeError::Broken(_)) => return,
                Ok(Outcome::Refused(refusal)) => {
                    tracing::warn!(ino = %body.ino, %refusal, "a version was refused");
                }
                // Another version came after it in the same breath.
                Ok(outcome) => {
                    tracing::debug!(ino = %body.ino, ?outcome, "a version was outlived at once");
                    is_outlived = true;
                }
            }
        }
        match again {
            Some(wait) => self.queue.add(body.ino, Instant::now() + wait),
            None => self.end(body, layer, is_outlived),
        }
    }

    /// A version that no retry helps becomes a conflict record, unless it was published and
    /// outlived.
    fn end(&self, body: &OpenBody, layer: LayerId, is_outlived: bool) {
        let refused = body.loaded().and_then(|mut state| {
            let sealing = state.sealing_of(layer)?;
            Some((sealing.base, sealing.stored.clone()?))
        });
        let Some((base, content)) = refused else { return };
        let current = self.ring.view().inode(body.ino).ok().flatten();
        let version = current.as_ref().map_or(Version(0), |inode| inode.version);
        if !is_outlived
            && let Err(error) = self.keep_conflict(body.ino, layer, base, &content, version)
        {
            tracing::error!(ino = %body.ino, %error, "a conflict could not be kept yet");
            if let Some(mut state) = body.loaded()
                && let Some(sealing) = state.sealing_of(layer)
            {
                sealing.step = Step::Unanswered;
            }
            self.queue.add(body.ino, Instant::now() + AGAIN);
            return;
        }
        let mut ended = None;
        if let Some(mut state) = body.loaded()
            && state.sealing_of(layer).is_some()
        {
            ended = state.give_up_sealing();
            if !is_outlived {
                state.given_up = Some(layer);
            }
            if !state.is_staged()
                && let Some(inode) = &current
            {
                state.base = Base::of(inode);
            }
        }
        self.settle_quota(body);
        if let Some(sealing) = ended {
            self.journal_arrival(body, &sealing);
        }
        self.go_on(body);
        self.reverted(body.ino);
    }

    /// The tables' record of a file that is in use here.
    fn content_is(&self, body: &Arc<OpenBody>, inode: &Inode) {
        let me = self.ring.me();
        let arrived = body.loaded().and_then(|mut state| state.agreed(inode, me));
        self.settle_quota(body);
        if let Some(sealing) = arrived {
            // The receiver is gone only when the node stops.
            let _ = self.settled.send(Settled::Arrived(Arc::clone(body), sealing));
        }
    }

    /// The file is others', because this node was silent for longer than its lease.
    fn expired(&self, ino: Ino) {
        let Some(body) = self.table.find(ino) else { return };
        let agreed = match self.ring.view().inode(ino) {
            Ok(inode) => inode.map_or(Version(u64::MAX), |inode| inode.version),
            Err(error) => return tracing::error!(%error, "tables cannot be read"),
        };
        let Some(mut state) = body.loaded() else { return };
        state.expire(agreed);
        if state.expired {
            tracing::warn!(%ino, "what was written here came too late: the lease had ended");
            self.queue.add(ino, Instant::now());
        }
    }

    fn gone(&self, ino: Ino, last: &Inode) {
        let Some(body) = self.table.find(ino) else { return };
        let is_open = {
            let Some(mut state) = body.loaded() else { return };
            state.gone = true;
            state.token = Token::Unknown;
            if state.base.version < last.version && !state.is_staged() {
                state.base = Base::of(last);
            }
            // Times are agreed without a new version, too.
            (state.base.mtime, state.base.ctime) = (last.mtime, last.ctime);
            state.opens > 0
        };
        if is_open {
            self.pin(ino, last);
        } else {
            let _ = self.settled.send(Settled::Gone(body));
        }
    }

    /// Nothing of a file without names is published; without handles its bytes go.
    fn drop_gone(&self, body: &OpenBody) {
        let (mut top, mut sealing) = (None, None);
        if let Some(mut state) = body.loaded() {
            state.gone = true;
            if state.opens == 0 {
                (top, sealing) = (state.top.take(), state.sealing.take());
            } else if state.sealing.as_ref().is_some_and(|sealing| sealing.stored.is_some()) {
                // Its content stays for the handles.
                sealing = state.give_up_sealing();
            } else {
                return;
            }
        }
        self.drop_orphan(body.ino, top.as_ref(), sealing.as_ref());
    }
}

impl OnApplied for BodyService {
    fn applied(&self, gsn: Gsn, touched: &[Touched], _: Origin) {
        let mut contents = Vec::new();
        for change in touched {
            match change {
                Touched::Content { ino, .. } => {
                    contents.push(*ino);
                    if let Some(body) = self.table.find(*ino) {
                        match self.ring.view().inode(*ino) {
                            Ok(Some(inode)) => self.content_is(&body, &inode),
                            Ok(None) => {} // its `Gone` follows
                            Err(error) => tracing::error!(%error, "tables cannot be read"),
                        }
                    }
                }
                Touched::Gone { ino, last } => {
                    contents.push(*ino);
                    self.gone(*ino, last);
                }
                Touched::Token { ino, .. } => {
                    if let Some(body) = self.table.find(*ino)
                        && let Some(mut state) = body.loaded()
                        && state.token == Token::Here
                    {
                        state.token = Token::Unknown;
                    }
                }
                Touched::Expired { ino, node, .. } if *node == self.ring.me() => self.expired(*ino),
                Touched::Members => self.members_changed(),
                Touched::Entry { .. }
                | Touched::Attr { .. }
                | Touched::Volumes
                | Touched::Held { .. }
                | Touched::LockGranted { .. }
                | Touched::LockDenied { .. }
                | Touched::LocksGone { .. }
                | Touched::Expired { .. }
                | Touched::XattrsGone { .. }
                | Touched::Counted { .. }
                | Touched::Quota { .. }
                | Touched::Reserved { .. }
                | Touched::Reclaimed { .. } => {}
            }
        }
        self.quotas_applied(gsn, touched);
        self.note_applied(gsn, contents);
    }

    fn replaced(&self, gsn: Gsn, before: &View, after: &View) {
        // First, so that nothing counts as held that nobody has looked for.
        self.wants_replaced(gsn);
        for body in self.table.all() {
            match changes(before, after, body.ino) {
                Ok(touched) => self.applied(gsn, &touched, Origin::Elsewhere),
                Err(error) => tracing::error!(%error, "tables cannot be read"),
            }
            // It may have gone away and come back in between.
            if let Some(mut state) = body.loaded()
                && state.token == Token::Here
            {
                state.token = Token::Unknown;
            }
        }
        if let Err(error) = self.quotas_replaced(after) {
            tracing::error!(%error, "quotas cannot be read");
        }
        self.members_changed();
    }
}

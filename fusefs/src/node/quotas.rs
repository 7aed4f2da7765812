//! Quotas for people, and the walk that begins and ends each.

use std::collections::VecDeque;
use std::sync::Arc;

use engine::command::{Op, QuotaLimits};
use engine::ids::Ino;
use engine::namespace::{FileType, MARK_ENTRIES_MAX, Quota, QuotaState};
use engine::outcome::{Outcome, Refusal};

use super::paths;
use super::proposals::Proposals;
use super::setup::failed;
use super::volume::Volume;
use crate::admin::control::{ControlError, LimitChange, QuotaRequest};
use crate::admin::report::{QuotaReport, QuotaStateReport};
use crate::ops::ports::{ProposeError, Ring};

/// What works on quotas.
#[derive(Clone)]
pub struct Quotas {
    /// The volume's name.
    volume: String,
    ring: Arc<dyn Ring>,
    proposals: Arc<Proposals>,
}

/// Steps of a walk that are under way at once: enough to hide a long round trip, and few
/// enough that others' commands wait behind at most some milliseconds of applying.
const STEPS_AT_ONCE: usize = 32;

impl Quotas {
    pub fn new(volume: &str, ring: &Arc<dyn Ring>, proposals: &Arc<Proposals>) -> Quotas {
        let (ring, proposals) = (Arc::clone(ring), Arc::clone(proposals));
        Quotas { volume: volume.to_owned(), ring, proposals }
    }

    pub fn of(volume: &Volume) -> Quotas {
        Quotas::new(&volume.name, &volume.ring, &volume.proposals)
    }

    /// Begins a quota or changes its limits; returns when all that was there is counted.
    pub async fn set(&self, request: QuotaRequest) -> Result<QuotaReport, ControlError> {
        let view = self.ring.view();
        let (directory, inode) = paths::find(&view, &request.path)?;
        if inode.file_type() != FileType::Directory {
            return Err(ControlError::usage(format!("{} is no directory", request.path))
                .hint("a quota is set on a directory, for everything below it"));
        }
        let before = view.quota(directory).map_err(failed)?.map(|quota| quota.limits);
        drop(view);
        let before = before.unwrap_or_default();
        let limits = QuotaLimits {
            bytes: changed(before.bytes, request.bytes),
            inodes: changed(before.inodes, request.inodes),
        };
        self.agree(Op::SetQuota { directory, limits: Some(limits) }).await?;
        self.walk_in_background(directory).await?;
        let quota = self.ring.view().quota(directory).map_err(failed)?;
        let quota = quota.ok_or_else(|| ControlError::failed("the quota has just been ended"))?;
        Ok(self.report(directory, &quota))
    }

    /// Ends a quota; returns when nothing counts for it any more.
    pub async fn end(&self, path: &str) -> Result<(), ControlError> {
        let (directory, _) = paths::find(&self.ring.view(), path)?;
        if self.ring.view().quota(directory).map_err(failed)?.is_none() {
            return Err(ControlError::failed(format!("{path} has no quota"))
                .hint("`fusion quota ls` lists them"));
        }
        self.agree(Op::SetQuota { directory, limits: None }).await?;
        self.walk_in_background(directory).await
    }

    pub fn list(&self) -> Result<Vec<QuotaReport>, ControlError> {
        let quotas = self.ring.view().quotas().map_err(failed)?;
        Ok(quotas.iter().map(|(directory, quota)| self.report(*directory, quota)).collect())
    }

    /// Goes on with walks that a stop or a crash has interrupted, here or elsewhere: doing a
    /// step twice does no harm.
    pub async fn resume(self) {
        let Ok(quotas) = self.ring.view().quotas() else { return };
        for (directory, quota) in quotas {
            if quota.state == QuotaState::Active {
                continue;
            }
            if let Err(error) = self.walk(directory).await {
                tracing::warn!(%directory, %error, "a quota is not counted to its end yet");
            }
        }
    }

    fn report(&self, directory: Ino, quota: &Quota) -> QuotaReport {
        QuotaReport {
            volume: self.volume.clone(),
            ino: directory.0,
            path: paths::of_directory(&self.ring.view(), directory),
            state: match quota.state {
                QuotaState::Counting => QuotaStateReport::Counting,
                QuotaState::Active => QuotaStateReport::Active,
                QuotaState::Ending => QuotaStateReport::Ending,
            },
            limit_bytes: quota.limits.bytes,
            used_bytes: quota.used.bytes,
            reserved_bytes: quota.reserved,
            limit_inodes: quota.limits.inodes,
            used_inodes: quota.used.inodes,
        }
    }

    /// The walk goes on when whoever asked for it goes away.
    async fn walk_in_background(&self, directory: Ino) -> Result<(), ControlError> {
        let this = self.clone();
        tokio::spawn(async move { this.walk(directory).await }).await.map_err(failed)?
    }

    /// Marks everything below a quota, directories before what is in them, and finishes it.
    async fn walk(&self, quota: Ino) -> Result<(), ControlError> {
        let Some(row) = self.ring.view().quota(quota).map_err(failed)? else { return Ok(()) };
        if row.state == QuotaState::Active {
            return Ok(());
        }
        let mut steps = Steps { quotas: self, under_way: VecDeque::new() };
        let mut level = vec![quota];
        while !level.is_empty() {
            for &directory in &level {
                steps.begin(Op::MarkQuota { quota, directory, after: 0, through: 0 }).await?;
            }
            // What is made in these directories from here on counts without a visit.
            steps.finish().await?;
            let mut next = Vec::new();
            for &directory in &level {
                self.mark_entries(quota, directory, &mut steps, &mut next).await?;
            }
            level = next;
        }
        steps.finish().await?;
        self.agree(Op::FinishQuota { quota, began: row.began }).await
    }

    async fn mark_entries(
        &self,
        quota: Ino,
        directory: Ino,
        steps: &mut Steps<'_>,
        directories: &mut Vec<Ino>,
    ) -> Result<(), ControlError> {
        let mut after = 0;
        loop {
            let page = self.ring.view().read_dir(directory, after, MARK_ENTRIES_MAX);
            let page = page.map_err(failed)?;
            let Some(last) = page.last() else { return Ok(()) };
            let through = last.cookie;
            let inner = page.iter().filter(|entry| entry.kind == FileType::Directory);
            directories.extend(inner.map(|entry| entry.ino));
            if page.iter().any(|entry| entry.kind != FileType::Directory) {
                steps.begin(Op::MarkQuota { quota, directory, after, through }).await?;
            }
            after = through;
        }
    }

    async fn agree(&self, op: Op) -> Result<(), ControlError> {
        settle(self.proposals.propose_and_wait(op).await)
    }
}

type Step = tokio::sync::oneshot::Receiver<Result<Outcome, ProposeError>>;

/// Proposed steps whose outcomes are awaited, in order.
struct Steps<'a> {
    quotas: &'a Quotas,
    under_way: VecDeque<Step>,
}

impl Steps<'_> {
    async fn begin(&mut self, op: Op) -> Result<(), ControlError> {
        if self.under_way.len() == STEPS_AT_ONCE {
            self.await_first().await?;
        }
        self.under_way.push_back(self.quotas.proposals.propose_soon(op));
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), ControlError> {
        while !self.under_way.is_empty() {
            self.await_first().await?;
        }
        Ok(())
    }

    async fn await_first(&mut self) -> Result<(), ControlError> {
        let Some(step) = self.under_way.pop_front() else { return Ok(()) };
        settle(step.await.unwrap_or(Err(ProposeError::Stopping)))
    }
}

/// A refused step is one whose directory has gone or moved away meanwhile.
fn settle(outcome: Result<Outcome, ProposeError>) -> Result<(), ControlError> {
    match outcome {
        Ok(Outcome::Refused(Refusal::NotFound | Refusal::NotDirectory)) => Ok(()),
        Ok(Outcome::Refused(refusal)) => Err(ControlError::refused(refusal.to_string())),
        Ok(_) => Ok(()),
        Err(error @ ProposeError::NoQuorum { .. }) => Err(ControlError::timeout(error.to_string())),
        Err(error) => Err(ControlError::failed(error.to_string())),
    }
}

fn changed(before: Option<u64>, change: LimitChange) -> Option<u64> {
    match change {
        LimitChange::Keep => before,
        LimitChange::None => None,
        LimitChange::At(limit) => Some(limit),
    }
}

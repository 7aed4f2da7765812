//! Follows the order: finds which published bodies this node should hold, fetches them in the
//! background, and tells the cluster how far it holds everything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use engine::command::{Body, Op};
use engine::ids::{Gsn, Ino};
use engine::namespace::Inode;
use tokio::task::JoinSet;
use wire::{Ask, Class};

use super::BodyService;
use super::error::tables;
use super::fetch::Remote;
use super::want::{SMALL_BYTES_MAX, Want, WantList};
use crate::ops::ports::{BodyError, Caller};

/// What the apply thread told and what follows from it.
#[derive(Debug)]
pub(super) struct Wants {
    pub list: WantList,
    /// Files with new content that nobody has looked at yet.
    unread: VecDeque<(Gsn, Ino)>,
    /// The apply thread told everything up to here.
    told: Gsn,
    /// Agreements that published something and that no report of this node covers yet.
    unreported: VecDeque<Gsn>,
}

/// How far this node's bodies are, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Every body that this node should hold is here, up to this agreement.
    pub held_upto: Gsn,
    pub missing_files: u64,
    pub missing_bytes: u64,
    /// How long the oldest of them has been missing.
    pub oldest_missing: Duration,
}

/// Entries of the list: about 100 bytes each. More are found again in the tables.
const WANTS_MAX: usize = 1 << 18;
/// Questions for small bodies, and fetches of larger ones, at the same time.
const SMALL_JOBS_MAX: usize = 4;
const LARGE_JOBS_MAX: usize = 3;
/// Below what one answer holds.
const SMALL_BATCH_BYTES: u64 = 1 << 20;
/// Of 8 bytes each.
const UNREPORTED_MAX: usize = 1 << 16;
/// Agreements with content, of 16 bytes each, that nobody has looked at.
const UNREAD_MAX: usize = 1 << 20;
/// Inodes looked at in one go.
const LOOK_COUNT: usize = 4096;

impl Wants {
    /// Nothing is known before the first scan of the tables.
    pub fn new() -> Wants {
        Wants {
            list: WantList::new(WANTS_MAX, Gsn(0)),
            unread: VecDeque::new(),
            told: Gsn(0),
            unreported: VecDeque::new(),
        }
    }

    pub fn remove(&mut self, ino: Ino) {
        self.list.remove(ino);
    }

    pub fn wake(&mut self) {
        self.list.wake();
    }

    /// Nobody told what was agreed up to `gsn`: all of it is to be found in the tables.
    fn replaced(&mut self, gsn: Gsn) {
        let pinned = self.list.take_pinned();
        self.list = WantList::new(WANTS_MAX, Gsn(0));
        pinned.into_iter().for_each(|want| self.list.add(want));
        self.unread.clear();
        self.told = self.told.max(gsn);
    }

    pub fn rescan(&mut self) {
        self.list.rescan();
    }

    fn content_agreed(&mut self, gsn: Gsn) {
        if self.unreported.len() >= UNREPORTED_MAX {
            // Those between are covered with this one.
            self.unreported.pop_back();
        }
        if self.unreported.back() != Some(&gsn) {
            self.unreported.push_back(gsn);
        }
    }

    /// How far this node holds everything, if that covers content that no report covered.
    fn take_report(&mut self) -> Option<Gsn> {
        let held = self.held_upto();
        let covered = self.unreported.partition_point(|gsn| *gsn <= held);
        self.unreported.drain(..covered);
        (covered > 0).then_some(held)
    }

    fn held_upto(&self) -> Gsn {
        let seen = match self.unread.front() {
            Some(&(gsn, _)) => Gsn(gsn.0.saturating_sub(1)),
            None => self.told,
        };
        self.list.held_upto(seen)
    }
}

impl BodyService {
    /// Every body that this node should hold is here, durably, up to this agreement.
    pub fn held_upto(&self) -> Gsn {
        self.wants.lock().held_upto()
    }

    /// Waits until [`Self::held_upto`] has come to `gsn`.
    pub async fn hold_upto(&self, gsn: Gsn) {
        loop {
            // Registered before the look, so that no news is missed.
            let changed = self.held_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.held_upto() >= gsn {
                return;
            }
            changed.await;
        }
    }

    pub fn progress(&self) -> Progress {
        let wants = self.wants.lock();
        let (missing_files, missing_bytes) = wants.list.missing();
        Progress {
            held_upto: wants.held_upto(),
            missing_files,
            missing_bytes,
            oldest_missing: wants.list.oldest().map_or(Duration::ZERO, |since| since.elapsed()),
        }
    }

    /// From the apply thread: the agreement, and the files whose content it changed.
    pub(super) fn note_applied(&self, gsn: Gsn, contents: Vec<Ino>) {
        self.applied.send_replace(gsn);
        let mut wants = self.wants.lock();
        wants.told = wants.told.max(gsn);
        if contents.is_empty() {
            drop(wants);
            self.held_changed.notify_waiters();
            return;
        }
        wants.content_agreed(gsn);
        wants.unread.extend(contents.into_iter().map(|ino| (gsn, ino)));
        if wants.unread.len() > UNREAD_MAX {
            // The tables have them all.
            wants.replaced(gsn);
        }
        drop(wants);
        self.wants_changed.notify_one();
    }

    /// A checkpoint took the place of the tables.
    pub(super) fn wants_replaced(&self, gsn: Gsn) {
        let mut wants = self.wants.lock();
        wants.replaced(gsn);
        wants.content_agreed(gsn);
        drop(wants);
        self.wants_changed.notify_one();
    }

    /// Keeps the body of a file without names here for the handles that are open.
    pub(super) fn pin(&self, ino: Ino, last: &Inode) {
        let Some(want) = want(ino, last, None) else { return };
        if !self.holds(want.id) {
            self.wants.lock().list.add(Want { pinned: true, ..want });
            self.wants_changed.notify_one();
        }
    }

    pub(super) fn unpin(&self, ino: Ino) {
        self.wants.lock().remove(ino);
    }

    /// The task that fetches.
    pub(super) async fn run_arrivals(self: Arc<Self>) {
        let mut jobs = JoinSet::new();
        let (mut small, mut large) = (0, 0);
        loop {
            let service = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || service.look()).await;
            let more = match looked {
                Ok(Ok(more)) => more,
                Ok(Err(error)) => {
                    tracing::error!(%error, "the tables cannot be followed");
                    false
                }
                Err(_) => return, // the runtime is going
            };
            let now = Instant::now();
            while small < SMALL_JOBS_MAX {
                let batch =
                    self.wants.lock().list.take_small(Ask::SMALL_MAX_COUNT, SMALL_BATCH_BYTES, now);
                if batch.is_empty() {
                    break;
                }
                small += 1;
                let service = Arc::clone(&self);
                jobs.spawn(async move {
                    service.fetch_batch(batch).await;
                    true
                });
            }
            while large < LARGE_JOBS_MAX {
                let Some(want) = self.wants.lock().list.take(false, now) else { break };
                large += 1;
                let service = Arc::clone(&self);
                jobs.spawn(async move {
                    let fetched = service.fetch_whole(remote(&want)).await;
                    service.fetched(&want, fetched);
                    false
                });
            }
            if more {
                continue;
            }
            let retry =
                self.wants.lock().list.next_retry().unwrap_or(now + Duration::from_secs(60));
            tokio::select! {
                () = self.wants_changed.notified() => {}
                Some(done) = jobs.join_next() => match done {
                    Ok(true) => small -= 1,
                    Ok(false) => large -= 1,
                    // Which kind it was is not known: start over with both.
                    Err(error) => {
                        tracing::error!(%error, "a fetch ended badly");
                        (small, large) = (0, 0);
                    }
                },
                () = tokio::time::sleep_until(retry.into()) => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Puts what the order published on the list, as far as it should be here and is not.
    /// True if there is more to look at.
    fn look(&self) -> Result<bool, BodyError> {
        self.scan()?;
        let unread: Vec<(Gsn, Ino)> = {
            let wants = self.wants.lock();
            wants.unread.iter().take(LOOK_COUNT).copied().collect()
        };
        if unread.is_empty() {
            return Ok(false);
        }
        let view = self.ring.view();
        let mut looked = Vec::with_capacity(unread.len());
        for &(agreed, ino) in &unread {
            let inode = view.inode(ino).map_err(tables)?;
            looked.push((ino, self.missing(ino, inode.as_ref(), Some(agreed))?));
        }
        let mut wants = self.wants.lock();
        // Only now: what is unread holds the watermark back.
        wants.unread.drain(..unread.len());
        for (ino, want) in looked {
            match want {
                Some(want) => wants.list.add(want),
                None => wants.list.remove_unpinned(ino),
            }
        }
        let more = !wants.unread.is_empty();
        drop(wants);
        self.held_changed.notify_waiters();
        Ok(more)
    }

    /// Reads all inodes, if the list does not know them.
    fn scan(&self) -> Result<(), BodyError> {
        let Some(from) = self.wants.lock().list.begin_scan() else { return Ok(()) };
        let view = self.ring.view();
        let mut failed = None;
        let mut newest = Gsn(0);
        let mut add = |ino, inode: Inode| {
            if matches!(inode.body, Body::Sealed { .. }) {
                newest = newest.max(Gsn(inode.version.0));
            }
            if inode.version.0 < from.0 {
                return true;
            }
            match self.missing(ino, Some(&inode), None) {
                Ok(Some(want)) => self.wants.lock().list.add(want),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        };
        view.inodes(Ino(0), &mut add).map_err(tables)?;
        match failed {
            Some(error) => Err(error),
            None => {
                let reported = view.held_upto(self.ring.me()).map_err(tables)?;
                let mut wants = self.wants.lock();
                wants.list.scanned();
                // What came before this start was perhaps not reported.
                let newest = newest.min(wants.told);
                let is_covered = wants.unreported.front().is_some_and(|first| *first <= newest);
                if reported < newest && !is_covered {
                    wants.unreported.push_front(newest);
                }
                drop(wants);
                self.held_changed.notify_waiters();
                Ok(())
            }
        }
    }

    fn missing(
        &self,
        ino: Ino,
        inode: Option<&Inode>,
        agreed: Option<Gsn>,
    ) -> Result<Option<Want>, BodyError> {
        let want = inode.and_then(|inode| want(ino, inode, agreed));
        let Some(want) = want else { return Ok(None) };
        let is_missing = !self.holds(want.id) && self.should_hold(want.id)?;
        Ok(is_missing.then_some(want))
    }

    async fn fetch_batch(self: &Arc<Self>, batch: Vec<Want>) {
        let remotes: Vec<Remote> = batch.iter().map(remote).collect();
        let here = match self.fetch_small(&remotes, Class::Push).await {
            Ok(here) => here,
            Err(error) => {
                for want in &batch {
                    self.fetched(want, Err(error.clone()));
                }
                return;
            }
        };
        for (want, here) in batch.iter().zip(here) {
            // Not a single chunk, perhaps: then it goes by its manifest.
            let fetched = if here { Ok(true) } else { self.fetch_whole(remote(want)).await };
            self.fetched(want, fetched);
        }
    }

    pub(super) fn fetched(&self, want: &Want, result: Result<bool, BodyError>) {
        let here = result.unwrap_or_else(|error| {
            tracing::warn!(body = %want.id, %error, "a body could not be stored");
            false
        });
        let mut wants = self.wants.lock();
        if here {
            self.counters.arrived.add(1);
            wants.list.done(want);
        } else {
            wants.list.failed(want, Instant::now());
        }
        drop(wants);
        self.held_changed.notify_waiters();
        self.wants_changed.notify_one();
        self.body_arrived.notify_waiters();
    }

    /// The task that tells the cluster how far this node holds its bodies.
    pub(super) async fn run_watermark(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(WATERMARK_INTERVAL);
        let me = self.ring.me();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stopping.cancelled() => return,
            }
            self.table.sweep();
            if self.reporting.load(Ordering::Relaxed) {
                continue;
            }
            // It would claim what is not this node's to hold.
            if !self.takes_bodies() {
                continue;
            }
            // Not for agreements without content: a report is one itself.
            let Some(held) = self.wants.lock().take_report() else { continue };
            self.reporting.store(true, Ordering::Relaxed);
            let service = Arc::clone(&self);
            let done = Box::new(move |_: Result<_, _>| {
                service.reporting.store(false, Ordering::Relaxed);
            });
            self.ring.propose(Caller::DAEMON, Op::HeldUpto { node: me, gsn: held }, done);
        }
    }
}

/// Often enough for a watermark in seconds, and nothing beside what published it.
const WATERMARK_INTERVAL: Duration = Duration::from_secs(2);

fn want(ino: Ino, inode: &Inode, agreed: Option<Gsn>) -> Option<Want> {
    // A version runs ahead of its agreement only where one agreement made several.
    let before = Gsn(inode.version.0.saturating_sub(1)).min(inode.changed);
    match inode.body {
        Body::Sealed { id, len } => Some(Want {
            ino,
            version: inode.version,
            agreed: agreed.unwrap_or(before),
            id,
            len,
            holder: inode.holder,
            pinned: false,
        }),
        Body::Empty | Body::Inline(_) => None,
    }
}

fn remote(want: &Want) -> Remote {
    let Want { id, len, version, holder, .. } = *want;
    Remote { id, len, version, holder }
}

const _: () = assert!(SMALL_BATCH_BYTES >= SMALL_BYTES_MAX);

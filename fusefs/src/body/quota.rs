//! Room in quotas, reserved by agreement before bytes are acknowledged.
//!
//! The ledger knows, for each file that is being written, how many bytes it takes here and
//! how many are agreed; the difference must fit what this node has reserved of the file's
//! quota. Agreed figures come from [`Touched`] events alone, in their order, so that bytes are
//! never counted both as reserved and as used, nor as neither.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::command::Op;
use engine::ids::{Gsn, Ino, NodeId};
use engine::namespace::{Quota, Touched};
use engine::outcome::{Outcome, Refusal};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::BodyService;
use super::error::tables;
use super::table::OpenBody;
use crate::ops::ports::{BodyError, Caller, ProposeError, View};
use crate::ops::rules::Partition;

/// Reserved at once where there is plenty of room: a third of a second of writing at 200 MB/s,
/// which hides the round trip of asking for more.
const SLAB_BYTES: u64 = 64 << 20;
/// More is asked for when less than this is left, so that writers do not wait for it.
const LOW_BYTES: u64 = SLAB_BYTES / 4;
/// What nobody has used for so long goes back.
const IDLE_AFTER: Duration = Duration::from_secs(10);
/// How long a writer waits for what other nodes have reserved and not used. One that is cut
/// off keeps its share: it may have acknowledged those bytes.
const RECLAIM_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a writer that waits looks whether its rule ends that: what nobody notices.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What this node has reserved and uses of quotas.
#[derive(Default)]
pub(super) struct Quotas {
    /// False while the volume has no quotas: writes then cost nothing more.
    is_active: AtomicBool,
    ledger: Mutex<Ledger>,
    /// Some node's reservation changed, or an own request ended.
    changed: Notify,
}

#[derive(Default)]
struct Ledger {
    shares: HashMap<Ino, Share>,
    files: HashMap<Ino, FileUse>,
    /// The newest agreement by which this node asked the others for what they do not use, and the
    /// newest one by which anybody did.
    reclaimed_at: Gsn,
    asked_at: Gsn,
    /// By quota and node, the newest one by which it got room.
    granted_at: HashMap<(Ino, NodeId), Gsn>,
    /// How often room came, or went.
    changes: u64,
}

/// This node's part of one quota. Bytes.
#[derive(Default)]
struct Share {
    /// Agreed.
    reserved: u64,
    /// Part of it that was given back, until that is agreed.
    returning: u64,
    /// What files take here beyond what is agreed.
    unsealed: u64,
    /// Whether this quota or one above limits bytes; unknown after a change.
    is_limited: Option<bool>,
    /// A request for more is under way.
    is_asking: bool,
    /// The last request got much more than it needed, so that asking early is worth it.
    is_plentiful: bool,
    /// Nothing has changed since a request was refused.
    refused: Option<Refused>,
    used_last: Option<Instant>,
}

/// Bytes that were asked for, and those that there were instead.
#[derive(Clone, Copy)]
struct Refused {
    needed: u64,
    room: u64,
}

/// One file. Bytes.
#[derive(Clone, Copy)]
struct FileUse {
    quota: Ino,
    here: u64,
    agreed: u64,
    is_staged: bool,
}

impl FileUse {
    fn unsealed(&self) -> u64 {
        match self.quota {
            Ino(0) => 0,
            _ => self.here.saturating_sub(self.agreed),
        }
    }
}

impl Share {
    fn unused(&self) -> u64 {
        self.reserved.saturating_sub(self.returning).saturating_sub(self.unsealed)
    }

    fn is_empty(&self) -> bool {
        self.reserved == 0 && self.returning == 0 && self.unsealed == 0 && !self.is_asking
    }
}

impl Ledger {
    /// Changes or removes a file's entry and keeps the sums.
    fn set(&mut self, ino: Ino, file: Option<FileUse>) {
        if let Some(was) = self.files.remove(&ino) {
            let share = self.shares.entry(was.quota).or_default();
            share.unsealed -= was.unsealed();
            if share.is_empty() {
                self.shares.remove(&was.quota);
            }
        }
        let Some(is) = file else { return };
        if is.is_staged || is.unsealed() > 0 {
            self.files.insert(ino, is);
            let unsealed = is.unsealed();
            if unsealed > 0 {
                self.shares.entry(is.quota).or_default().unsealed += unsealed;
            }
        }
    }

    /// This node has `bytes` of a quota, also since what it `returned` is taken back.
    fn reservation_agreed(&mut self, quota: Ino, bytes: u64, returned: u64) {
        let share = self.shares.entry(quota).or_default();
        share.reserved = bytes;
        share.returning = share.returning.saturating_sub(returned);
        if share.is_empty() {
            self.shares.remove(&quota);
        }
    }

    fn limits_changed(&mut self) {
        self.shares.values_mut().for_each(|share| share.is_limited = None);
        // Also those of quotas that ended; nobody asks for what is older.
        self.granted_at.retain(|_, at| *at > self.reclaimed_at);
    }

    /// Somebody asks for what is reserved and not used; returns where something is. Of all
    /// quotas, as any may lie below the one that is used up.
    fn reclaimed(&mut self, gsn: Gsn, quota: Ino, by_me: bool) -> Vec<Ino> {
        self.asked_at = gsn;
        if by_me {
            self.reclaimed_at = gsn;
        }
        self.reserved(|other, _| !(by_me && *other == quota))
    }

    /// Quotas of which something is reserved here.
    fn reserved(&self, which: impl Fn(&Ino, &Share) -> bool) -> Vec<Ino> {
        let shares = self.shares.iter().filter(|(_, share)| share.reserved > 0);
        shares.filter(|(quota, share)| which(quota, share)).map(|(quota, _)| *quota).collect()
    }
}

/// Whether a change is one of what this file keeps.
fn concerns(change: &Touched) -> bool {
    matches!(
        change,
        Touched::Counted { .. }
            | Touched::Gone { .. }
            | Touched::Reserved { .. }
            | Touched::Quota { .. }
            | Touched::Reclaimed { .. }
    )
}

impl BodyService {
    /// At the start, after stages came back from the journal: what is reserved since before.
    pub(super) fn restore_quotas(&self) -> Result<(), BodyError> {
        let view = self.ring.view();
        self.read_reservations(&view)?;
        for body in self.table.all() {
            let Some(here) = body.loaded().map(|state| state.charge()) else { continue };
            self.enter(&view, body.ino, here)?;
        }
        Ok(())
    }

    fn read_reservations(&self, view: &View) -> Result<(), BodyError> {
        self.note_quotas(view)?;
        let (me, rows) = (self.ring.me(), view.reservations().map_err(tables)?);
        let mut ledger = self.quotas.ledger.lock();
        for (quota, _, row) in rows.into_iter().filter(|(_, node, _)| *node == me) {
            ledger.shares.entry(quota).or_default().reserved = row.bytes;
        }
        Ok(())
    }

    /// A checkpoint took the place of the tables: nothing was told of what lies between.
    pub(super) fn quotas_replaced(&self, view: &View) -> Result<(), BodyError> {
        {
            let mut ledger = self.quotas.ledger.lock();
            ledger.changes += 1;
            for share in ledger.shares.values_mut() {
                // What was on its way back has arrived by now, or soon will.
                (share.reserved, share.returning) = (0, 0);
                (share.is_limited, share.refused) = (None, None);
            }
        }
        self.read_reservations(view)?;
        let files: Vec<Ino> = self.quotas.ledger.lock().files.keys().copied().collect();
        for ino in files {
            let inode = view.inode(ino).map_err(tables)?;
            let mut ledger = self.quotas.ledger.lock();
            let Some(file) = ledger.files.get(&ino).copied() else { continue };
            let is = inode.map(|inode| (inode.quota, inode.charge()));
            ledger.set(ino, is.map(|(quota, agreed)| FileUse { quota, agreed, ..file }));
        }
        self.quotas.ledger.lock().shares.retain(|_, share| !share.is_empty());
        self.quotas.changed.notify_waiters();
        Ok(())
    }

    fn note_quotas(&self, view: &View) -> Result<(), BodyError> {
        let exist = !view.quotas().map_err(tables)?.is_empty();
        self.quotas.is_active.store(exist, Ordering::Release);
        Ok(())
    }

    /// Adds a file to the ledger as it is before a change.
    fn enter(&self, view: &View, ino: Ino, here: u64) -> Result<FileUse, BodyError> {
        let inode = view.inode(ino).map_err(tables)?;
        let (quota, agreed) = inode.map_or((Ino(0), 0), |inode| (inode.quota, inode.charge()));
        let file = FileUse { quota, here, agreed, is_staged: true };
        self.quotas.ledger.lock().set(ino, Some(file));
        Ok(file)
    }

    pub(super) fn has_quotas(&self) -> bool {
        self.quotas.is_active.load(Ordering::Acquire)
    }

    /// Takes room for a change after which the file takes `here` bytes on this node. `before`
    /// is what it takes now. Called under the file's `state`.
    ///
    /// # Errors
    /// [`BodyError::NeedsQuota`] when more has to be reserved first.
    pub(super) fn use_quota(&self, ino: Ino, before: u64, here: u64) -> Result<(), BodyError> {
        let known = self.quotas.ledger.lock().files.get(&ino).copied();
        let file = match known {
            Some(file) => file,
            None => self.enter(&self.ring.view(), ino, before)?,
        };
        let is_limited = self.is_limited(file.quota)?;
        let mut ledger = self.quotas.ledger.lock();
        // As it is now: the apply thread may have changed it meanwhile.
        let file = ledger.files.get(&ino).copied().unwrap_or(file);
        let grown = FileUse { here, is_staged: true, ..file };
        let more = grown.unsealed().saturating_sub(file.unsealed());
        if more > 0 && is_limited {
            let share = ledger.shares.entry(file.quota).or_default();
            let taken = share.unsealed + more + share.returning;
            let missing = taken.saturating_sub(share.reserved);
            if missing > 0 {
                if known.is_none() {
                    ledger.set(ino, None);
                }
                return Err(BodyError::NeedsQuota { quota: file.quota, bytes: missing });
            }
            share.used_last = Some(Instant::now());
            if share.unused() < LOW_BYTES && share.is_plentiful && !share.is_asking {
                let service = self.arc();
                self.runtime.spawn(async move {
                    // Nobody waits for it: whoever needs it asks again.
                    let _ = service.reserve_quota(file.quota, 0).await;
                });
            }
        }
        ledger.set(ino, Some(grown));
        Ok(())
    }

    /// Checks that `bytes` more could be used, without taking them.
    pub(super) fn check_quota(&self, ino: Ino, now: u64, bytes: u64) -> Result<(), BodyError> {
        self.use_quota(ino, now, now.saturating_add(bytes))?;
        self.use_quota(ino, now, now)
    }

    /// What a file takes here has changed otherwise: cut, sealed, published, gone.
    pub(super) fn settle_quota(&self, body: &OpenBody) {
        if !self.has_quotas() {
            return;
        }
        // The state stays locked: a write in between would be forgotten.
        let state = body.loaded();
        let now = state.as_ref().filter(|state| !state.gone);
        let mut ledger = self.quotas.ledger.lock();
        if let Some(file) = ledger.files.get(&body.ino).copied() {
            let file = now.map(|state| FileUse {
                here: state.charge(),
                is_staged: state.is_staged(),
                ..file
            });
            ledger.set(body.ino, file);
        }
    }

    fn is_limited(&self, quota: Ino) -> Result<bool, BodyError> {
        if quota == Ino(0) {
            return Ok(false);
        }
        let known = self.quotas.ledger.lock().shares.get(&quota).and_then(|s| s.is_limited);
        if let Some(is_limited) = known {
            return Ok(is_limited);
        }
        let above = self.ring.view().quotas_from(quota).map_err(tables)?;
        let is_limited = above.iter().any(|quota| quota.limits.bytes.is_some());
        self.quotas.ledger.lock().shares.entry(quota).or_default().is_limited = Some(is_limited);
        Ok(is_limited)
    }

    /// From the apply thread, after the files have followed what `touched` says.
    pub(super) fn quotas_applied(&self, gsn: Gsn, touched: &[Touched]) {
        if !touched.iter().any(concerns) {
            return;
        }
        let me = self.ring.me();
        let mut changed = false;
        let mut returning = Vec::new();
        // Under one lock: a publish makes bytes that were reserved agreed ones, and nobody may find
        // them free in between.
        let mut ledger = self.quotas.ledger.lock();
        for change in touched {
            match change {
                Touched::Counted { ino, quota, bytes } => {
                    changed = true;
                    if let Some(file) = ledger.files.get(ino).copied() {
                        ledger.set(*ino, Some(FileUse { quota: *quota, agreed: *bytes, ..file }));
                    }
                }
                Touched::Gone { ino, .. } => ledger.set(*ino, None),
                Touched::Reserved { quota, node, bytes, granted, returned } => {
                    changed = true;
                    if *node == me {
                        ledger.reservation_agreed(*quota, *bytes, *returned);
                    }
                    if *granted > 0 {
                        ledger.granted_at.insert((*quota, *node), gsn);
                    }
                }
                Touched::Quota { .. } => {
                    changed = true;
                    if let Err(error) = self.note_quotas(&self.ring.view()) {
                        tracing::error!(%error, "quotas cannot be read");
                    }
                    ledger.limits_changed();
                }
                Touched::Reclaimed { quota, by } => {
                    returning.extend(ledger.reclaimed(gsn, *quota, *by == me));
                }
                _ => {}
            }
        }
        if changed {
            ledger.changes += 1;
            ledger.shares.values_mut().for_each(|share| share.refused = None);
            self.quotas.changed.notify_waiters();
        }
        drop(ledger);
        if !returning.is_empty() {
            let service = self.arc();
            self.runtime.spawn(async move { service.return_unused(returning).await });
        }
    }

    /// Reserves `needed` bytes and some to spare.
    ///
    /// # Errors
    /// [`BodyError::QuotaExceeded`], or why the order gives no answer.
    pub(super) async fn reserve_quota(
        self: Arc<Self>,
        quota: Ino,
        needed: u64,
    ) -> Result<(), BodyError> {
        if !self.begin_asking(quota, needed).await? {
            return Ok(());
        }
        let result = self.request_room(quota, needed).await;
        {
            let mut ledger = self.quotas.ledger.lock();
            let share = ledger.shares.entry(quota).or_default();
            share.is_asking = false;
            if share.is_empty() {
                ledger.shares.remove(&quota);
            }
        }
        self.quotas.changed.notify_waiters();
        result
    }

    /// As [`Self::reserve_quota`], for as long as the partition rule lets a caller wait. The request
    /// is everybody's, and goes on also when this caller has given up.
    pub(super) async fn reserve_within(
        self: Arc<Self>,
        quota: Ino,
        needed: u64,
        partition: Partition,
    ) -> Result<(), BodyError> {
        let began = Instant::now();
        let mut asked = self.runtime.spawn(self.clone().reserve_quota(quota, needed));
        loop {
            if let Ok(ended) = tokio::time::timeout(LOOK_EVERY, &mut asked).await {
                return ended.unwrap_or_else(|error| Err(BodyError::Storage(error.to_string())));
            }
            let waited = began.elapsed();
            match partition {
                Partition::ReadOnly if self.ring.is_cut_off() => {
                    return Err(ProposeError::ReadOnly.into());
                }
                Partition::Error if waited >= self.settings.op_timeout => {
                    let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                    return Err(ProposeError::NoQuorum { waited_ms }.into());
                }
                _ => {}
            }
        }
    }

    /// One request at a time; false when another one has ended meanwhile, which may have
    /// brought enough.
    async fn begin_asking(&self, quota: Ino, needed: u64) -> Result<bool, BodyError> {
        let mut has_waited = false;
        loop {
            let changed = self.quotas.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut ledger = self.quotas.ledger.lock();
                let share = ledger.shares.entry(quota).or_default();
                if !share.is_asking {
                    if has_waited {
                        return Ok(false);
                    }
                    if let Some(refused) = share.refused
                        && needed >= refused.needed
                    {
                        return Err(BodyError::QuotaExceeded { short: needed - refused.room });
                    }
                    share.is_asking = true;
                    return Ok(true);
                }
            }
            has_waited = true;
            changed.await;
        }
    }

    /// Asks until there is room, or nobody has any to spare.
    async fn request_room(&self, quota: Ino, needed: u64) -> Result<(), BodyError> {
        let mut has_reclaimed = false;
        loop {
            let changes = self.quotas.ledger.lock().changes;
            if self.try_reserve(quota, needed).await? {
                return Ok(());
            }
            // What they gave back may have gone to one of them who does not use all of it.
            let may_be_more = match has_reclaimed {
                true => self.others_got_more(quota)?,
                false => self.others_reserved(quota, Gsn(u64::MAX))?,
            };
            if !may_be_more {
                // It would be refused its own.
                if self.is_returning(LOOK_EVERY).await {
                    continue;
                }
                match self.refuse(quota, needed, changes)? {
                    Some(error) => return Err(error),
                    None => continue,
                }
            }
            self.propose_and_wait(Op::ReclaimQuota { quota }).await?;
            self.wait_for_answers(quota).await?;
            has_reclaimed = true;
        }
    }

    /// False where there is not room for `needed`.
    async fn try_reserve(&self, quota: Ino, needed: u64) -> Result<bool, BodyError> {
        let before = self.reserved(quota);
        let wanted = needed.saturating_add(SLAB_BYTES);
        let outcome = self.propose_and_wait(Op::ReserveQuota { quota, needed, wanted }).await?;
        if outcome == Outcome::Refused(Refusal::QuotaExceeded) && needed > 0 {
            return Ok(false);
        }
        // If the quota ended, or the file is another's, the caller looks again.
        let got = self.reserved(quota).saturating_sub(before);
        let mut ledger = self.quotas.ledger.lock();
        let share = ledger.shares.entry(quota).or_default();
        share.is_plentiful = got >= needed.saturating_add(LOW_BYTES);
        Ok(true)
    }

    /// The error of whoever needs what there is not, for all who ask until something changes;
    /// `changes` is what was known before the order refused it. None if there is room by now.
    fn refuse(
        &self,
        quota: Ino,
        needed: u64,
        changes: u64,
    ) -> Result<Option<BodyError>, BodyError> {
        let above = self.ring.view().quotas_from(quota).map_err(tables)?;
        let room = above.iter().filter_map(Quota::room_bytes).min().unwrap_or(u64::MAX);
        let Some(short) = needed.checked_sub(room).filter(|short| *short > 0) else {
            return Ok(None);
        };
        let mut ledger = self.quotas.ledger.lock();
        if ledger.changes == changes {
            ledger.shares.entry(quota).or_default().refused = Some(Refused { needed, room });
        }
        Ok(Some(BodyError::QuotaExceeded { short }))
    }

    fn reserved(&self, quota: Ino) -> u64 {
        self.quotas.ledger.lock().shares.get(&quota).map_or(0, |share| share.reserved)
    }

    /// Whether another node, or this one for another quota, has had bytes reserved since before
    /// `asked`, and has not said since that it uses them.
    fn others_reserved(&self, quota: Ino, asked: Gsn) -> Result<bool, BodyError> {
        let own = (quota, self.ring.me());
        let rows = self.ring.view().reservations().map_err(tables)?;
        let ledger = self.quotas.ledger.lock();
        let granted_at = |whose| ledger.granted_at.get(&whose).copied().unwrap_or_default();
        let others = rows.into_iter().map(|(quota, node, row)| ((quota, node), row.answered));
        let mut others = others.filter(|(whose, _)| *whose != own);
        Ok(others.any(|(whose, answered)| answered.max(granted_at(whose)) < asked))
    }

    /// Whether something of this node is on its way back; then waits for a change, or so long.
    async fn is_returning(&self, longest: Duration) -> bool {
        let changed = self.quotas.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let is_returning =
            self.quotas.ledger.lock().shares.values().any(|share| share.returning > 0);
        if is_returning {
            // In time or not, the caller looks again.
            let _ = tokio::time::timeout(longest, changed).await;
        }
        is_returning
    }

    /// Whether room was got since all were asked for what they do not use, by another node or for
    /// another quota, where it may be that of `quota`.
    fn others_got_more(&self, quota: Ino) -> Result<bool, BodyError> {
        let own = (quota, self.ring.me());
        let got: Vec<Ino> = {
            let ledger = self.quotas.ledger.lock();
            let others = ledger.granted_at.iter().filter(|(whose, _)| **whose != own);
            let newer = others.filter(|(_, at)| **at > ledger.reclaimed_at);
            newer.map(|((quota, _), _)| *quota).collect()
        };
        let view = self.ring.view();
        let outermost = |quota: Ino| -> Result<Ino, BodyError> {
            let above = view.quotas_from(quota).map_err(tables)?;
            Ok(above.iter().filter_map(|quota| quota.parent).next_back().unwrap_or(quota))
        };
        let own = outermost(quota)?;
        for quota in got {
            if outermost(quota)? == own {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn wait_for_answers(&self, quota: Ino) -> Result<(), BodyError> {
        let deadline = tokio::time::Instant::now() + RECLAIM_TIMEOUT;
        loop {
            let changed = self.quotas.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let asked = self.quotas.ledger.lock().reclaimed_at;
            if !self.others_reserved(quota, asked)? {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Says to all that what is not given back is in use.
    async fn return_unused(&self, quotas: Vec<Ino>) {
        for quota in quotas {
            let (bytes, answers) = {
                let mut ledger = self.quotas.ledger.lock();
                let asked_at = ledger.asked_at;
                let Some(share) = ledger.shares.get_mut(&quota) else { continue };
                let bytes = share.unused();
                share.returning += bytes;
                (bytes, Some(asked_at))
            };
            // Without an answer it may still be agreed, and stays counted until then.
            let op = Op::ReturnQuota { quota, bytes, answers };
            if let Err(error) = self.propose_and_wait(op).await {
                tracing::debug!(%error, "reserved room could not be returned yet");
            }
        }
    }

    /// Returns everything that is not used, as before a stop.
    pub(super) async fn return_quotas(&self) {
        let unused = self.quotas.ledger.lock().reserved(|_, share| share.unused() > 0);
        self.return_unused(unused).await;
    }

    /// Returns what has been idle, until the node stops.
    pub(super) async fn run_quota_returns(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(IDLE_AFTER / 2) => {}
                () = self.stopping.cancelled() => return,
            }
            let is_idle = |_: &Ino, share: &Share| {
                let used = share.used_last.is_some_and(|last| last.elapsed() < IDLE_AFTER);
                !used && !share.is_asking && share.unused() > 0
            };
            let unused = self.quotas.ledger.lock().reserved(is_idle);
            self.return_unused(unused).await;
        }
    }

    async fn propose_and_wait(&self, op: Op) -> Result<Outcome, BodyError> {
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |outcome| drop(tell.send(outcome)));
        self.ring.propose(Caller::DAEMON, op, done);
        Ok(told.await.unwrap_or(Err(ProposeError::Stopping))?)
    }
}

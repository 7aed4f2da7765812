//! Locks of files in the agreed tables, and which node keeps the locks of a file by itself.
//!
//! A file's locks are in one place: with its *keeper*, a node that grants them to its own
//! processes without asking anybody, or here, where each change is agreed. While there is a
//! keeper, the row has nothing but its name (docs/design/0002-locks.md).

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use super::apply::{Stop, Touched};
use super::codec::{from_cbor, record, to_cbor};
use super::keys;
use super::member::is_member;
use super::state::State;
use super::tables::{Tables, TablesError};
use crate::command::{Command, Kind, LockWait, LockWant};
use crate::ids::{Ino, NodeId};
use crate::locks::{
    ByteRange, FileLocks, LOCKS_MAX, Lock, LockKind, LockOwner, Waiter, closes_cycle,
};
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

/// A file is kept by one node only when no other one has asked for its locks for so long:
/// handing it over costs more than a few agreed locks.
const CALM_SECONDS: i64 = 5;

/// The locks of one file, as agreed.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(array)]
pub struct LockRow {
    #[n(0)]
    pub keeper: Option<Keeper>,
    /// Empty while there is a keeper.
    #[n(1)]
    pub locks: FileLocks,
    /// Who asked for locks last here, one entry for each node.
    #[n(2)]
    pub uses: Vec<LockUse>,
}

/// The node that has the locks of a file, and its start: another start knows nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Keeper {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub boot: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockUse {
    #[n(0)]
    pub node: NodeId,
    #[n(1)]
    pub time: Timestamp,
}

impl LockRow {
    /// Whether `node` may become the keeper at `time`.
    pub fn is_calm_for(&self, node: NodeId, time: Timestamp) -> bool {
        let old = |used: &LockUse| {
            used.node == node || used.time.seconds.saturating_add(CALM_SECONDS) <= time.seconds
        };
        self.locks.is_empty() && self.uses.iter().all(old)
    }

    fn used_by(&mut self, node: NodeId, time: Timestamp) {
        match self.uses.iter_mut().find(|used| used.node == node) {
            Some(used) => used.time = time,
            None => self.uses.push(LockUse { node, time }),
        }
    }
}

/// Grants the lock, queues the request (`Waiting`), or refuses it: `Locked`, `Deadlock`,
/// `TooManyLocks`, `LocksKept` while a node keeps the file's locks, `NotFound`.
pub(super) fn lock<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    want: LockWant,
    wait: Option<LockWait>,
) -> Result<Outcome, Stop> {
    check_file(state, ino)?;
    let before = row(state, ino)?;
    check_unkept(state, &before)?;
    let lock = wanted(command, want)?;
    let mut after = before.clone();
    forget_strangers(state, &mut after)?;
    if after.locks.is_full() {
        return Err(Refusal::TooManyLocks.into());
    }
    after.used_by(command.id.origin, command.time);
    let mut woken = Vec::new();
    let is_free = after.locks.request(lock, &mut woken);
    grant(state, ino, &woken);
    if is_free {
        store(state, ino, &before, after)?;
        return Ok(Outcome::Done);
    }
    let Some(LockWait { ticket, detects }) = wait else {
        if after.locks == before.locks {
            return Err(Refusal::Locked.into());
        }
        store(state, ino, &before, after)?;
        return Ok(Outcome::Busy);
    };
    let waiter = Waiter { ticket, lock, detects };
    if is_deadlock(state, ino, &after.locks, &waiter)? {
        return Err(Refusal::Deadlock.into());
    }
    after.locks.wait(waiter);
    store(state, ino, &before, after)?;
    Ok(Outcome::Waiting)
}

/// What is not held need not be given up: never refused, except `LocksKept`.
pub(super) fn unlock<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    (owner, kind): (u64, LockKind),
    range: ByteRange,
) -> Result<Outcome, Stop> {
    let before = row(state, ino)?;
    check_unkept(state, &before)?;
    let mut after = before.clone();
    forget_strangers(state, &mut after)?;
    after.locks.release(own(command, owner), kind, range);
    store(state, ino, &before, after)?;
    Ok(Outcome::Done)
}

/// `NotFound` if the request does not wait (any more).
pub(super) fn cancel<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    ticket: u64,
) -> Result<Outcome, Stop> {
    let before = row(state, ino)?;
    let mut after = before.clone();
    let (node, boot) = (command.id.origin, command.id.boot);
    let own = |owner: LockOwner| (owner.node, owner.boot) == (node, boot);
    after.locks.cancel(own, ticket).ok_or(Refusal::NotFound)?;
    store(state, ino, &before, after)?;
    Ok(Outcome::Done)
}

/// `LocksKept` by another node, `Locked` if there are locks or another node used them lately.
pub(super) fn keep<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
) -> Result<Outcome, Stop> {
    check_file(state, ino)?;
    let before = row(state, ino)?;
    check_unkept(state, &before)?;
    let keeper = Keeper { node: command.id.origin, boot: command.id.boot };
    let mut members_only = before.clone();
    forget_strangers(state, &mut members_only)?;
    if !members_only.is_calm_for(keeper.node, command.time) {
        return Err(Refusal::Locked.into());
    }
    let after = LockRow { keeper: Some(keeper), ..LockRow::default() };
    store(state, ino, &before, after)?;
    Ok(Outcome::Done)
}

/// Takes the keeper's locks over. Waits that turn out to be a deadlock are denied.
///
/// `NotPermitted` if the origin is not the keeper, `Invalid` for locks of others.
pub(super) fn share<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    ino: Ino,
    locks: &FileLocks,
    asked: bool,
) -> Result<Outcome, Stop> {
    check_file(state, ino)?;
    let before = row(state, ino)?;
    let keeper = Keeper { node: command.id.origin, boot: command.id.boot };
    if before.keeper != Some(keeper) {
        return Err(Refusal::NotPermitted.into());
    }
    let own = |lock: &Lock| (lock.owner.node, lock.owner.boot) == (keeper.node, keeper.boot);
    let waiting = locks.waiting().iter().map(|waiter| &waiter.lock);
    let fits = locks.held().len() + locks.waiting().len() <= LOCKS_MAX;
    if !fits || !locks.held().iter().chain(waiting).all(own) {
        return Err(Refusal::Invalid.into());
    }
    let mut after = LockRow::default();
    if asked {
        after.used_by(keeper.node, command.time);
    }
    for held in locks.held() {
        if !after.locks.request(*held, &mut Vec::new()) {
            return Err(Refusal::Invalid.into());
        }
    }
    for waiter in locks.waiting() {
        if is_deadlock(state, ino, &after.locks, waiter)? {
            let (owner, ticket) = (waiter.lock.owner, waiter.ticket);
            state.touch(Touched::LockDenied { ino, owner, ticket });
        } else {
            after.locks.wait(*waiter);
        }
    }
    store(state, ino, &before, after)?;
    Ok(Outcome::Done)
}

/// Gives up what starts of `node` before `boot` held and kept; a node does so for itself only
/// (`NotPermitted`).
pub(super) fn drop_starts<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    node: NodeId,
    boot: u64,
) -> Result<Outcome, Stop> {
    if node != command.id.origin {
        return Err(Refusal::NotPermitted.into());
    }
    change_rows(state, |row| drop_locks(row, |of, of_boot| of == node && of_boot < boot))?;
    Ok(Outcome::Done)
}

/// Gives up what `node` holds and keeps of a file. Gives its requests that waited, which are
/// given up too.
pub(super) fn expire<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    node: NodeId,
) -> Result<Vec<(LockOwner, u64)>, TablesError> {
    let before = row(state, ino)?;
    let mut after = before.clone();
    drop_locks(&mut after, |of, _| of == node);
    if after != before {
        store(state, ino, &before, after)?;
    }
    let own = before.locks.waiting().iter().filter(|waiter| waiter.lock.owner.node == node);
    Ok(own.map(|waiter| (waiter.lock.owner, waiter.ticket)).collect())
}

/// Locks count only while their node is a member.
fn forget_strangers<T: Tables>(
    state: &mut State<'_, T>,
    row: &mut LockRow,
) -> Result<(), TablesError> {
    let waiting = row.locks.waiting().iter().map(|waiter| waiter.lock.owner.node);
    let nodes: BTreeSet<NodeId> =
        row.locks.held().iter().map(|held| held.owner.node).chain(waiting).collect();
    for node in nodes {
        if !is_member(state, node)? {
            row.locks.forget(|owner| owner.node == node);
        }
    }
    Ok(())
}

/// Gives up all locks of `node`, and forgets that it ever asked: it is no member any more.
pub(super) fn forget_node<T: Tables>(
    state: &mut State<'_, T>,
    node: NodeId,
) -> Result<(), TablesError> {
    change_rows(state, |row| {
        drop_locks(row, |of, _| of == node);
        row.uses.retain(|used| used.node != node);
    })
}

/// Gives up the locks of the (node, start) that `gone` names, and lets others keep what they
/// kept.
fn drop_locks(row: &mut LockRow, gone: impl Fn(NodeId, u64) -> bool) {
    row.locks.forget(|owner| gone(owner.node, owner.boot));
    row.keeper = row.keeper.filter(|keeper| !gone(keeper.node, keeper.boot));
}

fn change_rows<T: Tables>(
    state: &mut State<'_, T>,
    change: impl Fn(&mut LockRow),
) -> Result<(), TablesError> {
    let mut rows = Vec::new();
    let mut broken = None;
    state.before().scan(keys::LOCKS, &[], &mut |key, value| {
        match (keys::number(key), from_cbor::<LockRow>(value, "locks")) {
            (Some(ino), Ok(row)) => rows.push((Ino(ino), row)),
            (None, _) => broken = Some(TablesError("a key of locks is malformed".into())),
            (_, Err(error)) => broken = Some(error),
        }
        broken.is_none()
    })?;
    if let Some(error) = broken {
        return Err(error);
    }
    for (ino, before) in rows {
        let mut after = before.clone();
        change(&mut after);
        if after != before {
            store(state, ino, &before, after)?;
        }
    }
    Ok(())
}

/// The file goes: so do its locks. Whoever has it open goes on with them by itself.
pub(super) fn remove<T: Tables>(state: &mut State<'_, T>, ino: Ino) -> Result<(), TablesError> {
    let before = row(state, ino)?;
    if before == LockRow::default() {
        return Ok(());
    }
    for owner in waiting_owners(&before.locks) {
        state.delete(keys::lock_wait(owner, ino))?;
    }
    state.delete(keys::locks(ino))?;
    if !before.locks.is_empty() {
        state.touch(Touched::LocksGone { ino, locks: before.locks });
    }
    Ok(())
}

fn row<T: Tables>(state: &mut State<'_, T>, ino: Ino) -> Result<LockRow, TablesError> {
    match state.get(keys::locks(ino))? {
        Some(value) => from_cbor(value, "locks"),
        None => Ok(LockRow::default()),
    }
}

/// Grants what waits and can be had now, and writes the row and its part of the wait graph.
fn store<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    before: &LockRow,
    mut after: LockRow,
) -> Result<(), TablesError> {
    grant(state, ino, &after.locks.wake());
    let (waited, waits) = (waiting_owners(&before.locks), waiting_owners(&after.locks));
    for owner in waited.difference(&waits) {
        state.delete(keys::lock_wait(*owner, ino))?;
    }
    for owner in waits.difference(&waited) {
        state.put(keys::lock_wait(*owner, ino), record(0))?;
    }
    if after == LockRow::default() {
        return state.delete(keys::locks(ino));
    }
    state.put(keys::locks(ino), to_cbor(&after))
}

fn grant<T: Tables>(state: &mut State<'_, T>, ino: Ino, woken: &[Waiter]) {
    for Waiter { ticket, lock, .. } in woken {
        state.touch(Touched::LockGranted { ino, owner: lock.owner, ticket: *ticket });
    }
}

fn waiting_owners(locks: &FileLocks) -> BTreeSet<LockOwner> {
    let detecting = locks.waiting().iter().filter(|waiter| waiter.detects);
    detecting.map(|waiter| waiter.lock.owner).collect()
}

/// Whether `waiter`, when it waits on `locks` (of `ino`), waits for itself.
fn is_deadlock<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    locks: &FileLocks,
    waiter: &Waiter,
) -> Result<bool, TablesError> {
    closes_cycle(waiter, locks, |owner| {
        let mut elsewhere = Vec::new();
        state.before().scan(&keys::lock_waits(owner), &[], &mut |key, _| {
            elsewhere.extend(keys::lock_wait_ino(key).filter(|other| *other != ino));
            true
        })?;
        let mut owners: Vec<LockOwner> = locks.waits_of(owner).collect();
        for other in elsewhere {
            owners.extend(row(state, other)?.locks.waits_of(owner));
        }
        Ok(owners)
    })
}

fn own(command: &Command, id: u64) -> LockOwner {
    LockOwner { node: command.id.origin, boot: command.id.boot, id }
}

fn wanted(command: &Command, want: LockWant) -> Result<Lock, Refusal> {
    let LockWant { owner, kind, mode, range, pid, solo } = want;
    if range.start > range.end {
        return Err(Refusal::Invalid);
    }
    Ok(Lock { range, owner: own(command, owner), kind, mode, pid, solo })
}

fn check_file<T: Tables>(state: &mut State<'_, T>, ino: Ino) -> Result<(), Stop> {
    match state.inode(ino)?.kind {
        Kind::File => Ok(()),
        _ => Err(Refusal::Invalid.into()),
    }
}

/// `LocksKept` if a member keeps the file's locks.
fn check_unkept<T: Tables>(state: &mut State<'_, T>, row: &LockRow) -> Result<(), Stop> {
    match row.keeper {
        Some(Keeper { node, .. }) if is_member(state, node)? => {
            Err(Refusal::LocksKept(node).into())
        }
        _ => Ok(()),
    }
}

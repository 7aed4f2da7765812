//! Quotas: how much may lie below a directory.
//!
//! ```text
//! quotas        | version u8 | state u8 | parent u64 | limits: bytes u64, inodes u64 |
//!               | used: bytes u64, inodes u64 | reserved u64 | began u64 |
//! reservations  | version u8 | bytes u64 | answered u64 |
//! ```
//! A limit of 2^64-1 is none. State: 1 counting, 2 active, 3 ending.
//!
//! Each inode carries the number of the nearest quota above it ([`Inode::quota`]), and each
//! quota that of the quota above it, so that no command walks up the tree. What counts for a
//! quota counts for all above it. Nothing crosses a border between quotas: rename and link
//! are refused there (`CrossesQuota`, EXDEV), as XFS and ext4 do with projects.
//!
//! # Exactness
//! Inodes are counted by the commands that make them, which are refused beyond the limit.
//! Bytes are acknowledged before they are agreed, so a node first has room set aside
//! ([`reserve`]): used and reserved bytes together never pass the limit by a reservation. A
//! publish turns reserved bytes into used ones ([`spend`]). It is never refused for a quota.
//!
//! # What was there before
//! A quota begins (and ends) with a walk that the proposing node makes, top-down, in commands
//! of bounded size: a directory is marked before what is in it, so what is made or moved in
//! meanwhile needs no visit. The walk may be begun again at any time, by any node.

use super::apply::{Stop, Touched};
use super::codec::{Reader, record};
use super::inode::{FileType, Inode};
use super::keys;
use super::state::State;
use super::tables::{Tables, TablesError};
use super::view::View;
use crate::command::{Command, QuotaLimits};
use crate::ids::{Gsn, Ino, NodeId};
use crate::outcome::{Outcome, Refusal};

/// Most names that one `MarkQuota` may span: keeps its agreement below a millisecond to apply.
pub const MARK_ENTRIES_MAX: usize = 256;
/// A reservation beyond what is needed takes at most this part of the room that is left, so
/// that nodes that write at once do not crowd each other out.
const RESERVE_SHARE: u64 = 8;
/// .. but this much, so that the last of a quota does not take many small steps. Whoever needs
/// it instead has it reclaimed.
const RESERVE_MIN_BYTES: u64 = 1 << 20;
/// More quotas lie above none: each is a directory, and paths are shorter.
const DEPTH_MAX: usize = 1 << 16;

/// A directory's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub state: QuotaState,
    /// The quota above, if any.
    pub parent: Option<Ino>,
    pub limits: QuotaLimits,
    pub used: QuotaUse,
    /// Bytes set aside for what nodes write, here and in the quotas below.
    pub reserved: u64,
    /// The agreement since which its present walk has to mark everything.
    pub began: Gsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaState {
    /// A walk counts what was there before; limits hold for what is counted.
    Counting,
    Active,
    /// Without limits; a walk gives what is below to the quota above.
    Ending,
}

/// What counts for a quota: all inodes below the directory and itself, and the bytes that
/// their bodies take (see [`Inode::charge`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QuotaUse {
    pub bytes: u64,
    pub inodes: u64,
}

/// What one node has set aside of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Reservation {
    pub bytes: u64,
    /// The newest request of others after which its node has returned what it did not use, or
    /// said that it uses everything.
    pub answered: Gsn,
}

impl Quota {
    /// Bytes that can still be reserved; `None` = without limit.
    pub fn room_bytes(&self) -> Option<u64> {
        let taken = self.used.bytes.saturating_add(self.reserved);
        self.limits.bytes.map(|limit| limit.saturating_sub(taken))
    }

    fn has_room_for_inode(&self) -> bool {
        self.limits.inodes.is_none_or(|limit| self.used.inodes < limit)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = record(65);
        out.push(match self.state {
            QuotaState::Counting => 1,
            QuotaState::Active => 2,
            QuotaState::Ending => 3,
        });
        let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        for number in [
            self.parent.unwrap_or_default().0,
            limit(self.limits.bytes),
            limit(self.limits.inodes),
            self.used.bytes,
            self.used.inodes,
            self.reserved,
            self.began.0,
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Quota, TablesError> {
        let mut reader = Reader::new(bytes, "quotas")?;
        let state = match reader.u8()? {
            1 => QuotaState::Counting,
            2 => QuotaState::Active,
            3 => QuotaState::Ending,
            _ => return Err(reader.broken("has an unknown state")),
        };
        let parent = Some(Ino(reader.u64()?)).filter(|parent| *parent != Ino(0));
        let mut limit = || reader.u64().map(|limit| Some(limit).filter(|l| *l != u64::MAX));
        let limits = QuotaLimits { bytes: limit()?, inodes: limit()? };
        let used = QuotaUse { bytes: reader.u64()?, inodes: reader.u64()? };
        let (reserved, began) = (reader.u64()?, Gsn(reader.u64()?));
        reader.end()?;
        Ok(Quota { state, parent, limits, used, reserved, began })
    }
}

impl Reservation {
    fn encode(self) -> Vec<u8> {
        let mut out = record(16);
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.extend_from_slice(&self.answered.0.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Reservation, TablesError> {
        let mut reader = Reader::new(bytes, "reservations")?;
        let reservation = Reservation { bytes: reader.u64()?, answered: Gsn(reader.u64()?) };
        reader.end()?;
        Ok(reservation)
    }
}

/// Looking and counting; the steps that all commands on inodes share.
impl<T: Tables> State<'_, T> {
    pub(super) fn quota(&mut self, directory: Ino) -> Result<Option<Quota>, TablesError> {
        if directory == Ino(0) {
            return Ok(None);
        }
        self.get(keys::quota(directory))?.map(Quota::decode).transpose()
    }

    fn put_quota(&mut self, directory: Ino, quota: &Quota) -> Result<(), TablesError> {
        self.put(keys::quota(directory), quota.encode())
    }

    /// The quota that counts for what is made in a directory with this mark: none if it ended.
    pub(super) fn live_quota(&mut self, mark: Ino) -> Result<Ino, TablesError> {
        Ok(if self.quota(mark)?.is_some() { mark } else { Ino(0) })
    }

    /// The quota that a name leading to this inode belongs to: for a quota's own directory,
    /// the one above.
    fn outer_quota(&mut self, ino: Ino, inode: &Inode) -> Result<Ino, TablesError> {
        if inode.is_directory()
            && let Some(quota) = self.quota(ino)?
        {
            return Ok(quota.parent.unwrap_or_default());
        }
        self.live_quota(inode.quota)
    }

    /// `CrossesQuota` if a name of `ino` cannot be put into a directory with the mark
    /// `directory`.
    pub(super) fn check_same_quota(&mut self, ino: Ino, directory: Ino) -> Result<(), Stop> {
        let inode = self.inode(ino)?;
        let there = self.live_quota(directory)?;
        if self.outer_quota(ino, &inode)? == there {
            Ok(())
        } else {
            Err(Refusal::CrossesQuota.into())
        }
    }

    /// Runs `change` on the quota `at` and all above it.
    fn each_quota_from(
        &mut self,
        at: Ino,
        mut change: impl FnMut(&mut Quota),
    ) -> Result<(), TablesError> {
        let mut next = at;
        for _ in 0..DEPTH_MAX {
            let Some(mut quota) = self.quota(next)? else { return Ok(()) };
            change(&mut quota);
            self.put_quota(next, &quota)?;
            next = quota.parent.unwrap_or_default();
        }
        Err(TablesError(format!("quota {at} lies in a circle")))
    }

    /// Counts an inode as it is after a change; `before` and `after` are its marks and charges.
    pub(super) fn count_for_quota(
        &mut self,
        ino: Ino,
        before: Option<(Ino, u64)>,
        after: Option<(Ino, u64)>,
    ) -> Result<(), TablesError> {
        let marked = |side: Option<(Ino, u64)>| side.filter(|(mark, _)| *mark != Ino(0));
        let (was, is) = (marked(before), marked(after));
        if was == is {
            return Ok(());
        }
        if let Some((mark, bytes)) = was {
            self.each_quota_from(mark, |quota| {
                quota.used.bytes = quota.used.bytes.wrapping_sub(bytes);
                quota.used.inodes = quota.used.inodes.wrapping_sub(1);
            })?;
        }
        if let Some((mark, bytes)) = is {
            self.each_quota_from(mark, |quota| {
                quota.used.bytes = quota.used.bytes.wrapping_add(bytes);
                quota.used.inodes = quota.used.inodes.wrapping_add(1);
            })?;
        }
        if let Some((quota, bytes)) = after {
            self.touch(Touched::Counted { ino, quota, bytes });
        }
        Ok(())
    }

    /// `QuotaExceeded` unless the quota and all above it have room for one more inode.
    pub(super) fn check_room_for_inode(&mut self, mark: Ino) -> Result<(), Stop> {
        let has_room = self.quotas_from(mark)?.iter().all(Quota::has_room_for_inode);
        if has_room { Ok(()) } else { Err(Refusal::QuotaExceeded.into()) }
    }

    /// The quota `at` and all above it.
    fn quotas_from(&mut self, at: Ino) -> Result<Vec<Quota>, TablesError> {
        let mut quotas = Vec::new();
        let mut next = at;
        for _ in 0..DEPTH_MAX {
            let Some(quota) = self.quota(next)? else { return Ok(quotas) };
            next = quota.parent.unwrap_or_default();
            quotas.push(quota);
        }
        Err(TablesError(format!("quota {at} lies in a circle")))
    }

    fn reservation(&mut self, quota: Ino, node: NodeId) -> Result<Reservation, TablesError> {
        let found = self.get(keys::reservation(quota, node))?;
        Ok(found.map(Reservation::decode).transpose()?.unwrap_or_default())
    }

    /// Moves a node's reservation from `was` to `is`, because it gives `returned` back or for
    /// another reason.
    fn set_reservation(
        &mut self,
        (quota, node): (Ino, NodeId),
        was: Reservation,
        is: Reservation,
        returned: u64,
    ) -> Result<(), TablesError> {
        self.each_quota_from(quota, |quota| {
            quota.reserved = quota.reserved.wrapping_sub(was.bytes).wrapping_add(is.bytes);
        })?;
        let key = keys::reservation(quota, node);
        match is.bytes {
            0 => self.delete(key)?,
            _ => self.put(key, is.encode())?,
        }
        let granted = is.bytes.saturating_sub(was.bytes);
        self.touch(Touched::Reserved { quota, node, bytes: is.bytes, granted, returned });
        Ok(())
    }
}

/// Begins a quota, changes its limits, or (without limits) begins to end it.
///
/// `NotPermitted` for anybody but root; `NotDirectory`; `NotFound` for ending what is not.
pub(super) fn set<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    directory: Ino,
    limits: Option<QuotaLimits>,
) -> Result<Outcome, Stop> {
    if command.cred.uid != 0 {
        return Err(Refusal::NotPermitted.into());
    }
    let inode = state.directory(directory)?;
    let began = state.gsn;
    let quota = match (state.quota(directory)?, limits) {
        (None, None) => return Err(Refusal::NotFound.into()),
        (Some(quota), None) => {
            Quota { state: QuotaState::Ending, limits: QuotaLimits::default(), began, ..quota }
        }
        (Some(quota), Some(limits)) if quota.state == QuotaState::Ending => {
            Quota { state: QuotaState::Counting, limits, began, ..quota }
        }
        (Some(quota), Some(limits)) => Quota { limits, ..quota },
        (None, Some(limits)) => Quota {
            state: QuotaState::Counting,
            parent: Some(state.live_quota(inode.quota)?).filter(|parent| *parent != Ino(0)),
            limits,
            used: QuotaUse::default(),
            reserved: 0,
            began,
        },
    };
    state.put_quota(directory, &quota)?;
    state.touch(Touched::Quota { directory });
    Ok(Outcome::Done)
}

/// Gives a directory, and the files at some of its cookies, to the quota (while it ends: to
/// the quota above). A directory with a quota of its own is put below this one instead.
///
/// `NotFound` if the quota or the directory is gone, or the directory does not lie below what
/// was marked before: it was moved, and is none of this walk's business. `Invalid` for more
/// than [`MARK_ENTRIES_MAX`] names.
pub(super) fn mark<T: Tables>(
    state: &mut State<'_, T>,
    quota: Ino,
    directory: Ino,
    after: u64,
    through: u64,
) -> Result<Outcome, Stop> {
    let row = state.quota(quota)?.ok_or(Refusal::NotFound)?;
    let mark = match row.state {
        QuotaState::Ending => row.parent.unwrap_or_default(),
        QuotaState::Counting | QuotaState::Active => quota,
    };
    let inode = state.directory(directory)?;
    if directory != quota {
        let parent = inode.parent().ok_or(Refusal::NotDirectory)?;
        if state.directory(parent)?.quota != mark {
            return Err(Refusal::NotFound.into());
        }
        if let Some(inner) = state.quota(directory)? {
            put_below(state, directory, inner, mark)?;
            return Ok(Outcome::Done);
        }
    }
    remark(state, directory, &inode, mark)?;
    let mut entries = View(state.before()).read_dir(directory, after, MARK_ENTRIES_MAX + 1)?;
    entries.retain(|entry| entry.cookie <= through);
    if entries.len() > MARK_ENTRIES_MAX {
        return Err(Refusal::Invalid.into());
    }
    for entry in entries.iter().filter(|entry| entry.kind != FileType::Directory) {
        let file = state.inode(entry.ino)?;
        remark(state, entry.ino, &file, mark)?;
    }
    Ok(Outcome::Done)
}

fn remark<T: Tables>(
    state: &mut State<'_, T>,
    ino: Ino,
    inode: &Inode,
    mark: Ino,
) -> Result<(), TablesError> {
    if inode.quota == mark {
        return Ok(());
    }
    state.rewrite_inode(ino, |inode| inode.quota = mark)
}

/// Puts the quota `inner` of `directory` below the quota `outer`.
fn put_below<T: Tables>(
    state: &mut State<'_, T>,
    directory: Ino,
    inner: Quota,
    outer: Ino,
) -> Result<(), TablesError> {
    let above = inner.parent.unwrap_or_default();
    if above == outer {
        return Ok(());
    }
    state.each_quota_from(above, |quota| {
        quota.used.bytes = quota.used.bytes.wrapping_sub(inner.used.bytes);
        quota.used.inodes = quota.used.inodes.wrapping_sub(inner.used.inodes);
        quota.reserved = quota.reserved.wrapping_sub(inner.reserved);
    })?;
    state.each_quota_from(outer, |quota| {
        quota.used.bytes = quota.used.bytes.wrapping_add(inner.used.bytes);
        quota.used.inodes = quota.used.inodes.wrapping_add(inner.used.inodes);
        quota.reserved = quota.reserved.wrapping_add(inner.reserved);
    })?;
    let parent = Some(outer).filter(|outer| *outer != Ino(0));
    state.put_quota(directory, &Quota { parent, ..inner })?;
    state.touch(Touched::Quota { directory });
    Ok(())
}

/// Ends a walk: the quota is active, or gone. `NotFound` if it is gone; `Superseded` is not
/// told: a walk that another one has overtaken ends without effect.
pub(super) fn finish<T: Tables>(
    state: &mut State<'_, T>,
    directory: Ino,
    began: Gsn,
) -> Result<Outcome, Stop> {
    let quota = state.quota(directory)?.ok_or(Refusal::NotFound)?;
    if quota.began != began {
        return Ok(Outcome::Done);
    }
    match quota.state {
        QuotaState::Counting => {
            state.put_quota(directory, &Quota { state: QuotaState::Active, ..quota })?;
            state.touch(Touched::Quota { directory });
        }
        QuotaState::Active => {}
        QuotaState::Ending => remove(state, directory)?,
    }
    Ok(Outcome::Done)
}

/// Takes a quota away. What still counts for it (other names of a file, outside) counts for
/// none from now on.
pub(super) fn remove<T: Tables>(
    state: &mut State<'_, T>,
    directory: Ino,
) -> Result<(), TablesError> {
    let Some(quota) = state.quota(directory)? else { return Ok(()) };
    // Quotas below that the walk did not meet: they were moved while it was under way.
    let mut inner = Vec::new();
    let mut broken = Ok(());
    state.before().scan(keys::QUOTAS, &[], &mut |key, value| {
        match Quota::decode(value) {
            Ok(row) if row.parent == Some(directory) => inner.extend(keys::number(key).map(Ino)),
            Ok(_) => {}
            Err(error) => broken = Err(error),
        }
        broken.is_ok()
    })?;
    broken?;
    let outer = quota.parent.unwrap_or_default();
    for inner in inner {
        // As it is now: this command may have changed it already.
        if let Some(row) = state.quota(inner)?
            && row.parent == Some(directory)
        {
            put_below(state, inner, row, outer)?;
        }
    }
    let mut holders: Vec<[u8; 2]> = Vec::new();
    state.before().scan(&keys::reservations(directory), &[], &mut |key, _| {
        holders.extend(keys::tail(key).and_then(|tail| <[u8; 2]>::try_from(tail).ok()));
        true
    })?;
    for node in holders {
        let node = NodeId(u16::from_be_bytes(node));
        let was = state.reservation(directory, node)?;
        state.set_reservation((directory, node), was, Reservation::default(), 0)?;
    }
    if let Some(left) = state.quota(directory)? {
        state.each_quota_from(outer, |quota| {
            quota.used.bytes = quota.used.bytes.wrapping_sub(left.used.bytes);
            quota.used.inodes = quota.used.inodes.wrapping_sub(left.used.inodes);
        })?;
    }
    state.delete(keys::quota(directory))?;
    state.touch(Touched::Quota { directory });
    Ok(())
}

/// Sets bytes aside for the origin.
///
/// `NotFound` without such a quota; `QuotaExceeded` when there is not room for `needed` in it
/// or in a quota above.
pub(super) fn reserve<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    directory: Ino,
    needed: u64,
    wanted: u64,
) -> Result<Outcome, Stop> {
    let quotas = state.quotas_from(directory)?;
    if quotas.is_empty() {
        return Err(Refusal::NotFound.into());
    }
    let granted = match quotas.iter().filter_map(Quota::room_bytes).min() {
        Some(room) if room < needed => return Err(Refusal::QuotaExceeded.into()),
        Some(room) => {
            let share = (room / RESERVE_SHARE).max(RESERVE_MIN_BYTES).min(room);
            needed.max(wanted.min(share))
        }
        // Nobody needs to reserve where there is no limit; one may come while this is agreed.
        None => needed,
    };
    let was = state.reservation(directory, command.id.origin)?;
    let is = Reservation { bytes: was.bytes.wrapping_add(granted), ..was };
    state.set_reservation((directory, command.id.origin), was, is, 0)?;
    Ok(Outcome::Done)
}

/// Gives back what the origin reserved.
pub(super) fn give_back<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    directory: Ino,
    bytes: u64,
    answers: Option<Gsn>,
) -> Result<Outcome, Stop> {
    let was = state.reservation(directory, command.id.origin)?;
    // Nobody can have heard of what is not agreed.
    let answered = answers.unwrap_or(state.gsn).min(state.gsn).max(was.answered);
    let is = Reservation { bytes: was.bytes.saturating_sub(bytes), answered };
    state.set_reservation((directory, command.id.origin), was, is, bytes)?;
    Ok(Outcome::Done)
}

/// Gives back all that `node` has reserved anywhere: it is no member any more.
pub(super) fn forget_node<T: Tables>(
    state: &mut State<'_, T>,
    node: NodeId,
) -> Result<(), TablesError> {
    let reserved = View(state.before()).reservations()?;
    for (quota, _, was) in reserved.into_iter().filter(|(_, of, _)| *of == node) {
        state.set_reservation((quota, node), was, Reservation::default(), 0)?;
    }
    Ok(())
}

/// Turns reserved bytes of `node` into bytes that are about to be used.
pub(super) fn spend<T: Tables>(
    state: &mut State<'_, T>,
    quota: Ino,
    node: NodeId,
    bytes: u64,
) -> Result<(), TablesError> {
    if bytes == 0 || state.quota(quota)?.is_none() {
        return Ok(());
    }
    let was = state.reservation(quota, node)?;
    if was.bytes > 0 {
        let is = Reservation { bytes: was.bytes.saturating_sub(bytes), ..was };
        state.set_reservation((quota, node), was, is, 0)?;
    }
    Ok(())
}

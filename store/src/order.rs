//! The agreed order, for nodes that catch up and for `fusion log`.

use std::collections::BTreeMap;

use engine::consensus::record::OrderRecord;
use engine::ids::{Gsn, VolumeId};
use engine::outcome::Verdict;
use minicbor::Decode;
use rocksdb::WriteBatch;

use crate::database::{Database, Family, VolumeState};
use crate::schema::{
    Number, OrderRow, OrderRowRef, order_key, order_key_gsn, order_mark_gsn, order_mark_key,
    order_marks_prefix, seal, unseal, volume_prefix,
};
use crate::tables::state_of;
use crate::{Store, StoreError};

impl Store {
    /// Reads agreements from `from` on, without gaps, until their records together exceed
    /// `bytes_max`; at least one if there is one at `from`. Empty if `from` is not kept any
    /// more (see [`Store::order_range`]) or not yet applied.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a record that is not what was written, and for a gap.
    pub fn order(
        &self,
        volume: VolumeId,
        from: Gsn,
        bytes_max: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        self.order_between(volume, from, Gsn(u64::MAX), bytes_max)
    }

    /// As [`Self::order`], but not beyond `upto`.
    pub fn order_between(
        &self,
        volume: VolumeId,
        from: Gsn,
        upto: Gsn,
        bytes_max: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        self.read_order(volume, (from, upto), bytes_max, |record: &OrderRecord| record.gsn)
    }

    /// As [`Self::order_between`], with what came of each command.
    pub fn order_applied(
        &self,
        volume: VolumeId,
        from: Gsn,
        upto: Gsn,
        bytes_max: usize,
    ) -> Result<Vec<AppliedRecord>, StoreError> {
        let rows = self.read_order(volume, (from, upto), bytes_max, |row: &OrderRow| row.gsn)?;
        Ok(rows.into_iter().map(AppliedRecord::from).collect())
    }

    fn read_order<R: for<'b> Decode<'b, ()>>(
        &self,
        volume: VolumeId,
        (from, upto): (Gsn, Gsn),
        bytes_max: usize,
        gsn_of: impl Fn(&R) -> Gsn,
    ) -> Result<Vec<R>, StoreError> {
        let mut records: Vec<R> = Vec::new();
        let mut bytes = 0;
        let mut expected = from;
        let start = order_key(volume, from);
        self.db().scan(Family::Order, &volume_prefix(volume), &start, &mut |key, value| {
            bytes += value.len();
            if !records.is_empty() && bytes > bytes_max {
                return Ok(false);
            }
            let gsn = order_key_gsn(key)?;
            if gsn > upto {
                return Ok(false);
            }
            if gsn != expected {
                if records.is_empty() {
                    return Ok(false);
                }
                return Err(StoreError::damaged(
                    "the stored order",
                    format!("{expected} is missing before {gsn}"),
                ));
            }
            let record: R = unseal("the stored order", key, value)?;
            if gsn_of(&record) != gsn {
                return Err(StoreError::damaged(
                    "the stored order",
                    format!("the record at {gsn} says {}", gsn_of(&record)),
                ));
            }
            records.push(record);
            expected = gsn.next();
            Ok(true)
        })?;
        Ok(records)
    }

    /// The oldest and the newest agreement that is kept.
    pub fn order_range(&self, volume: VolumeId) -> Result<Option<(Gsn, Gsn)>, StoreError> {
        let prefix = volume_prefix(volume);
        let mut oldest = None;
        self.db().scan(Family::Order, &prefix, &prefix, &mut |key, _| {
            oldest = Some(order_key_gsn(key)?);
            Ok(false)
        })?;
        let newest = self.db().last_key(Family::Order, &prefix)?;
        match (oldest, newest) {
            (Some(oldest), Some(newest)) => Ok(Some((oldest, order_key_gsn(&newest)?))),
            _ => Ok(None),
        }
    }

    /// How much of the order is kept; `None` if nothing is.
    pub fn order_kept(&self, volume: VolumeId) -> Result<Option<OrderKept>, StoreError> {
        let Some((oldest, newest)) = self.order_range(volume)? else { return Ok(None) };
        let all = state_of(self.db(), volume)?.order_bytes;
        let before = match self.first_mark(volume)? {
            // Otherwise nothing was cut off yet, or it began with a checkpoint.
            Some((mark, bytes)) if mark < oldest => bytes,
            _ => 0,
        };
        Ok(Some(OrderKept { oldest, newest, bytes: all.saturating_sub(before) }))
    }

    /// The least GSN so that the agreements from there on have at most about `bytes_max` bytes:
    /// exact to [`MARK_EVERY`] agreements.
    pub fn order_cut(&self, volume: VolumeId, bytes_max: u64) -> Result<Gsn, StoreError> {
        let all = state_of(self.db(), volume)?.order_bytes;
        let mut cut = Gsn(0);
        let prefix = order_marks_prefix(volume);
        self.db().scan(Family::Tables, &prefix, &prefix, &mut |key, value| {
            let bytes = unseal::<Number>("the marks of the order", key, value)?.value;
            if all.saturating_sub(bytes) > bytes_max {
                cut = order_mark_gsn(key)?.next();
                return Ok(true);
            }
            if cut > Gsn(0) {
                cut = order_mark_gsn(key)?.next();
            }
            Ok(false)
        })?;
        Ok(cut)
    }

    /// Drops the agreements before `below`, and gives their space back. Nodes that are further
    /// behind need a checkpoint then, so the caller decides when nobody is, or when the space
    /// is worth more. Takes a while.
    pub fn truncate_order(&self, volume: VolumeId, below: Gsn) -> Result<(), StoreError> {
        let db = self.db();
        let mut batch = WriteBatch::default();
        let (first, end) = (order_key(volume, Gsn(0)), order_key(volume, below));
        batch.delete_range_cf(db.family(Family::Order), first, end);
        // The mark before the first kept agreement stays: it tells where its bytes begin.
        let marked = Gsn(below.0.saturating_sub(1) / MARK_EVERY * MARK_EVERY);
        let marks = [Gsn(0), marked].map(|gsn| order_mark_key(volume, gsn));
        batch.delete_range_cf(db.family(Family::Tables), &marks[0], &marks[1]);
        db.write(batch)?;
        // Whole files go below: after power loss the order must not come back with a hole.
        db.sync()?;
        let last = order_key(volume, Gsn(below.0.saturating_sub(1)));
        db.reclaim(Family::Order, &first, &last)
    }

    fn first_mark(&self, volume: VolumeId) -> Result<Option<(Gsn, u64)>, StoreError> {
        let mut first = None;
        let prefix = order_marks_prefix(volume);
        self.db().scan(Family::Tables, &prefix, &prefix, &mut |key, value| {
            let bytes = unseal::<Number>("the marks of the order", key, value)?.value;
            first = Some((order_mark_gsn(key)?, bytes));
            Ok(false)
        })?;
        Ok(first)
    }
}

/// The agreements that a store still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderKept {
    pub oldest: Gsn,
    pub newest: Gsn,
    /// As they were written: the file system holds less, since they are compressed.
    pub bytes: u64,
}

/// One agreement, and what came of it when it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedRecord {
    pub record: OrderRecord,
    /// Of the commands that were not simply done, by their place in the agreement; `None` if
    /// that was not kept.
    pub verdicts: Option<BTreeMap<u32, Verdict>>,
}

impl AppliedRecord {
    /// What came of the command at `place` of the agreement; `None` if that was not kept.
    pub fn verdict(&self, place: u32) -> Option<Verdict> {
        let verdicts = self.verdicts.as_ref()?;
        Some(verdicts.get(&place).copied().unwrap_or(Verdict::Done))
    }
}

/// Nothing is known of what came of it.
impl From<OrderRecord> for AppliedRecord {
    fn from(record: OrderRecord) -> AppliedRecord {
        AppliedRecord { record, verdicts: None }
    }
}

impl From<OrderRow> for AppliedRecord {
    fn from(row: OrderRow) -> AppliedRecord {
        let OrderRow { gsn, lane, idx, entry, verdicts } = row;
        AppliedRecord { record: OrderRecord { gsn, lane, idx, entry }, verdicts }
    }
}

/// Adds the next agreement to a batch. The caller has moved `state` on to its GSN.
pub fn put_order(
    db: &Database,
    batch: &mut WriteBatch,
    volume: VolumeId,
    state: &mut VolumeState,
    applied: &AppliedRecord,
) {
    let AppliedRecord { record, verdicts } = applied;
    let key = order_key(volume, record.gsn);
    let row = OrderRowRef {
        gsn: record.gsn,
        lane: record.lane,
        idx: record.idx,
        entry: &record.entry,
        verdicts: verdicts.as_ref(),
    };
    let value = seal(&key, &row);
    state.order_bytes += (key.len() + value.len()) as u64;
    batch.put_cf(db.family(Family::Order), key, value);
    if record.gsn.0.is_multiple_of(MARK_EVERY) {
        put_order_mark(db, batch, volume, *state);
    }
}

/// Notes how many bytes of order records were stored up to `state`.
pub fn put_order_mark(db: &Database, batch: &mut WriteBatch, volume: VolumeId, state: VolumeState) {
    let key = order_mark_key(volume, state.gsn);
    let mark = Number { value: state.order_bytes };
    batch.put_cf(db.family(Family::Tables), &key, seal(&key, &mark));
}

/// One mark for so many agreements: some ten bytes each, and exact enough to cut by.
pub const MARK_EVERY: u64 = 256;

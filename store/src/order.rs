//! The agreed order, for nodes that catch up and for `fusion log`.

use engine::consensus::record::OrderRecord;
use engine::ids::{Gsn, VolumeId};
use rocksdb::WriteBatch;

use crate::database::Family;
use crate::schema::{order_key, order_key_gsn, unseal, volume_prefix};
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
        let mut records: Vec<OrderRecord> = Vec::new();
        let mut bytes = 0;
        let mut expected = from;
        let start = order_key(volume, from);
        self.db().scan(Family::Order, &volume_prefix(volume), &start, &mut |key, value| {
            bytes += value.len();
            if !records.is_empty() && bytes > bytes_max {
                return Ok(false);
            }
            let gsn = order_key_gsn(key)?;
            if gsn != expected {
                if records.is_empty() {
                    return Ok(false);
                }
                return Err(StoreError::damaged(
                    "the stored order",
                    format!("{expected} is missing before {gsn}"),
                ));
            }
            let record: OrderRecord = unseal("the stored order", key, value)?;
            if record.gsn != gsn {
                return Err(StoreError::damaged(
                    "the stored order",
                    format!("the record at {gsn} says {}", record.gsn),
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

    /// Drops the agreements before `below`. Nodes that are further behind need a checkpoint
    /// then, so the caller decides when nobody is, or when the space is worth more.
    pub fn truncate_order(&self, volume: VolumeId, below: Gsn) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let family = self.db().family(Family::Order);
        batch.delete_range_cf(family, order_key(volume, Gsn(0)), order_key(volume, below));
        self.db().write(batch)
    }
}

//! The agreement log: an acceptor's memory, which it must never lose.

use engine::consensus::record::{LogRecord, Recovered};
use engine::ids::{Idx, VolumeId};
use rocksdb::WriteBatch;

use crate::database::Family;
use crate::schema::{
    self, AcceptedRecord, LogKey, PromisedRecord, StartedRecord, seal, unseal, volume_prefix,
};
use crate::{Store, StoreError};

impl Store {
    /// Writes the records as one batch. They are durable after the next [`Store::sync`], and
    /// never without what was written before them: the write-ahead log survives as a prefix.
    /// So a `Truncated` needs no sync between it and the `apply` that it relies on.
    ///
    /// # Errors
    /// Any error is final: the store is poisoned.
    pub fn append(&self, volume: VolumeId, records: &[LogRecord]) -> Result<(), StoreError> {
        let db = self.db();
        let family = db.family(Family::Log);
        let mut batch = WriteBatch::default();
        for record in records {
            match record {
                LogRecord::Accepted { lane, idx, ballot, entry } => {
                    let key = LogKey::Accepted(*lane, *idx).encode(volume);
                    let record = AcceptedRecord { ballot: *ballot, entry: entry.clone() };
                    batch.put_cf(family, &key, seal(&key, &record));
                }
                LogRecord::Promised { lane, ballot } => {
                    let key = LogKey::Promised(*lane).encode(volume);
                    batch.put_cf(family, &key, seal(&key, &PromisedRecord { ballot: *ballot }));
                }
                LogRecord::Started { lane } => {
                    let key = LogKey::Started(*lane).encode(volume);
                    batch.put_cf(family, &key, seal(&key, &StartedRecord {}));
                }
                LogRecord::Truncated { lane, upto } => {
                    let first = LogKey::Accepted(*lane, Idx(0)).encode(volume);
                    // A range ends before its end, and a whole lane's `upto` has no next.
                    let last = LogKey::Accepted(*lane, *upto).encode(volume);
                    batch.delete_range_cf(family, &first, &last);
                    batch.delete_cf(family, last);
                }
            }
        }
        db.write(batch)
    }

    /// Reads back what a replica of `volume` starts from.
    ///
    /// # Errors
    /// [`StoreError::UnknownVolume`]; [`StoreError::Damaged`] if any record is not what was
    /// written: the node must not vote then.
    pub fn recover(&self, volume: VolumeId) -> Result<Recovered, StoreError> {
        let header = self.header(volume)?.ok_or(StoreError::UnknownVolume(volume))?;
        if let Some((_, newest)) = self.order_range(volume)?
            && newest != header.gsn
        {
            return Err(StoreError::damaged(
                "the stored order",
                format!("it ends at {newest}, the tables are at {}", header.gsn),
            ));
        }
        let mut recovered = Recovered::fresh(header);
        recovered.forgetful = self.is_forgetful(volume)?;
        let prefix = volume_prefix(volume);
        self.db().scan(Family::Log, &prefix, &prefix, &mut |key, value| {
            let what = "the agreement log";
            match LogKey::decode(key)? {
                LogKey::Accepted(lane, idx) => {
                    let AcceptedRecord { ballot, entry } = unseal(what, key, value)?;
                    recovered.accepted.entry(lane).or_default().insert(idx, (ballot, entry));
                }
                LogKey::Promised(lane) => {
                    let PromisedRecord { ballot } = unseal(what, key, value)?;
                    recovered.promised.insert(lane, ballot);
                }
                LogKey::Started(lane) => {
                    let StartedRecord {} = schema::unseal(what, key, value)?;
                    recovered.started.insert(lane);
                }
            }
            Ok(true)
        })?;
        Ok(recovered)
    }
}

//! A volume's tables on the way to another node.
//!
//! The sender holds a snapshot and cuts it into segments, in key order; any segment can be
//! asked for again by the key that precedes it. The receiver writes them beside its live
//! tables, under the other generation of keys, and switches at the end: an interrupted
//! install costs nothing but the time, and goes on where it stopped if the sender still has
//! the same snapshot.

use std::sync::Arc;

use engine::consensus::record::Header;
use engine::ids::{Gsn, VolumeId};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rocksdb::WriteBatch;

use crate::database::{Database, Family, VolumeState};
use crate::order::put_order_mark;
use crate::schema::{
    InstallRecord, install_record_key, order_marks_prefix, other_generation, seal, tables_prefix,
    unseal, volume_prefix,
};
use crate::tables::{GenerationTables, SnapshotTables, delete_other_generation, put_volume_record};
use crate::{Store, StoreError};

/// A segment is closed when it holds this many bytes of keys and values: small enough to be a
/// message, large enough that a round trip per segment does not matter on a LAN.
const SEGMENT_BYTES: usize = 1 << 20;

/// No segment from a peer is larger: one value above [`SEGMENT_BYTES`] may be alone in it.
const SEGMENT_BYTES_MAX: usize = 4 << 20;

const SEGMENT_VERSION: u8 = 1;

/// A piece of a volume's tables at one GSN.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CheckpointSegment {
    #[n(0)]
    pub volume: VolumeId,
    #[n(1)]
    pub gsn: Gsn,
    /// The key before the first one here; `None` at the beginning.
    #[n(2)]
    pub after: Option<ByteVec>,
    /// Keys and values, ascending.
    #[n(3)]
    pub entries: Vec<(ByteVec, ByteVec)>,
    /// Nothing follows.
    #[n(4)]
    pub last: bool,
}

impl CheckpointSegment {
    /// `| version u8 | CBOR .. | blake3 32 |`; the hash covers what precedes it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![SEGMENT_VERSION];
        minicbor::encode(self, &mut bytes).expect("a Vec takes any bytes");
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for anything else: ask again, or ask another node.
    pub fn decode(bytes: &[u8]) -> Result<CheckpointSegment, StoreError> {
        let invalid = |detail: &str| StoreError::Invalid(format!("checkpoint segment: {detail}"));
        if bytes.len() > SEGMENT_BYTES_MAX {
            return Err(invalid("it is too large"));
        }
        let (content, hash) =
            bytes.split_last_chunk::<32>().ok_or_else(|| invalid("it is too short"))?;
        if blake3::hash(content) != *hash {
            return Err(invalid("its hash does not match"));
        }
        match content.split_first() {
            Some((&SEGMENT_VERSION, cbor)) => {
                minicbor::decode(cbor).map_err(|error| invalid(&error.to_string()))
            }
            _ => Err(invalid("its version is unknown")),
        }
    }

    /// What to ask for next; `None` if this is the last one.
    pub fn resume_after(&self) -> Option<&[u8]> {
        if self.last {
            return None;
        }
        self.entries.last().map(|(key, _)| key.as_slice())
    }
}

/// The sender's side: a snapshot, cut on demand.
#[derive(Clone)]
pub struct CheckpointReader {
    tables: SnapshotTables,
}

impl CheckpointReader {
    /// Where the order stands in the tables sent.
    pub fn header(&self) -> &Header {
        self.tables.header()
    }

    /// About how many bytes the tables have on disk, for people who wait.
    pub fn bytes_estimate(&self) -> u64 {
        self.tables.approximate_bytes()
    }

    /// The segment that follows the key `after`, or the first.
    pub fn segment(&self, after: Option<&[u8]>) -> Result<CheckpointSegment, StoreError> {
        let mut entries: Vec<(ByteVec, ByteVec)> = Vec::new();
        let mut bytes = 0;
        let mut last = true;
        self.tables.try_scan(&[], after.unwrap_or_default(), &mut |key, value| {
            if after == Some(key) {
                return Ok(true);
            }
            if !entries.is_empty() && bytes + key.len() + value.len() > SEGMENT_BYTES {
                last = false;
                return Ok(false);
            }
            bytes += key.len() + value.len();
            entries.push((key.to_vec().into(), value.to_vec().into()));
            Ok(true)
        })?;
        Ok(CheckpointSegment {
            volume: self.tables.volume(),
            gsn: self.header().gsn,
            after: after.map(|key| key.to_vec().into()),
            entries,
            last,
        })
    }
}

/// The receiver's side.
pub struct CheckpointInstall {
    db: Arc<Database>,
    volume: VolumeId,
    record: InstallRecord,
}

impl Store {
    /// Begins to send the tables of `volume` as they are now.
    pub fn export_checkpoint(&self, volume: VolumeId) -> Result<CheckpointReader, StoreError> {
        Ok(CheckpointReader { tables: self.snapshot(volume)? })
    }

    /// The checkpoint of `volume` that is being taken over, or was when the process ended, and
    /// the last key that is here.
    pub fn pending_install(
        &self,
        volume: VolumeId,
    ) -> Result<Option<(Header, Option<Vec<u8>>)>, StoreError> {
        let key = install_record_key(volume);
        let Some(bytes) = self.db().get(Family::Tables, &key)? else { return Ok(None) };
        let record: InstallRecord = unseal("the install record", &key, &bytes)?;
        Ok(Some((record.header, record.after)))
    }

    /// Begins to take over the tables of `volume` at `header`, or goes on with an install
    /// that was interrupted at the same header. The tables that are there stay readable until
    /// [`CheckpointInstall::finish`].
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the header is not ahead of what is applied here.
    pub fn begin_install(
        &self,
        volume: VolumeId,
        header: &Header,
    ) -> Result<CheckpointInstall, StoreError> {
        let db = Arc::clone(self.db());
        let state = db.volumes.read().get(&volume).copied();
        if let Some(state) = state
            && header.gsn <= state.gsn
        {
            return Err(StoreError::Invalid(format!(
                "a checkpoint at {} is not ahead of the tables at {}",
                header.gsn, state.gsn
            )));
        }
        let live = state.map_or(2, |state| state.generation);
        let key = install_record_key(volume);
        if let Some(bytes) = db.get(Family::Tables, &key)? {
            let record: InstallRecord = unseal("the install record", &key, &bytes)?;
            if record.header == *header && record.generation == other_generation(live) {
                return Ok(CheckpointInstall { db, volume, record });
            }
        }
        let record = InstallRecord {
            generation: other_generation(live),
            header: header.clone(),
            after: None,
            complete: false,
            bytes: None,
        };
        let mut batch = WriteBatch::default();
        delete_other_generation(&db, &mut batch, volume, live);
        batch.put_cf(db.family(Family::Tables), &key, seal(&key, &record));
        db.write(batch)?;
        Ok(CheckpointInstall { db, volume, record })
    }
}

impl CheckpointInstall {
    /// The last key that is here: ask for the segment after it.
    pub fn resume_after(&self) -> Option<&[u8]> {
        self.record.after.as_deref()
    }

    /// Where the order stands in these tables.
    pub fn header(&self) -> &Header {
        &self.record.header
    }

    /// Bytes of keys and values that are here.
    pub fn bytes(&self) -> u64 {
        self.record.bytes.unwrap_or(0)
    }

    /// What is here of the tables, to be checked before [`Self::finish`].
    pub fn tables(&self) -> GenerationTables<'_> {
        let prefix = tables_prefix(self.volume, self.record.generation);
        GenerationTables { db: &self.db, prefix }
    }

    /// Gives the checkpoint up: the next one begins anew.
    pub fn discard(self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.db.family(Family::Tables), install_record_key(self.volume));
        self.db.write(batch)
    }

    /// Whether the last segment has been written.
    pub fn complete(&self) -> bool {
        self.record.complete
    }

    /// Writes a segment and how far the install is, as one batch.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the segment is not the next one of this checkpoint.
    pub fn segment(&mut self, segment: &CheckpointSegment) -> Result<(), StoreError> {
        let invalid = |detail: &str| Err(StoreError::Invalid(format!("checkpoint: {detail}")));
        if segment.volume != self.volume || segment.gsn != self.record.header.gsn {
            return invalid("the segment belongs to another one");
        }
        if self.record.complete {
            return invalid("a segment follows the last one");
        }
        if segment.after.as_ref().map(|key| key.as_slice()) != self.record.after.as_deref() {
            return invalid("the segment is not the next one");
        }
        let mut previous = self.record.after.clone();
        for (key, _) in &segment.entries {
            if previous.as_deref().is_some_and(|previous| key.as_slice() <= previous) {
                return invalid("keys are not ascending");
            }
            previous = Some(key.to_vec());
        }
        if segment.entries.is_empty() && !segment.last {
            return invalid("an empty segment is not the last one");
        }

        let family = self.db.family(Family::Tables);
        let head = tables_prefix(self.volume, self.record.generation);
        let mut batch = WriteBatch::default();
        for (key, value) in &segment.entries {
            batch.put_cf(family, [&head[..], key.as_slice()].concat(), value.as_slice());
        }
        let new = segment.entries.iter().map(|(key, value)| (key.len() + value.len()) as u64);
        let record = InstallRecord {
            after: previous,
            complete: segment.last,
            bytes: Some(self.bytes() + new.sum::<u64>()),
            ..self.record.clone()
        };
        let key = install_record_key(self.volume);
        batch.put_cf(family, &key, seal(&key, &record));
        self.db.write(batch)?;
        self.record = record;
        Ok(())
    }

    /// Switches to the installed tables, durably. The stored order is dropped, since it would
    /// have a gap; promises and accepted entries stay. The old tables go at the next open or
    /// install, because a reader may be in the middle of them.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] before the last segment, and if the live tables have overtaken
    /// it meanwhile.
    pub fn finish(self) -> Result<(), StoreError> {
        if !self.record.complete {
            return Err(StoreError::Invalid("checkpoint: segments are missing".to_owned()));
        }
        let applied = self.db.volumes.read().get(&self.volume).map(|state| state.gsn);
        if applied.is_some_and(|applied| applied >= self.record.header.gsn) {
            let gsn = self.record.header.gsn;
            self.discard()?;
            return Err(StoreError::Invalid(format!("checkpoint: the tables are beyond {gsn}")));
        }
        let InstallRecord { generation, header, .. } = &self.record;
        let mut volumes = self.db.volumes.write();
        let order_bytes = volumes.get(&self.volume).map_or(0, |state| state.order_bytes);
        let state = VolumeState { generation: *generation, gsn: header.gsn, order_bytes };
        let mut batch = WriteBatch::default();
        put_volume_record(&self.db, &mut batch, self.volume, state, header);
        batch.delete_cf(self.db.family(Family::Tables), install_record_key(self.volume));
        self.db.delete_prefix(&mut batch, Family::Order, &volume_prefix(self.volume));
        self.db.delete_prefix(&mut batch, Family::Tables, &order_marks_prefix(self.volume));
        put_order_mark(&self.db, &mut batch, self.volume, state);
        self.db.write(batch)?;
        self.db.sync()?;
        volumes.insert(self.volume, state);
        Ok(())
    }
}

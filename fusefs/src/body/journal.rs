//! The journal of stages: what fsync promises survives power loss.
//!
//! ```text
//! key   | "layer" | volume u32 be | ino u64 be | layer u64 be |
//! value | version u8 = 1 | LayerRecord in CBOR |
//! ```
//! A record names the layer's shape and where its bytes are; small layers' bytes are in it.
//! Bytes are durable before the record is, the record before fsync answers.

use std::sync::Arc;

use engine::command::Body;
use engine::ids::{Ino, NodeId, Version, VolumeId};
use engine::time::Timestamp;
use minicbor::{Decode, Encode};
use store::bodies::{StageId, StageRecord, StageState};
use store::{LocalBatch, StoreError};

use super::BodyService;
use super::content::Content;
use super::error::stored;
use super::extents::Extents;
use super::layer::{Data, Layer, LayerId, StageFile};
use super::state::{Sealing, State, Top};
use super::table::OpenBody;
use crate::ops::ports::BodyError;

/// A layer as the journal keeps it.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LayerRecord {
    /// The version below it, when it was made.
    #[n(0)]
    pub base: Version,
    #[n(1)]
    pub below: BelowRecord,
    #[n(2)]
    pub extents: Extents,
    #[n(3)]
    pub size: u64,
    #[n(4)]
    pub mtime: Timestamp,
    #[n(5)]
    pub data: DataRecord,
    /// What it was sealed into.
    #[n(6)]
    pub sealed: Option<ContentRecord>,
}

#[derive(Debug, PartialEq, Eq, Encode, Decode)]
pub enum BelowRecord {
    #[n(0)]
    Content(#[n(0)] ContentRecord),
    /// A layer with its own record.
    #[n(1)]
    Layer(#[n(0)] u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ContentRecord {
    #[n(0)]
    pub body: Body,
    #[n(1)]
    pub valid_len: u64,
    #[n(2)]
    pub size: u64,
    #[n(3)]
    pub stored_len: u64,
}

#[derive(Debug, PartialEq, Eq, Encode, Decode)]
pub enum DataRecord {
    /// Not kept: the layer was not fsynced before it was sealed.
    #[n(0)]
    None,
    #[n(1)]
    Memory(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The stage of that number.
    #[n(2)]
    File(#[n(0)] u64),
}

impl From<&Content> for ContentRecord {
    fn from(content: &Content) -> ContentRecord {
        let Content { body, valid_len, size, stored_len } = content.clone();
        ContentRecord { body, valid_len, size, stored_len }
    }
}

impl From<ContentRecord> for Content {
    fn from(record: ContentRecord) -> Content {
        let ContentRecord { body, valid_len, size, stored_len } = record;
        Content { body, valid_len, size, stored_len }
    }
}

/// A record to be written, and the file that must be durable before it.
struct Entry {
    layer: LayerId,
    record: LayerRecord,
    file: Option<Arc<StageFile>>,
    /// The record as it is stored already would do.
    is_known: bool,
}

const PREFIX: &[u8] = b"layer";
const VERSION: u8 = 1;

impl BodyService {
    /// Makes what was written to the file survive power loss of this node.
    ///
    /// # Errors
    /// A failed sync puts the stage aside for good; the version before it stays. Also what
    /// background work on the file met since the last report.
    pub(super) fn fsync_body(&self, ino: Ino, data_only: bool) -> Result<(), BodyError> {
        let Some(body) = self.table.find(ino) else { return Ok(()) };
        self.journal(&body, data_only, true)
    }

    /// Journals the layers of a file as they are now. Without `sync`, the records become
    /// durable with the store's next sync.
    pub(super) fn journal(
        &self,
        body: &OpenBody,
        data_only: bool,
        sync: bool,
    ) -> Result<(), BodyError> {
        // Writers wait: a shape that is recorded must not be cut meanwhile.
        let _writing = body.writing.lock();
        let entries = {
            let mut state = body.state(&*self.ring, &self.stages, None)?;
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if state.gone { Vec::new() } else { entries(&state) }
        };
        let mut batch = LocalBatch::new();
        let mut is_empty = true;
        for entry in &entries {
            if let Some(file) = &entry.file {
                self.sync_stage(body, entry, file)?;
            }
            if !(entry.is_known && data_only) {
                batch.put(&self.layer_key(body.ino, entry.layer), &encode(&entry.record));
                is_empty = false;
            }
        }
        if is_empty {
            return Ok(());
        }
        self.store.local_write(&batch, sync).map_err(stored)?;
        for entry in &entries {
            if self.note_journaled(body, entry.layer)? {
                continue;
            }
            // It was published, or its file is gone, while it was written.
            if let Some(file) = &entry.file {
                file.discard();
            }
            self.forget_record(body.ino, entry.layer);
        }
        Ok(())
    }

    /// False if the layer is no more.
    fn note_journaled(&self, body: &OpenBody, layer: LayerId) -> Result<bool, BodyError> {
        let mut state = body.state(&*self.ring, &self.stages, None)?;
        if let Some(sealing) = state.sealing_of(layer) {
            sealing.journaled = true;
            return Ok(true);
        }
        match &mut state.top {
            Some(top) if top.layer.id() == layer => {
                top.journaled = true;
                top.layer.shape_is_journaled();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn sync_stage(
        &self,
        body: &OpenBody,
        entry: &Entry,
        file: &StageFile,
    ) -> Result<(), BodyError> {
        // First: a file whose record is written must not go with its last user.
        file.keep();
        let synced = file.stage().sync().and_then(|()| {
            if entry.is_known {
                return Ok(());
            }
            let record = StageRecord {
                base: entry.record.base,
                size: entry.record.size,
                mtime: entry.record.mtime,
                ..self.stage_record(body.ino, file.stage().id(), StageState::Synced)
            };
            self.store.bodies().stage_record(&record, false)
        });
        synced.map_err(|error| {
            let error = stored(error);
            self.put_aside(body, entry.layer);
            error
        })
    }

    /// Notes what a layer was sealed into. Not synced: the seal's own sync comes after it in
    /// the same log, so the note is durable when the body is.
    pub(super) fn note_sealed(
        &self,
        batch: &mut LocalBatch,
        ino: Ino,
        sealing: &Sealing,
        content: &Content,
    ) {
        let layer = &sealing.frozen.layer;
        let record = LayerRecord {
            sealed: Some(content.into()),
            data: if sealing.journaled { data(layer) } else { DataRecord::None },
            ..record_of_sealing(sealing)
        };
        batch.put(&self.layer_key(ino, layer.id()), &encode(&record));
    }

    /// The layer's journal record goes, and its file with its last user.
    pub(super) fn forget_layer(&self, ino: Ino, layer: &Layer) {
        if let Data::File(file) = layer.data() {
            file.discard();
        }
        self.forget_record(ino, layer.id());
    }

    /// Only a layer's journal record goes. One that stays is harmless until the next start,
    /// which asks again what became of its layer.
    pub(super) fn forget_record(&self, ino: Ino, layer: LayerId) {
        if let Err(error) = self.delete_record(ino, layer) {
            tracing::warn!(%ino, error = %error.chain(), "a journal record stays");
        }
    }

    /// A version arrived in the order: its record goes, and a record of the layer above it
    /// gets its new base, at once.
    pub(super) fn journal_arrival(&self, body: &OpenBody, sealing: &Sealing) {
        let mut batch = LocalBatch::new();
        batch.delete(&self.layer_key(body.ino, sealing.frozen.layer.id()));
        let mut above = None;
        if let Some(state) = body.loaded()
            && let Some(top) = state.top.as_ref().filter(|top| top.journaled)
        {
            let record = record_of_top(top, &state);
            above = Some(top.layer.id());
            batch.put(&self.layer_key(body.ino, top.layer.id()), &encode(&record));
        }
        if let Data::File(file) = sealing.frozen.layer.data() {
            file.discard();
        }
        if let Err(error) = self.store.local_write(&batch, false) {
            tracing::warn!(ino = %body.ino, error = %error.chain(), "a journal record stays");
        }
        // The last handle of a file without names may have gone meanwhile.
        if let Some(layer) = above
            && !body.loaded().is_some_and(|state| state.has_layer(layer))
        {
            self.forget_record(body.ino, layer);
        }
    }

    /// All records, by file, the lowest layer first.
    pub(super) fn journal_records(&self) -> Result<Vec<(Ino, LayerId, LayerRecord)>, StoreError> {
        let mut records = Vec::new();
        let mut broken = None;
        let prefix = [PREFIX, &self.settings.volume.0.to_be_bytes()].concat();
        self.store.local_scan(&prefix, &mut |key, value| {
            match decode(&key[prefix.len()..], value) {
                Some(record) => records.push(record),
                None => broken = Some(key.to_vec()),
            }
            broken.is_none()
        })?;
        match broken {
            None => Ok(records),
            Some(key) => Err(StoreError::Damaged {
                what: "the stage journal".into(),
                detail: format!("the record {key:02x?} cannot be read"),
            }),
        }
    }

    pub(super) fn delete_record(&self, ino: Ino, layer: LayerId) -> Result<(), StoreError> {
        self.store.local_delete(&self.layer_key(ino, layer))
    }

    pub(super) fn stage_record(&self, ino: Ino, id: StageId, state: StageState) -> StageRecord {
        let volume = self.settings.volume;
        let (base, size, mtime) = (Version(0), 0, Timestamp::default());
        StageRecord { id, volume, ino, base, size, mtime, state }
    }

    fn layer_key(&self, ino: Ino, layer: LayerId) -> Vec<u8> {
        let VolumeId(volume) = self.settings.volume;
        [PREFIX, &volume.to_be_bytes(), &ino.0.to_be_bytes(), &layer.0.to_be_bytes()].concat()
    }
}

fn entries(state: &State) -> Vec<Entry> {
    let mut entries = Vec::new();
    // Once it is stored, the seal's own note stands for it; what travels in the command has
    // none, and goes on standing on its layer's record.
    let is_stored = |sealing: &&Sealing| {
        matches!(&sealing.stored, Some(Content { body: Body::Sealed { .. }, .. }))
    };
    if let Some(sealing) = state.sealing.as_ref().filter(|sealing| !is_stored(sealing)) {
        entries.push(Entry {
            layer: sealing.frozen.layer.id(),
            record: record_of_sealing(sealing),
            file: file(&sealing.frozen.layer),
            is_known: sealing.journaled,
        });
    }
    if let Some(top) = &state.top {
        entries.push(Entry {
            layer: top.layer.id(),
            record: record_of_top(top, state),
            file: file(&top.layer),
            is_known: top.journaled && !top.layer.is_reshaped(),
        });
    }
    entries
}

fn record_of_sealing(sealing: &Sealing) -> LayerRecord {
    let layer = &sealing.frozen.layer;
    LayerRecord {
        base: sealing.base,
        below: BelowRecord::Content((&sealing.frozen.below).into()),
        extents: layer.extents().clone(),
        size: layer.size(),
        mtime: sealing.mtime,
        data: data(layer),
        sealed: None,
    }
}

fn record_of_top(top: &Top, state: &State) -> LayerRecord {
    let below = match &state.sealing {
        Some(sealing) => BelowRecord::Layer(sealing.frozen.layer.id().0),
        None => BelowRecord::Content((&state.base.content).into()),
    };
    LayerRecord {
        base: state.base.version,
        below,
        extents: top.layer.extents().clone(),
        size: top.layer.size(),
        mtime: top.mtime,
        data: data(&top.layer),
        sealed: None,
    }
}

fn data(layer: &Layer) -> DataRecord {
    match layer.data() {
        Data::Memory(bytes) => DataRecord::Memory(bytes.to_vec()),
        Data::File(file) => DataRecord::File(file.stage().id().0),
    }
}

fn file(layer: &Layer) -> Option<Arc<StageFile>> {
    match layer.data() {
        Data::Memory(_) => None,
        Data::File(file) => Some(Arc::clone(file)),
    }
}

fn encode(record: &LayerRecord) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    minicbor::encode(record, &mut bytes).expect("writing into memory does not fail");
    bytes
}

fn decode(key: &[u8], value: &[u8]) -> Option<(Ino, LayerId, LayerRecord)> {
    let (ino, layer) = key.split_first_chunk()?;
    let layer = LayerId(u64::from_be_bytes(layer.try_into().ok()?));
    let (&VERSION, value) = value.split_first()? else { return None };
    let record: LayerRecord = minicbor::decode(value).ok()?;
    let sound = record.extents.is_sound() && record.extents.below() <= record.size;
    sound.then(|| (Ino(u64::from_be_bytes(*ino)), layer, record))
}

/// Whether a version that is agreed instead of a journaled one came after it from this node
/// itself: then the journaled one was published, and only its record's end was lost.
pub fn is_outlived(base: Version, agreed: Version, holder: Option<NodeId>, me: NodeId) -> bool {
    agreed > base && holder == Some(me)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_damage_is_refused() {
        let mut extents = Extents::over(5);
        extents.write(7..9);
        let record = LayerRecord {
            base: Version(3),
            below: BelowRecord::Layer(17),
            extents,
            size: 9,
            mtime: Timestamp::new(1, 2),
            data: DataRecord::Memory(b"abcdefghi".to_vec()),
            sealed: Some(ContentRecord {
                body: Body::Inline(b"abcdefghi".to_vec()),
                valid_len: 9,
                size: 9,
                stored_len: 9,
            }),
        };
        let key = [20u64.to_be_bytes(), 18u64.to_be_bytes()].concat();
        let bytes = encode(&record);
        assert_eq!(decode(&key, &bytes), Some((Ino(20), LayerId(18), record)));
        for len in 0..bytes.len() {
            assert_eq!(decode(&key, &bytes[..len]), None);
        }
        assert_eq!(decode(&key[1..], &bytes), None);
    }
}

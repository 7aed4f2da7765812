//! What the `local` family says about bodies: where each lies, how far packs are durable,
//! which parts have arrived, which stages are open.

use engine::ids::{BodyId, Ino, Version, VolumeId};
use engine::time::Timestamp;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};
use rocksdb::WriteBatch;

use super::ranges::RangeSet;
use super::stage::{StageId, StageRecord, StageState};
use crate::StoreError;
use crate::database::{Database, Family};
use crate::layout::Area;
use crate::local::owner;
use crate::schema::{seal, unseal};

/// Where a body lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Pack(PackPlace),
    Container(ContainerPlace),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PackPlace {
    #[n(0)]
    pub pack: u32,
    /// Of the record's first byte.
    #[n(1)]
    pub offset: u64,
    #[n(2)]
    pub manifest_len: u32,
    #[n(3)]
    pub body_len: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerPlace {
    pub area: Area,
    pub body_len: u64,
    pub manifest_len: u32,
}

impl Place {
    pub fn body_len(&self) -> u64 {
        match self {
            Place::Pack(place) => u64::from(place.body_len),
            Place::Container(place) => place.body_len,
        }
    }
}

#[derive(Encode, Decode)]
enum PlaceRecord {
    #[n(0)]
    Pack(#[n(0)] PackPlace),
    #[n(1)]
    Container(#[n(0)] u64, #[n(1)] u32),
    #[n(2)]
    Cached(#[n(0)] u64, #[n(1)] u32),
}

impl From<Place> for PlaceRecord {
    fn from(place: Place) -> PlaceRecord {
        match place {
            Place::Pack(place) => PlaceRecord::Pack(place),
            Place::Container(ContainerPlace { area, body_len, manifest_len }) => match area {
                Area::Objects => PlaceRecord::Container(body_len, manifest_len),
                Area::Cache => PlaceRecord::Cached(body_len, manifest_len),
            },
        }
    }
}

impl From<PlaceRecord> for Place {
    fn from(record: PlaceRecord) -> Place {
        let container = |area, body_len, manifest_len| {
            Place::Container(ContainerPlace { area, body_len, manifest_len })
        };
        match record {
            PlaceRecord::Pack(place) => Place::Pack(place),
            PlaceRecord::Container(body_len, manifest_len) => {
                container(Area::Objects, body_len, manifest_len)
            }
            PlaceRecord::Cached(body_len, manifest_len) => {
                container(Area::Cache, body_len, manifest_len)
            }
        }
    }
}

/// Records up to `durable_end` are durable and in the index.
#[derive(Clone, Copy, Debug, Encode, Decode)]
#[cbor(array)]
pub struct PackRecord {
    #[n(0)]
    pub durable_end: u64,
}

/// A body that is arriving. Its ranges are durable in the part file.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(array)]
pub struct PartRecord {
    #[n(0)]
    pub len: u64,
    #[n(1)]
    pub manifest: ByteVec,
    #[n(2)]
    pub ranges: RangeSet,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct StoredStage {
    #[n(0)]
    volume: VolumeId,
    #[n(1)]
    ino: Ino,
    #[n(2)]
    base: Version,
    #[n(3)]
    size: u64,
    #[n(4)]
    mtime: Timestamp,
    #[n(5)]
    state: StoredStageState,
}

#[derive(Encode, Decode)]
enum StoredStageState {
    #[n(0)]
    Open,
    #[n(1)]
    Synced,
    #[n(2)]
    Sealed(#[n(0)] BodyId),
    #[n(3)]
    Quarantined,
    #[n(4)]
    Removed,
}

pub fn body_key(id: BodyId) -> Vec<u8> {
    [&[owner::BODY], &id.0[..]].concat()
}

pub fn pack_key(pack: u32) -> Vec<u8> {
    [&[owner::PACK], &pack.to_be_bytes()[..]].concat()
}

pub fn part_key(id: BodyId) -> Vec<u8> {
    [&[owner::PART], &id.0[..]].concat()
}

pub fn stage_key(id: StageId) -> Vec<u8> {
    [&[owner::STAGE], &id.0.to_be_bytes()[..]].concat()
}

/// Several changes of the index, made together.
pub struct IndexBatch<'a> {
    db: &'a Database,
    batch: WriteBatch,
}

impl<'a> IndexBatch<'a> {
    pub fn new(db: &'a Database) -> IndexBatch<'a> {
        IndexBatch { db, batch: WriteBatch::default() }
    }

    pub fn put_place(&mut self, id: BodyId, place: Place) {
        self.put(body_key(id), &PlaceRecord::from(place));
    }

    pub fn put_pack(&mut self, pack: u32, record: PackRecord) {
        self.put(pack_key(pack), &record);
    }

    pub fn put_part(&mut self, id: BodyId, record: &PartRecord) {
        self.put(part_key(id), record);
    }

    /// `None` notes that the stage is removed.
    pub fn put_stage(&mut self, record: &StageRecord, removed: bool) {
        let state = match record.state {
            _ if removed => StoredStageState::Removed,
            StageState::Open => StoredStageState::Open,
            StageState::Synced => StoredStageState::Synced,
            StageState::Sealed(id) => StoredStageState::Sealed(id),
            StageState::Quarantined => StoredStageState::Quarantined,
        };
        let StageRecord { volume, ino, base, size, mtime, .. } = *record;
        let stored = StoredStage { volume, ino, base, size, mtime, state };
        self.put(stage_key(record.id), &stored);
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete_cf(self.db.family(Family::Local), key);
    }

    fn put<T: Encode<()>>(&mut self, key: Vec<u8>, record: &T) {
        self.batch.put_cf(self.db.family(Family::Local), &key, seal(&key, record));
    }

    pub fn write(self) -> Result<(), StoreError> {
        if self.batch.is_empty() { Ok(()) } else { self.db.write(self.batch) }
    }
}

pub fn place(db: &Database, id: BodyId) -> Result<Option<Place>, StoreError> {
    Ok(get::<PlaceRecord>(db, body_key(id))?.map(Place::from))
}

pub fn pack(db: &Database, pack: u32) -> Result<Option<PackRecord>, StoreError> {
    get(db, pack_key(pack))
}

pub fn part(db: &Database, id: BodyId) -> Result<Option<PartRecord>, StoreError> {
    get(db, part_key(id))
}

/// The stage's record, unless it is marked as removed.
pub fn stage(db: &Database, id: StageId) -> Result<Option<StageRecord>, StoreError> {
    let stored: Option<StoredStage> = get(db, stage_key(id))?;
    Ok(stored.and_then(|stored| stage_record(id, &stored)))
}

/// Visits every body in the order of ids.
pub fn scan_places(
    db: &Database,
    visit: &mut dyn FnMut(BodyId, Place) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_places_under(db, &[owner::BODY], visit)
}

/// Visits the bodies whose ids begin with `first`.
pub fn scan_places_of(
    db: &Database,
    first: u8,
    visit: &mut dyn FnMut(BodyId, Place) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    scan_places_under(db, &[owner::BODY, first], visit)
}

fn scan_places_under(
    db: &Database,
    prefix: &[u8],
    visit: &mut dyn FnMut(BodyId, Place) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    db.scan(Family::Local, prefix, prefix, &mut |key, value| {
        let id = BodyId(key_bytes(key)?);
        visit(id, unseal::<PlaceRecord>("the index", key, value)?.into())
    })
}

pub fn scan_parts(
    db: &Database,
    visit: &mut dyn FnMut(BodyId, PartRecord),
) -> Result<(), StoreError> {
    let prefix = [owner::PART];
    db.scan(Family::Local, &prefix, &prefix, &mut |key, value| {
        visit(BodyId(key_bytes(key)?), unseal("the index", key, value)?);
        Ok(true)
    })
}

/// Visits every stage record; `None` for those marked as removed.
pub fn scan_stages(
    db: &Database,
    visit: &mut dyn FnMut(StageId, Option<StageRecord>),
) -> Result<(), StoreError> {
    let prefix = [owner::STAGE];
    db.scan(Family::Local, &prefix, &prefix, &mut |key, value| {
        let id = StageId(u64::from_be_bytes(key_bytes(key)?));
        let stored: StoredStage = unseal("the index", key, value)?;
        visit(id, stage_record(id, &stored));
        Ok(true)
    })
}

fn stage_record(id: StageId, stored: &StoredStage) -> Option<StageRecord> {
    let state = match stored.state {
        StoredStageState::Open => StageState::Open,
        StoredStageState::Synced => StageState::Synced,
        StoredStageState::Sealed(id) => StageState::Sealed(id),
        StoredStageState::Quarantined => StageState::Quarantined,
        StoredStageState::Removed => return None,
    };
    let StoredStage { volume, ino, base, size, mtime, .. } = *stored;
    Some(StageRecord { id, volume, ino, base, size, mtime, state })
}

fn get<T: for<'b> Decode<'b, ()>>(db: &Database, key: Vec<u8>) -> Result<Option<T>, StoreError> {
    let Some(bytes) = db.get(Family::Local, &key)? else { return Ok(None) };
    unseal("the index", &key, &bytes).map(Some)
}

/// What follows the owner's byte.
fn key_bytes<const N: usize>(key: &[u8]) -> Result<[u8; N], StoreError> {
    key[1..].try_into().map_err(|_| StoreError::damaged("the index", "a key's length is wrong"))
}

//! The agreed tables: read live or from a snapshot, changed only by `apply`.

use std::sync::Arc;

use engine::consensus::record::Header;
use engine::ids::VolumeId;
use engine::namespace::tables::{Changes, Tables, TablesError};
use rocksdb::{DB, ReadOptions, Snapshot, WriteBatch};

use crate::database::{Database, Family, Visit, VolumeState, scan_options, visit_rows};
use crate::order::{AppliedRecord, put_order};
use crate::schema::{
    VolumeRecord, install_record_key, other_generation, seal, tables_prefix, unseal,
    volume_record_key,
};
use crate::{Store, StoreError};

impl Store {
    /// The volumes that have tables here.
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.db().volumes.read().keys().copied().collect()
    }

    /// Writes the first state of a volume, durably.
    ///
    /// # Errors
    /// [`StoreError::VolumeExists`] if it has one.
    pub fn initialize(
        &self,
        volume: VolumeId,
        changes: &Changes,
        header: &Header,
    ) -> Result<(), StoreError> {
        let db = self.db();
        let mut volumes = db.volumes.write();
        if volumes.contains_key(&volume) {
            return Err(StoreError::VolumeExists(volume));
        }
        let state = VolumeState { generation: 1, gsn: header.gsn, order_bytes: 0 };
        let mut batch = WriteBatch::default();
        put_changes(db, &mut batch, volume, state.generation, changes);
        put_volume_record(db, &mut batch, volume, state, header);
        db.write(batch)?;
        db.sync()?;
        volumes.insert(volume, state);
        Ok(())
    }

    /// Where the tables of `volume` stand; `None` if it has none here.
    pub fn header(&self, volume: VolumeId) -> Result<Option<Header>, StoreError> {
        let key = volume_record_key(volume);
        let Some(bytes) = self.db().get(Family::Tables, &key)? else { return Ok(None) };
        Ok(Some(unseal::<VolumeRecord>("the volume record", &key, &bytes)?.header))
    }

    /// Takes over what applying `order` changed, and where the order stands after it, as one
    /// batch: after a crash all of it is there, or none. Not durable before [`Store::sync`].
    /// One thread applies to a volume, and installs its checkpoints.
    ///
    /// # Panics
    /// If `order` does not follow what was applied before, without gaps, up to `header.gsn`.
    ///
    /// # Errors
    /// [`StoreError::UnknownVolume`]; a failed write is final.
    pub fn apply(
        &self,
        volume: VolumeId,
        changes: &Changes,
        header: &Header,
        order: &[AppliedRecord],
    ) -> Result<(), StoreError> {
        let db = self.db();
        let mut state = state_of(db, volume)?;
        let mut batch = WriteBatch::default();
        for applied in order {
            let gsn = applied.record.gsn;
            assert_eq!(gsn, state.gsn.next(), "agreements apply without gaps");
            state.gsn = gsn;
            put_order(db, &mut batch, volume, &mut state, applied);
        }
        assert_eq!(header.gsn, state.gsn, "the header describes the last applied agreement");
        put_changes(db, &mut batch, volume, state.generation, changes);
        put_volume_record(db, &mut batch, volume, state, header);
        db.write(batch)?;
        db.volumes.write().insert(volume, state);
        Ok(())
    }

    /// Removes the tables that an installed checkpoint replaced. Nothing may be reading the
    /// live tables (a snapshot is none of them), and no checkpoint may be on its way in.
    pub fn remove_replaced(&self, volume: VolumeId) -> Result<(), StoreError> {
        remove_replaced(self.db(), volume, state_of(self.db(), volume)?.generation)
    }

    /// Gives the space of replaced tables back. Takes a while.
    pub fn compact_replaced(&self, volume: VolumeId) -> Result<(), StoreError> {
        let live = state_of(self.db(), volume)?.generation;
        self.db().compact(Family::Tables, &tables_prefix(volume, other_generation(live)));
        Ok(())
    }

    /// The tables as they are at each read. Two reads may see different agreements.
    pub fn tables(&self, volume: VolumeId) -> LiveTables {
        LiveTables { db: Arc::clone(self.db()), volume }
    }

    /// The tables as they are now, for as long as the snapshot lives. It keeps old values on
    /// disk, so don't keep it for hours.
    pub fn snapshot(&self, volume: VolumeId) -> Result<SnapshotTables, StoreError> {
        self.db().check()?;
        let held = HeldSnapshot::new(Arc::clone(self.db()));
        let key = volume_record_key(volume);
        let bytes = held.get(&key)?.ok_or(StoreError::UnknownVolume(volume))?;
        let record: VolumeRecord = unseal("the volume record", &key, &bytes)?;
        Ok(SnapshotTables { inner: Arc::new(SnapshotInner { held, volume, record }) })
    }
}

/// Reads of one generation: the live one, or that of a checkpoint that is being taken over.
pub struct GenerationTables<'a> {
    pub db: &'a Database,
    pub prefix: [u8; 5],
}

impl Tables for GenerationTables<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        Ok(self.db.get(Family::Tables, &[&self.prefix, key].concat())?)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        let (prefix, from) = ([&self.prefix, prefix].concat(), [&self.prefix, from].concat());
        Ok(self.db.scan(Family::Tables, &prefix, &from, &mut |key, value| {
            Ok(visit(&key[self.prefix.len()..], value))
        })?)
    }
}

/// Reads the volume records at start, and removes generations that no record owns: the tables
/// that an installed checkpoint replaced.
pub fn load_volumes(db: &Database) -> Result<(), StoreError> {
    let mut from = Vec::new();
    loop {
        // One key per volume is enough to find the next: its record sorts first.
        let mut found = None;
        db.scan(Family::Tables, &[], &from, &mut |key, _| {
            found = key.first_chunk::<4>().map(|volume| VolumeId(u32::from_be_bytes(*volume)));
            Ok(false)
        })?;
        let Some(volume) = found else { return Ok(()) };
        let key = volume_record_key(volume);
        if let Some(bytes) = db.get(Family::Tables, &key)? {
            let record: VolumeRecord = unseal("the volume record", &key, &bytes)?;
            let state = VolumeState {
                generation: record.generation,
                gsn: record.header.gsn,
                order_bytes: record.order_bytes.unwrap_or(0),
            };
            db.volumes.write().insert(volume, state);
            remove_replaced(db, volume, state.generation)?;
        }
        let Some(next) = volume.0.checked_add(1) else { return Ok(()) };
        from = next.to_be_bytes().to_vec();
    }
}

fn remove_replaced(db: &Database, volume: VolumeId, live: u8) -> Result<(), StoreError> {
    let installing = db.get(Family::Tables, &install_record_key(volume))?.is_some();
    let other = tables_prefix(volume, other_generation(live));
    if installing || db.last_key(Family::Tables, &other)?.is_none() {
        return Ok(());
    }
    let mut batch = WriteBatch::default();
    delete_other_generation(db, &mut batch, volume, live);
    db.write(batch)
}

pub fn state_of(db: &Database, volume: VolumeId) -> Result<VolumeState, StoreError> {
    db.volumes.read().get(&volume).copied().ok_or(StoreError::UnknownVolume(volume))
}

pub fn put_volume_record(
    db: &Database,
    batch: &mut WriteBatch,
    volume: VolumeId,
    state: VolumeState,
    header: &Header,
) {
    let key = volume_record_key(volume);
    let VolumeState { generation, order_bytes, .. } = state;
    let (header, order_bytes) = (header.clone(), Some(order_bytes));
    let record = VolumeRecord { generation, header, order_bytes };
    batch.put_cf(db.family(Family::Tables), &key, seal(&key, &record));
}

/// Deletes the keys of the generation that is not live.
pub fn delete_other_generation(db: &Database, batch: &mut WriteBatch, volume: VolumeId, live: u8) {
    db.delete_prefix(batch, Family::Tables, &tables_prefix(volume, other_generation(live)));
}

fn put_changes(
    db: &Database,
    batch: &mut WriteBatch,
    volume: VolumeId,
    generation: u8,
    changes: &Changes,
) {
    let family = db.family(Family::Tables);
    let mut full = tables_prefix(volume, generation).to_vec();
    for (key, change) in changes {
        full.truncate(size_of::<[u8; 5]>());
        full.extend_from_slice(key);
        match change {
            Some(value) => batch.put_cf(family, &full, value),
            None => batch.delete_cf(family, &full),
        }
    }
}

/// Reads of the newest applied state.
#[derive(Clone)]
pub struct LiveTables {
    db: Arc<Database>,
    volume: VolumeId,
}

impl LiveTables {
    fn now(&self) -> Result<GenerationTables<'_>, StoreError> {
        let prefix = tables_prefix(self.volume, state_of(&self.db, self.volume)?.generation);
        Ok(GenerationTables { db: &self.db, prefix })
    }
}

impl Tables for LiveTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.now()?.get(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        self.now()?.scan(prefix, from, visit)
    }
}

/// The tables as they were when the snapshot was taken. Clones share it.
#[derive(Clone)]
pub struct SnapshotTables {
    inner: Arc<SnapshotInner>,
}

struct SnapshotInner {
    held: HeldSnapshot,
    volume: VolumeId,
    record: VolumeRecord,
}

impl SnapshotTables {
    /// Where the order stood.
    pub fn header(&self) -> &Header {
        &self.inner.record.header
    }

    pub fn volume(&self) -> VolumeId {
        self.inner.volume
    }

    fn prefix(&self) -> [u8; 5] {
        tables_prefix(self.inner.volume, self.inner.record.generation)
    }

    /// Bytes on disk, roughly.
    pub(crate) fn approximate_bytes(&self) -> u64 {
        self.inner.held.db.approximate_bytes(Family::Tables, &self.prefix())
    }

    /// [`Tables::scan`] whose visitor may fail.
    pub(crate) fn try_scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let head = self.prefix();
        let (prefix, from) = ([&head, prefix].concat(), [&head, from].concat());
        self.inner.held.scan(&prefix, &from, &mut |key, value| visit(&key[head.len()..], value))
    }
}

impl Tables for SnapshotTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        Ok(self.inner.held.get(&[&self.prefix(), key].concat())?)
    }

    fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), TablesError> {
        Ok(self.try_scan(prefix, from, &mut |key, value| Ok(visit(key, value)))?)
    }
}

/// A RocksDB snapshot together with the database that it borrows from.
struct HeldSnapshot {
    // Declared before `db`, so dropped before it.
    snapshot: Snapshot<'static>,
    db: Arc<Database>,
}

impl HeldSnapshot {
    fn new(db: Arc<Database>) -> HeldSnapshot {
        let borrowed: *const DB = db.raw();
        // SAFETY: the `DB` lies inside the allocation of the `Arc`, which neither moves nor is
        // freed while `self.db` holds it. The lifetime `'static` does not leave this struct:
        // the field is private, everything borrowed from it below borrows from `self`, and
        // the field order drops the snapshot before the `Arc`. No `&mut DB` can exist beside
        // it, since the `Database` is only reached through the `Arc`.
        let snapshot = unsafe { &*borrowed }.snapshot();
        HeldSnapshot { snapshot, db }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.snapshot.get_cf(self.db.family(Family::Tables), key);
        self.db.noticed(value.map_err(|source| StoreError::reading("read", source)))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let options = scan_options(Family::Tables, prefix, ReadOptions::default());
        let family = self.db.family(Family::Tables);
        let rows = self.snapshot.raw_iterator_cf_opt(family, options);
        self.db.noticed(visit_rows(rows, prefix, from, visit))
    }
}

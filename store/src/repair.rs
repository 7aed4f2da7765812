//! What a node does about its own damaged database, without an operator.
//!
//! The agreed tables and the order are copies of what the other nodes have: damaged or doubted,
//! they are given up, and a peer's checkpoint takes their place. The agreement log is this
//! node's alone. If it can be read to the last synced write, every record with its checksum, it
//! is taken over, and the node goes on as the voter that it was. If not, the node may have
//! forgotten promises and votes: the new database says so ([`Store::is_forgetful`]), and the node
//! must not vote in any epoch in which it may have voted before.
//!
//! The damaged database is moved to `lost+found/`, never deleted before the next repair. Bodies
//! are not touched: their index is taken over or found again, and chunks carry their hashes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use engine::ids::VolumeId;
use rocksdb::WriteBatch;

use crate::counter;
use crate::database::{Database, Family, Place};
use crate::identity::{self, Identity};
use crate::layout::{Layout, remove_file, sync_dir, write_atomic};
use crate::schema::{
    self, AMNESIA_KEY, AcceptedRecord, BOOT_KEY, IDENTITY_KEY, IdentityRecord, LogKey, Number,
    PromisedRecord, StartedRecord, unseal,
};
use crate::store::lock;
use crate::synced::SyncedMark;
use crate::{Options, Store, StoreError};

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Why.
    pub reason: String,
    /// Where the damaged database is now.
    pub kept_at: PathBuf,
    /// Promises and votes are all there. Otherwise the node has to ask for its vote anew.
    pub log_kept: bool,
    /// The node's own tables are there: unpublished stages, the index of bodies.
    pub local_kept: bool,
}

/// Rows of the damaged database that were read whole and found right.
struct Salvage {
    boot: u64,
    log: Option<Log>,
    local: Option<Rows>,
}

struct Log {
    rows: Rows,
    amnesia: Rows,
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Rows of the node's own tables are taken over in batches of about so many bytes.
const BATCH_BYTES: usize = 4 << 20;

/// Starts that a damaged count of starts may have missed. Numbers of starts only must not
/// repeat, so a gap costs nothing.
const BOOTS_SKIPPED: u64 = 1000;

impl Store {
    /// Notes durably that the tables are not to be believed. The next start repairs the store
    /// before it opens it.
    pub fn distrust(&self, reason: &str) -> Result<(), StoreError> {
        write_atomic(&Layout::new(self.dir()).distrusted_file(), reason.as_bytes())
    }

    /// Why the store in `dir` must be repaired before it is used; `None` if nothing is known.
    pub fn distrusted(dir: &Path) -> Result<Option<String>, StoreError> {
        let path = Layout::new(dir).distrusted_file();
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Replaces the database in `dir` by one without agreed tables, which takes over what can
    /// be believed. Begun again after a crash it ends the same way.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if not even the number of starts is known: then the node can't
    /// number its commands any more.
    pub fn repair(dir: &Path, reason: &str, options: &Options) -> Result<Repaired, StoreError> {
        let layout = Layout::new(dir);
        let identity = identity::read(&layout)?;
        let lock = lock(&layout)?;
        layout.make_dirs()?;
        // From here on an interrupted repair is begun again.
        write_atomic(&layout.distrusted_file(), reason.as_bytes())?;
        finish_swap(&layout)?;
        remove_dir(&layout.new_db())?;

        let salvage = salvage(&layout, options, &lock)?;
        build(&layout, options, &identity, &salvage, &lock)?;
        let kept_at = swap(&layout, salvage.boot)?;
        remove_file(&layout.distrusted_file())?;
        sync_dir(dir)?;
        Ok(Repaired {
            reason: reason.to_owned(),
            kept_at,
            log_kept: salvage.log.is_some(),
            local_kept: salvage.local.is_some(),
        })
    }

    /// The log was lost, and this node may have forgotten what it promised and voted for in the
    /// ring of `volume`.
    pub fn is_forgetful(&self, volume: VolumeId) -> Result<bool, StoreError> {
        let lost = self.db().get(Family::Meta, AMNESIA_KEY)?.is_some();
        Ok(lost && self.db().get(Family::Meta, &remembered_key(volume))?.is_none())
    }

    /// Notes durably that this node has come to an epoch of `volume` that it knows from the
    /// beginning: its log tells again what it promised.
    pub fn remember(&self, volume: VolumeId) -> Result<(), StoreError> {
        let (db, key) = (self.db(), remembered_key(volume));
        let mut batch = WriteBatch::default();
        batch.put_cf(db.family(Family::Meta), &key, schema::seal(&key, &StartedRecord {}));
        db.write(batch)?;
        db.sync()
    }
}

fn remembered_key(volume: VolumeId) -> Vec<u8> {
    [AMNESIA_KEY, &volume.0.to_be_bytes()].concat()
}

/// Ends the exchange of databases that a crash interrupted, so that `db/` is there.
fn finish_swap(layout: &Layout) -> Result<(), StoreError> {
    let empty = match fs::read_dir(layout.db()) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => return Err(StoreError::io("read", &layout.db())(error)),
    };
    if empty && layout.new_db().exists() {
        if layout.new_synced_file().exists() {
            fs::rename(layout.new_synced_file(), layout.synced_file())
                .map_err(StoreError::io("rename", &layout.new_synced_file()))?;
        }
        fs::rename(layout.new_db(), layout.db())
            .map_err(StoreError::io("rename", &layout.new_db()))?;
        sync_dir(layout.root())?;
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", dir)),
    }
}

/// Reads what can be believed.
fn salvage(layout: &Layout, options: &Options, lock: &File) -> Result<Salvage, StoreError> {
    let told = counter::read(&layout.boots_file());
    let opened = SyncedMark::open(&layout.synced_file()).and_then(|synced| {
        let lock = lock.try_clone().map_err(StoreError::io("open", &layout.lock_file()))?;
        Database::open(&layout.db(), synced, options, Place::Damaged, lock)
    });
    let db = match opened {
        Ok(db) => db,
        Err(error) => {
            tracing::warn!(%error, "nothing of the database can be taken over");
            let boot = told? + BOOTS_SKIPPED;
            return Ok(Salvage { boot, log: None, local: None });
        }
    };
    let counted = db.get(Family::Meta, BOOT_KEY).and_then(|bytes| match bytes {
        Some(bytes) => Ok(unseal::<Number>("the boot counter", BOOT_KEY, &bytes)?.value),
        None => Err(StoreError::damaged("the boot counter", "it is missing")),
    });
    let boot = match (counted, told) {
        (Ok(counted), Ok(told)) => counted.max(told),
        (Ok(counted), Err(_)) => counted,
        (Err(_), told) => told? + BOOTS_SKIPPED,
    };
    let log = rows(&db, Family::Log, &|key, value| {
        let what = "the agreement log";
        match LogKey::decode(key)? {
            LogKey::Accepted(..) => unseal::<AcceptedRecord>(what, key, value).map(drop),
            LogKey::Promised(_) => unseal::<PromisedRecord>(what, key, value).map(drop),
            LogKey::Started(_) => unseal::<StartedRecord>(what, key, value).map(drop),
        }
    });
    let mut amnesia = Rows::new();
    let read = db.scan(Family::Meta, AMNESIA_KEY, AMNESIA_KEY, &mut |key, value| {
        amnesia.push((key.to_vec(), value.to_vec()));
        Ok(true)
    });
    let log = match (log, read) {
        // What was forgotten before, in some volumes, is still forgotten there.
        (Ok(log), Ok(())) => Some(Log { rows: log, amnesia }),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(%error, "the agreement log cannot be taken over");
            None
        }
    };
    let local = rows(&db, Family::Local, &|_, _| Ok(()));
    let local = local.inspect_err(|error| {
        tracing::warn!(%error, "the node's own tables cannot be taken over");
    });
    Ok(Salvage { boot, log, local: local.ok() })
}

fn rows(
    db: &Database,
    family: Family,
    check: &dyn Fn(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<Rows, StoreError> {
    let mut rows = Rows::new();
    db.scan(family, &[], &[], &mut |key, value| {
        check(key, value)?;
        rows.push((key.to_vec(), value.to_vec()));
        Ok(true)
    })?;
    Ok(rows)
}

/// Makes the new database beside the damaged one, durably.
fn build(
    layout: &Layout,
    options: &Options,
    identity: &Identity,
    salvage: &Salvage,
    lock: &File,
) -> Result<(), StoreError> {
    fs::create_dir(layout.new_db()).map_err(StoreError::io("create", &layout.new_db()))?;
    let synced = SyncedMark::create(&layout.new_synced_file())?;
    let lock = lock.try_clone().map_err(StoreError::io("open", &layout.lock_file()))?;
    let db = Database::open(&layout.new_db(), synced, options, Place::New, lock)?;
    let mut batch = WriteBatch::default();
    let record = IdentityRecord {
        cluster: identity.cluster,
        node: identity.node,
        incarnation: identity.incarnation,
    };
    let meta = db.family(Family::Meta);
    batch.put_cf(meta, IDENTITY_KEY, schema::seal(IDENTITY_KEY, &record));
    let boot = Number { value: salvage.boot };
    batch.put_cf(meta, BOOT_KEY, schema::seal(BOOT_KEY, &boot));
    match &salvage.log {
        Some(log) => {
            log.amnesia.iter().for_each(|(key, value)| batch.put_cf(meta, key, value));
        }
        None => batch.put_cf(meta, AMNESIA_KEY, schema::seal(AMNESIA_KEY, &StartedRecord {})),
    }
    db.write(batch)?;
    let log = salvage.log.as_ref().map(|log| &log.rows);
    for (family, rows) in [(Family::Log, log), (Family::Local, salvage.local.as_ref())] {
        let mut batch = WriteBatch::default();
        for (key, value) in rows.into_iter().flatten() {
            batch.put_cf(db.family(family), key, value);
            if batch.size_in_bytes() >= BATCH_BYTES {
                db.write(std::mem::take(&mut batch))?;
            }
        }
        db.write(batch)?;
    }
    db.sync()
}

/// Puts the new database in the place of the damaged one. Only one damaged one is kept, so
/// that a disk that damages one after the other is not filled by them.
fn swap(layout: &Layout, boot: u64) -> Result<PathBuf, StoreError> {
    let kept = layout.lost_found().join(format!("{boot}-db"));
    for entry in fs::read_dir(layout.lost_found())
        .map_err(StoreError::io("read", &layout.lost_found()))?
        .flatten()
    {
        if entry.file_name().to_string_lossy().ends_with("-db") {
            remove_dir(&entry.path())?;
        }
    }
    fs::rename(layout.db(), &kept).map_err(StoreError::io("rename", &layout.db()))?;
    sync_dir(&layout.lost_found())?;
    // The old mark belongs to the old database; a start between the two renames finds no
    // database, and the distrust that makes it repair again.
    fs::rename(layout.new_synced_file(), layout.synced_file())
        .map_err(StoreError::io("rename", &layout.new_synced_file()))?;
    fs::rename(layout.new_db(), layout.db()).map_err(StoreError::io("rename", &layout.new_db()))?;
    sync_dir(layout.root())?;
    Ok(kept)
}

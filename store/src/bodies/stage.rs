//! Files that are being written: the only copies of their bytes.
//!
//! A stage is a file `stage/ID` and a record in the local tables that says whose it is. The
//! record is what a restart goes by: a stage without one is moved to `lost+found`.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::ids::{BodyId, Ino, Version, VolumeId};
use engine::time::Timestamp;
use parking_lot::Mutex;

use super::Bodies;
use super::index::{self, IndexBatch, stage_key};
use super::space::SpaceGuard;
use crate::StoreError;
use crate::database::Database;
use crate::layout::{Layout, remove_file, sync_dir};

/// Names a stage: `| boot u32 | count u32 |`, so never reused in one store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StageId(pub u64);

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What the journal knows of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageRecord {
    pub id: StageId,
    pub volume: VolumeId,
    pub ino: Ino,
    /// The version that was current when the stage was made.
    pub base: Version,
    /// Bytes.
    pub size: u64,
    pub mtime: Timestamp,
    pub state: StageState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageState {
    /// After a crash its file holds what the kernel had written.
    Open,
    /// `size` bytes are durable.
    Synced,
    /// Its bytes are this sealed body; it waits for its publish to be agreed.
    Sealed(BodyId),
    /// An fsync of it failed. Its bytes are not to be believed; the version before it stays.
    Quarantined,
}

/// A stage, open for reading and writing.
pub struct Stage {
    id: StageId,
    file: File,
    path: PathBuf,
    dir: PathBuf,
    db: Arc<Database>,
    space: Arc<SpaceGuard>,
    quarantined: Arc<Mutex<BTreeSet<StageId>>>,
    /// Its name in the directory is durable.
    named: AtomicBool,
}

impl Stage {
    pub fn id(&self) -> StageId {
        self.id
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] before the reserve is touched.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.space.admit(bytes.len() as u64)?;
        self.file.write_all_at(bytes, offset).map_err(StoreError::io("write", &self.path))
    }

    /// Reads at `offset`; less than `buf` only at the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", &self.path)(error)),
            }
        }
        Ok(done)
    }

    pub fn set_len(&self, len: u64) -> Result<(), StoreError> {
        self.file.set_len(len).map_err(StoreError::io("resize", &self.path))
    }

    pub fn len(&self) -> Result<u64, StoreError> {
        Ok(self.file.metadata().map_err(StoreError::io("measure", &self.path))?.len())
    }

    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// Makes bytes, length and name durable. Write a record with [`StageState::Synced`] and
    /// sync it before the application is told so.
    ///
    /// # Errors
    /// A failure quarantines the stage for good: the kernel may have dropped the bytes, so
    /// neither a second try nor a seal is believed.
    pub fn sync(&self) -> Result<(), StoreError> {
        if self.quarantined.lock().contains(&self.id) {
            let error = io::Error::other("an earlier sync of it failed");
            return Err(StoreError::io("sync", &self.path)(error));
        }
        let sync = || {
            self.file.sync_data().map_err(StoreError::io("sync", &self.path))?;
            if !self.named.load(Ordering::Acquire) {
                sync_dir(&self.dir)?;
                self.named.store(true, Ordering::Release);
            }
            Ok(())
        };
        sync().inspect_err(|error| {
            quarantine(&self.db, &self.quarantined, self.id, error);
        })
    }
}

impl Bodies {
    /// Makes a new, empty stage. Write its record before bytes that matter.
    pub fn stage_create(&self) -> Result<Stage, StoreError> {
        let count = self.stages_made.fetch_add(1, Ordering::Relaxed);
        // A store with 2^32 starts or stages per start is not reached in its lifetime.
        let id = StageId(self.boot << 32 | (count & 0xffff_ffff));
        let path = stage_path(&self.layout, id);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        Ok(self.stage(id, file, path))
    }

    /// Opens a stage again, after a restart or for another user.
    pub fn stage_open(&self, id: StageId) -> Result<Stage, StoreError> {
        let path = stage_path(&self.layout, id);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        Ok(self.stage(id, file, path))
    }

    fn stage(&self, id: StageId, file: File, path: PathBuf) -> Stage {
        Stage {
            id,
            file,
            path,
            dir: self.layout.stage(),
            db: Arc::clone(&self.db),
            space: Arc::clone(&self.space),
            quarantined: Arc::clone(&self.quarantined),
            named: AtomicBool::new(false),
        }
    }

    /// Writes the journal record of a stage; durable when it returns if `sync` is set.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a stage that a failed sync has quarantined.
    pub fn stage_record(&self, record: &StageRecord, sync: bool) -> Result<(), StoreError> {
        self.refuse_quarantined(record.id)?;
        let mut batch = IndexBatch::new(&self.db);
        batch.put_stage(record, false);
        batch.write()?;
        if sync { self.db.sync() } else { Ok(()) }
    }

    /// The stages that the journal knows, in the order they were made.
    pub fn stages(&self) -> Result<Vec<StageRecord>, StoreError> {
        let mut records = Vec::new();
        index::scan_stages(&self.db, &mut |_, record| records.extend(record))?;
        Ok(records)
    }

    /// Forgets a stage and frees its file. After a power loss it may be back, as it was.
    pub fn stage_remove(&self, id: StageId) -> Result<(), StoreError> {
        // The record must outlive the file's name: without it the file could not be explained
        // after power loss. So it is marked now, and deleted when the name is durably gone.
        let record = index::stage(&self.db, id)?;
        if let Some(record) = record {
            let mut batch = IndexBatch::new(&self.db);
            batch.put_stage(&record, true);
            batch.write()?;
        }
        remove_file(&stage_path(&self.layout, id))?;
        self.quarantined.lock().remove(&id);
        if record.is_some() {
            self.forget_removed(id)?;
        }
        Ok(())
    }

    pub(super) fn refuse_quarantined(&self, stage: StageId) -> Result<(), StoreError> {
        let recorded = index::stage(&self.db, stage)?.map(|record| record.state);
        if recorded == Some(StageState::Quarantined) || self.quarantined.lock().contains(&stage) {
            let detail = format!("stage {stage} is quarantined: a sync of it failed");
            return Err(StoreError::Invalid(detail));
        }
        Ok(())
    }

    fn forget_removed(&self, id: StageId) -> Result<(), StoreError> {
        const FORGET_AT: usize = 256;
        let due = {
            let mut removed = self.removed.lock();
            removed.push(id);
            if removed.len() < FORGET_AT {
                return Ok(());
            }
            std::mem::take(&mut *removed)
        };
        sync_dir(&self.layout.stage())?;
        let mut batch = IndexBatch::new(&self.db);
        for id in due {
            batch.delete(stage_key(id));
        }
        batch.write()
    }
}

/// Marks a stage as not to be believed, here and for the next start.
pub fn quarantine(
    db: &Database,
    quarantined: &Mutex<BTreeSet<StageId>>,
    id: StageId,
    error: &StoreError,
) {
    tracing::error!(stage = %id, error = %error.chain(), "a stage is quarantined");
    quarantined.lock().insert(id);
    let mark = || {
        let Some(record) = index::stage(db, id)? else { return Ok(()) };
        let mut batch = IndexBatch::new(db);
        batch.put_stage(&StageRecord { state: StageState::Quarantined, ..record }, false);
        batch.write()?;
        db.sync()
    };
    if let Err(error) = mark() {
        tracing::error!(stage = %id, error = %error.chain(), "cannot note the quarantine");
    }
}

pub fn stage_path(layout: &Layout, id: StageId) -> PathBuf {
    layout.stage().join(id.to_string())
}

/// The name of a stage of `len` bytes while it is being turned into a container: what lies
/// behind them is not its content.
pub fn sealing_path(layout: &Layout, id: StageId, len: u64) -> PathBuf {
    layout.stage().join(format!("{id}.seal-{len}"))
}

/// What a name in `stage/` says.
pub enum StageName {
    Plain(StageId),
    Sealing(StageId, u64),
}

pub fn parse_name(name: &str) -> Option<StageName> {
    let (digits, rest) = name.split_at_checked(16)?;
    let id = StageId(u64::from_str_radix(digits, 16).ok()?);
    if id.to_string() != digits {
        return None;
    }
    match rest.strip_prefix(".seal-") {
        Some(len) => Some(StageName::Sealing(id, len.parse().ok()?)),
        None if rest.is_empty() => Some(StageName::Plain(id)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use engine::ids::NodeId;

    use super::*;
    use crate::bodies::{Seal, SmallBody};
    use crate::{Identity, Options, Store};

    #[test]
    fn a_stage_whose_sync_failed_is_never_believed_again() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::new([1; 16], NodeId(1)).unwrap();
        let options = Options { reserve_bytes: 0, ..Options::default() };
        let store = Store::create(dir.path(), &identity, &options).unwrap();
        let stage = store.bodies().stage_create().unwrap();
        let id = stage.id();
        let record = StageRecord {
            id,
            volume: VolumeId(1),
            ino: Ino(20),
            base: Version(0),
            size: 1,
            mtime: Timestamp::new(0, 0),
            state: StageState::Open,
        };
        store.bodies().stage_record(&record, false).unwrap();
        stage.write_at(0, b"x").unwrap();
        let failure = StoreError::Invalid("as a failed fdatasync would".to_owned());
        quarantine(&stage.db, &stage.quarantined, id, &failure);
        assert!(stage.sync().is_err());
        let synced = StageRecord { state: StageState::Synced, ..record };
        assert!(matches!(store.bodies().stage_record(&synced, true), Err(StoreError::Invalid(_))));
        drop((stage, store));

        let store = Store::open(dir.path(), &options).unwrap();
        assert_eq!(store.bodies().stages().unwrap()[0].state, StageState::Quarantined);
        let manifest = engine::chunking::Manifest::new(1, vec![]).unwrap();
        let body = SmallBody { id: BodyId([1; 32]), manifest, bytes: vec![0] };
        let sealed = store.bodies().seal(&[Seal::Small { body, stage: Some(id) }]);
        assert!(matches!(sealed, Err(StoreError::Invalid(_))));
        assert!(store.bodies().stage_open(id).is_ok(), "its file is kept for a diagnosis");
    }
}

//! A store: created once, opened by one process at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::ids::{Ino, NodeId};
use rocksdb::WriteBatch;
use rustix::fs::FlockOperation;

use crate::bodies::Bodies;
use crate::counter;
use crate::database::{Database, Family, Place};
use crate::identity::{self, Identity};
use crate::layout::{Layout, make_dir, remove_file, sync_dir, write_atomic};
use crate::schema::{self, BOOT_KEY, IDENTITY_KEY, IdentityRecord, Number};
use crate::synced::SyncedMark;
use crate::{StoreError, tables};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cache of uncompressed blocks of the database, filters and indexes included.
    pub block_cache_bytes: usize,
    /// Bound on all of the database's unflushed memory together.
    pub write_buffer_bytes: usize,
    /// Free space that bodies may not use, so that the log can always be written.
    pub reserve_bytes: u64,
    /// Refuse a store of another cluster or node.
    pub expect: Option<([u8; 16], NodeId)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            block_cache_bytes: 128 << 20,
            write_buffer_bytes: 64 << 20,
            // Twice what the log and a flush of all memory can take, plus what `admit` lets
            // through between two looks at the disk.
            reserve_bytes: 1 << 30,
            expect: None,
        }
    }
}

/// An open store. Clones share it; it is closed when the last one is dropped, with everything
/// that was taken from it: tables, snapshots, stages, parts.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    identity: Identity,
    boot: u64,
    db: Arc<Database>,
    bodies: Bodies,
}

impl Store {
    /// Makes a new store in `dir` and opens it. `dir` may exist and may hold `identity/`.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if `dir` holds a store.
    pub fn create(dir: &Path, identity: &Identity, options: &Options) -> Result<Store, StoreError> {
        let layout = Layout::new(dir);
        if layout.format_file().exists() {
            return Err(StoreError::AlreadyExists { dir: dir.to_owned() });
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(StoreError::io("create the directory", dir))?;
        let lock = lock(&layout)?;
        clear_unfinished(&layout)?;
        File::create(layout.creating_file())
            .map_err(StoreError::io("create", &layout.creating_file()))?;
        layout.make_dirs()?;
        let synced = SyncedMark::create(&layout.synced_file())?;
        let db = Database::open(&layout.db(), synced, options, Place::New, lock)?;
        let mut batch = WriteBatch::default();
        let record = IdentityRecord {
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
        };
        batch.put_cf(db.family(Family::Meta), IDENTITY_KEY, schema::seal(IDENTITY_KEY, &record));
        db.write(batch)?;
        db.sync()?;
        counter::write(&layout.inodes_file(), Ino::FIRST_COUNTER)?;
        // The format file last: with it the directory is a store.
        identity::write(&layout, identity)?;
        remove_file(&layout.creating_file())?;
        sync_dir(dir)?;
        Store::start(layout, identity.clone(), db, options)
    }

    /// Opens the store in `dir`, counts the start, and clears what a crash left behind.
    ///
    /// # Errors
    /// Refuses, before anything is changed, a directory without a store, a store of a newer
    /// version, of another node or cluster, one that another process uses, and one whose
    /// files or log are damaged.
    pub fn open(dir: &Path, options: &Options) -> Result<Store, StoreError> {
        let layout = Layout::new(dir);
        let identity = identity::read(&layout)?;
        if let Some((cluster, node)) = options.expect
            && (cluster, node) != (identity.cluster, identity.node)
        {
            return Err(wrong_identity(dir, &identity, cluster, node));
        }
        let lock = lock(&layout)?;
        layout.make_dirs()?;
        if let Some(reason) = Store::distrusted(dir)? {
            return Err(StoreError::damaged("the database", reason));
        }
        let synced = SyncedMark::open(&layout.synced_file())?;
        let db = Database::open(&layout.db(), synced, options, Place::Sound, lock)?;

        let record: IdentityRecord = match db.get(Family::Meta, IDENTITY_KEY)? {
            Some(bytes) => schema::unseal("the identity record", IDENTITY_KEY, &bytes)?,
            None => return Err(StoreError::damaged("the database", "it names no owner")),
        };
        let owner = Identity {
            cluster: record.cluster,
            node: record.node,
            incarnation: record.incarnation,
        };
        if owner != identity {
            // Two stores were mixed: the database's promises are not this node's.
            return Err(wrong_identity(dir, &owner, identity.cluster, identity.node));
        }
        Store::start(layout, identity, db, options)
    }

    fn start(
        layout: Layout,
        identity: Identity,
        db: Database,
        options: &Options,
    ) -> Result<Store, StoreError> {
        let boot = count_boot(&db, &layout)?;
        tables::load_volumes(&db)?;
        let db = Arc::new(db);
        let bodies = Bodies::open(layout.clone(), Arc::clone(&db), boot, options.reserve_bytes)?;
        Ok(Store { shared: Arc::new(Shared { layout, identity, boot, db, bodies }) })
    }

    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Counts the starts of this store: 1, 2, 3, ... Durable before `open` returns.
    pub fn boot(&self) -> u64 {
        self.shared.boot
    }

    /// The inode numbers that this node may have given out, up to this one (exclusive). Noted
    /// beside the database, they outlive it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the note is lost.
    pub fn inodes_reserved(&self) -> Result<u64, StoreError> {
        counter::read(&self.shared.layout.inodes_file())
    }

    /// Reserves inode numbers up to `upto` (exclusive), durably.
    pub fn reserve_inodes(&self, upto: u64) -> Result<(), StoreError> {
        counter::write(&self.shared.layout.inodes_file(), upto)
    }

    pub fn dir(&self) -> &Path {
        self.shared.layout.root()
    }

    /// Where keys and certificates are kept (mode 0700).
    pub fn identity_dir(&self) -> PathBuf {
        self.shared.layout.identity()
    }

    /// Why the store stopped, if a write or fsync failed.
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.db.poisoned()
    }

    /// What was read and is not what was written, if anything: the database is not to be
    /// believed any more.
    pub fn damage(&self) -> Option<&str> {
        self.shared.db.damage()
    }

    /// Keeps a copy of the database, by hard links, in `STORE/evidence/NAME`, with the reason
    /// in a file beside it. One of that name that is there stays as it is.
    pub fn keep_evidence(&self, name: &str, reason: &str) -> Result<PathBuf, StoreError> {
        let layout = &self.shared.layout;
        make_dir(&layout.evidence())?;
        let dir = layout.evidence().join(name);
        if make_dir(&dir)? {
            write_atomic(&dir.join("why.txt"), reason.as_bytes())?;
            self.db().checkpoint(&dir.join("db"))?;
            sync_dir(&layout.evidence())?;
        }
        Ok(dir)
    }

    pub fn bodies(&self) -> &Bodies {
        &self.shared.bodies
    }

    /// Makes everything that was written before the call durable. Threads that call at the
    /// same time share one fsync; writers are not held up by it.
    ///
    /// # Errors
    /// Any error is final: the store is poisoned.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.shared.db.sync()
    }

    /// Makes a consistent copy of the database in `STORE/checkpoints/NAME`, by hard links.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if there is one of that name, or the name is not a plain one.
    pub fn checkpoint(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || !name.chars().all(plain) {
            return Err(StoreError::Invalid(format!(
                "'{name}' cannot name a checkpoint: use letters, digits, '-' and '_'"
            )));
        }
        let path = self.shared.layout.checkpoints().join(name);
        if path.exists() {
            return Err(StoreError::Invalid(format!("checkpoint '{name}' exists")));
        }
        self.db().checkpoint(&path)?;
        sync_dir(&self.shared.layout.checkpoints())?;
        Ok(path)
    }

    pub(crate) fn db(&self) -> &Arc<Database> {
        &self.shared.db
    }
}

/// Takes the store for this process until the file is closed.
pub fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock_file();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(StoreError::Locked { dir: layout.root().to_owned() })
        }
        Err(error) => Err(StoreError::io("lock", &path)(error.into())),
    }
}

/// Removes what an interrupted `create` left. Without its mark, a database without a format
/// file may be somebody's data, and stays.
fn clear_unfinished(layout: &Layout) -> Result<(), StoreError> {
    let occupied = match fs::read_dir(layout.db()) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(StoreError::io("read", &layout.db())(error)),
    };
    if !occupied {
        return Ok(());
    }
    if !layout.creating_file().exists() {
        return Err(StoreError::damaged(
            layout.format_file().display().to_string(),
            "it is missing beside a database",
        ));
    }
    fs::remove_dir_all(layout.db()).map_err(StoreError::io("remove", &layout.db()))
}

fn count_boot(db: &Database, layout: &Layout) -> Result<u64, StoreError> {
    let before = match db.get(Family::Meta, BOOT_KEY)? {
        Some(bytes) => schema::unseal::<Number>("the boot counter", BOOT_KEY, &bytes)?.value,
        None => 0,
    };
    let boot = Number { value: before + 1 };
    let mut batch = WriteBatch::default();
    batch.put_cf(db.family(Family::Meta), BOOT_KEY, schema::seal(BOOT_KEY, &boot));
    db.write(batch)?;
    db.sync()?;
    counter::write(&layout.boots_file(), boot.value)?;
    Ok(boot.value)
}

fn wrong_identity(dir: &Path, found: &Identity, cluster: [u8; 16], node: NodeId) -> StoreError {
    StoreError::WrongIdentity {
        dir: dir.to_owned(),
        found: found.node,
        found_cluster: identity::hex(&found.cluster),
        wanted: node,
        wanted_cluster: identity::hex(&cluster),
    }
}

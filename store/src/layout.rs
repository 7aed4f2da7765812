//! Where things lie in a store's directory, and the few file operations whose order decides
//! what survives.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use engine::ids::BodyId;

use crate::StoreError;

/// Paths of a store.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// Which of the two homes a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// Held because policy says so; never evicted.
    Objects,
    /// Held for use; may be evicted.
    Cache,
}

impl Layout {
    pub fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn format_file(&self) -> PathBuf {
        self.root.join("format")
    }

    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Exists while a store is being created: what is there then may be removed.
    pub fn creating_file(&self) -> PathBuf {
        self.root.join("creating")
    }

    pub fn synced_file(&self) -> PathBuf {
        self.root.join("synced")
    }

    /// Exists while the database is not to be believed: why.
    pub fn distrusted_file(&self) -> PathBuf {
        self.root.join("distrusted")
    }

    /// The number of starts, for when the database is lost.
    pub fn boots_file(&self) -> PathBuf {
        self.root.join("boots")
    }

    /// The inode numbers that may be in use, for when the database is lost.
    pub fn inodes_file(&self) -> PathBuf {
        self.root.join("inodes")
    }

    /// The database that takes the place of a damaged one, while it is being made.
    pub fn new_db(&self) -> PathBuf {
        self.root.join("db.new")
    }

    pub fn new_synced_file(&self) -> PathBuf {
        self.root.join("synced.new")
    }

    /// Copies of databases that went wrong, for a diagnosis.
    pub fn evidence(&self) -> PathBuf {
        self.root.join("evidence")
    }

    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    pub fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    pub fn stage(&self) -> PathBuf {
        self.root.join("stage")
    }

    pub fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    pub fn part(&self) -> PathBuf {
        self.root.join("part")
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    pub fn lost_found(&self) -> PathBuf {
        self.root.join("lost+found")
    }

    pub fn area(&self, area: Area) -> PathBuf {
        match area {
            Area::Objects => self.root.join("objects"),
            Area::Cache => self.root.join("cache"),
        }
    }

    /// `objects/ab` for ids that begin with `ab`.
    pub fn container_dir(&self, area: Area, id: BodyId) -> PathBuf {
        self.area(area).join(format!("{:02x}", id.0[0]))
    }

    pub fn container(&self, area: Area, id: BodyId) -> PathBuf {
        self.container_dir(area, id).join(id.to_hex())
    }

    pub fn part_file(&self, id: BodyId) -> PathBuf {
        self.part().join(id.to_hex())
    }

    /// Makes every directory that is missing, durably, but for those that fan containers out:
    /// see [`Layout::make_container_dir`]. Mode 0700: bodies are as secret as the files they
    /// come from.
    pub fn make_dirs(&self) -> Result<(), StoreError> {
        let dirs = [
            self.identity(),
            self.db(),
            self.stage(),
            self.packs(),
            self.part(),
            self.checkpoints(),
            self.lost_found(),
            self.area(Area::Objects),
            self.area(Area::Cache),
        ];
        let mut made = false;
        for dir in dirs {
            made |= make_dir(&dir)?;
        }
        if made { sync_dir(&self.root) } else { Ok(()) }
    }

    /// Makes the directory for the container of `id`, durably, if it is missing.
    pub fn make_container_dir(&self, area: Area, id: BodyId) -> Result<PathBuf, StoreError> {
        let dir = self.container_dir(area, id);
        if make_dir(&dir)? {
            sync_dir(&self.area(area))?;
        }
        Ok(dir)
    }
}

/// Whether it was missing.
pub fn make_dir(dir: &Path) -> Result<bool, StoreError> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(false),
        Err(error) => Err(StoreError::io("create the directory", dir)(error)),
    }
}

/// Makes names that were created, renamed or removed in `dir` survive power loss.
pub fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(StoreError::io("sync", dir))
}

/// Removes a file; one that is gone already is fine.
pub fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", path)),
    }
}

/// Replaces `path` by a file with `bytes`: after a crash it holds the old or the new ones.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let dir = path.parent().expect("the store's files lie in a directory");
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(StoreError::io("write", path))?;
    sync_dir(dir)
}

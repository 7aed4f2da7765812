//! What can go wrong with bytes that must survive, and what the operator can do about it.

use std::io;
use std::path::{Path, PathBuf};

use engine::ids::{BodyId, NodeId, VolumeId};
use engine::namespace::tables::TablesError;

/// `Display` says this layer's part; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{dir} holds no FusionFS store; create one with `fusion init` or `fusion join`")]
    NotAStore { dir: PathBuf },
    #[error("{dir} already holds a FusionFS store; choose another directory, or remove this one")]
    AlreadyExists { dir: PathBuf },
    #[error("another process uses the store in {dir}; stop that `fusion serve` first")]
    Locked { dir: PathBuf },
    #[error(
        "the store in {dir} has format {found}, this program knows {supported}; \
         start the newer `fusion` that wrote it"
    )]
    NewerVersion { dir: PathBuf, found: u32, supported: u32 },
    #[error(
        "the store in {dir} belongs to node {found} of cluster {found_cluster}, but this daemon \
         is node {wanted} of cluster {wanted_cluster}; give it its own store directory"
    )]
    WrongIdentity {
        dir: PathBuf,
        found: NodeId,
        found_cluster: String,
        wanted: NodeId,
        wanted_cluster: String,
    },
    /// Stored bytes are not what was written. A node whose log or tables are damaged must not
    /// vote again: it may have forgotten a promise.
    #[error(
        "the store is damaged: {what}: {detail}; keep the directory for a diagnosis, remove the \
         node, and let it join again with an empty store"
    )]
    Damaged { what: String, detail: String },
    /// One body's local copy is not what was written. Other nodes' copies are not affected:
    /// delete this one and fetch it again.
    #[error("the local copy of body {id} is damaged: {detail}")]
    DamagedBody { id: BodyId, detail: String },
    /// A write or fsync failed before, so memory and disk may differ. Only a restart, which
    /// reads what the disk really holds, helps.
    #[error("the store stopped after a failed write ({reason}); fix the disk, then restart")]
    Poisoned { reason: String },
    #[error(
        "not enough space: {needed_bytes} bytes wanted, {free_bytes} free, of which \
         {reserve_bytes} are kept for the log; free some space"
    )]
    NoSpace { needed_bytes: u64, free_bytes: u64, reserve_bytes: u64 },
    #[error("volume {0} has no tables in this store")]
    UnknownVolume(VolumeId),
    #[error("volume {0} has tables in this store already")]
    VolumeExists(VolumeId),
    /// The caller's or a peer's data does not fit what is stored; nothing was changed.
    #[error("{0}")]
    Invalid(String),
    #[error("cannot {doing} {path}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the database cannot {doing}")]
    Database {
        doing: &'static str,
        #[source]
        source: rocksdb::Error,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { doing, path, source }
    }

    pub(crate) fn damaged(what: impl Into<String>, detail: impl ToString) -> StoreError {
        StoreError::Damaged { what: what.into(), detail: detail.to_string() }
    }

    /// An error while reading: RocksDB reports a failed checksum as `Corruption`.
    pub(crate) fn reading(doing: &'static str, source: rocksdb::Error) -> StoreError {
        if source.kind() == rocksdb::ErrorKind::Corruption {
            return StoreError::damaged("the database", source);
        }
        StoreError::Database { doing, source }
    }

    /// The message with its causes, for logs and for errors that keep only text.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<StoreError> for TablesError {
    fn from(error: StoreError) -> TablesError {
        TablesError(error.chain())
    }
}

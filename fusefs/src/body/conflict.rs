//! Bytes that no version could take: kept, listed, never dropped.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use engine::ids::{Ino, Version};
use minicbor::{Decode, Encode};
use store::{LocalBatch, StoreError};

use super::BodyService;
use super::content::{Content, fill};
use super::error::{stored, written_to_disk};
use super::layer::LayerId;
use super::table::OpenBody;
use crate::ops::ports::BodyError;

/// A version that was refused because another one came first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub ino: Ino,
    /// The version that the bytes were based on.
    pub base: Version,
    /// The version that the file had instead.
    pub current: Version,
    pub size_bytes: u64,
    /// The local file that holds the bytes.
    pub kept_at: PathBuf,
}

/// `| version u8 = 1 | this in CBOR |` under `"conflict" | volume u32 be | layer u64 be`.
#[derive(Encode, Decode)]
#[cbor(array)]
struct ConflictRecord {
    #[n(0)]
    ino: Ino,
    #[n(1)]
    base: Version,
    #[n(2)]
    current: Version,
    #[n(3)]
    size: u64,
    /// Below the store's directory.
    #[n(4)]
    file: String,
}

const PREFIX: &[u8] = b"conflict";
const VERSION: u8 = 1;
const COPY_BYTES: u64 = 1 << 20;

impl BodyService {
    /// The conflicts of this node, oldest first.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let listed = self.store.local_scan(&self.conflict_prefix(), &mut |_, value| {
            let record = value.strip_prefix(&[VERSION]);
            match record.map(minicbor::decode::<ConflictRecord>) {
                Some(Ok(record)) => conflicts.push(Conflict {
                    ino: record.ino,
                    base: record.base,
                    current: record.current,
                    size_bytes: record.size,
                    kept_at: self.store.dir().join(record.file),
                }),
                _ => tracing::error!("a conflict record cannot be read"),
            }
            true
        });
        if let Err(error) = listed {
            tracing::error!(error = %error.chain(), "the conflicts cannot be listed");
        }
        conflicts
    }

    /// Copies a refused version to a plain file, durably, and notes it.
    pub(super) fn keep_conflict(
        &self,
        ino: Ino,
        layer: LayerId,
        base: Version,
        content: &Content,
        current: Version,
    ) -> Result<(), BodyError> {
        let file = format!("lost+found/conflict-{ino}-{base}-{:016x}", layer.0);
        self.copy_out(content, &file)?;
        let record = ConflictRecord { ino, base, current, size: content.size, file };
        let mut bytes = vec![VERSION];
        minicbor::encode(&record, &mut bytes).expect("writing into memory does not fail");
        self.note_conflict(layer, &bytes).map_err(stored)?;
        self.counters.conflicts.add(1);
        tracing::warn!(%ino, %base, %current, kept_at = record.file, "conflict");
        Ok(())
    }

    fn note_conflict(&self, layer: LayerId, record: &[u8]) -> Result<(), StoreError> {
        let key = [&self.conflict_prefix()[..], &layer.0.to_be_bytes()].concat();
        self.store.local_write(LocalBatch::new().put(&key, record), true)
    }

    fn copy_out(&self, content: &Content, file: &str) -> Result<(), BodyError> {
        let path = self.store.dir().join(file);
        let mut options = File::options();
        // An earlier attempt may have been cut off by a crash.
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path).map_err(written_to_disk)?;
        file.set_len(content.size).map_err(written_to_disk)?;
        let mut at = 0;
        while at < content.valid_len {
            let end = content.valid_len.min(at + COPY_BYTES);
            let mut plan = Vec::new();
            content.plan(at..end, &mut plan);
            let mut bytes = vec![0; (end - at) as usize];
            fill::<Unreadable>(&plan, &mut bytes, &|id, offset, part| match self
                .read_sealed(id, offset, part)
            {
                Ok(true) => Ok(()),
                Ok(false) => Err(Unreadable(BodyError::Damaged(format!("body {id} is gone")))),
                Err(error) => Err(Unreadable(error)),
            })
            .map_err(|Unreadable(error)| error)?;
            file.write_all_at(&bytes, at).map_err(written_to_disk)?;
            at = end;
        }
        file.sync_all().map_err(written_to_disk)?;
        let dir = path.parent().expect("it lies in a directory");
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(written_to_disk)
    }

    /// A layer whose sync failed is not believed any more, nor what lies on top of it: the
    /// file goes back to the version before. The bytes stay in the store for a diagnosis.
    pub(super) fn put_aside(&self, body: &OpenBody, layer: LayerId) {
        let mut aside = Vec::new();
        if let Some(mut state) = body.loaded() {
            if state.sealing_of(layer).is_some() {
                aside.extend(state.sealing.take().map(|sealing| sealing.frozen.layer.id()));
                aside.extend(state.top.take().map(|top| top.layer.id()));
            } else if state.top.as_ref().is_some_and(|top| top.layer.id() == layer) {
                aside.extend(state.top.take().map(|top| top.layer.id()));
            }
            state.given_up = aside.last().copied().or(state.given_up);
        }
        for layer in aside {
            tracing::error!(ino = %body.ino, layer = layer.0, "what was written is put aside");
            self.forget_record(body.ino, layer);
        }
        self.counters.put_aside.add(1);
        body.settled.notify_waiters();
        self.reverted(body.ino);
    }

    fn conflict_prefix(&self) -> Vec<u8> {
        [PREFIX, &self.settings.volume.0.to_be_bytes()].concat()
    }
}

struct Unreadable(BodyError);

impl From<StoreError> for Unreadable {
    fn from(error: StoreError) -> Unreadable {
        Unreadable(stored(error))
    }
}

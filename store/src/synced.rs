//! Remembers how far the database was known to be durable.
//!
//! After power loss the end of RocksDB's write-ahead log is missing or torn, and that is
//! fine: nothing of it was believed. RocksDB's point-in-time recovery keeps everything before
//! the first flaw. But a flaw *before* the last fsync is no torn end: it is damage, and a
//! node that went on without those records would break its promises. So after each fsync the
//! sequence number that it covered is written to the file `synced`, and an open that recovers
//! less than that is refused.
//!
//! The file itself is not synced each time: what it says was true when it was written, so an
//! older statement after power loss is still true, and only less strict.
//!
//! Two slots, 4096 bytes apart and written in turn, so that a torn write leaves one:
//! `| magic "FUSSYNC1" | count u64 le | sequence u64 le | crc32c u32 le |`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::StoreError;

const MAGIC: &[u8; 8] = b"FUSSYNC1";
const SLOT_STRIDE_BYTES: u64 = 4096;
const SLOT_BYTES: usize = 28;

pub struct SyncedMark {
    file: File,
    path: PathBuf,
    slot: Mutex<Slot>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    count: u64,
    sequence: u64,
}

impl SyncedMark {
    /// Makes the file of a new store, durably.
    pub fn create(path: &Path) -> Result<SyncedMark, StoreError> {
        let create = || {
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(path)?;
            for count in 0..2 {
                file.write_all_at(
                    &Slot { count, sequence: 0 }.encode(),
                    count * SLOT_STRIDE_BYTES,
                )?;
            }
            file.sync_all()?;
            Ok(file)
        };
        let file = create().map_err(StoreError::io("create", path))?;
        Ok(SyncedMark { file, path: path.to_owned(), slot: Mutex::new(Slot::default()) })
    }

    /// Opens the file of an existing store.
    pub fn open(path: &Path) -> Result<SyncedMark, StoreError> {
        let file = match File::options().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::damaged(path.display().to_string(), "it is missing"));
            }
            other => other.map_err(StoreError::io("open", path))?,
        };
        let slot = [0, SLOT_STRIDE_BYTES]
            .into_iter()
            .filter_map(|offset| {
                let mut bytes = [0; SLOT_BYTES];
                file.read_exact_at(&mut bytes, offset).ok()?;
                Slot::decode(&bytes)
            })
            .max_by_key(|slot| slot.count)
            .ok_or_else(|| {
                StoreError::damaged(path.display().to_string(), "neither of its slots is whole")
            })?;
        Ok(SyncedMark { file, path: path.to_owned(), slot: Mutex::new(slot) })
    }

    /// The newest sequence number known to be durable.
    pub fn sequence(&self) -> u64 {
        self.slot.lock().sequence
    }

    /// Notes that everything up to `sequence` is durable.
    pub fn advance(&self, sequence: u64) -> Result<(), StoreError> {
        let mut slot = self.slot.lock();
        if sequence <= slot.sequence {
            return Ok(());
        }
        let next = Slot { count: slot.count + 1, sequence };
        self.file
            .write_all_at(&next.encode(), next.count % 2 * SLOT_STRIDE_BYTES)
            .map_err(StoreError::io("write", &self.path))?;
        *slot = next;
        Ok(())
    }
}

impl Slot {
    fn encode(self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Slot> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let checksum = u32::from_le_bytes(bytes[24..].try_into().expect("4 bytes"));
        let whole = &bytes[..8] == MAGIC && crc32c::crc32c(&bytes[..24]) == checksum;
        whole.then(|| Slot { count: number(8), sequence: number(16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("synced");
        let mark = SyncedMark::create(&path).unwrap();
        mark.advance(10).unwrap();
        mark.advance(20).unwrap();
        mark.advance(15).unwrap();
        assert_eq!(SyncedMark::open(&path).unwrap().sequence(), 20);

        // The slot of 20 is torn: the one of 10 is older, but still true.
        let newest = mark.slot.lock().count % 2 * SLOT_STRIDE_BYTES;
        mark.file.write_all_at(&[0xff], newest + 17).unwrap();
        assert_eq!(SyncedMark::open(&path).unwrap().sequence(), 10);

        mark.file.write_all_at(&[0xff], SLOT_STRIDE_BYTES - newest + 17).unwrap();
        assert!(matches!(SyncedMark::open(&path), Err(StoreError::Damaged { .. })));
    }
}

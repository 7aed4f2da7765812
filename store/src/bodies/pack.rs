//! Small sealed bodies, one after the other in append-only files `packs/XXXXXXXX` (the pack's
//! number in hexadecimal):
//!
//! ```text
//! | magic "FPK1" | body id 32 | body len u32 | manifest len u32 | flags u32
//! | crc32c u32 of all of the record but itself | manifest .. | body .. |     (little endian)
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::ids::BodyId;
use parking_lot::Mutex;

use super::SMALL_BODY_MAX_BYTES;
use super::index::{self, IndexBatch, PackPlace, PackRecord, Place};
use crate::StoreError;
use crate::database::Database;
use crate::layout::{Layout, sync_dir};
use crate::sync_gate::SyncGate;

/// A pack takes records until it is this long: large enough that packs are few, small enough
/// that rewriting a half-dead one is a bounded job.
const PACK_BYTES: u64 = 256 << 20;

const MAGIC: &[u8; 4] = b"FPK1";
const HEADER_BYTES: usize = 52;

/// A body of [`SMALL_BODY_MAX_BYTES`] has a handful of chunks; this bounds what a torn length
/// can make us read.
const MANIFEST_BYTES_MAX: usize = 64 << 10;

/// A record's content.
pub struct Packed {
    pub manifest: Vec<u8>,
    pub body: Vec<u8>,
}

/// A record to be written.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub id: BodyId,
    pub manifest: &'a [u8],
    pub body: &'a [u8],
}

pub struct Packs {
    layout: Layout,
    db: Arc<Database>,
    writer: Mutex<Writer>,
    gate: SyncGate,
    files: Mutex<BTreeMap<u32, Arc<File>>>,
}

/// The pack that grows.
struct Writer {
    pack: u32,
    file: Arc<File>,
    end: u64,
}

impl Packs {
    /// Opens the packs: takes over whole records behind the durable end into the index, and
    /// cuts off a torn one.
    pub fn open(layout: Layout, db: Arc<Database>) -> Result<Packs, StoreError> {
        let mut newest = None;
        for pack in list(&layout)? {
            newest = Some(recover(&layout, &db, pack)?);
        }
        let writer = match newest {
            Some(Recovered { pack, file, end, whole: true }) if end < PACK_BYTES => {
                Writer { pack, file: Arc::new(file), end }
            }
            Some(Recovered { pack, .. }) => create(&layout, next_number(pack)?)?,
            None => create(&layout, 1)?,
        };
        Ok(Packs {
            layout,
            db,
            writer: Mutex::new(writer),
            gate: SyncGate::default(),
            files: Mutex::default(),
        })
    }

    /// Appends records; durable after the next [`Packs::sync`]. The places are not in the
    /// index yet.
    pub fn append(&self, records: &[Record<'_>]) -> Result<Vec<PackPlace>, StoreError> {
        self.db.check()?;
        let mut writer = self.writer.lock();
        let mut places = Vec::with_capacity(records.len());
        let mut bytes = Vec::new();
        for record in records {
            check_size(record)?;
        }
        if writer.end >= PACK_BYTES {
            // Later syncs go to the new file, so the old one must be durable before.
            writer.file.sync_data().map_err(|error| {
                let path = pack_path(&self.layout, writer.pack);
                self.db.poison(StoreError::io("sync", &path)(error))
            })?;
            *writer = create(&self.layout, next_number(writer.pack)?)?;
        }
        for record in records {
            places.push(PackPlace {
                pack: writer.pack,
                offset: writer.end + bytes.len() as u64,
                manifest_len: record.manifest.len() as u32,
                body_len: record.body.len() as u32,
            });
            encode(record, &mut bytes);
        }
        // A failed write leaves bytes behind `end` that nobody refers to; the next append
        // overwrites them.
        writer
            .file
            .write_all_at(&bytes, writer.end)
            .map_err(StoreError::io("write", &pack_path(&self.layout, writer.pack)))?;
        writer.end += bytes.len() as u64;
        Ok(places)
    }

    /// Makes everything that was appended before the call durable; threads share one sync.
    ///
    /// # Errors
    /// Any error is final: many bodies share the file, so the store is poisoned.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.gate.pass(|| {
            self.db.check()?;
            let (pack, file) = {
                let writer = self.writer.lock();
                (writer.pack, Arc::clone(&writer.file))
            };
            file.sync_data().map_err(|error| {
                self.db.poison(StoreError::io("sync", &pack_path(&self.layout, pack))(error))
            })
        })
    }

    /// Reads and checks a record.
    pub fn read(&self, id: BodyId, place: PackPlace) -> Result<Packed, StoreError> {
        let damaged = |detail: &str| StoreError::DamagedBody { id, detail: detail.to_owned() };
        let (manifest_len, body_len) = (place.manifest_len as usize, place.body_len as usize);
        if !plausible(manifest_len, body_len) {
            return Err(damaged("its lengths in the index are impossible"));
        }
        let file = self.file(place.pack)?.ok_or_else(|| damaged("its pack is missing"))?;
        let mut bytes = vec![0; HEADER_BYTES + manifest_len + body_len];
        file.read_exact_at(&mut bytes, place.offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("its pack ends before it"),
            _ => StoreError::io("read", &pack_path(&self.layout, place.pack))(error),
        })?;
        match decode(&bytes) {
            Some((found, packed)) if found == id => Ok(packed),
            Some((found, _)) => Err(damaged(&format!("the pack holds body {found} there"))),
            None => Err(damaged("its record's checksum does not match")),
        }
    }

    fn file(&self, pack: u32) -> Result<Option<Arc<File>>, StoreError> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&pack) {
            return Ok(Some(Arc::clone(file)));
        }
        let path = pack_path(&self.layout, pack);
        match File::open(&path) {
            Ok(file) => {
                let file = Arc::new(file);
                files.insert(pack, Arc::clone(&file));
                Ok(Some(file))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }
}

/// Records in the index how far the packs are durable after records were put there.
pub fn put_durable_ends(batch: &mut IndexBatch<'_>, places: &[PackPlace]) {
    if let Some(last) = places.last() {
        let end = last.offset
            + (HEADER_BYTES + last.manifest_len as usize + last.body_len as usize) as u64;
        batch.put_pack(last.pack, PackRecord { durable_end: end });
    }
}

/// The number in a pack's file name.
pub fn number_of(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name, 16).ok()?;
    (name == file_name(number)).then_some(number)
}

struct Recovered {
    pack: u32,
    file: File,
    end: u64,
    /// Nothing that was durable is missing.
    whole: bool,
}

fn recover(layout: &Layout, db: &Database, pack: u32) -> Result<Recovered, StoreError> {
    let path = pack_path(layout, pack);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    let len = file.metadata().map_err(StoreError::io("open", &path))?.len();
    let durable_end = index::pack(db, pack)?.map_or(0, |record| record.durable_end);
    if len < durable_end {
        tracing::error!(pack = %path.display(), len, durable_end, "a pack lost its end");
        return Ok(Recovered { pack, file, end: len, whole: false });
    }
    if len == durable_end {
        return Ok(Recovered { pack, file, end: len, whole: true });
    }

    let mut batch = IndexBatch::new(db);
    let mut end = durable_end;
    while let Some((id, place)) = read_record(&file, pack, end, len)? {
        batch.put_place(id, Place::Pack(place));
        end += (HEADER_BYTES + place.manifest_len as usize + place.body_len as usize) as u64;
    }
    let cut_and_sync = || {
        if end < len {
            file.set_len(end)?;
        }
        // Records that the kernel still had may not have been durable.
        file.sync_all()
    };
    cut_and_sync().map_err(StoreError::io("recover", &path))?;
    tracing::info!(pack = %path.display(), durable_end, end, len, "recovered a pack's end");
    batch.put_pack(pack, PackRecord { durable_end: end });
    batch.write()?;
    Ok(Recovered { pack, file, end, whole: true })
}

/// The record at `offset`; `None` if there is no whole one.
fn read_record(
    file: &File,
    pack: u32,
    offset: u64,
    file_len: u64,
) -> Result<Option<(BodyId, PackPlace)>, StoreError> {
    let read = |buf: &mut [u8], at| {
        file.read_exact_at(buf, at).map_err(StoreError::io("read", &PathBuf::from(file_name(pack))))
    };
    let mut bytes = vec![0; HEADER_BYTES];
    if file_len - offset < HEADER_BYTES as u64 {
        return Ok(None);
    }
    read(&mut bytes, offset)?;
    let (body_len, manifest_len) = (le_u32(&bytes, 36), le_u32(&bytes, 40));
    let rest = manifest_len as usize + body_len as usize;
    if &bytes[..4] != MAGIC
        || !plausible(manifest_len as usize, body_len as usize)
        || file_len - offset < (HEADER_BYTES + rest) as u64
    {
        return Ok(None);
    }
    bytes.resize(HEADER_BYTES + rest, 0);
    read(&mut bytes[HEADER_BYTES..], offset + HEADER_BYTES as u64)?;
    let place = PackPlace { pack, offset, manifest_len, body_len };
    Ok(decode(&bytes).map(|(id, _)| (id, place)))
}

fn check_size(record: &Record<'_>) -> Result<(), StoreError> {
    if plausible(record.manifest.len(), record.body.len()) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "body {} has {} bytes and a manifest of {}: too large for a pack",
        record.id,
        record.body.len(),
        record.manifest.len()
    )))
}

fn plausible(manifest_len: usize, body_len: usize) -> bool {
    manifest_len <= MANIFEST_BYTES_MAX && body_len as u64 <= SMALL_BODY_MAX_BYTES
}

fn encode(record: &Record<'_>, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&record.id.0);
    bytes.extend_from_slice(&(record.body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(record.manifest.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    let checksum = checksum(&bytes[start..], record.manifest, record.body);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(record.manifest);
    bytes.extend_from_slice(record.body);
}

/// Takes a whole record apart; `None` if it is not what was written.
fn decode(bytes: &[u8]) -> Option<(BodyId, Packed)> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (body_len, manifest_len) = (le_u32(header, 36) as usize, le_u32(header, 40) as usize);
    let (manifest, body) = rest.split_at_checked(manifest_len)?;
    let whole = &header[..4] == MAGIC
        && body.len() == body_len
        && le_u32(header, 48) == checksum(&header[..48], manifest, body);
    whole.then(|| {
        let id = BodyId(header[4..36].try_into().expect("32 bytes"));
        (id, Packed { manifest: manifest.to_vec(), body: body.to_vec() })
    })
}

fn checksum(header: &[u8], manifest: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(header), manifest), body)
}

fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn create(layout: &Layout, pack: u32) -> Result<Writer, StoreError> {
    let path = pack_path(layout, pack);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(StoreError::io("create", &path))?;
    sync_dir(&layout.packs())?;
    Ok(Writer { pack, file: Arc::new(file), end: 0 })
}

fn list(layout: &Layout) -> Result<Vec<u32>, StoreError> {
    let dir = layout.packs();
    let mut packs = Vec::new();
    for entry in fs::read_dir(&dir).map_err(StoreError::io("read", &dir))? {
        let name = entry.map_err(StoreError::io("read", &dir))?.file_name();
        packs.extend(name.to_str().and_then(number_of));
    }
    packs.sort_unstable();
    Ok(packs)
}

fn next_number(pack: u32) -> Result<u32, StoreError> {
    pack.checked_add(1).ok_or_else(|| StoreError::Invalid("there are too many packs".to_owned()))
}

fn file_name(pack: u32) -> String {
    format!("{pack:08x}")
}

fn pack_path(layout: &Layout, pack: u32) -> PathBuf {
    layout.packs().join(file_name(pack))
}

//! File bodies on the local disk.
//!
//! ```text
//! stage (being written) --seal--> pack (small) or container (larger) --> read, served, deleted
//! part  (arriving)     --complete-->        "
//! ```
//!
//! What is sealed never changes and is named by its [`BodyId`], so every step here can be
//! repeated. The order of durable writes is always: bytes, then names in directories, then
//! one batch of the index; a crash in between leaves a file that the next start either adds
//! to the index, removes, or moves to `lost+found` (`sweep`).

mod container;
mod index;
mod open_body;
mod pack;
mod part;
mod ranges;
mod seal;
mod space;
mod stage;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use engine::chunking::{ContentKey, Manifest};
use engine::ids::BodyId;
use parking_lot::Mutex;

pub use open_body::OpenBody;
pub use part::{Part, PartInfo};
pub use seal::{Seal, SmallBody};
pub use space::Space;
pub use stage::{Stage, StageId, StageRecord, StageState};
pub use sweep::Swept;

use self::index::{ContainerPlace, IndexBatch, Place, body_key};
use self::pack::Packs;
use self::space::SpaceGuard;
use crate::StoreError;
use crate::database::Database;
use crate::layout::{Area, Layout, remove_file};

/// Bodies up to this size share pack files, because making and deleting a small file costs
/// a millisecond each on a journalling filesystem. Larger ones get a container.
pub const SMALL_BODY_MAX_BYTES: u64 = 128 << 10;

/// The bodies of a store. Shared by reference; all methods take `&self`.
pub struct Bodies {
    layout: Layout,
    db: Arc<Database>,
    boot: u64,
    packs: Packs,
    space: Arc<SpaceGuard>,
    stages_made: AtomicU64,
    /// Stages whose fsync failed since the start.
    quarantined: Arc<Mutex<BTreeSet<StageId>>>,
    /// Removed stages whose records wait for the directory's sync.
    removed: Mutex<Vec<StageId>>,
    /// Parts in use, so that all users of one share its ranges.
    parts: Mutex<BTreeMap<BodyId, Weak<Part>>>,
    swept: Swept,
}

/// A sealed body that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyInfo {
    pub id: BodyId,
    pub len: u64,
    /// Held only for use, and evictable.
    pub cached: bool,
}

impl Bodies {
    pub(crate) fn open(
        layout: Layout,
        db: Arc<Database>,
        boot: u64,
        reserve_bytes: u64,
    ) -> Result<Bodies, StoreError> {
        let swept = sweep::sweep(&layout, &db, boot)?;
        Ok(Bodies {
            packs: Packs::open(layout.clone(), Arc::clone(&db))?,
            space: Arc::new(SpaceGuard::new(layout.root().to_owned(), reserve_bytes)),
            layout,
            db,
            boot,
            stages_made: AtomicU64::new(0),
            quarantined: Arc::default(),
            removed: Mutex::default(),
            parts: Mutex::default(),
            swept,
        })
    }

    /// What the start found and cleared.
    pub fn swept(&self) -> &Swept {
        &self.swept
    }

    /// Whether the sealed body is here, all of it.
    pub fn has(&self, id: BodyId) -> Result<bool, StoreError> {
        Ok(index::place(&self.db, id)?.is_some())
    }

    /// Opens a sealed body; `None` if it is not here. A packed body is read and checked at
    /// once; a container's bytes are checked by [`Bodies::verify`].
    ///
    /// # Errors
    /// [`StoreError::DamagedBody`] if the local copy is not what was stored: delete it and
    /// fetch it again.
    pub fn open_body(&self, id: BodyId) -> Result<Option<OpenBody>, StoreError> {
        match index::place(&self.db, id)? {
            None => Ok(None),
            Some(Place::Pack(place)) => {
                Ok(Some(OpenBody::packed(self.packs.read(id, place)?.body)))
            }
            Some(Place::Container(place)) => {
                Ok(Some(OpenBody::contained(self.container(id, place)?, place.body_len)))
            }
        }
    }

    /// Reads from a sealed body; `None` if it is not here. Less than `buf` only at its end.
    pub fn read_at(
        &self,
        id: BodyId,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<Option<usize>, StoreError> {
        let Some(body) = self.open_body(id)? else { return Ok(None) };
        body.read_at(offset, buf).map(Some).map_err(StoreError::io("read", self.layout.root()))
    }

    /// The chunks of a sealed body; `None` if it is not here.
    ///
    /// # Errors
    /// As [`Bodies::open_body`].
    pub fn manifest(&self, id: BodyId) -> Result<Option<Manifest>, StoreError> {
        let (bytes, len) = match index::place(&self.db, id)? {
            None => return Ok(None),
            Some(Place::Pack(place)) => {
                (self.packs.read(id, place)?.manifest, u64::from(place.body_len))
            }
            Some(Place::Container(place)) => {
                let file = self.container(id, place)?;
                let (_, bytes) = container::read(&file, id)
                    .map_err(|detail| StoreError::DamagedBody { id, detail })?;
                (bytes, place.body_len)
            }
        };
        load_manifest(id, len, &bytes).map(Some)
    }

    /// Compares every byte of a sealed body with its id. False if it is not here.
    ///
    /// # Errors
    /// [`StoreError::DamagedBody`] if the local copy is not what was stored.
    pub fn verify(&self, id: BodyId, key: &ContentKey) -> Result<bool, StoreError> {
        let Some(manifest) = self.manifest(id)? else { return Ok(false) };
        let Some(body) = self.open_body(id)? else { return Ok(false) };
        let damaged = |detail: String| StoreError::DamagedBody { id, detail };
        manifest.verify(id, key).map_err(|error| damaged(error.to_string()))?;
        let mut bytes = Vec::new();
        for chunk in manifest.chunks() {
            bytes.resize(chunk.len as usize, 0);
            let read =
                body.read_at(chunk.offset, &mut bytes).map_err(|e| damaged(e.to_string()))?;
            if read < bytes.len() || !chunk.verify(&bytes, key) {
                return Err(damaged(format!("the chunk at byte {} is wrong", chunk.offset)));
            }
        }
        Ok(true)
    }

    /// Visits every sealed body that is here, in the order of ids, until `visit` returns
    /// false.
    pub fn scan(&self, visit: &mut dyn FnMut(BodyInfo) -> bool) -> Result<(), StoreError> {
        index::scan_places(&self.db, &mut |id, place| {
            let cached =
                matches!(place, Place::Container(ContainerPlace { area: Area::Cache, .. }));
            Ok(visit(BodyInfo { id, len: place.body_len(), cached }))
        })
    }

    /// Forgets bodies and frees their containers. The room of packed ones comes back only
    /// when their pack is rewritten. Ids that are not here are fine.
    ///
    /// The caller makes sure that no other node relies on this copy.
    pub fn delete(&self, ids: &[BodyId]) -> Result<(), StoreError> {
        let mut batch = IndexBatch::new(&self.db);
        let mut files = Vec::new();
        for &id in ids {
            match index::place(&self.db, id)? {
                None => continue,
                Some(Place::Pack(_)) => {}
                Some(Place::Container(place)) => files.push(self.layout.container(place.area, id)),
            }
            batch.delete(body_key(id));
        }
        batch.write()?;
        // The index first: an entry without its file would be damage, a file without its
        // entry is found again and collected again.
        self.db.sync()?;
        files.iter().try_for_each(|file| remove_file(file))
    }

    pub fn space(&self) -> Result<Space, StoreError> {
        self.space.space()
    }

    /// Asks for room for `bytes` of bodies; cheap enough before every write. Everything here
    /// that writes bodies asks by itself; ask before writing to [`Stage::file`] directly.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`]
    pub fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        self.space.admit(bytes)
    }

    fn container(&self, id: BodyId, place: ContainerPlace) -> Result<File, StoreError> {
        let damaged = |detail: &str| StoreError::DamagedBody { id, detail: detail.to_owned() };
        let path = self.layout.container(place.area, id);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("its container is missing"));
            }
            other => other.map_err(StoreError::io("open", &path))?,
        };
        let found = file.metadata().map_err(StoreError::io("open", &path))?.len();
        if found != container::file_len(place) {
            return Err(damaged("its container is too long or too short"));
        }
        Ok(file)
    }
}

/// The stored form: nothing for a body of one chunk, whose id says it all.
fn store_manifest(manifest: &Manifest) -> Vec<u8> {
    if manifest.only_chunk().is_some() { Vec::new() } else { manifest.encode() }
}

fn load_manifest(id: BodyId, len: u64, bytes: &[u8]) -> Result<Manifest, StoreError> {
    let manifest =
        if bytes.is_empty() { Manifest::of_one_chunk(id, len) } else { Manifest::decode(bytes) };
    manifest.map_err(|error| StoreError::DamagedBody { id, detail: error.to_string() }).and_then(
        |manifest| match manifest.len() == len {
            true => Ok(manifest),
            false => Err(StoreError::DamagedBody {
                id,
                detail: "its manifest has another length".to_owned(),
            }),
        },
    )
}

//! Sealed bodies on this node: whether one is here, and reading from it.

use std::collections::HashSet;
use std::sync::Arc;

use engine::chunking::Manifest;
use engine::ids::BodyId;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use store::StoreError;
use store::bodies::OpenBody;

use super::BodyService;
use super::error::stored;
use crate::ops::ports::BodyError;

/// Bodies that were read lately, open; and those whose local copy is damaged.
pub struct SealedBodies {
    open: Cache<BodyId, OpenBody>,
    damaged: Mutex<HashSet<BodyId>>,
    /// Chunks of bodies whose holes were asked for lately.
    manifests: Cache<BodyId, Arc<Manifest>>,
}

/// Open files and, for packed bodies, at most 128 KiB of memory each: 32 MiB at the worst.
const OPEN_MAX: usize = 256;
/// Of 44 bytes for each chunk.
const MANIFESTS_MAX: usize = 16;

impl Default for SealedBodies {
    fn default() -> SealedBodies {
        SealedBodies {
            open: Cache::new(OPEN_MAX),
            damaged: Mutex::default(),
            manifests: Cache::new(MANIFESTS_MAX),
        }
    }
}

impl BodyService {
    /// Whether all of a body is here, and not known to be damaged.
    pub fn holds(&self, id: BodyId) -> bool {
        if self.sealed.damaged.lock().contains(&id) {
            return false;
        }
        self.store.bodies().has(id).unwrap_or_else(|error| {
            tracing::error!(%id, error = %error.chain(), "the index of bodies cannot be read");
            false
        })
    }

    /// Fills `bytes` from a body that is here or whose chunks there have arrived. False if
    /// not all of them are here.
    ///
    /// # Errors
    /// When the disk cannot be read. A damaged body counts as one that is not here: another
    /// node's copy takes its place.
    pub(super) fn read_sealed(
        &self,
        id: BodyId,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<bool, BodyError> {
        let read = match self.open_sealed(id)? {
            Some(body) => {
                let read = body.read_at(offset, bytes);
                Some(read.map_err(|error| BodyError::Storage(error.to_string()))?)
            }
            None => match self.store.bodies().part_of(id).map_err(stored)? {
                Some(part) => part.read_at(offset, bytes).map_err(stored)?,
                None => None,
            },
        };
        match read {
            None => Ok(false),
            Some(read) if read == bytes.len() => Ok(true),
            Some(read) => {
                // The namespace says that the body is longer than it is.
                Err(BodyError::Damaged(format!("body {id} ends at {}", offset + read as u64)))
            }
        }
    }

    fn open_sealed(&self, id: BodyId) -> Result<Option<OpenBody>, BodyError> {
        if let Some(body) = self.sealed.open.get(&id) {
            return Ok(Some(body));
        }
        if self.sealed.damaged.lock().contains(&id) {
            return Ok(None);
        }
        match self.store.bodies().open_body(id) {
            Ok(Some(body)) => {
                self.sealed.open.insert(id, body.clone());
                Ok(Some(body))
            }
            Ok(None) => Ok(None),
            Err(error @ StoreError::DamagedBody { .. }) => {
                self.note_damage(id, &error);
                Ok(None)
            }
            Err(error) => Err(stored(error)),
        }
    }

    /// Another node's copy takes this one's place.
    fn note_damage(&self, id: BodyId, error: &StoreError) {
        tracing::error!(%id, error = %error.chain(), "a local body is damaged");
        self.counters.damaged.add(1);
        self.sealed.damaged.lock().insert(id);
    }

    /// A good copy of the body was stored.
    pub(super) fn repaired(&self, id: BodyId) {
        self.sealed.open.remove(&id);
        self.sealed.manifests.remove(&id);
        self.sealed.damaged.lock().remove(&id);
    }

    /// Bytes of a body of which something can be read here.
    pub(super) fn body_len_here(&self, id: BodyId) -> Result<Option<u64>, BodyError> {
        if let Some(body) = self.open_sealed(id)? {
            return Ok(Some(body.len()));
        }
        let part = self.store.bodies().part_of(id).map_err(stored)?;
        Ok(part.map(|part| part.len()))
    }

    /// The chunks of a body that is here or arriving.
    pub(super) fn manifest_here(&self, id: BodyId) -> Result<Option<Arc<Manifest>>, BodyError> {
        if !self.holds(id) {
            let part = self.store.bodies().part_of(id).map_err(stored)?;
            return Ok(part.map(|part| Arc::new(part.manifest().clone())));
        }
        if let Some(manifest) = self.sealed.manifests.get(&id) {
            return Ok(Some(manifest));
        }
        let manifest = match self.store.bodies().manifest(id) {
            Ok(Some(manifest)) => Arc::new(manifest),
            Ok(None) => return Ok(None),
            Err(error @ StoreError::DamagedBody { .. }) => {
                self.note_damage(id, &error);
                return Ok(None);
            }
            Err(error) => return Err(stored(error)),
        };
        self.sealed.manifests.insert(id, Arc::clone(&manifest));
        Ok(Some(manifest))
    }
}

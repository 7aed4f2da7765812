//! Keyed hashes: what names chunks and bodies.

use std::fmt;

use super::manifest::Manifest;
use crate::ids::{BodyId, ChunkId};

/// The keys that a volume's content is hashed with. Without them an id tells nothing, not even
/// whether two volumes hold the same file.
#[derive(Clone)]
pub struct ContentKey {
    chunk: [u8; 32],
    /// Another key, so that no file's bytes can pass for another file's manifest.
    manifest: [u8; 32],
}

impl ContentKey {
    /// `volume_key` as [`View::volume_key`] gives it.
    ///
    /// [`View::volume_key`]: crate::namespace::View::volume_key
    pub fn new(volume_key: [u8; 32]) -> ContentKey {
        ContentKey {
            manifest: blake3::derive_key("FusionFS v1 manifest of a body", &volume_key),
            chunk: volume_key,
        }
    }

    /// Names a chunk.
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk, bytes).as_bytes())
    }

    /// Names a body: the id of its chunk if one chunk is all of it.
    pub fn body_id(&self, manifest: &Manifest) -> BodyId {
        match manifest.only_chunk() {
            Some(chunk) => BodyId(chunk.id.0),
            None => BodyId(*blake3::keyed_hash(&self.manifest, &manifest.encode()).as_bytes()),
        }
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(..)")
    }
}

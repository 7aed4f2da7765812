//! Cuts bodies into content-addressed chunks.
//!
//! A [`Chunker`] finds the borders while bytes are pushed through it, a [`ContentKey`] names
//! the chunks, and a [`Manifest`] lists those of one version of a body. A [`BodyId`] names the
//! whole: the id of the only chunk where one chunk is the whole body, so that small bodies
//! need no manifest; else the keyed hash of the manifest.
//!
//! Borders, ids and manifests are stored state: nodes that cut differently share nothing. The
//! golden tests fail when any of them moves.
//!
//! [`BodyId`]: crate::ids::BodyId

mod chunker;
mod content_key;
mod manifest;

pub use chunker::{Average, Chunker};
pub use content_key::ContentKey;
pub use manifest::{Chunk, Manifest, ManifestError};

/// Largest chunk, in bytes: four times the largest average. One request on the network asks
/// for at most this much, and a receiver holds at most one chunk of each stream in memory.
pub const CHUNK_LEN_MAX: u32 = 4 << 20;

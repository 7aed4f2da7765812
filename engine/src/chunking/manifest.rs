//! The chunks of one version of a body, in order.
//!
//! ```text
//! | version u8 = 1 | len u64 | count u32 | count x ( offset u64 | len u32 | chunk id 32 ) |
//! ```
//! Integers are big-endian.

use super::{CHUNK_LEN_MAX, ContentKey};
use crate::ids::{BodyId, ChunkId};
use crate::namespace::FILE_SIZE_MAX;

/// One chunk of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the body it lies, in bytes.
    pub offset: u64,
    /// Bytes: 1 ..= [`CHUNK_LEN_MAX`].
    pub len: u32,
    pub id: ChunkId,
}

impl Chunk {
    /// The first offset behind it.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// Whether `bytes` are this chunk's.
    pub fn verify(&self, bytes: &[u8], key: &ContentKey) -> bool {
        bytes.len() == self.len as usize && key.chunk_id(bytes) == self.id
    }
}

/// The chunks of one version of a body: ascending, not overlapping, within its length. What
/// is in no chunk is a hole and reads as zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    len: u64,
    chunks: Vec<Chunk>,
}

/// Why bytes are not a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest has the unknown version {0}")]
    Version(u8),
    #[error("the manifest is longer or shorter than it says")]
    Truncated,
    #[error("the manifest's chunks overlap, are empty or too large, or lie outside the body")]
    Chunks,
    #[error("the manifest names another body")]
    WrongBody,
}

const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 8 + 4;
const CHUNK_RECORD_LEN: usize = 8 + 4 + 32;

impl Manifest {
    /// # Errors
    /// [`ManifestError::Chunks`] unless the chunks are as [`Manifest`] says.
    pub fn new(len: u64, chunks: Vec<Chunk>) -> Result<Manifest, ManifestError> {
        let mut end = 0;
        for chunk in &chunks {
            let len_fits = 0 < chunk.len && chunk.len <= CHUNK_LEN_MAX;
            let in_order = end <= chunk.offset && chunk.offset <= len;
            if !len_fits || !in_order || u64::from(chunk.len) > len - chunk.offset {
                return Err(ManifestError::Chunks);
            }
            end = chunk.end();
        }
        if len > FILE_SIZE_MAX || u32::try_from(chunks.len()).is_err() {
            return Err(ManifestError::Chunks);
        }
        Ok(Manifest { len, chunks })
    }

    /// The manifest of a body that is one chunk: nobody stores or sends it.
    ///
    /// # Errors
    /// [`ManifestError::Chunks`] if `len` is 0 or more than one chunk holds.
    pub fn of_one_chunk(body: BodyId, len: u64) -> Result<Manifest, ManifestError> {
        let chunk_len = u32::try_from(len).map_err(|_| ManifestError::Chunks)?;
        Manifest::new(len, vec![Chunk { offset: 0, len: chunk_len, id: ChunkId(body.0) }])
    }

    /// Bytes of the body, holes included.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Bytes in chunks: what there is to store and to send.
    pub fn stored_len(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
    }

    /// The chunk that is the whole body, if one is.
    pub fn only_chunk(&self) -> Option<&Chunk> {
        match self.chunks.as_slice() {
            [chunk] if u64::from(chunk.len) == self.len => Some(chunk),
            _ => None,
        }
    }

    /// The chunks with bytes in `offset .. offset + len`.
    pub fn overlapping(&self, offset: u64, len: u64) -> &[Chunk] {
        if len == 0 {
            return &[];
        }
        let end = offset.saturating_add(len);
        let first = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let behind = self.chunks.partition_point(|chunk| chunk.offset < end);
        self.chunks.get(first..behind).unwrap_or(&[])
    }

    /// Checks that this is the manifest of `body`. A body of one chunk is proved only by the
    /// chunk's bytes: its id says nothing about its length.
    ///
    /// # Errors
    /// [`ManifestError::WrongBody`]
    pub fn verify(&self, body: BodyId, key: &ContentKey) -> Result<(), ManifestError> {
        if key.body_id(self) == body { Ok(()) } else { Err(ManifestError::WrongBody) }
    }

    /// As stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.chunks.len()).expect("a manifest's chunks fit 32 bits");
        let mut out = Vec::with_capacity(HEAD_LEN + self.chunks.len() * CHUNK_RECORD_LEN);
        out.push(VERSION);
        out.extend_from_slice(&self.len.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        for chunk in &self.chunks {
            out.extend_from_slice(&chunk.offset.to_be_bytes());
            out.extend_from_slice(&chunk.len.to_be_bytes());
            out.extend_from_slice(&chunk.id.0);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote, allocating no more than about what it was given.
    ///
    /// # Errors
    /// [`ManifestError`] for any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let (&[version], rest) = take::<1>(bytes)?;
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let (len, rest) = take(rest)?;
        let (count, records) = take(rest)?;
        let count = u32::from_be_bytes(*count) as usize;
        let (records, excess) = records.as_chunks::<CHUNK_RECORD_LEN>();
        if records.len() != count || !excess.is_empty() {
            return Err(ManifestError::Truncated);
        }
        let chunks = records.iter().map(decode_chunk).collect::<Result<_, _>>()?;
        Manifest::new(u64::from_be_bytes(*len), chunks)
    }
}

fn decode_chunk(record: &[u8; CHUNK_RECORD_LEN]) -> Result<Chunk, ManifestError> {
    let (offset, rest) = take(record)?;
    let (len, rest) = take(rest)?;
    let (id, _) = take(rest)?;
    Ok(Chunk {
        offset: u64::from_be_bytes(*offset),
        len: u32::from_be_bytes(*len),
        id: ChunkId(*id),
    })
}

fn take<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), ManifestError> {
    bytes.split_first_chunk().ok_or(ManifestError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn chunk(offset: u64, len: u32) -> Chunk {
        Chunk { offset, len, id: ChunkId([offset as u8; 32]) }
    }

    fn sparse() -> Manifest {
        Manifest::new(100, vec![chunk(0, 10), chunk(10, 20), chunk(50, 5)])
            .expect("the chunks are in order")
    }

    #[test]
    fn reads_back_and_no_damage_goes_unseen() {
        let key = ContentKey::new(KEY);
        let manifest = sparse();
        let body = key.body_id(&manifest);
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err());
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let seen = Manifest::decode(&damaged).and_then(|m| m.verify(body, &key));
            assert!(seen.is_err(), "a flipped bit at {at} goes unseen");
        }
    }

    #[test]
    fn chunks_out_of_order_or_out_of_bounds_are_refused() {
        for chunks in [
            vec![chunk(10, 10), chunk(0, 10)],
            vec![chunk(0, 10), chunk(9, 10)],
            vec![chunk(95, 10)],
            vec![chunk(101, 1)],
            vec![chunk(0, 0)],
            vec![chunk(u64::MAX, 1)],
        ] {
            assert_eq!(Manifest::new(100, chunks), Err(ManifestError::Chunks));
        }
        let oversized = Manifest::new(u64::MAX, vec![]);
        assert_eq!(oversized, Err(ManifestError::Chunks));
        let large_chunk = Manifest::new(1 << 30, vec![chunk(0, CHUNK_LEN_MAX + 1)]);
        assert_eq!(large_chunk, Err(ManifestError::Chunks));
    }

    #[test]
    fn a_count_that_lies_allocates_nothing() {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&u64::MAX.to_be_bytes());
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Manifest::decode(&bytes), Err(ManifestError::Truncated));
    }

    #[test]
    fn overlapping_finds_every_chunk_with_bytes_in_the_range() {
        let manifest = sparse();
        let offsets = |offset, len| {
            let chunks = manifest.overlapping(offset, len);
            chunks.iter().map(|chunk| chunk.offset).collect::<Vec<_>>()
        };
        assert_eq!(offsets(0, 100), [0, 10, 50]);
        assert_eq!(offsets(9, 2), [0, 10]);
        assert_eq!(offsets(10, 1), [10]);
        assert_eq!(offsets(30, 20), [0; 0]);
        assert_eq!(offsets(30, 21), [50]);
        assert_eq!(offsets(54, u64::MAX), [50]);
        assert_eq!(offsets(55, 10), [0; 0]);
        assert_eq!(offsets(5, 0), [0; 0]);
    }

    #[test]
    fn one_chunk_names_its_body_only_without_holes() {
        let key = ContentKey::new(KEY);
        let id = key.chunk_id(b"abc");
        let whole = Manifest::new(3, vec![Chunk { offset: 0, len: 3, id }]).expect("it fits");
        assert_eq!(key.body_id(&whole), BodyId(id.0));
        assert_eq!(Manifest::of_one_chunk(BodyId(id.0), 3), Ok(whole.clone()));
        assert!(whole.chunks()[0].verify(b"abc", &key));
        assert!(!whole.chunks()[0].verify(b"abd", &key));
        let sparse = Manifest::new(4, vec![Chunk { offset: 1, len: 3, id }]).expect("it fits");
        assert_ne!(key.body_id(&sparse), BodyId(id.0));
    }

    #[test]
    fn a_file_with_the_bytes_of_a_manifest_is_another_body() {
        let key = ContentKey::new(KEY);
        let manifest = sparse();
        assert_ne!(BodyId(key.chunk_id(&manifest.encode()).0), key.body_id(&manifest));
    }

    /// Ids are stored state.
    #[test]
    fn golden_ids() {
        let key = ContentKey::new(KEY);
        assert_eq!(key.chunk_id(b"abc").to_hex(), GOLDEN_CHUNK);
        assert_eq!(key.body_id(&sparse()).to_hex(), GOLDEN_BODY);
    }

    const GOLDEN_CHUNK: &str = "b1495225f01fa8cd09e410d288d09b68c1cc9fb2414686c0d3ac13fc905497d9";
    const GOLDEN_BODY: &str = "89f692d142ddd29c27c2a12ec7b6be9e3be15f32d28c1f13585768e98e7baa2c";
}

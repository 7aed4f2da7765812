//! The running hash of the namespace: equal on all nodes that applied the same agreements.
//!
//! A set hash: each row is hashed, `BLAKE3(key length u32 | key | value)`, the 32 bytes are
//! taken as four little-endian u64, and all rows are added lane by lane, wrapping. So a row
//! that changes costs two hashes, whatever the size of the tables, and the order of changes
//! does not matter. It finds faults, not attackers: sums of hashes can be forged at a cost.
//!
//! The usage counters are added as if they were a row. The row that keeps sum and counters,
//! the summary, is not part of the sum.

use super::codec::{Reader, record};
use super::inode::Inode;
use super::keys;
use super::tables::{Tables, TablesError};
use crate::ids::StateHash;

/// What `statfs` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Inodes of all types, the root included.
    pub inodes: u64,
    /// What the bodies of all files take. Holes take nothing, so a sparse file of 1 TiB does
    /// not fill the volume. Wraps around: only a sum of forged sizes gets there.
    pub bytes: u64,
}

impl Usage {
    /// Counts `inode` in.
    pub(super) fn add(&mut self, inode: &Inode) {
        self.inodes = self.inodes.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(inode.charge());
    }

    /// Counts `inode` out.
    pub(super) fn remove(&mut self, inode: &Inode) {
        self.inodes = self.inodes.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(inode.charge());
    }
}

/// The summary row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Summary {
    pub(super) rows: RowSum,
    pub(super) usage: Usage,
}

impl Summary {
    /// Reads the summary; tables without one are empty.
    pub(super) fn load<T: Tables>(tables: &T) -> Result<Summary, TablesError> {
        match tables.get(keys::SUMMARY)? {
            Some(value) => Summary::decode(&value),
            None => Ok(Summary::default()),
        }
    }

    pub(super) fn state_hash(&self) -> StateHash {
        let mut sum = self.rows;
        sum.add(keys::SUMMARY, &self.encode_usage());
        StateHash(sum.to_bytes())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = record(48);
        out.extend_from_slice(&self.rows.to_bytes());
        out.extend_from_slice(&self.encode_usage());
        out
    }

    fn encode_usage(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.usage.inodes.to_be_bytes());
        out[8..].copy_from_slice(&self.usage.bytes.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Summary, TablesError> {
        let mut reader = Reader::new(bytes, "summary")?;
        let summary = Summary {
            rows: RowSum::from_bytes(reader.array()?),
            usage: Usage { inodes: reader.u64()?, bytes: reader.u64()? },
        };
        reader.end()?;
        Ok(summary)
    }
}

/// The sum over rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct RowSum([u64; 4]);

impl RowSum {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        for (lane, hash) in self.0.iter_mut().zip(row_hash(key, value)) {
            *lane = lane.wrapping_add(hash);
        }
    }

    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) {
        for (lane, hash) in self.0.iter_mut().zip(row_hash(key, value)) {
            *lane = lane.wrapping_sub(hash);
        }
    }

    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; 32]) -> RowSum {
        RowSum(lanes(&bytes))
    }
}

/// Computes state hash and usage from all rows, without looking at the summary: the check
/// after a checkpoint was installed, and the tests' oracle.
///
/// # Errors
/// [`TablesError`] if the tables cannot be read or an inode cannot be decoded.
pub fn recompute<T: Tables>(tables: &T) -> Result<(StateHash, Usage), TablesError> {
    let mut summary = Summary::default();
    let mut broken = None;
    tables.scan(&[], &[], &mut |key, value| {
        if key == keys::SUMMARY {
            return true;
        }
        summary.rows.add(key, value);
        if key.starts_with(keys::INODES) {
            match Inode::decode(value) {
                Ok(inode) => summary.usage.add(&inode),
                Err(error) => broken = Some(error),
            }
        }
        broken.is_none()
    })?;
    match broken {
        Some(error) => Err(error),
        None => Ok((summary.state_hash(), summary.usage)),
    }
}

fn row_hash(key: &[u8], value: &[u8]) -> [u64; 4] {
    // Keys are names of at most a few hundred bytes, so their length fits.
    let len = u32::try_from(key.len()).expect("keys are short").to_be_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&len).update(key).update(value);
    lanes(hasher.finalize().as_bytes())
}

fn lanes(bytes: &[u8; 32]) -> [u64; 4] {
    let mut lanes = [0; 4];
    for (lane, chunk) in lanes.iter_mut().zip(bytes.chunks_exact(8)) {
        *lane = u64::from_le_bytes(chunk.try_into().expect("chunks have eight bytes"));
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_forgets_what_is_removed_and_ignores_order() {
        let mut one = RowSum::default();
        one.add(b"a", b"1");
        one.add(b"b", b"2");
        one.remove(b"a", b"1");
        one.add(b"c", b"3");
        let mut other = RowSum::default();
        other.add(b"c", b"3");
        other.add(b"b", b"2");
        assert_eq!(one, other);
        assert_eq!(RowSum::from_bytes(one.to_bytes()), one);
    }

    #[test]
    fn the_border_between_key_and_value_counts() {
        assert_ne!(row_hash(b"ab", b"c"), row_hash(b"a", b"bc"));
    }

    #[test]
    fn the_summary_reads_back() {
        let mut summary = Summary::default();
        summary.rows.add(b"k", b"v");
        summary.usage = Usage { inodes: 3, bytes: u64::MAX };
        assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
        assert!(Summary::decode(&summary.encode()[..20]).is_err());
    }
}

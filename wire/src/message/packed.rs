//! Bytes that were compressed for the way: agreements and pages of checkpoints shrink to a
//! fraction, and links between zones are what a node that catches up waits for.
//!
//! `| raw length u32 be | zstd frame |`

use bytes::Bytes;

use super::MessageError;

/// Compressed bytes. Packing and unpacking cost milliseconds: not on a thread that serves the
/// network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed(pub(super) Bytes);

/// Zstandard's fastest regular level: it keeps up with a fast link.
const LEVEL: i32 = 1;
const PREFIX_BYTES: usize = 4;

impl Packed {
    /// The most that one message carries, before compression.
    pub const RAW_MAX_BYTES: usize = super::PAYLOAD_MAX_BYTES - (64 << 10);

    /// # Panics
    /// For more than [`Self::RAW_MAX_BYTES`].
    pub fn new(raw: &[u8]) -> Packed {
        assert!(raw.len() <= Self::RAW_MAX_BYTES, "the caller keeps to the limit");
        let mut bytes = vec![0; PREFIX_BYTES + zstd_safe::compress_bound(raw.len())];
        bytes[..PREFIX_BYTES].copy_from_slice(&(raw.len() as u32).to_be_bytes());
        let len = zstd_safe::compress(&mut bytes[PREFIX_BYTES..], raw, LEVEL)
            .expect("the bound is large enough for any bytes");
        bytes.truncate(PREFIX_BYTES + len);
        Packed(Bytes::from(bytes))
    }

    /// The bytes that were packed.
    ///
    /// # Errors
    /// [`MessageError`] if these are not what [`Self::new`] made, or claim to be larger than
    /// a message may be; memory is bounded by that.
    pub fn unpack(&self) -> Result<Vec<u8>, MessageError> {
        let (prefix, frame) =
            self.0.split_first_chunk::<PREFIX_BYTES>().ok_or(MessageError::Truncated)?;
        let (have, limit) = (u32::from_be_bytes(*prefix) as usize, Self::RAW_MAX_BYTES);
        if have > limit {
            return Err(MessageError::TooLarge { have, limit });
        }
        let mut raw = vec![0; have];
        let len = zstd_safe::decompress(&mut raw[..], frame).map_err(|code| {
            MessageError::Malformed(format!("zstd: {}", zstd_safe::get_error_name(code)))
        })?;
        if len != have {
            return Err(MessageError::Malformed("it unpacks to another length".into()));
        }
        Ok(raw)
    }

    /// As it travels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked() {
        for raw in [vec![], vec![7; 100_000], (0..=255).collect::<Vec<u8>>()] {
            assert_eq!(Packed::new(&raw).unpack(), Ok(raw));
        }
        assert!(Packed::new(&vec![7; 100_000]).len() < 1000);
    }

    #[test]
    fn nothing_else_is_believed() {
        let good = Packed::new(&[7; 1000]).0;
        for len in 0..good.len() {
            assert!(Packed(good.slice(..len)).unpack().is_err());
        }
        let mut huge = good.to_vec();
        huge[0] = 0xff;
        assert!(matches!(Packed(huge.into()).unpack(), Err(MessageError::TooLarge { .. })));
        let mut longer = good.to_vec();
        longer[3] += 1;
        assert!(Packed(longer.into()).unpack().is_err());
    }
}

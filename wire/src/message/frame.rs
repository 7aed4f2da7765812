//! Frames on the ring's streams: `| length u32 be | volume u32 be | message |`, where length
//! counts the message alone. The first frame of a ring connection's accepting side is a hello.

use bytes::{Bytes, BytesMut};
use engine::ids::VolumeId;

use super::{MessageError, PAYLOAD_MAX_BYTES, VERSION};

/// The most bytes of one ring message.
pub const FRAME_MAX_BYTES: usize = PAYLOAD_MAX_BYTES;
pub const FRAME_HEADER_BYTES: usize = 8;

/// The header of a frame with `message_len` bytes.
pub fn header(volume: VolumeId, message_len: usize) -> [u8; FRAME_HEADER_BYTES] {
    assert!(message_len <= FRAME_MAX_BYTES, "a ring message keeps to its limit");
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&(message_len as u32).to_be_bytes());
    header[4..].copy_from_slice(&volume.0.to_be_bytes());
    header
}

/// Cuts a stream of bytes into frames.
#[derive(Default)]
pub struct FrameReader {
    pending: BytesMut,
}

impl FrameReader {
    /// Takes the bytes that arrived.
    pub fn push(&mut self, bytes: Bytes) {
        self.pending.extend_from_slice(&bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// [`MessageError::TooLarge`] if a header announces more than [`FRAME_MAX_BYTES`]; the
    /// stream is of no more use then.
    pub fn next_frame(&mut self) -> Result<Option<(VolumeId, Bytes)>, MessageError> {
        let Some(header) = self.pending.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(header[..4].try_into().expect("four bytes")) as usize;
        let volume = VolumeId(u32::from_be_bytes(header[4..].try_into().expect("four bytes")));
        if len > FRAME_MAX_BYTES {
            return Err(MessageError::TooLarge { have: len, limit: FRAME_MAX_BYTES });
        }
        if self.pending.len() < FRAME_HEADER_BYTES + len {
            return Ok(None);
        }
        let mut frame = self.pending.split_to(FRAME_HEADER_BYTES + len);
        Ok(Some((volume, frame.split_off(FRAME_HEADER_BYTES).freeze())))
    }

    /// Whether a frame has begun and not ended.
    pub fn is_amid_frame(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// What both sides of a ring connection say first: `| version u8 | start u64 be |`. `start`
/// tells a restarted peer from the one before: it grows with each start of a node.
pub(crate) const HELLO_BYTES: usize = 9;

pub(crate) fn hello(start: u64) -> [u8; HELLO_BYTES] {
    let mut hello = [VERSION; HELLO_BYTES];
    hello[1..].copy_from_slice(&start.to_be_bytes());
    hello
}

pub(crate) fn parse_hello(hello: &[u8; HELLO_BYTES]) -> Result<u64, MessageError> {
    if hello[0] != VERSION {
        return Err(MessageError::Version(hello[0]));
    }
    Ok(u64::from_be_bytes(hello[1..].try_into().expect("eight bytes")))
}

//! What nodes say to each other: one version byte, then CBOR, then raw bytes where there are
//! many. Everything decoded here comes from the network: sizes and counts are bounded, and a
//! message that does not fit is an error.

pub mod frame;
pub mod join;
pub mod packed;
pub mod request;
pub mod response;

/// The most bytes that one message carries beside its head: a piece of a body, a page of a
/// checkpoint. QUIC streams stay short (quinn closes a connection whose long stream has many
/// gaps), and memory per transfer is bounded.
pub const PAYLOAD_MAX_BYTES: usize = 4 << 20;

/// The first byte of every message of this version.
pub(crate) const VERSION: u8 = 1;

/// Why bytes from a peer are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("the message ends early")]
    Truncated,
    #[error("the message is of format version {0}, this program knows {VERSION}")]
    Version(u8),
    #[error("the message has {have} bytes, the limit is {limit}")]
    TooLarge { have: usize, limit: usize },
    #[error("the message is malformed: {0}")]
    Malformed(String),
}

impl From<minicbor::decode::Error> for MessageError {
    fn from(error: minicbor::decode::Error) -> MessageError {
        if error.is_end_of_input() {
            MessageError::Truncated
        } else {
            MessageError::Malformed(error.to_string())
        }
    }
}

/// Encodes `value` behind the version byte.
pub(crate) fn encode<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    minicbor::encode(value, &mut bytes).expect("writing into memory does not fail");
    bytes
}

/// Decodes what [`encode`] wrote. Bytes left over are an error: they hide a mistake.
pub(crate) fn decode<'b, T: minicbor::Decode<'b, ()>>(
    bytes: &'b [u8],
    limit: usize,
) -> Result<T, MessageError> {
    if bytes.len() > limit {
        return Err(MessageError::TooLarge { have: bytes.len(), limit });
    }
    let (&version, body) = bytes.split_first().ok_or(MessageError::Truncated)?;
    if version != VERSION {
        return Err(MessageError::Version(version));
    }
    let mut decoder = minicbor::Decoder::new(body);
    let value = decoder.decode()?;
    if decoder.position() != body.len() {
        return Err(MessageError::Malformed("bytes follow its end".into()));
    }
    Ok(value)
}

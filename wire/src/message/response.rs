//! What the other node answers.

use bytes::{Bytes, BytesMut};
use engine::ids::Gsn;
use minicbor::{Decode, Encode};

use super::packed::Packed;
use super::{MessageError, PAYLOAD_MAX_BYTES, VERSION};

/// An answer: `| version u8 | head length u32 be | head (CBOR) | payload |`. The bytes that
/// make an answer large travel as they are, so that neither side copies them into CBOR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// A part of a manifest's encoding, which has `total_bytes` in all.
    Manifest {
        total_bytes: u64,
        part: Bytes,
    },
    Read(Bytes),
    /// For each body asked for, in order: its bytes, or that this node lacks it. May be
    /// shorter than the question when the limit is reached: ask again for the rest.
    Small(Vec<Option<Bytes>>),
    Which(Vec<bool>),
    /// A page of the tables as of `gsn`; `next` is the key to go on behind, `None` at the end.
    Checkpoint {
        gsn: Gsn,
        page: Packed,
        next: Option<Vec<u8>>,
        /// About how many bytes all pages have; 0 if that is not known.
        total_bytes: u64,
    },
    /// Agreements in order, without gaps, as one CBOR array; empty if the other node has not
    /// come so far. `gsn` is its newest.
    Order {
        records: Packed,
        gsn: Gsn,
    },
    At(Gsn),
    Status(Bytes),
    /// DER.
    Certificate(Bytes),
    Refused {
        code: RefusedCode,
        message: String,
    },
}

/// Why a node does not answer what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum RefusedCode {
    /// This node does not hold it. Another may.
    #[n(0)]
    NotHeld,
    /// Later: too much to do, or the node is starting or stopping.
    #[n(1)]
    Busy,
    /// The asker may not have it (placement, membership).
    #[n(2)]
    Forbidden,
    /// It is below what this node still keeps.
    #[n(3)]
    TooOld,
    /// This version of the program does not know the question.
    #[n(4)]
    Unsupported,
    /// This node failed: its log says why.
    #[n(5)]
    Failed,
}

#[derive(Debug, Encode, Decode)]
enum Head {
    #[n(0)]
    Manifest(#[n(0)] u64),
    #[n(1)]
    Read,
    #[n(2)]
    Small(#[n(0)] Vec<Option<u32>>),
    #[n(3)]
    Which(#[n(0)] u32),
    #[n(4)]
    Checkpoint {
        #[n(0)]
        gsn: Gsn,
        #[n(1)]
        next: Option<minicbor::bytes::ByteVec>,
        #[n(2)]
        total_bytes: u64,
    },
    #[n(5)]
    Order(#[n(0)] Gsn),
    #[n(6)]
    At(#[n(0)] Gsn),
    #[n(7)]
    Status,
    #[n(8)]
    Certificate,
    #[n(9)]
    Refused {
        #[n(0)]
        code: RefusedCode,
        #[n(1)]
        message: String,
    },
}

impl Response {
    /// Largest is a `Checkpoint` whose next key is long.
    pub const HEAD_MAX_BYTES: usize = 64 << 10;
    pub const ENCODED_MAX_BYTES: usize = PREFIX_BYTES + Self::HEAD_MAX_BYTES + PAYLOAD_MAX_BYTES;
    const REFUSAL_MAX_BYTES: usize = 1024;

    pub fn refused(code: RefusedCode, message: impl Into<String>) -> Response {
        let mut message = message.into();
        let mut end = message.len().min(Self::REFUSAL_MAX_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Response::Refused { code, message }
    }

    /// The pieces to send, in order, without copying the payload.
    ///
    /// # Errors
    /// [`MessageError::TooLarge`] if the handler answered more than a message carries.
    pub fn encode(self) -> Result<Vec<Bytes>, MessageError> {
        let len_u32 = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (head, payload) = match self {
            Response::Manifest { total_bytes, part } => (Head::Manifest(total_bytes), vec![part]),
            Response::Read(bytes) => (Head::Read, vec![bytes]),
            Response::Small(bodies) => {
                let lens = bodies.iter().map(|body| body.as_ref().map(len_u32)).collect();
                (Head::Small(lens), bodies.into_iter().flatten().collect())
            }
            Response::Which(held) => (Head::Which(held.len() as u32), vec![bitmap(&held)]),
            Response::Checkpoint { gsn, page, next, total_bytes } => {
                (Head::Checkpoint { gsn, next: next.map(Into::into), total_bytes }, vec![page.0])
            }
            Response::Order { records, gsn } => (Head::Order(gsn), vec![records.0]),
            Response::At(gsn) => (Head::At(gsn), Vec::new()),
            Response::Status(bytes) => (Head::Status, vec![bytes]),
            Response::Certificate(bytes) => (Head::Certificate, vec![bytes]),
            Response::Refused { code, message } => (Head::Refused { code, message }, Vec::new()),
        };
        let have = payload.iter().map(Bytes::len).sum();
        if have > PAYLOAD_MAX_BYTES {
            return Err(MessageError::TooLarge { have, limit: PAYLOAD_MAX_BYTES });
        }
        let mut bytes = vec![VERSION, 0, 0, 0, 0];
        minicbor::encode(&head, &mut bytes).expect("writing into memory does not fail");
        let head_len = bytes.len() - PREFIX_BYTES;
        if head_len > Self::HEAD_MAX_BYTES {
            return Err(MessageError::TooLarge { have: head_len, limit: Self::HEAD_MAX_BYTES });
        }
        bytes[1..PREFIX_BYTES].copy_from_slice(&(head_len as u32).to_be_bytes());
        let mut pieces = vec![Bytes::from(bytes)];
        pieces.extend(payload);
        Ok(pieces)
    }

    /// The answer in `bytes`; its large parts share them.
    ///
    /// # Errors
    /// [`MessageError`] if they are not an answer.
    pub fn decode(mut bytes: Bytes) -> Result<Response, MessageError> {
        if bytes.len() > Self::ENCODED_MAX_BYTES {
            let (have, limit) = (bytes.len(), Self::ENCODED_MAX_BYTES);
            return Err(MessageError::TooLarge { have, limit });
        }
        if bytes.len() < PREFIX_BYTES {
            return Err(MessageError::Truncated);
        }
        let prefix = bytes.split_to(PREFIX_BYTES);
        if prefix[0] != VERSION {
            return Err(MessageError::Version(prefix[0]));
        }
        let head_len = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes")) as usize;
        if head_len > Self::HEAD_MAX_BYTES {
            return Err(MessageError::TooLarge { have: head_len, limit: Self::HEAD_MAX_BYTES });
        }
        if head_len > bytes.len() {
            return Err(MessageError::Truncated);
        }
        let head = bytes.split_to(head_len);
        let mut decoder = minicbor::Decoder::new(&head);
        let kind: Head = decoder.decode()?;
        if decoder.position() != head.len() {
            return Err(MessageError::Malformed("bytes follow the head's end".into()));
        }
        Response::from_parts(kind, bytes)
    }

    fn from_parts(head: Head, mut payload: Bytes) -> Result<Response, MessageError> {
        if payload.len() > PAYLOAD_MAX_BYTES {
            return Err(MessageError::TooLarge { have: payload.len(), limit: PAYLOAD_MAX_BYTES });
        }
        let response = match head {
            Head::Manifest(total_bytes) => {
                return Ok(Response::Manifest { total_bytes, part: payload });
            }
            Head::Read => return Ok(Response::Read(payload)),
            Head::Status => return Ok(Response::Status(payload)),
            Head::Certificate => return Ok(Response::Certificate(payload)),
            Head::Checkpoint { gsn, next, total_bytes } => {
                let (page, next) = (Packed(payload), next.map(Into::into));
                return Ok(Response::Checkpoint { gsn, page, next, total_bytes });
            }
            Head::Order(gsn) => return Ok(Response::Order { records: Packed(payload), gsn }),
            Head::Small(lens) => Response::Small(
                lens.into_iter()
                    .map(|len| len.map(|len| take(&mut payload, len)).transpose())
                    .collect::<Result<_, _>>()?,
            ),
            Head::Which(count) => {
                let map = take(&mut payload, count.div_ceil(8))?;
                let bit = |at: usize| map[at / 8] >> (at % 8) & 1 == 1;
                Response::Which((0..count as usize).map(bit).collect())
            }
            Head::At(gsn) => Response::At(gsn),
            Head::Refused { code, message } => Response::refused(code, message),
        };
        if !payload.is_empty() {
            return Err(MessageError::Malformed("bytes follow the payload's end".into()));
        }
        Ok(response)
    }
}

const PREFIX_BYTES: usize = 5;

fn take(payload: &mut Bytes, len: u32) -> Result<Bytes, MessageError> {
    if len as usize > payload.len() {
        return Err(MessageError::Truncated);
    }
    Ok(payload.split_to(len as usize))
}

fn bitmap(bits: &[bool]) -> Bytes {
    let mut map = BytesMut::zeroed(bits.len().div_ceil(8));
    for (at, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
        map[at / 8] |= 1 << (at % 8);
    }
    map.freeze()
}

//! What one node asks another.

use std::collections::{BTreeMap, BTreeSet};

use engine::ids::{BodyId, Epoch, Gsn, Ino, NodeId, Version, VolumeId};
use minicbor::{Decode, Encode};

use super::{MessageError, PAYLOAD_MAX_BYTES};

/// A question to another node.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Request {
    #[n(0)]
    pub volume: VolumeId,
    /// How far the asker has applied the volume's order: an answer that depends on a policy
    /// or a membership newer than that can be refused.
    #[n(1)]
    pub applied: Gsn,
    /// Decides which connection carries question and answer, and who goes first.
    #[n(2)]
    pub class: Class,
    #[n(3)]
    pub ask: Ask,
}

/// How urgent an exchange is. Streams of a higher class go first on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Class {
    /// Filling up in the background.
    #[n(0)]
    Bulk,
    /// Small bodies sent along with a proposal, catching up.
    #[n(1)]
    Push,
    /// Manifests and other small questions.
    #[n(2)]
    Small,
    /// Somebody's read waits for it.
    #[n(3)]
    OnDemand,
}

impl Class {
    /// QUIC stream priority: more goes first.
    pub fn priority(self) -> i32 {
        match self {
            Class::Bulk => 0,
            Class::Push => 10,
            Class::Small => 20,
            Class::OnDemand => 30,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// The chunk list of a body, from byte `offset` of its encoding, as much as fits.
    /// Answer: `Manifest`.
    #[n(0)]
    Manifest {
        #[n(0)]
        body: BodyId,
        #[n(1)]
        offset: u64,
    },
    /// `len` bytes at `offset` of a body; at most [`PAYLOAD_MAX_BYTES`]. Answer: `Read`.
    #[n(1)]
    Read {
        #[n(0)]
        body: BodyId,
        #[n(1)]
        offset: u64,
        #[n(2)]
        len: u32,
    },
    /// Whole small bodies, at most [`Ask::SMALL_MAX_COUNT`]. Answer: `Small`.
    #[n(2)]
    Small {
        #[n(0)]
        bodies: Vec<BodyId>,
    },
    /// Which of these bodies (at most [`Ask::WHICH_MAX_COUNT`]) the other node holds. Answer:
    /// `Which`.
    #[n(3)]
    Which {
        #[n(0)]
        bodies: Vec<BodyId>,
    },
    /// A page of a copy of the volume's tables: from its start (`gsn` 0), or of the copy taken
    /// at `gsn` from behind the key `after`. Answer: `Checkpoint`.
    #[n(4)]
    Checkpoint {
        #[n(0)]
        gsn: Gsn,
        #[cbor(n(1), with = "minicbor::bytes")]
        after: Vec<u8>,
    },
    /// Agreements from `from` to `upto`, as many as fit. Answer: `Order`, or `Refused(TooOld)`
    /// if a checkpoint is needed first.
    #[n(5)]
    Order {
        #[n(0)]
        from: Gsn,
        #[n(1)]
        upto: Gsn,
    },
    /// Asks the holder of the right to write `ino` to seal and hand it over. Answer: `At` the
    /// agreement that did it.
    #[n(6)]
    Recall {
        #[n(0)]
        ino: Ino,
    },
    /// Waits, `wait_ms` at most, until the other node has applied `gsn`, and with `bodies`
    /// holds what it should up to there. Answer: `At`, below `gsn` when it was not in time.
    #[n(20)]
    Reached {
        #[n(0)]
        gsn: Gsn,
        #[n(1)]
        bodies: bool,
        #[n(2)]
        wait_ms: u32,
    },
    /// What the other node's `fusion status` says about itself. Answer: `Status`.
    #[n(8)]
    Status,
    /// A new certificate for the asker's key, before the old one ends. `csr` is DER. Answer:
    /// `Certificate`.
    #[n(9)]
    Renew {
        #[cbor(n(0), with = "minicbor::bytes")]
        csr: Vec<u8>,
    },
    /// Asks the other node to fetch a version's bytes now, and to answer when it has applied as
    /// far as the asker and has them durably; an fsync waits for it. Answer: `At`, or
    /// `Refused(Busy)` after a while: ask again.
    #[n(10)]
    Hold {
        #[n(0)]
        ino: Ino,
        #[n(1)]
        version: Version,
        /// `None`: the bytes travel with the agreement.
        #[n(2)]
        body: Option<BodyId>,
        /// Bytes of the body.
        #[n(3)]
        len: u64,
    },
    /// Asks the keeper of the locks of `ino` to hand them over. Answer: `At` an agreement at or
    /// after that.
    #[n(12)]
    ShareLocks {
        #[n(0)]
        ino: Ino,
    },
    /// Proposes the ring's membership after that of `epoch`: its voters with their weights, and
    /// who is to be removed. Asked of a voter. Answer: `At` what the voter has applied; whether
    /// it came to pass, the order says.
    #[n(13)]
    Reconfigure {
        #[n(0)]
        epoch: Epoch,
        #[n(1)]
        voters: BTreeMap<NodeId, u32>,
        #[n(2)]
        remove: BTreeSet<NodeId>,
    },
}

impl Ask {
    pub const SMALL_MAX_COUNT: usize = 256;
    pub const WHICH_MAX_COUNT: usize = 1024;
    /// Far more voters than a ring has.
    pub const VOTERS_MAX_COUNT: usize = 1024;
    /// RocksDB keys of ours are far shorter; a longer one is not ours.
    pub const KEY_MAX_BYTES: usize = 4096;

    /// The class of the question when nobody waits for it especially.
    pub fn class(&self) -> Class {
        match self {
            Ask::Read { .. } | Ask::Checkpoint { .. } => Class::Bulk,
            Ask::Small { .. } | Ask::Order { .. } => Class::Push,
            Ask::Manifest { .. }
            | Ask::Which { .. }
            | Ask::Recall { .. }
            | Ask::ShareLocks { .. }
            | Ask::Reached { .. }
            | Ask::Status
            | Ask::Hold { .. }
            | Ask::Renew { .. }
            | Ask::Reconfigure { .. } => Class::Small,
        }
    }

    fn check(&self) -> Result<(), MessageError> {
        let bounded = |have: usize, limit: usize| {
            if have > limit { Err(MessageError::TooLarge { have, limit }) } else { Ok(()) }
        };
        match self {
            Ask::Read { len, .. } => bounded(*len as usize, PAYLOAD_MAX_BYTES),
            Ask::Small { bodies } => bounded(bodies.len(), Self::SMALL_MAX_COUNT),
            Ask::Which { bodies } => bounded(bodies.len(), Self::WHICH_MAX_COUNT),
            Ask::Checkpoint { after, .. } => bounded(after.len(), Self::KEY_MAX_BYTES),
            Ask::Reconfigure { voters, remove, .. } => {
                bounded(voters.len() + remove.len(), Self::VOTERS_MAX_COUNT)
            }
            Ask::Manifest { .. }
            | Ask::Order { .. }
            | Ask::Recall { .. }
            | Ask::ShareLocks { .. }
            | Ask::Reached { .. }
            | Ask::Status
            | Ask::Hold { .. }
            | Ask::Renew { .. } => Ok(()),
        }
    }
}

impl Request {
    /// The most bytes that an encoded request has: the largest is a full `Which`.
    pub const ENCODED_MAX_BYTES: usize = 64 << 10;

    pub fn new(volume: VolumeId, applied: Gsn, ask: Ask) -> Request {
        Request { volume, applied, class: ask.class(), ask }
    }

    /// The same question, for somebody who waits.
    pub fn on_demand(self) -> Request {
        Request { class: Class::OnDemand, ..self }
    }

    pub fn encode(&self) -> Vec<u8> {
        let bytes = super::encode(self);
        assert!(bytes.len() <= Self::ENCODED_MAX_BYTES, "a request keeps to its limits");
        bytes
    }

    /// # Errors
    /// [`MessageError`] if the bytes are not a request, or ask for more than the limits.
    pub fn decode(bytes: &[u8]) -> Result<Request, MessageError> {
        let request: Request = super::decode(bytes, Self::ENCODED_MAX_BYTES)?;
        request.ask.check()?;
        Ok(request)
    }

    /// Whether the question keeps to the limits that the other side will hold it to.
    pub(crate) fn check(&self) -> Result<(), MessageError> {
        self.ask.check()
    }
}

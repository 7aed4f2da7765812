//! What replicas say to each other, and its bytes on the wire.
//!
//! `| version u8 | message: CBOR |`. Messages may be lost, repeated and reordered: whoever
//! needs an answer asks again.

use minicbor::{Decode, Encode};

use super::entry::Entry;
use super::record::OrderRecord;
use crate::command::Command;
use crate::ids::{Ballot, Gsn, Idx, LaneId, NodeId, StateHash, Ts};

/// One message from a replica to another (or, after a flush, to itself).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Owner (ballot 0) or taker: accept `entries` at `first`, `first + 1`, ... of `lane`.
    #[n(0)]
    Propose {
        #[n(0)]
        lane: LaneId,
        #[n(1)]
        ballot: Ballot,
        /// The first place that this ballot proposes: 1 for ballot 0.
        #[n(2)]
        start: Idx,
        #[n(3)]
        first: Idx,
        #[n(4)]
        entries: Vec<Entry>,
    },
    /// Acceptor to all voters: the vote is durable.
    #[n(1)]
    Accepted {
        #[n(0)]
        vote: Vote,
        #[n(1)]
        closed: Option<Closed>,
    },
    /// Acceptor to proposer: `promised` forbids your ballot, or (when `gsn` is ahead of
    /// yours) the lane is over and you have not noticed.
    #[n(2)]
    Reject {
        #[n(0)]
        lane: LaneId,
        #[n(1)]
        promised: Ballot,
        #[n(2)]
        gsn: Gsn,
    },
    /// Acceptor to proposer: send again from `from`.
    #[n(3)]
    Need {
        #[n(0)]
        lane: LaneId,
        #[n(1)]
        ballot: Ballot,
        #[n(2)]
        from: Idx,
    },
    /// Taker to all voters: promise `ballot`, and tell what was accepted at `from` and above.
    #[n(4)]
    Prepare {
        #[n(0)]
        lane: LaneId,
        #[n(1)]
        ballot: Ballot,
        #[n(2)]
        from: Idx,
    },
    /// Acceptor to taker: the promise is durable.
    #[n(5)]
    Promise {
        #[n(0)]
        lane: LaneId,
        #[n(1)]
        ballot: Ballot,
        /// Everything below is executed here and may be missing from `accepted`. If it is
        /// above the taker's `from`, the taker must catch up first.
        #[n(2)]
        first: Idx,
        #[n(3)]
        accepted: Vec<AcceptedEntry>,
    },
    #[n(6)]
    Heartbeat(#[n(0)] Heartbeat),
    /// Please propose these commands of `origin` in your lane.
    #[n(7)]
    Forward {
        #[n(0)]
        origin: NodeId,
        /// How often it was passed on already.
        #[n(1)]
        hops: u8,
        #[n(2)]
        commands: Vec<Command>,
        /// `origin` wants a lane of its own.
        #[n(3)]
        activate: bool,
    },
    /// Send agreed entries from `from` on.
    #[n(8)]
    Fetch {
        #[n(0)]
        from: Gsn,
    },
    /// Agreed entries, ascending and without gaps. Empty with `oldest` above what was asked:
    /// the sender has only newer ones, a snapshot is needed.
    #[n(9)]
    Order {
        #[n(0)]
        records: Vec<OrderRecord>,
        /// The oldest agreement that the sender still has.
        #[n(1)]
        oldest: Gsn,
        /// The newest agreement that the sender has executed.
        #[n(2)]
        gsn: Gsn,
    },
    /// To oneself only: the record that `lane` was begun is durable.
    #[n(10)]
    Begun {
        #[n(0)]
        lane: LaneId,
    },
}

/// The sender holds, durably, the entries `first ..= upto` of `lane` as accepted at `ballot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Vote {
    #[n(0)]
    pub lane: LaneId,
    #[n(1)]
    pub ballot: Ballot,
    #[n(2)]
    pub first: Idx,
    #[n(3)]
    pub upto: Idx,
}

/// A lane owner's promise: every entry of `lane` above `last` has a timestamp above `ts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Closed {
    #[n(0)]
    pub lane: LaneId,
    #[n(1)]
    pub last: Idx,
    #[n(2)]
    pub ts: Ts,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AcceptedEntry {
    #[n(0)]
    pub idx: Idx,
    #[n(1)]
    pub ballot: Ballot,
    #[n(2)]
    pub entry: Entry,
}

/// Sign of life: every 10 ms while lanes compete or commands wait, else every 100 ms.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Heartbeat {
    /// The sender's clock, µs.
    #[n(0)]
    pub sent_us: u64,
    /// The receiver's newest heartbeat here: its `sent_us`, and how long ago it came, µs.
    #[n(1)]
    pub echo: Option<(u64, u64)>,
    /// The last agreement executed at the sender, and its order hash.
    #[n(2)]
    pub gsn: Gsn,
    #[n(3)]
    pub order_hash: StateHash,
    /// The newest state hash that the sender knows of itself.
    #[n(4)]
    pub state: Option<(Gsn, StateHash)>,
    /// The sender's votes on entries that it has not executed.
    #[n(5)]
    pub votes: Vec<Vote>,
    #[n(6)]
    pub closed: Option<Closed>,
    /// The sender, which has no vote, asks to be sent every agreement as it happens.
    #[n(7)]
    pub follow: bool,
    /// The sender's own lane: false while it has none that takes proposals.
    #[n(8)]
    pub proposing: bool,
    /// The sender lost its log and does not vote. True: another epoch would end that; false: it
    /// does not know yet which.
    #[n(9)]
    pub mute: Option<bool>,
    /// Everything up to this agreement is durable at the sender.
    #[n(10)]
    #[cbor(default)]
    pub durable: Gsn,
}

/// Bytes that are not a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    #[error("a ring message has {0} bytes; at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("ring message of version {0:?}; this program speaks version {VERSION}")]
    Version(Option<u8>),
    #[error("malformed ring message")]
    Malformed(#[from] minicbor::decode::Error),
    #[error("{0} bytes follow a ring message")]
    Trailing(usize),
}

impl Message {
    /// The bytes that [`Self::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        minicbor::encode(self, &mut bytes).expect("a vector takes every byte");
        bytes
    }

    /// Reads a message that a peer sent.
    ///
    /// # Errors
    /// [`MessageError`] for anything that [`Self::encode`] does not write; never panics, and
    /// holds at most a constant multiple of the bytes' own length.
    pub fn decode(bytes: &[u8]) -> Result<Message, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let (&version, body) = bytes.split_first().ok_or(MessageError::Version(None))?;
        if version != VERSION {
            return Err(MessageError::Version(Some(version)));
        }
        let mut decoder = minicbor::Decoder::new(body);
        let message = decoder.decode()?;
        match body.len() - decoder.position() {
            0 => Ok(message),
            trailing => Err(MessageError::Trailing(trailing)),
        }
    }
}

const VERSION: u8 = 1;

/// A promise about a lane with a full window of large commands stays well below it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

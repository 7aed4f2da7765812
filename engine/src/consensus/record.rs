//! What must survive: the records that the driver stores for a replica, and what it gives
//! back after a restart. `store` keeps them; `docs/FORMAT.md` draws them.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};

use super::entry::{Config, Entry};
use crate::ids::{Ballot, Gsn, Idx, LaneId, NodeId, StateHash, Term, Ts};

/// One change of an acceptor's durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// Accepted value: replaces what was at (lane, idx).
    Accepted { lane: LaneId, idx: Idx, ballot: Ballot, entry: Entry },
    /// Highest ballot promised in `lane`.
    Promised { lane: LaneId, ballot: Ballot },
    /// This node has begun its own lane `lane`; it is never begun again.
    Started { lane: LaneId },
    /// Entries of `lane` up to and including `upto` are executed and durable in the tables:
    /// they may be deleted. `Idx(u64::MAX)` when the lane is over: all of them, also those
    /// that were never chosen.
    Truncated { lane: LaneId, upto: Idx },
}

/// One agreement with its place.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OrderRecord {
    #[n(0)]
    pub gsn: Gsn,
    #[n(1)]
    pub lane: LaneId,
    #[n(2)]
    pub idx: Idx,
    #[n(3)]
    pub entry: Entry,
}

/// Where the agreed order stands: a function of the executed prefix alone, stored in the same
/// batch as the tables that it describes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Header {
    /// The last executed agreement.
    #[n(0)]
    pub gsn: Gsn,
    /// Its place in the merge: (timestamp, lane owner).
    #[n(1)]
    pub position: (Ts, NodeId),
    /// `H(gsn) = BLAKE3(H(gsn-1), order record)`: equal for equal orders.
    #[n(2)]
    pub order_hash: StateHash,
    #[n(3)]
    pub config: Config,
    /// Active lanes.
    #[n(4)]
    pub active: BTreeMap<LaneId, ActiveLane>,
    /// The term that the node's next lane gets, in this epoch.
    #[n(5)]
    pub next_terms: BTreeMap<NodeId, Term>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ActiveLane {
    /// The next entry to execute.
    #[n(0)]
    pub next: Idx,
    /// Nothing in the lane from `next` on has a timestamp at or below it.
    #[n(1)]
    pub start: Ts,
}

impl Header {
    /// The state before the first agreement of a volume created by `node`: it owns the only
    /// active lane.
    pub fn genesis(node: NodeId) -> Header {
        let config = Config::genesis(node);
        let lane = LaneId { epoch: config.epoch, node, term: Term(0) };
        Header {
            gsn: Gsn(0),
            position: (Ts(0), NodeId(0)),
            order_hash: StateHash::default(),
            config,
            active: BTreeMap::from([(lane, ActiveLane { next: Idx(1), start: Ts(0) })]),
            next_terms: BTreeMap::from([(node, Term(1))]),
        }
    }
}

/// What a replica starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub header: Header,
    pub promised: BTreeMap<LaneId, Ballot>,
    pub started: BTreeSet<LaneId>,
    /// Accepted values that were not truncated.
    pub accepted: BTreeMap<LaneId, BTreeMap<Idx, (Ballot, Entry)>>,
    /// The log was lost: what this node promised and voted for is not among the above.
    pub forgetful: bool,
}

impl Recovered {
    /// A store without any history, for a volume whose state is at `header`.
    pub fn fresh(header: Header) -> Recovered {
        Recovered {
            header,
            promised: BTreeMap::new(),
            started: BTreeSet::new(),
            accepted: BTreeMap::new(),
            forgetful: false,
        }
    }
}

//! What lanes carry, and who carries them.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};

use crate::command::Command;
use crate::ids::{Epoch, NodeId, Ts};

/// One place of a lane, and later one agreement: a batch of commands, or a change of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Entry {
    #[n(0)]
    pub ts: Ts,
    #[n(1)]
    pub kind: EntryKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EntryKind {
    /// Commands, in their proposer's order. `activate` asks for a lane for that node, in the
    /// same agreement as its first forwarded commands.
    #[n(0)]
    Commands {
        #[n(0)]
        commands: Vec<Command>,
        #[n(1)]
        activate: Option<NodeId>,
    },
    /// Nothing: moves the lane's promise bound.
    #[n(1)]
    Tick,
    /// The lane ends here; `activate` gets a new one.
    #[n(2)]
    End {
        #[n(0)]
        activate: Option<NodeId>,
    },
    /// A new membership from here on; void if it does not follow the one before.
    #[n(3)]
    Reconfigure(#[n(0)] Config),
}

/// The membership of a ring.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Config {
    #[n(0)]
    pub epoch: Epoch,
    /// Voter → weight (> 0). A quorum is more than half of the weight.
    #[n(1)]
    pub voters: BTreeMap<NodeId, u32>,
    /// How far (logical µs) a promise may lead the last chosen entry: `L` of the protocol.
    #[n(2)]
    pub promise_lead_us: u64,
    /// Nodes that were removed, for ever: what they say is not listened to.
    #[n(3)]
    #[cbor(default)]
    pub removed: BTreeSet<NodeId>,
}

impl Config {
    /// See docs/design: long enough that TICK (500 ms) renews it in time, short enough that a
    /// dead lane's `End` does not lie far in the future.
    pub const PROMISE_LEAD_US: u64 = 2_000_000;

    /// The first membership of a new volume: its creator alone.
    pub fn genesis(node: NodeId) -> Config {
        Config {
            epoch: Epoch(1),
            voters: BTreeMap::from([(node, 1)]),
            promise_lead_us: Self::PROMISE_LEAD_US,
            removed: BTreeSet::new(),
        }
    }
}

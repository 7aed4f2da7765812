//! What happens to a replica.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Message;
use super::record::Header;
use crate::command::Command;
use crate::ids::{Epoch, Gsn, NodeId, StateHash};

#[derive(Clone, Debug)]
pub enum Input {
    /// The first input.
    Start,
    /// [`next_timer`](super::Replica::next_timer) has come. Too early or too often is harmless.
    Timer,
    /// From a member of the volume, or from the replica itself.
    Message { from: NodeId, message: Message },
    /// This node's own commands, `seq` following that of the last ones without a gap and
    /// starting at 1. They are agreed in this order, each once, unless the node stops.
    /// Commands of one input travel together as far as limits allow.
    Propose(Vec<Command>),
    /// Asks for the membership after that of `epoch`: these voters (→ weight), and `remove` out
    /// of the volume for good. Takes effect when it is executed (see `header().config`).
    /// Dropped if `epoch` is not the present one, if another membership comes first, while the
    /// present one is not settled (`RingStatus::settled`), and on a node without a vote: ask
    /// again.
    Reconfigure { epoch: Epoch, voters: BTreeMap<NodeId, u32>, remove: BTreeSet<NodeId> },
    /// Asks for the present membership as a new epoch, so that a voter that lost its log may
    /// vote again. Otherwise as `Reconfigure`.
    Renew,
    /// The driver replaced the tables by a peer's snapshot, durably. `finished_seq` is the
    /// last `seq` of this node's present boot in those tables, 0 if there is none.
    Installed { header: Header, finished_seq: u64 },
    /// The tables are durable up to this agreement: older log entries may go.
    AppliedDurable(Gsn),
    /// The state hash of this node after applying `gsn`.
    StateHash { gsn: Gsn, hash: StateHash },
    /// A hint that messages to the peer pass again: lost ones are repeated at once.
    PeerUp(NodeId),
    /// A hint that messages to the peer are lost now.
    PeerDown(NodeId),
    /// Ends the own lane so that nobody waits for this node;
    /// [`Effect::ShutdownDone`](super::Effect::ShutdownDone) follows. It goes on voting until
    /// the driver stops it.
    Shutdown,
}

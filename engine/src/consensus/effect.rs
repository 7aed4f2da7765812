//! What the driver must do for a replica, in order.

use std::sync::Arc;

use super::message::Message;
use super::record::{Header, LogRecord, OrderRecord};
use crate::ids::{Gsn, NodeId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append to the log. Not yet durable: see `SendDurable`.
    Persist(LogRecord),
    /// May go at once, and may be lost. Never to oneself.
    Send { to: NodeId, message: Message },
    /// May go only when every earlier `Persist` is durable. A message to oneself comes back
    /// as `Input::Message { from: me, .. }` and is never lost.
    SendDurable { to: NodeId, message: Message },
    /// `record` is agreed: apply its commands, and keep the record (for `ServeOrder`) and
    /// `header` in the same batch as what they changed. In gsn order, without gaps.
    Agreed { record: OrderRecord, header: Arc<Header> },
    /// Send `Message::Order` with stored records from `from` on (some, not all: about 1 MiB).
    ServeOrder { to: NodeId, from: Gsn },
    /// The peer's order begins at `oldest`, beyond what this node has: install a snapshot and
    /// give `Input::Installed`. Repeated every few seconds while nothing happens.
    NeedSnapshot { peer: NodeId, oldest: Gsn },
    /// The peer's order or state differs from ours at `gsn`, and it has the majority, or nobody
    /// has: a bug has struck. Stop applying, raise the alarm, keep the evidence.
    Diverged { peer: NodeId, gsn: Gsn },
    /// The peer's order or state differs at `gsn` from ours and the majority's: raise the alarm.
    PeerDiverged { peer: NodeId, gsn: Gsn },
    /// This node was recovered without its log, and may vote again from here on.
    MemoryWhole,
    /// This node is no member any more, by the agreement `gsn`. It does nothing from now on.
    Removed { gsn: Gsn },
    /// Nobody waits for this node any more (or 3 s have passed in vain).
    ShutdownDone,
}

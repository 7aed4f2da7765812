//! The agreement protocol: merged lanes.
//!
//! Every proposing node owns a Multi-Paxos log, its *lane*. The lanes are merged into one
//! order by (timestamp, node); an entry gets its GSN once every active lane has promised that
//! nothing lower will come. docs/design/0001-merged-lanes.md tells why it is safe.
//!
//! [`Replica`] is a pure state machine: [`Input`]s and the time come in, [`Effect`]s go out.
//!
//! Reading order: [`entry`], [`record`], [`message`], [`replica`], `propose`, `accept`,
//! `promise`, `merge`, `execute`, `takeover`, `forward`, `activation`, `catchup`, `diverge`,
//! `amnesia`, `reconfigure`, `force`.

mod accept;
mod activation;
mod amnesia;
mod catchup;
mod clock;
pub mod diverge;
pub mod effect;
pub mod entry;
mod execute;
mod force;
mod forward;
mod heartbeat;
pub mod input;
mod lane;
mod merge;
pub mod message;
pub(crate) mod mutation;
mod peer;
mod promise;
mod propose;
mod proposer;
mod queue;
mod quorum;
pub(crate) mod random;
mod reconfigure;
pub mod record;
pub mod replica;
mod retain;
mod shutdown;
mod size;
pub mod status;
mod takeover;
#[cfg(test)]
mod tests;

pub use effect::Effect;
pub use entry::{Config, Entry, EntryKind};
pub use force::FORCED_EPOCHS;
pub use input::Input;
pub use message::Message;
pub use record::{ActiveLane, Header, LogRecord, OrderRecord, Recovered};
pub use replica::Replica;
pub use status::RingStatus;

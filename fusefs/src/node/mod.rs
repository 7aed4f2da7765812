//! A running node: the threads of its volumes, put together and taken apart.
//!
//! Each volume has, beside what all of them share (store, network, node):
//!
//! | thread | does | file |
//! |---|---|---|
//! | ring | steps the replica, one input at a time | `driver` |
//! | log | makes records durable, many per fsync, then sends what waited | `log` |
//! | apply | agreed commands into the tables, then into caches | `apply` |
//! | reply | answers the callers | `volume` |
//! | order | reads stored agreements for peers that lag | `order` |
//! | retain | drops stored agreements that nobody needs | `retain` |
//!
//! An operation's way: `local_ring` → `proposals` → `driver` → (`log`, network) → `apply` →
//! reply. Everything else here starts, stops, or tells people about it.

mod admission;
mod agreements;
mod apply;
mod catchup;
mod checkpoint;
mod children;
mod clock;
mod control;
mod describe;
pub mod disaster;
mod driver;
mod farewell;
mod gossip;
mod handler;
mod inodes;
mod lease;
mod local_ring;
mod log;
mod members;
mod metrics;
mod mounts;
mod operator;
mod order;
mod paths;
mod promoter;
mod proposals;
mod pulse;
mod queue;
mod quotas;
mod renewal;
mod repair;
mod report;
mod retain;
mod roster;
mod setup;
mod sightings;
mod sole;
mod stage;
mod start;
mod suspicion;
mod underway;
mod volume;
mod volume_report;
mod votes;
mod waiting;

pub use control::Node;
pub use setup::{init, join};
pub use start::start;

//! FusionFS on the local disk: what must survive power loss.
//!
//! What it is: one RocksDB with the agreement log, the agreed order, the tables of the
//! volumes and this node's own tables ([`Store`]), and the bytes of files ([`Bodies`]):
//! stages being written, sealed bodies in packs and containers, and bodies that are arriving.
//!
//! What it never does: decide what is agreed, talk to other nodes (`wire` does), or go on
//! after a failed fsync. It never says that bytes are durable before they are.
//!
//! Reading order: [`error`](StoreError), `layout`, `identity`, `counter`, `database`, `store`, `log`,
//! `order`, `tables`, `checkpoint`, `repair`, `local`, then [`bodies`]. `docs/FORMAT.md` draws every
//! byte.

pub mod bodies;
mod checkpoint;
mod counter;
mod database;
mod error;
mod identity;
mod layout;
mod local;
mod log;
mod order;
mod repair;
mod schema;
mod store;
mod sync_gate;
mod synced;
mod tables;

pub use bodies::Bodies;
pub use checkpoint::{CheckpointInstall, CheckpointReader, CheckpointSegment};
pub use error::StoreError;
pub use identity::{FORMAT_VERSION, Identity};
pub use layout::Area;
pub use local::LocalBatch;
pub use order::{AppliedRecord, OrderKept};
pub use repair::Repaired;
pub use store::{Options, Store};
pub use tables::{GenerationTables, LiveTables, SnapshotTables};

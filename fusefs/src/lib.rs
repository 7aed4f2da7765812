//! The FusionFS daemon and the `fusion` program.
//!
//! What it is: the driver of the agreement protocol, the FUSE mount and the bodies of files
//! on one node, and everything by which people reach them.
//!
//! What it never does: decide what an agreed command changes (that is `engine`), touch
//! RocksDB or container files directly (`store`), or speak to another node other than
//! through `wire`.
//!
//! The modules below are in order: each may use those before it (blank lines keep rustfmt
//! from sorting them).

pub mod config;

pub mod admin;

pub mod ops;

pub mod body;
pub mod kernel;
pub mod mount_table;

pub mod node;

pub mod detach;
pub mod doctor;

pub mod demo;

pub mod cli;

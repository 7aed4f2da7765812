//! A whole cluster on one machine: three (or more) zones, each a daemon of its own with
//! store, certificate, UDP port and mount, and a relay between them that makes the links as
//! long, lossy or cut as you like.
//!
//! Everything lies below one root directory: `mnt/ZONE`, `store/ZONE`, `log/ZONE.log`,
//! `run/` (pid files, the relay's socket) and `demo.json`, the [`plan::Plan`].

pub mod down;
pub mod links;
pub mod plan;
pub mod process;
pub mod report;
pub mod tour;
pub mod up;
pub mod wan;

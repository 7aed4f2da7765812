//! How people and programs ask a running node: the border trait ([`control`]), the shapes of
//! the answers ([`report`]), and the HTTP API on a unix socket ([`server`], [`client`]).

pub mod client;
pub mod control;
pub mod report;
pub mod server;
pub mod socket;

//! FusionFS between nodes: QUIC with mutual TLS on one UDP port, and the WAN emulator.
//!
//! What it is: who a node is ([`identity`]), how a machine becomes a node ([`token`],
//! [`join`]), what nodes say to each other ([`message`]), the port through which they say it
//! ([`Wire`]), and a relay that puts distance between nodes of one machine ([`emulator`]).
//!
//! What it never does: store anything but the identity files, decide who is a member (it is
//! told by [`Wire::set_peers`]), interpret a ring message, or panic on bytes from the network.
//!
//! Reading order: [`identity`], [`token`], [`message`], [`endpoint`], [`emulator`].

pub mod emulator;
pub mod endpoint;
pub mod identity;
pub mod message;
pub mod token;

pub use emulator::Emulator;
pub use endpoint::config::WireConfig;
pub use endpoint::handler::{Handler, Serving};
pub use endpoint::joining::{JoinError, Joining, join};
pub use endpoint::peer::{Peer, PeerInfo};
pub use endpoint::stats::{PeerStats, WireStats};
pub use endpoint::{Wire, WireError};
pub use identity::{Authority, IdentityError, NodeIdentity, NodeKey, NodeName};
pub use message::join::{JoinReply, JoinRequest};
pub use message::packed::Packed;
pub use message::request::{Ask, Class, Request};
pub use message::response::{RefusedCode, Response};
pub use token::{JoinToken, TokenError};

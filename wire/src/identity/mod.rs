//! Who a node is: a key of its own, and a certificate from the cluster's own authority that
//! names cluster, zone and node.
//!
//! A certificate says who somebody is, never what he may do: roles and membership are in the
//! agreed state, which also pins each member's key.

pub mod authority;
pub mod files;
pub mod name;
pub mod node;
pub(crate) mod tls;

pub use authority::Authority;
pub use name::{NAME_MAX_BYTES, NodeName, is_valid_name};
pub use node::{NodeIdentity, NodeKey};

use std::path::PathBuf;

/// Why an identity cannot be made, read or believed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot {verb} {path}")]
    File {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not intact: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{path} can be read by others (mode {mode:o}): chmod 600 it, and think of who may have a copy"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the certificate is refused: {0}")]
    Refused(String),
    #[error("the certificate signing request is refused: {0}")]
    Request(String),
    #[error("'{0}' cannot name a zone or node: use 1 to 63 of a-z, 0-9, '-', '_' and '.'")]
    Name(String),
    #[error("making a key or certificate failed: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> IdentityError {
        IdentityError::Crypto(error.to_string())
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let provider = rustls::crypto::ring::default_provider();
    // Without randomness there are no keys either: nothing useful can go on.
    provider.secure_random.fill(&mut bytes).expect("the system has random bytes");
    bytes
}

/// BLAKE3 of a SubjectPublicKeyInfo, DER: what names a key in the agreed state.
pub fn key_hash(spki: &[u8]) -> [u8; 32] {
    *blake3::hash(spki).as_bytes()
}

pub(crate) fn now_unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

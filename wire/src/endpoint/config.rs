//! How a node wants its port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::identity::NodeIdentity;

/// Settings of a [`crate::Wire`]. Start from [`WireConfig::new`].
#[derive(Clone, Debug)]
pub struct WireConfig {
    /// The UDP address to listen on and to send from. `[::]:port` serves IPv4 as well.
    pub listen: SocketAddr,
    pub identity: NodeIdentity,
    /// Addresses to use in place of the agreed ones, by node name or id: for a node behind
    /// address translation, and for the WAN emulator.
    pub overrides: HashMap<String, String>,
    /// QUIC connections to each peer for background transfers. Several, because one cubic
    /// connection gives way to loss far below the link's speed: at 90 ms and 0.1 % loss one
    /// reaches 19 % of 100 Mbit/s, sixteen reach 93 %.
    pub bulk_connections: usize,
    /// How long a call waits for its answer.
    pub call_timeout: Duration,
    /// A ring connection that heard nothing for this long is dead and dialled again.
    pub ring_idle_timeout: Duration,
    /// Segmentation offload. A few virtual network cards corrupt such packets.
    pub offload: bool,
    /// The largest UDP payload that path MTU discovery tries.
    pub mtu_max_bytes: u16,
    /// Bytes that wait for one peer on the ring before more are dropped.
    pub ring_queue_max_bytes: usize,
}

impl WireConfig {
    pub fn new(listen: SocketAddr, identity: NodeIdentity) -> WireConfig {
        WireConfig {
            listen,
            identity,
            overrides: HashMap::new(),
            bulk_connections: 4,
            call_timeout: Duration::from_secs(30),
            ring_idle_timeout: Duration::from_secs(4),
            offload: true,
            mtu_max_bytes: 1452,
            ring_queue_max_bytes: 64 << 20,
        }
    }
}

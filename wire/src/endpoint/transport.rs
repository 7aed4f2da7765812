//! QUIC's settings, and the keys that let a restarted node disown its old connections.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{AckFrequencyConfig, ClientConfig, EndpointConfig, MtuDiscoveryConfig, ServerConfig};
use quinn::{TransportConfig, VarInt};
use rustix::net::sockopt;

use super::WireError;
use super::config::WireConfig;
use super::pace::WINDOW_INITIAL_BYTES;
use crate::identity::{NodeIdentity, tls};

/// How a node calls others.
pub(crate) struct Clients {
    pub(crate) ring: ClientConfig,
    /// For questions that somebody waits for.
    pub(crate) urgent: ClientConfig,
    /// For the others: the grant starts small and is paced (`pace`).
    pub(crate) background: ClientConfig,
}

/// A stream's window. quinn gives up a connection one of whose streams has about a thousand
/// gaps ("too many gaps in stream buffer"): a window of about a thousand packets can't have them.
const STREAM_WINDOW_BYTES: u32 = 1_250_000;
/// All streams of a connection together; more only costs memory.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// What the ring hands to QUIC ahead of the network. More would only queue where nothing can be
/// dropped or overtaken any more.
const RING_SEND_WINDOW_BYTES: u64 = 8 << 20;
const BULK_SEND_WINDOW_BYTES: u64 = 32 << 20;
/// Unknown links are assumed to be like this until measured; three times it is the wait
/// before a lost first packet is sent again.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Links between datacenters take a burst of this size; consensus must not wait for QUIC to
/// find out, and 4 MiB answers shouldn't take a dozen round trips.
const INITIAL_WINDOW_BYTES: u64 = 128 << 10;
const RING_KEEP_ALIVE: Duration = Duration::from_secs(1);
const BULK_KEEP_ALIVE: Duration = Duration::from_secs(4);
const BULK_IDLE: Duration = Duration::from_secs(12);
/// What callers may send ahead: large ring messages from a continent away, and no more than a
/// few strangers may make us hold.
const SERVER_WINDOW_BYTES: u32 = 16 << 20;
/// The caller's timeout is the one that counts (QUIC takes the smaller).
const SERVER_IDLE: Duration = Duration::from_secs(30);
/// A lost last packet of a ring message is noticed this long after the round trip, rather
/// than QUIC's 25 ms.
const RING_ACK_DELAY: Duration = Duration::from_millis(5);
pub(crate) const SERVER_UNI_STREAMS_MAX: u32 = 64;
const SERVER_BIDI_STREAMS_MAX: u32 = 256;
/// A receive buffer that holds 10 ms of 3 Gbit/s: the port's task may not run for that long.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

fn common(config: &WireConfig) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(config.mtu_max_bytes);
    let mut cubic = CubicConfig::default();
    cubic.initial_window(INITIAL_WINDOW_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .enable_segmentation_offload(config.offload)
        .congestion_controller_factory(Arc::new(cubic))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES));
    transport
}

fn idle(timeout: Duration) -> Option<quinn::IdleTimeout> {
    Some(timeout.try_into().expect("a timeout of seconds fits"))
}

fn ring_transport(config: &WireConfig) -> TransportConfig {
    let mut ack = AckFrequencyConfig::default();
    ack.max_ack_delay(Some(RING_ACK_DELAY));
    let mut transport = common(config);
    transport
        .max_idle_timeout(idle(config.ring_idle_timeout))
        .keep_alive_interval(Some(RING_KEEP_ALIVE.min(config.ring_idle_timeout / 3)))
        .send_window(RING_SEND_WINDOW_BYTES)
        .ack_frequency_config(Some(ack))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport
}

fn bulk_transport(config: &WireConfig, window_bytes: u32) -> TransportConfig {
    let mut transport = common(config);
    transport
        .receive_window(VarInt::from_u32(window_bytes))
        .max_idle_timeout(idle(BULK_IDLE))
        .keep_alive_interval(Some(BULK_KEEP_ALIVE))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport
}

fn server_transport(config: &WireConfig) -> TransportConfig {
    let mut transport = common(config);
    transport
        .max_idle_timeout(idle(SERVER_IDLE))
        .receive_window(VarInt::from_u32(SERVER_WINDOW_BYTES))
        .send_window(BULK_SEND_WINDOW_BYTES)
        .max_concurrent_uni_streams(VarInt::from_u32(SERVER_UNI_STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(SERVER_BIDI_STREAMS_MAX));
    transport
}

fn client(
    tls: rustls::ClientConfig,
    transport: TransportConfig,
) -> Result<ClientConfig, WireError> {
    let crypto =
        QuicClientConfig::try_from(tls).map_err(|error| WireError::Tls(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

pub(crate) fn clients(config: &WireConfig, identity: &NodeIdentity) -> Result<Clients, WireError> {
    Ok(Clients {
        ring: client(tls::client(identity, tls::ALPN_RING)?, ring_transport(config))?,
        urgent: client(
            tls::client(identity, tls::ALPN_BULK)?,
            bulk_transport(config, CONNECTION_WINDOW_BYTES),
        )?,
        background: client(
            tls::client(identity, tls::ALPN_BULK)?,
            bulk_transport(config, WINDOW_INITIAL_BYTES),
        )?,
    })
}

/// For a machine that is no node yet: no configuration, defaults.
pub(crate) fn joiner(
    authority_hash: [u8; crate::token::AUTHORITY_HASH_BYTES],
) -> Result<ClientConfig, WireError> {
    let mut transport = TransportConfig::default();
    transport
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(idle(BULK_IDLE))
        .keep_alive_interval(Some(BULK_KEEP_ALIVE))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    client(tls::joiner(authority_hash)?, transport)
}

pub(crate) fn server(
    config: &WireConfig,
    identity: &NodeIdentity,
) -> Result<ServerConfig, WireError> {
    let crypto = QuicServerConfig::try_from(tls::server(identity)?)
        .map_err(|error| WireError::Tls(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(server_transport(config)));
    // What unknown ones may make us hold: connections that nobody has looked at yet, and
    // their early data.
    server.max_incoming(256).incoming_buffer_size(64 << 10).incoming_buffer_size_total(8 << 20);
    Ok(server)
}

/// A restarted node answers packets of connections from before its restart with a stateless
/// reset, at once, if it derives the same key again. Then its peers dial anew after a round
/// trip instead of an idle timeout.
pub(crate) fn endpoint(identity: &NodeIdentity) -> EndpointConfig {
    let key = blake3::derive_key("FusionFS 2026 QUIC stateless reset", identity.key_bytes());
    let mut config = EndpointConfig::new(Arc::new(ResetKey(key)));
    config
        .cid_generator(|| Box::new(RandomIds))
        // Resets are smaller than what provokes them, so that two nodes can't keep each other
        // busy; what is left to bound is the work.
        .min_reset_interval(Duration::from_millis(2));
    config
}

/// Makes connection ids. quinn's own recognises its ids by a key that is new after each start,
/// and sends no reset for others; this one takes any id for its own.
struct RandomIds;

impl quinn::ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&crate::identity::random::<8>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // blake3::Hash compares in constant time.
        let hash = blake3::keyed_hash(&self.0, data);
        let signature = signature.try_into().map_err(|_| CryptoError)?;
        if hash == blake3::Hash::from_bytes(signature) { Ok(()) } else { Err(CryptoError) }
    }
}

/// The port, with buffers as large as the system grants.
pub(crate) fn socket(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    // Beyond the system's limit for everybody if we may, otherwise up to it. Small buffers
    // cost speed, not correctness; `fusion doctor` shows them.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    }
    let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    Ok(socket)
}

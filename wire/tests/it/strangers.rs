//! Bytes from whoever: refused, counted, survived.

use std::net::UdpSocket;
use std::sync::Arc;

use bytes::Bytes;
use engine::ids::{BodyId, Gsn, Ino};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use wire::message::frame;
use wire::{Ask, Authority, NodeIdentity, Packed, RefusedCode, Request, Response};

use super::cluster::*;

/// A QUIC client that presents `identity` and believes anybody.
fn caller(identity: Option<&NodeIdentity>, alpn: &[u8]) -> quinn::Endpoint {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
    let mut tls = match identity {
        Some(identity) => {
            let key = PrivatePkcs8KeyDer::from(identity.key().to_der());
            let chain = vec![identity.certificate().clone()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from(key)).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    endpoint
}

#[derive(Debug)]
struct Gullible(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("QUIC has TLS 1.3")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Tries to get a message in; returns once the node has ended the connection.
async fn intrude(endpoint: &quinn::Endpoint, node: &Node) {
    let Ok(connection) = endpoint.connect(node.address, "fusion").unwrap().await else {
        return;
    };
    if let Ok(mut stream) = connection.open_uni().await {
        let _ = stream.write_all(&[1; 9]).await;
        let _ = stream.write_all(&frame::header(VOLUME, 3)).await;
        let _ = stream.write_all(b"bad").await;
    }
    let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
    closed.expect("the node ends the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_get_in() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let node = Node::start(identity(&authority, 1), "127.0.0.1:0");
    let member = Node::start(identity(&authority, 2), "127.0.0.1:0");
    node.wire.set_peers(vec![member.as_peer()]);

    let impostor = Authority::create(&CLUSTER).unwrap();
    let (forged, outsider) = (identity(&impostor, 2), identity(&authority, 3));
    let same_id_other_key = identity(&authority, 2);
    for alpn in [&b"fusion-ring/1"[..], b"fusion-bulk/1"] {
        let before = node.wire.stats();
        intrude(&caller(None, alpn), &node).await;
        intrude(&caller(Some(&forged), alpn), &node).await;
        until("strangers", || node.wire.stats().strangers_refused == before.strangers_refused + 2)
            .await;
        intrude(&caller(Some(&outsider), alpn), &node).await;
        intrude(&caller(Some(&same_id_other_key), alpn), &node).await;
        until("others", || node.wire.stats().nonmembers_refused == before.nonmembers_refused + 2)
            .await;
    }
    let before = node.wire.stats().strangers_refused;
    let unknown_protocol = caller(Some(&member.identity), b"h3");
    assert!(unknown_protocol.connect(node.address, "fusion").unwrap().await.is_err());
    until("protocol", || node.wire.stats().strangers_refused == before + 1).await;
    assert!(node.handler.seen().ring.is_empty());
    still_works(&[node, member]).await;
}

/// Also where it was connected before, and where it comes back later; nobody else is told that.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_told_by_which_agreement() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let start = |node| Node::start(identity(&authority, node), "127.0.0.1:0");
    let nodes = [start(1), start(2)];
    still_works(&nodes).await;
    let key_hash = nodes[1].identity.key_hash();
    nodes[0].wire.set_removed([(nodes[1].id(), key_hash, Gsn(77))]);
    nodes[0].wire.set_peers(Vec::new());
    let told = (nodes[0].id(), Gsn(77));
    nodes[1].handler.wait("it is told", |seen| seen.removed.contains(&told)).await;
    nodes[1].wire.set_peers(Vec::new());
    let count = nodes[1].handler.seen().removed.len();
    nodes[1].wire.set_peers(vec![nodes[0].as_peer()]);
    nodes[1].handler.wait("it is told again", |seen| seen.removed.len() > count).await;
    assert!(nodes[0].handler.seen().removed.is_empty());

    // A node that stops takes nobody for removed.
    let other = start(3);
    let both = [start(4), other];
    still_works(&both).await;
    both[0].wire.close().await;
    both[1].handler.wait("it is gone", |seen| !seen.down.is_empty()).await;
    assert!(both[1].handler.seen().removed.is_empty());
}

async fn still_works(nodes: &[Node; 2]) {
    introduce(nodes);
    nodes[0].sees(&nodes[1]).await;
    nodes[1].sees(&nodes[0]).await;
    let answer = nodes[1].wire.call(nodes[0].id(), Request::new(VOLUME, Gsn(1), QUESTION)).await;
    assert_eq!(answer, Ok(Response::At(Gsn(2))));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_datagrams_change_nothing() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let start = |node| Node::start(identity(&authority, node), "127.0.0.1:0");
    let nodes = [start(1), start(2)];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise = Noise(1);
    for _ in 0..5000 {
        let mut packet: Vec<u8> = (0..noise.below(1400)).map(|_| noise.byte()).collect();
        // Half of them look like the start of a QUIC connection.
        if let [first, version @ ..] = &mut packet[..]
            && version.len() > 4
            && noise.below(2) == 0
        {
            *first |= 0xc0;
            version[..4].copy_from_slice(&1u32.to_be_bytes());
        }
        socket.send_to(&packet, nodes[0].address).unwrap();
    }
    still_works(&nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_member_is_refused_and_counted() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let node = Node::start(identity(&authority, 1), "127.0.0.1:0");
    let member = Node::start(identity(&authority, 2), "127.0.0.1:0");
    node.wire.set_peers(vec![member.as_peer()]);
    let ring = caller(Some(&member.identity), b"fusion-ring/1");
    let hello = [&[1u8][..], &7u64.to_be_bytes()].concat();
    let oversized = [&hello[..], &((4u32 << 20) + 1).to_be_bytes(), &[0; 4]].concat();
    let truncated = [&hello[..], &frame::header(VOLUME, 100), b"short"].concat();
    let newer = [&[99u8][..], &hello[1..]].concat();
    for (at, broken) in [&oversized[..], &truncated, &newer, &hello[..3]].iter().enumerate() {
        let connection = ring.connect(node.address, "fusion").unwrap().await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(broken).await.unwrap();
        stream.finish().unwrap();
        tokio::time::timeout(PATIENCE, connection.closed()).await.expect("closed");
        assert_eq!(node.wire.stats().malformed, at as u64 + 1);
    }
    let bulk = caller(Some(&member.identity), b"fusion-bulk/1");
    let connection = bulk.connect(node.address, "fusion").unwrap().await.unwrap();
    for question in [&b""[..], b"\x01", b"\x02\x80", &[0x9f; 1000], &vec![1; 200_000]] {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let _ = send.write_all(question).await;
        let _ = send.finish();
        let answer = recv.read_to_end(1 << 20).await.unwrap();
        let answer = Response::decode(Bytes::from(answer)).unwrap();
        assert!(matches!(answer, Response::Refused { code: RefusedCode::Unsupported, .. }));
    }
    assert_eq!(node.wire.stats().malformed, 9);
    assert!(node.handler.seen().ring.is_empty());
    still_works(&[node, member]).await;
}

#[test]
fn damaged_messages_are_errors_and_never_panics() {
    let bodies = vec![BodyId([3; 32]); 5];
    let requests = [
        Ask::Manifest { body: bodies[0], offset: 1 << 40 },
        Ask::Read { body: bodies[0], offset: 5, len: 4 << 20 },
        Ask::Small { bodies: bodies.clone() },
        Ask::Which { bodies },
        Ask::Checkpoint { gsn: Gsn(7), after: vec![1, 2, 3] },
        Ask::Order { from: Gsn(7), upto: Gsn(u64::MAX) },
        Ask::Recall { ino: Ino(99) },
        Ask::ShareLocks { ino: Ino(99) },
        QUESTION,
        Ask::Status,
        Ask::Renew { csr: vec![0; 300] },
    ];
    let responses = [
        Response::Manifest { total_bytes: 10, part: vec![1; 10].into() },
        Response::Read(vec![2; 100].into()),
        Response::Small(vec![None, Some(vec![3; 9].into()), Some(Bytes::new())]),
        Response::Which(vec![true, false, true, true, false, false, true, false, true]),
        Response::Checkpoint {
            gsn: Gsn(3),
            page: Packed::new(&[1; 20]),
            next: Some(vec![4; 5]),
            total_bytes: 7,
        },
        Response::Checkpoint { gsn: Gsn(3), page: Packed::new(&[]), next: None, total_bytes: 0 },
        Response::Order { records: Packed::new(&[5; 77]), gsn: Gsn(9) },
        Response::At(Gsn(12)),
        Response::Status(vec![7; 3].into()),
        Response::Certificate(vec![8; 3].into()),
        Response::refused(RefusedCode::Busy, "later"),
    ];
    let mut noise = Noise(2);
    for ask in requests {
        let request = Request::new(VOLUME, Gsn(1), ask);
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes), Ok(request));
        for len in 0..bytes.len() {
            assert!(Request::decode(&bytes[..len]).is_err());
        }
        for _ in 0..3000 {
            let _ = Request::decode(&noise.damage(&bytes));
        }
    }
    for response in responses {
        let bytes = response.clone().encode().unwrap().concat();
        assert_eq!(Response::decode(Bytes::from(bytes.clone())), Ok(response));
        assert!(Response::decode(Bytes::copy_from_slice(&bytes[..4])).is_err());
        for _ in 0..3000 {
            let _ = Response::decode(Bytes::from(noise.damage(&bytes)));
        }
    }
    for _ in 0..3000 {
        let mut frames = frame::FrameReader::default();
        let whole = [&frame::header(VOLUME, 5)[..], b"hello", &frame::header(VOLUME, 0)].concat();
        frames.push(Bytes::from(noise.damage(&whole)));
        while let Ok(Some(_)) = frames.next_frame() {}
    }
}

/// A huge count in a small message must not reserve memory for it.
#[test]
fn announced_counts_cost_nothing() {
    // [volume, applied, class, Small { array of 2^62 }]
    let request =
        [&[1, 0x84, 1, 1, 1, 0x82, 2, 0x81, 0x9b][..], &(1u64 << 62).to_be_bytes()].concat();
    assert!(Request::decode(&request).is_err());
}

/// Small numbers that look random: SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// One to four bytes changed, cut, or added.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1));
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), self.byte()),
                _ if at < bytes.len() => bytes[at] = self.byte(),
                _ => {}
            }
        }
        bytes
    }
}

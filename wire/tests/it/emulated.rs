//! Ports with distance between them.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use engine::ids::{Gsn, NodeId};
use wire::emulator::{EmulatorConfig, LinkShape, Matrix, wan};
use wire::{Authority, Emulator, Request, WireConfig};

use super::cluster::*;

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

fn pair() -> (Emulator, (UdpSocket, SocketAddr), (UdpSocket, SocketAddr)) {
    let (a, b) = (socket(), socket());
    let nodes = vec![("a".into(), a.1), ("b".into(), b.1)];
    (Emulator::start(EmulatorConfig::new(nodes)).unwrap(), a, b)
}

#[test]
fn each_side_sees_the_other_at_one_address_and_may_answer_there() {
    let (emulator, (a, _), (b, _)) = pair();
    a.send_to(b"ping", emulator.address("a", "b").unwrap()).unwrap();
    let (ping, from) = receive(&b);
    assert_eq!((ping.as_slice(), from), (&b"ping"[..], emulator.address("b", "a").unwrap()));
    b.send_to(b"pong", from).unwrap();
    let (pong, from) = receive(&a);
    assert_eq!((pong.as_slice(), from), (&b"pong"[..], emulator.address("a", "b").unwrap()));
    assert_eq!(emulator.stats("a", "b").unwrap().passed_bytes, 4);
    assert_eq!(emulator.address("a", "nobody"), None);
    assert_eq!(emulator.overrides("a").len(), 1);
}

#[test]
fn packets_arrive_in_order_and_not_before_their_time() {
    let (emulator, (a, _), (b, _)) = pair();
    let delay = Duration::from_millis(20);
    assert!(emulator.set("a", "b", LinkShape::with_round_trip_ms(40.0)));
    let to = emulator.address("a", "b").unwrap();
    let mut sent = Vec::new();
    for at in 0..200u16 {
        sent.push(Instant::now());
        a.send_to(&at.to_be_bytes(), to).unwrap();
    }
    for at in 0..200u16 {
        assert_eq!(receive(&b).0, at.to_be_bytes());
        assert!(sent[usize::from(at)].elapsed() >= delay);
    }
}

#[test]
fn cuts_hold_for_one_direction_or_all_and_heal() {
    let (emulator, (a, _), (b, _)) = pair();
    let (to_b, to_a) = (emulator.address("a", "b").unwrap(), emulator.address("b", "a").unwrap());
    emulator.cut_link("a", "b");
    a.send_to(b"lost", to_b).unwrap();
    b.send_to(b"through", to_a).unwrap();
    assert_eq!(receive(&a).0, b"through");
    emulator.cut("b");
    b.send_to(b"lost too", to_a).unwrap();
    while emulator.stats("b", "a").unwrap().lost_packets < 1 {
        std::thread::yield_now();
    }
    while emulator.stats("a", "b").unwrap().lost_packets < 1 {
        std::thread::yield_now();
    }
    emulator.heal();
    a.send_to(b"healed", to_b).unwrap();
    assert_eq!(receive(&b).0, b"healed");
    // What was on its way when the link was cut is gone.
    emulator.set("a", "b", LinkShape::with_round_trip_ms(200.0));
    a.send_to(b"cut off on the way", to_b).unwrap();
    emulator.cut("a");
    while emulator.stats("a", "b").unwrap().lost_packets < 2 {
        std::thread::yield_now();
    }
    // A node that restarts elsewhere is found again.
    let (moved, address) = socket();
    emulator.move_node("b", address);
    emulator.heal();
    a.send_to(b"moved", to_b).unwrap();
    assert_eq!(receive(&moved).0, b"moved");
}

#[test]
fn trains_of_packets_come_out_as_packets() {
    let (emulator, (a, _), (b, _)) = pair();
    let state = quinn::udp::UdpSocketState::new((&a).into()).unwrap();
    let to = emulator.address("a", "b").unwrap();
    for shape in [
        LinkShape::PERFECT,
        LinkShape::with_round_trip_ms(2.0),
        LinkShape { rate_bps: 1_000_000_000, ..LinkShape::PERFECT },
    ] {
        emulator.set_both("a", "b", shape);
        let contents: Vec<u8> = (0..25_500).map(|at| (at / 1000) as u8).collect();
        let segments = state.max_gso_segments();
        for train in contents.chunks(1000 * segments.min(20)) {
            let transmit = quinn::udp::Transmit {
                destination: to,
                ecn: None,
                contents: train,
                segment_size: Some(1000).filter(|_| train.len() > 1000),
                src_ip: None,
            };
            state.send((&a).into(), &transmit).unwrap();
        }
        for at in 0..26u8 {
            let (packet, _) = receive(&b);
            assert_eq!((packet.len(), packet[0]), (if at == 25 { 500 } else { 1000 }, at));
        }
    }
}

#[test]
fn matrices_and_files_shape_links() {
    let nodes: Vec<_> = ["x", "y", "z"].map(|name| (name.to_owned(), socket().1)).to_vec();
    let emulator = Emulator::start(EmulatorConfig::new(nodes)).unwrap();
    emulator.set_matrix(&["x", "y", "z"], Matrix::named("A3").unwrap());
    assert_eq!(emulator.shape("y", "z").unwrap().delay_us, 102_200);
    let rows = wan::parse("x,y,5,1\nx,z,7\nz,x,9").unwrap();
    assert!(emulator.set_wan(&rows));
    let delay = |from, to| emulator.shape(from, to).unwrap().delay_us;
    assert_eq!((delay("x", "y"), delay("y", "x")), (5_000, 5_000));
    assert_eq!((delay("x", "z"), delay("z", "x")), (7_000, 9_000));
    assert!(!emulator.set_wan(&wan::parse("x,elsewhere,5").unwrap()));
}

/// Two ports whose packets all go through a relay.
pub async fn distant(round_trip_ms: f64) -> (Emulator, [Node; 2]) {
    let authority = Authority::create(&CLUSTER).unwrap();
    // Ports must be known before the relay starts, the relay's before the nodes start.
    let ports = [socket().1, socket().1];
    let nodes = vec![("z1".into(), ports[0]), ("z2".into(), ports[1])];
    let emulator = Emulator::start(EmulatorConfig::new(nodes)).unwrap();
    emulator.set_both("z1", "z2", LinkShape::with_round_trip_ms(round_trip_ms));
    let start = |node: u16| {
        let listen = ports[usize::from(node) - 1];
        let mut config = WireConfig::new(listen, identity(&authority, node));
        config.overrides = emulator.overrides(&format!("z{node}"));
        Node::start_with(config)
    };
    let nodes = [start(1), start(2)];
    introduce(&nodes);
    nodes[0].sees(&nodes[1]).await;
    nodes[1].sees(&nodes[0]).await;
    (emulator, nodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_stops_traffic_and_its_end_brings_it_back() {
    let (emulator, nodes) = distant(4.0).await;
    let ask = || nodes[0].wire.call(NodeId(2), Request::new(VOLUME, Gsn(1), QUESTION));
    let begun = Instant::now();
    ask().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(4));
    assert!(nodes[0].wire.rtt(NodeId(2)).unwrap() >= Duration::from_millis(4));
    emulator.cut("z2");
    let marker = b"during the cut".to_vec();
    nodes[0].send(&nodes[1], marker);
    nodes[0].handler.wait("down", |seen| seen.down == [NodeId(2)]).await;
    emulator.heal();
    until("message", || {
        nodes[0].send(&nodes[1], b"after".to_vec());
        nodes[1].handler.seen().ring.iter().any(|m| m.2 == b"after"[..])
    })
    .await;
    ask().await.unwrap();
    assert!(nodes[0].wire.stats().peers[0].reconnects >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_and_jitter_cost_time_and_no_message_of_a_connection() {
    let (emulator, nodes) = distant(10.0).await;
    let shape = LinkShape { delay_us: 5_000, jitter_us: 500, loss: 0.02, ..LinkShape::PERFECT };
    emulator.set_both("z1", "z2", shape);
    for at in 0..500u16 {
        nodes[0].send(&nodes[1], at.to_be_bytes().to_vec());
        if at % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let seen = nodes[1].handler.wait("all", |seen| seen.ring.len() == 500).await;
    let numbers = seen.ring.iter().map(|m| u16::from_be_bytes(m.2[..].try_into().unwrap()));
    assert!(numbers.eq(0..500));
}

//! Consensus messages: order, sizes, restarts, members.

use std::time::Duration;

use bytes::Bytes;
use engine::ids::{NodeId, VolumeId};
use wire::{Authority, WireConfig};

use super::cluster::*;
use super::victim::Victim;

#[tokio::test(flavor = "multi_thread")]
async fn messages_arrive_in_order_with_sender_and_volume() {
    let nodes = nodes(3).await;
    for at in 0..100u8 {
        nodes[0].wire.send_ring(NodeId(2), VolumeId(at.into()), vec![at; at.into()]);
    }
    nodes[2].send(&nodes[1], b"hello".to_vec());
    let seen = nodes[1].handler.wait("101 messages", |seen| seen.ring.len() == 101).await;
    let mut from_one = seen.ring.iter().filter(|(from, ..)| *from == NodeId(1));
    for at in 0..100u8 {
        let (_, volume, message) = from_one.next().unwrap();
        assert_eq!((*volume, &message[..]), (VolumeId(at.into()), &vec![at; at.into()][..]));
    }
    assert!(seen.ring.contains(&(NodeId(3), VOLUME, Bytes::from_static(b"hello"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_arrives_whole_and_a_larger_one_is_dropped() {
    let nodes = nodes(2).await;
    let largest: Vec<u8> = (0..4 << 20).map(body_byte).collect();
    nodes[0].send(&nodes[1], vec![0; (4 << 20) + 1]);
    nodes[0].send(&nodes[1], largest.clone());
    nodes[0].send(&nodes[1], b"small".to_vec());
    let seen = nodes[1].handler.wait("both", |seen| seen.ring.len() == 2).await;
    let messages: Vec<&Bytes> = seen.ring.iter().map(|(_, _, message)| message).collect();
    assert!(messages.contains(&&Bytes::from(largest)));
    assert!(messages.contains(&&Bytes::from_static(b"small")));
    let stats = nodes[0].wire.stats();
    assert_eq!(stats.peers[0].ring_dropped_count, 1);
    assert!(stats.peers[0].connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_a_stranger_goes_nowhere() {
    let nodes = nodes(1).await;
    nodes[0].wire.send_ring(NodeId(77), VOLUME, vec![1]);
    assert!(nodes[0].wire.stats().peers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_and_restarted_node_is_back_within_a_second() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let a = Node::start(identity(&authority, 1), "127.0.0.1:0");
    let mut victim = Victim::prepare(&identity(&authority, 2));
    a.wire.set_peers(vec![victim.as_peer()]);
    for round in 0..4 {
        victim.start(&a);
        let tag = format!("round {round}").into_bytes();
        // As consensus does: again and again.
        until("echo", || {
            a.wire.send_ring(NodeId(2), VOLUME, tag.clone());
            a.handler.seen().ring.iter().any(|message| message.2 == tag)
        })
        .await;
        // From the new process's own "I am up": what loading it takes is not ours.
        let back = victim.listening_since().elapsed();
        assert!(round == 0 || back < Duration::from_secs(1), "{back:?}");
        victim.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_noticed_and_its_messages_are_dropped() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let start = |node| {
        let mut config =
            WireConfig::new("127.0.0.1:0".parse().unwrap(), identity(&authority, node));
        config.ring_idle_timeout = Duration::from_millis(300);
        Node::start_with(config)
    };
    let nodes = [start(1), start(2)];
    let emulator_like_silence = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    introduce(&nodes);
    nodes[0].sees(&nodes[1]).await;
    // The peer moves to an address where nobody answers, and closes.
    let mut gone = nodes[1].as_peer();
    gone.address = emulator_like_silence.local_addr().unwrap().to_string();
    nodes[0].wire.set_peers(vec![gone]);
    nodes[1].wire.close().await;
    nodes[0].handler.wait("down", |seen| seen.down == [NodeId(2)]).await;
    for _ in 0..3 {
        nodes[0].send(&nodes[1], vec![0; 1 << 20]);
    }
    assert!(nodes[0].wire.stats().peers[0].ring_dropped_count >= 2);
    assert!(!nodes[0].wire.stats().peers[0].connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_cut_off_and_a_new_key_is_another_node() {
    let nodes = nodes(2).await;
    nodes[0].wire.set_peers(vec![nodes[0].as_peer()]);
    nodes[0].handler.wait("down", |seen| seen.down == [NodeId(2)]).await;
    until("refused", || nodes[0].wire.stats().nonmembers_refused > 0).await;
    let heard = nodes[0].handler.seen().ring.len();
    nodes[1].send(&nodes[0], b"anybody there?".to_vec());
    // The same id with another key is not the node that we know.
    let mut forged = nodes[1].as_peer();
    forged.key_hash = [1; 32];
    nodes[0].wire.set_peers(vec![forged]);
    let before = nodes[0].wire.stats().nonmembers_refused;
    until("refused again", || nodes[0].wire.stats().nonmembers_refused > before + 1).await;
    assert_eq!(nodes[0].handler.seen().ring.len(), heard);
    // Let in again, all is well.
    introduce(&nodes);
    until("message", || {
        nodes[1].send(&nodes[0], b"back".to_vec());
        nodes[0].handler.seen().ring.len() > heard
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_serves_without_a_stop() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let start = |node| Node::start(identity(&authority, node), "127.0.0.1:0");
    let nodes = [start(1), start(2)];
    let renewed = nodes[0].identity.renewed(&authority).unwrap();
    assert_ne!(renewed.certificate(), nodes[0].identity.certificate());
    nodes[0].wire.renew(&renewed).unwrap();
    introduce(&nodes);
    nodes[0].sees(&nodes[1]).await;
    nodes[1].sees(&nodes[0]).await;
}

//! Measurements: `cargo test -p wire --test it figures -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use engine::ids::{BodyId, Gsn, NodeId};
use wire::emulator::LinkShape;
use wire::{Ask, Authority, Request, Response};

use super::cluster::*;
use super::emulated::distant;
use super::victim::Victim;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn figures() {
    let near = nodes(2).await;
    ping_pong("ring, direct", &near[0], &near[1], 200).await;
    bulk("bulk, direct", &near[0], 1 << 30).await;
    ping_pong("ring, direct, after bulk", &near[0], &near[1], 200).await;
    let (_emulator, far) = distant(0.0).await;
    ping_pong("ring, relay without delay", &far[0], &far[1], 200).await;
    bulk("bulk, relay without delay", &far[0], 1 << 30).await;
    let (_emulator, far) = distant(20.0).await;
    ping_pong("ring, relay with 20 ms", &far[0], &far[1], 200).await;
    bulk("bulk, relay with 20 ms", &far[0], 512 << 20).await;
    loaded(&near, "direct").await;
    let (emulator, far) = distant(90.0).await;
    for loss in [0.0, 0.001] {
        let shape = LinkShape { delay_us: 45_000, rate_bps: 100_000_000, ..LinkShape::PERFECT };
        emulator.set_both("z1", "z2", LinkShape { loss, ..shape });
        bulk(&format!("bulk, 90 ms, 100 Mbit/s, loss {loss}"), &far[0], 24 << 20).await;
        loaded(&far, &format!("90 ms, 100 Mbit/s, loss {loss}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn figures_of_a_restart() {
    let authority = Authority::create(&CLUSTER).unwrap();
    let a = Node::start(identity(&authority, 1), "127.0.0.1:0");
    let mut victim = Victim::prepare(&identity(&authority, 2));
    a.wire.set_peers(vec![victim.as_peer()]);
    for round in 0..6u8 {
        victim.start(&a);
        let born = victim.listening_since();
        until("echo", || {
            a.wire.send_ring(NodeId(2), VOLUME, vec![round]);
            a.handler.seen().ring.iter().any(|message| message.2[..] == [round])
        })
        .await;
        println!("restart {round}: first echo {:?} after it listens", born.elapsed());
        // The other side notices nothing, or gives up: both must work.
        tokio::time::sleep(Duration::from_millis(if round % 2 == 0 { 0 } else { 6000 })).await;
        victim.kill();
        tokio::time::sleep(Duration::from_millis(if round % 2 == 0 { 0 } else { 6000 })).await;
    }
}

/// Consensus and on-demand reads beside a full background.
async fn loaded(nodes: &[Node], what: &str) {
    let wire = nodes[0].wire.clone();
    let background: Vec<_> = (0..32u64)
        .map(|at| {
            let wire = wire.clone();
            tokio::spawn(async move {
                let ask = Ask::Read { body: BodyId([0; 32]), offset: at << 30, len: 4 << 20 };
                while wire.call(NodeId(2), Request::new(VOLUME, Gsn(1), ask.clone())).await.is_ok()
                {
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    ping_pong(&format!("ring under bulk, {what}"), &nodes[0], &nodes[1], 60).await;
    let mut reads = Vec::new();
    for at in 0..30u64 {
        let begun = Instant::now();
        let ask = Ask::Read { body: BodyId([0; 32]), offset: at << 20, len: 64 << 10 };
        wire.call(NodeId(2), Request::new(VOLUME, Gsn(1), ask).on_demand()).await.unwrap();
        reads.push(begun.elapsed());
    }
    reads.sort();
    println!("64 KiB on demand under bulk, {what}: p50 {:?} max {:?}", reads[15], reads[29]);
    background.iter().for_each(|task| task.abort());
}

async fn ping_pong(what: &str, a: &Node, b: &Node, rounds: usize) {
    let mut rtts = Vec::new();
    let (a_had, b_had) = (a.handler.seen().ring.len(), b.handler.seen().ring.len());
    for round in 1..=rounds {
        // Idle before: that is what a lone operation meets.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let begun = Instant::now();
        a.send(b, vec![0; 100]);
        b.handler.wait("ping", |seen| seen.ring.len() == b_had + round).await;
        b.send(a, vec![0; 100]);
        a.handler.wait("pong", |seen| seen.ring.len() == a_had + round).await;
        rtts.push(begun.elapsed());
    }
    rtts.sort();
    let at = |percent: usize| rtts[(rounds - 1) * percent / 100];
    println!("{what}: round trip p50 {:?} p90 {:?} p99 {:?}", at(50), at(90), at(99));
}

async fn bulk(what: &str, a: &Node, total: u64) {
    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    let (piece, mut asked, mut had) = (4u32 << 20, 0, 0);
    while had < total {
        while asked < total && calls.len() < 32 {
            let wire = a.wire.clone();
            let ask = Ask::Read { body: BodyId([0; 32]), offset: asked, len: piece };
            calls.spawn(
                async move { wire.call(NodeId(2), Request::new(VOLUME, Gsn(1), ask)).await },
            );
            asked += u64::from(piece);
        }
        let Some(Ok(Ok(Response::Read(bytes)))) = calls.join_next().await else {
            panic!("a call failed")
        };
        had += bytes.len() as u64;
    }
    let rate = total as f64 / 1e6 / begun.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} MB/s");
}

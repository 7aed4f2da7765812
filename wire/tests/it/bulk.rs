//! Questions and answers.

use engine::ids::{BodyId, Gsn, Ino, NodeId};
use wire::{Ask, Class, RefusedCode, Request, Response, WireError};

use super::cluster::*;
use super::victim::Victim;

fn request(ask: Ask) -> Request {
    Request::new(VOLUME, Gsn(4), ask)
}

fn read(offset: u64, len: u32) -> Request {
    request(Ask::Read { body: BodyId([1; 32]), offset, len })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_comes_back() {
    let nodes = nodes(2).await;
    let ask = |request| nodes[0].wire.call(NodeId(2), request);
    let Response::Read(bytes) = ask(read(7, 4 << 20)).await.unwrap() else { panic!() };
    assert_eq!(bytes.len(), 4 << 20);
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == body_byte(at as u64 + 7)));
    assert_eq!(ask(read(0, 0).on_demand()).await, Ok(Response::Read(Vec::new().into())));

    let bodies: Vec<BodyId> = (0..=255).map(|tag| BodyId([tag; 32])).collect();
    let small = ask(request(Ask::Small { bodies: bodies.clone() })).await.unwrap();
    let Response::Small(small) = small else { panic!() };
    assert_eq!((small[0].as_deref(), small[9].as_deref()), (None, Some(&[9; 32][..])));
    let which = ask(request(Ask::Which { bodies })).await.unwrap();
    let Response::Which(which) = which else { panic!() };
    assert!(which.iter().enumerate().all(|(at, held)| *held == (at != 0)) && which.len() == 256);

    assert_eq!(ask(request(QUESTION)).await, Ok(Response::At(Gsn(5))));
    let manifest = request(Ask::Manifest { body: BodyId([1; 32]), offset: 0 });
    let refused = Response::refused(RefusedCode::NotHeld, "not here");
    assert_eq!(ask(manifest).await, Ok(refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_on_both_sides() {
    let nodes = nodes(2).await;
    let ask = |request| nodes[0].wire.call(NodeId(2), request);
    assert!(matches!(ask(read(0, (4 << 20) + 1)).await, Err(WireError::Invalid(_))));
    let bodies = vec![BodyId([1; 32]); 257];
    assert!(matches!(ask(request(Ask::Small { bodies })).await, Err(WireError::Invalid(_))));
    let answer = ask(request(Ask::Status)).await;
    assert!(
        matches!(answer, Ok(Response::Refused { code: RefusedCode::Failed, .. })),
        "{answer:?}"
    );
    let unknown = nodes[0].wire.call(NodeId(9), request(QUESTION)).await;
    assert_eq!(unknown, Err(WireError::UnknownPeer(NodeId(9))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_question_leaves_room_for_others() {
    let nodes = nodes(2).await;
    // More than the streams that a connection has.
    for _ in 0..10 {
        let stuck = (0..100).map(|ino| {
            let (wire, ask) = (nodes[0].wire.clone(), request(Ask::Recall { ino: Ino(ino) }));
            tokio::spawn(async move { wire.call(NodeId(2), ask).await })
        });
        let stuck: Vec<_> = stuck.collect();
        tokio::task::yield_now().await;
        stuck.iter().for_each(|task| task.abort());
        for task in stuck {
            assert!(task.await.unwrap_err().is_cancelled());
        }
    }
    assert_eq!(nodes[0].wire.call(NodeId(2), request(QUESTION)).await, Ok(Response::At(Gsn(5))));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_questions_at_once_are_all_answered() {
    let nodes = nodes(2).await;
    let mut asked = tokio::task::JoinSet::new();
    for at in 0..200u64 {
        let wire = nodes[0].wire.clone();
        let class = [Class::Bulk, Class::Push, Class::Small, Class::OnDemand][at as usize % 4];
        let request = Request { class, ..read(at * 1000, 200_000) };
        asked.spawn(async move { (at, wire.call(NodeId(2), request).await) });
    }
    while let Some(answered) = asked.join_next().await {
        let (at, answer) = answered.unwrap();
        let Response::Read(bytes) = answer.unwrap() else { panic!() };
        assert_eq!((bytes.len(), bytes[5]), (200_000, body_byte(at * 1000 + 5)));
    }
    let stats = nodes[0].wire.stats().peers.remove(0);
    assert!(stats.bulk_received_bytes >= 200 * 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_peer_is_asked_anew() {
    let authority = wire::Authority::create(&CLUSTER).unwrap();
    let a = Node::start(identity(&authority, 1), "127.0.0.1:0");
    let mut victim = Victim::prepare(&identity(&authority, 2));
    a.wire.set_peers(vec![victim.as_peer()]);
    for _ in 0..3 {
        victim.start(&a);
        // No retries here: the question itself finds out that its connection is dead.
        victim.listening_since();
        let answer = a.wire.call(NodeId(2), request(QUESTION)).await;
        assert_eq!(answer, Ok(Response::At(Gsn(5))));
        victim.kill();
    }
}

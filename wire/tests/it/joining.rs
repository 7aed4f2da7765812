//! A machine becomes a node.

use std::sync::Arc;

use engine::ids::NodeId;
use parking_lot::Mutex;
use wire::{Authority, JoinError, JoinReply, JoinRequest, JoinToken, Joining, NodeKey, NodeName};

use super::cluster::*;

fn admit(authority: &Authority, request: &JoinRequest) -> Result<JoinReply, String> {
    let zone = "tokyo".to_owned();
    let name = NodeName { cluster: CLUSTER, zone: zone.clone(), node: NodeId(2) };
    let certificate = authority.issue(&request.csr, &name).map_err(|error| error.to_string())?;
    Ok(JoinReply {
        cluster: CLUSTER,
        node: NodeId(2),
        zone,
        certificate: certificate.to_vec(),
        authority: authority.certificate().to_vec(),
        authority_key: Some(authority.private_key()),
        members: Vec::new(),
        volume: b"header".to_vec(),
    })
}

fn first(authority: Arc<Authority>, secrets: Arc<Mutex<Vec<JoinRequest>>>) -> Node {
    let node = Node::start(identity(&authority, 1), "127.0.0.1:0");
    *node.handler.joiner.lock() = Some(Arc::new(move |request: JoinRequest| {
        secrets.lock().push(request.clone());
        if request.token == 5 { admit(&authority, &request) } else { Err("no such token".into()) }
    }));
    node
}

fn joining<'a>(token: &'a JoinToken, key: &'a NodeKey) -> Joining<'a> {
    let address = "127.0.0.1:9".to_owned();
    Joining { token, key, name: "n2".into(), zone: String::new(), address }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_turns_a_machine_into_a_node() {
    let authority = Arc::new(Authority::create(&CLUSTER).unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let node = first(authority.clone(), requests.clone());
    let addresses = vec![node.address.to_string()];
    let token = JoinToken::generate(5, authority.hash(), addresses);
    let token: JoinToken = token.to_string().parse().unwrap();
    let key = NodeKey::generate().unwrap();
    let (joined, reply) = wire::join(joining(&token, &key)).await.unwrap();
    assert_eq!((joined.node(), reply.volume.as_slice()), (NodeId(2), &b"header"[..]));
    assert_eq!(joined.key_hash(), key.key_hash());
    let request = requests.lock().remove(0);
    assert_eq!((request.secret, request.key_hash), (token.secret, key.key_hash()));
    assert!(!format!("{request:?}").contains(&format!("{:?}", token.secret)));

    // It can admit others itself, and the nodes talk.
    let handed = reply.authority_key.unwrap();
    assert_eq!(Authority::from_parts(&reply.authority, &handed).unwrap().hash(), authority.hash());
    let nodes = [node, Node::start(joined, "127.0.0.1:0")];
    introduce(&nodes);
    nodes[0].sees(&nodes[1]).await;
    nodes[1].sees(&nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_stays_here_when_the_authority_is_another() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let impostor = first(Arc::new(Authority::create(&CLUSTER).unwrap()), requests.clone());
    let real = Authority::create(&CLUSTER).unwrap();
    let token = JoinToken::generate(5, real.hash(), vec![impostor.address.to_string()]);
    let key = NodeKey::generate().unwrap();
    let error = wire::join(joining(&token, &key)).await.unwrap_err();
    assert!(matches!(error, JoinError::WrongAuthority { .. }), "{error}");
    assert!(requests.lock().is_empty());
    assert_eq!(impostor.wire.stats().joins_refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_dead_addresses_are_told_apart() {
    let authority = Arc::new(Authority::create(&CLUSTER).unwrap());
    let node = first(authority.clone(), Arc::default());
    let key = NodeKey::generate().unwrap();
    // The first address answers nothing; the second knows no such token.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = vec![silent.local_addr().unwrap().to_string(), node.address.to_string()];
    let token = JoinToken::generate(6, authority.hash(), addresses);
    let error = wire::join(joining(&token, &key)).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused(reason) if reason == "no such token"), "{error}");
    let nowhere = JoinToken { addresses: token.addresses[..1].to_vec(), ..token.clone() };
    let error = wire::join(joining(&nowhere, &key)).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable(_)), "{error}");
    // Who goes on trying is barred for a while.
    let close = JoinToken { addresses: token.addresses[1..].to_vec(), ..token };
    let unnamed = Joining { name: "No Name!".into(), ..joining(&close, &key) };
    assert!(matches!(wire::join(unnamed).await, Err(JoinError::Refused(_))));
    for _ in 0..25 {
        assert!(wire::join(joining(&close, &key)).await.is_err());
    }
    let good = JoinToken::generate(5, authority.hash(), close.addresses);
    let error = wire::join(joining(&good, &key)).await.unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
}

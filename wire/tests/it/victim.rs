//! A node in a process of its own, so that it can be killed with nothing said: this test program
//! again, running [`be_the_victim`] only.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use engine::ids::NodeId;
use wire::{NodeIdentity, Peer};

use super::cluster::*;

const DIR: &str = "WIRE_VICTIM_DIR";
const LISTEN: &str = "WIRE_VICTIM_LISTEN";
const PEER: &str = "WIRE_VICTIM_PEER";
const READY: &str = "victim listens";

pub struct Victim {
    dir: tempfile::TempDir,
    identity: NodeIdentity,
    address: String,
    child: Option<(Child, BufReader<ChildStdout>)>,
}

impl Victim {
    pub fn prepare(identity: &NodeIdentity) -> Victim {
        let dir = tempfile::tempdir().unwrap();
        identity.save(dir.path()).unwrap();
        // Free now; the child takes it in a moment.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        Victim { dir, identity: identity.clone(), address, child: None }
    }

    pub fn as_peer(&self) -> Peer {
        Peer {
            node: self.identity.node(),
            name: "victim".into(),
            address: self.address.clone(),
            key_hash: self.identity.key_hash(),
        }
    }

    pub fn start(&mut self, peer: &Node) {
        std::fs::write(self.dir.path().join("peer-key"), peer.identity.key_hash()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim::be_the_victim", "--ignored", "--nocapture"])
            .env(DIR, self.dir.path())
            .env(LISTEN, &self.address)
            .env(PEER, format!("{} {}", peer.id(), peer.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        self.child = Some((child, output));
    }

    /// Waits until the child listens; returns when that was.
    pub fn listening_since(&mut self) -> Instant {
        let (_, output) = self.child.as_mut().expect("it is started");
        let ready = output.lines().map_while(Result::ok).any(|line| line.contains(READY));
        assert!(ready, "the victim starts");
        Instant::now()
    }

    pub fn kill(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends every ring message back, until the parent is gone or kills it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by other tests, in a process of its own"]
async fn be_the_victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = Path::new(&dir);
    let node = Node::start(NodeIdentity::load(dir).unwrap(), &std::env::var(LISTEN).unwrap());
    let peer = std::env::var(PEER).unwrap();
    let (id, address) = peer.split_once(' ').unwrap();
    let key_hash = std::fs::read(dir.join("peer-key")).unwrap().try_into().unwrap();
    let id = NodeId(id.parse().unwrap());
    node.wire.set_peers(vec![Peer {
        node: id,
        name: "survivor".into(),
        address: address.into(),
        key_hash,
    }]);
    println!("{READY}");
    std::thread::spawn(|| {
        // Ends with the parent, however that ends.
        let _ = std::io::stdin().lines().count();
        std::process::exit(0);
    });
    let mut echoed = 0;
    loop {
        let seen = node.handler.next(|seen| seen.ring.len() > echoed).await;
        for (from, volume, message) in &seen.ring[echoed..] {
            node.wire.send_ring(*from, *volume, message.clone());
        }
        echoed = seen.ring.len();
    }
}

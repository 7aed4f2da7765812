//! Schedules by hand, of which the search would have to look for long.

use super::node::{Deed, Node, Sent, Step};
use super::ring::{Ring, What};
use super::table::{Known, slot};
use crate::consensus::Message;
use crate::consensus::mutation::Mutation;
use crate::ids::NodeId;

struct Schedule {
    ring: Ring,
    nodes: Vec<Node>,
    sent: Vec<Sent>,
}

impl Schedule {
    fn new(ring: Ring) -> Schedule {
        let nodes = super::model::settled(&ring);
        Schedule { ring, nodes, sent: Vec::new() }
    }

    fn take(&mut self, node: u16, deed: Deed) {
        let slot = slot(NodeId(node));
        if let Some(Step { node, sent, .. }) = self.nodes[slot].after(&self.ring, deed, false) {
            self.nodes[slot] = node;
            self.sent.extend(sent);
        }
    }

    fn happen(&mut self, node: u16, what: What) {
        self.take(node, Deed::Happen(&what, 1));
    }

    /// The newest such message comes, if there is one.
    fn receive(&mut self, node: u16, from: u16, is: fn(&Message) -> bool) {
        let mut letters = self.sent.iter().rev();
        let letter = letters
            .find(|it| it.to == NodeId(node) && it.from == NodeId(from) && is(&it.message))
            .cloned();
        if let Some(letter) = letter {
            self.take(node, Deed::Receive(&letter));
        }
    }

    fn flush(&mut self, node: u16) {
        // What is flushed may make the node write again.
        for _ in 0..3 {
            self.take(node, Deed::Flush);
        }
    }

    /// What each node has executed; true if that is one order.
    fn one_order(&self) -> bool {
        let known: Vec<Known> =
            self.nodes.iter().map(|node| Known::new(&self.ring, node.clone())).collect();
        for node in &self.nodes {
            println!("{:?}: {:?}", node.id, node.executed);
        }
        known.iter().all(|one| known.iter().all(|other| one.agrees(other)))
    }
}

fn is_prepare(message: &Message) -> bool {
    matches!(message, Message::Prepare { .. })
}

fn is_promise(message: &Message) -> bool {
    matches!(message, Message::Promise { .. })
}

fn is_propose(message: &Message) -> bool {
    matches!(message, Message::Propose { .. })
}

fn is_vote(message: &Message) -> bool {
    matches!(message, Message::Accepted { .. })
}

/// A taker dies between the two phases of its takeover, before anything of it is durable, and
/// begins anew. The first time it would find the owner's command, at node 1, and have it
/// accepted there; the second time it asks node 3, which knows of nothing.
fn a_taker_dies_and_begins_anew(ring: Ring) -> Schedule {
    let takeover = || What::Takeover { of: 1 };
    let mut schedule = Schedule::new(ring.slow(2));
    schedule.happen(1, What::Propose);
    schedule.happen(2, takeover());
    for node in [1, 3] {
        schedule.receive(node, 2, is_prepare);
        schedule.receive(2, node, is_promise);
    }
    schedule.receive(1, 2, is_propose);
    schedule.happen(2, What::Crash);
    schedule.happen(2, takeover());
    schedule.flush(2);
    schedule.receive(3, 2, is_prepare);
    schedule.receive(2, 3, is_promise);
    schedule.flush(2);
    schedule.receive(3, 2, is_propose);
    schedule.receive(1, 3, is_vote);
    schedule.receive(2, 3, is_vote);
    schedule
}

#[test]
fn a_taker_that_died_does_not_use_its_ballot_again() {
    let ring = || Ring::new(&[1]);
    assert!(a_taker_dies_and_begins_anew(ring()).one_order());
    let broken = ring().broken(Mutation::PrepareBeforeDurable);
    assert!(!a_taker_dies_and_begins_anew(broken).one_order());
}

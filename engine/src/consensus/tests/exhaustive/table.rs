//! What is known of single nodes: their states, their messages, and what follows from what.
//!
//! A ring has millions of states, but each of its nodes has thousands, and a step touches one
//! node. So each step of the real replica is computed once and looked up from then on, and a
//! state of the ring is a few numbers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::digest;
use super::model::Promised;
use super::node::{Deed, Node, Sent, Step};
use super::ring::{Needs, Ring, What};
use crate::consensus::message::Closed;
use crate::consensus::{EntryKind, Message};
use crate::ids::{LaneId, NodeId, Ts};

/// Number of a node's state.
pub type NodeState = u32;
/// Number of a message.
pub type Letter = u32;

#[derive(Default)]
pub struct Table {
    nodes: Vec<Known>,
    numbers: HashMap<u64, NodeState>,
    letters: Vec<Posted>,
    letter_numbers: HashMap<u64, Letter>,
    outcomes: HashMap<(NodeState, Key), Option<Arc<Outcome>>>,
    /// A node's state when it needs less than before.
    retired: HashMap<(NodeState, Needs), NodeState>,
}

/// What one node may do, as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub deed: Number,
    /// It dies before anything of that is durable.
    pub dies: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    Receive(Letter),
    /// Number in [`Ring::may`].
    Happen(u8),
    Flush,
}

/// Where a node is then, and what it has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub node: NodeState,
    pub sent: Vec<Letter>,
    pub alarm: bool,
    /// The node has noted a vote, and that is all.
    pub note: bool,
}

/// A node's state, with what the properties look at.
pub struct Known {
    pub node: Arc<Node>,
    /// Of the node without the votes that it has noted.
    core: u64,
    /// The hash of the order up to each agreement.
    pub orders: Vec<u64>,
    /// Of each agreement.
    pub places: Vec<(LaneId, u64, Ts)>,
    pub seen: Seen,
}

/// Kinds of agreements that a node has executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub command: bool,
    pub end: bool,
    /// Something in a second epoch.
    pub epoch: bool,
    /// Something of an epoch that was over.
    pub void: bool,
}

pub struct Posted {
    pub sent: Arc<Sent>,
    pub closed: Option<Closed>,
    /// It makes another entry whenever it comes, so it comes once.
    pub once: bool,
    pub digest: u64,
}

impl Table {
    pub fn node(&self, state: NodeState) -> &Known {
        &self.nodes[state as usize]
    }

    pub fn letter(&self, letter: Letter) -> &Posted {
        &self.letters[letter as usize]
    }

    /// States of nodes, messages, steps.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.letters.len(), self.outcomes.len())
    }

    /// `None`: not computed yet. `Some(None)`: nothing follows.
    pub fn outcome(&self, node: NodeState, key: Key) -> Option<Option<&Arc<Outcome>>> {
        self.outcomes.get(&(node, key)).map(Option::as_ref)
    }

    /// `None`: not known yet.
    pub fn retired(&self, node: NodeState, needs: Needs) -> Option<NodeState> {
        match self.node(node).node.needs == needs {
            true => Some(node),
            false => self.retired.get(&(node, needs)).copied(),
        }
    }

    pub fn retire(&mut self, ring: &Ring, state: NodeState, needs: Needs) -> NodeState {
        let node = Node { needs, ..Node::clone(&self.node(state).node) };
        let number = self.add_node(ring, node);
        self.retired.insert((state, needs), number);
        number
    }

    pub fn add_node(&mut self, ring: &Ring, node: Node) -> NodeState {
        match self.numbers.entry(digest::of_node(ring, &node)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let number = self.nodes.len() as NodeState;
                place.insert(number);
                self.nodes.push(Known::new(ring, node));
                number
            }
        }
    }

    fn add_letter(&mut self, sent: Sent) -> Letter {
        let digest = digest::of_message(&sent);
        match self.letter_numbers.entry(digest) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let number = self.letters.len() as Letter;
                place.insert(number);
                let closed = sent.closed();
                let once = matches!(sent.message, Message::Forward { .. });
                self.letters.push(Posted { sent: Arc::new(sent), closed, once, digest });
                number
            }
        }
    }

    /// Writes down what was [`computed`].
    pub fn learn(&mut self, ring: &Ring, node: NodeState, key: Key, step: Option<Computed>) {
        let outcome = step.and_then(|step| {
            let (to, sent, alarm) = match step {
                Computed::Panic => (node, Vec::new(), true),
                Computed::Step(step) => {
                    let Step { node: to, sent, alarm } = *step;
                    let to = self.add_node(ring, to);
                    // To somebody who takes no part.
                    let sent = sent.into_iter().filter(|sent| sent.to.0 <= ring.nodes);
                    let sent = sent.map(without_echo).map(|sent| self.add_letter(sent));
                    (to, sent.collect(), alarm)
                }
            };
            let changes = to != node || !sent.is_empty() || alarm;
            let core = |state: NodeState| self.node(state).core;
            let note = core(node) == core(to) && sent.is_empty() && !alarm;
            changes.then(|| Arc::new(Outcome { node: to, sent, alarm, note }))
        });
        self.outcomes.insert((node, key), outcome);
    }

    /// What a key stands for.
    pub fn subject(&self, node: NodeState, key: Key) -> Subject {
        let letter = match key.deed {
            Number::Receive(letter) => Some(self.letter(letter).sent.clone()),
            Number::Happen(_) | Number::Flush => None,
        };
        Subject { node: self.node(node).node.clone(), letter, key }
    }
}

/// A step that is not computed yet.
pub struct Subject {
    node: Arc<Node>,
    letter: Option<Arc<Sent>>,
    key: Key,
}

pub enum Computed {
    Step(Box<Step>),
    /// An assertion of the core failed.
    Panic,
}

impl Subject {
    pub fn compute(&self, ring: &Ring) -> Option<Computed> {
        let crash = What::Crash;
        let deed = match (self.key.deed, &self.letter) {
            (Number::Receive(_), Some(letter)) => Deed::Receive(letter),
            (Number::Happen(number), _) => {
                Deed::Happen(&ring.may[usize::from(number)].what, u64::from(number) + 1)
            }
            _ => Deed::Flush,
        };
        // All crashes are alike.
        let deed = match deed {
            Deed::Happen(What::Crash, _) => Deed::Happen(&crash, 0),
            other => other,
        };
        let step = || self.node.after(ring, deed, self.key.dies);
        // A broken rule may make an assertion of the core fail, which is a way to notice it.
        match catch_unwind(AssertUnwindSafe(step)) {
            Ok(step) => step.map(|step| Computed::Step(Box::new(step))),
            Err(_) => Some(Computed::Panic),
        }
    }
}

impl Known {
    pub fn new(ring: &Ring, node: Node) -> Known {
        let mut header = ring.header();
        let mut known = Known {
            orders: Vec::new(),
            places: Vec::new(),
            seen: Seen::default(),
            core: digest::but_votes(ring, &node),
            node: Arc::new(node),
        };
        for record in &known.node.executed {
            let void = record.lane.epoch < header.config.epoch;
            if !header.admits(record) {
                // Only a broken rule leads here.
                known.seen.void = true;
                break;
            }
            header.execute(record);
            let hash: [u8; 8] = *header.order_hash.0.first_chunk().expect("32 bytes");
            known.orders.push(u64::from_le_bytes(hash));
            known.places.push((record.lane, record.idx.0, record.entry.ts));
            known.seen.command |= matches!(record.entry.kind, EntryKind::Commands { .. });
            known.seen.end |= matches!(record.entry.kind, EntryKind::End { .. });
            known.seen.epoch |= record.lane.epoch.0 > 1;
            known.seen.void |= void;
        }
        known
    }

    /// Both executed the same, as far as they came.
    pub fn agrees(&self, other: &Known) -> bool {
        match self.orders.len().min(other.orders.len()) {
            0 => true,
            common => self.orders[common - 1] == other.orders[common - 1],
        }
    }

    /// Nothing was executed that the promise had excluded.
    pub fn keeps(&self, (lane, last, closed): Promised) -> bool {
        let excluded =
            |&(other, idx, ts): &(_, u64, Ts)| other == lane && idx > last.0 && ts <= closed;
        !self.places.iter().any(excluded)
    }
}

/// All have measured each other before, and nothing changes about that.
fn without_echo(mut sent: Sent) -> Sent {
    if let Message::Heartbeat(heartbeat) = &mut sent.message {
        heartbeat.echo = None;
    }
    sent
}

/// Nodes are numbered from 1, places in a state from 0.
pub fn slot(node: NodeId) -> usize {
    usize::from(node.0) - 1
}

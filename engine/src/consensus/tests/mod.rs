//! One replica against peers that send anything; small rings, exhaustively.

mod exhaustive;

use std::collections::BTreeMap;

use super::amnesia::Memory;
use super::message::{AcceptedEntry, Closed, Heartbeat, Vote};
use super::random::Random;
use super::*;
use crate::command::{Command, Cred, Op};
use crate::ids::{Ballot, Epoch, Gsn, Idx, LaneId, NodeId, OpId, StateHash, Term, Ts};
use crate::time::Timestamp;

/// Near the numbers that mean something, and at the ends of their range.
fn number(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => u64::MAX,
        1 => u64::MAX >> 1,
        2 => random.next(),
        3 => NOW_US + random.below(1_000_000),
        4 => 1 << 16 | random.below(4),
        _ => random.below(5),
    }
}

fn lane(random: &mut Random) -> LaneId {
    let epoch = Epoch(random.below(3) as u32);
    let node = NodeId(random.below(5) as u16);
    LaneId { epoch, node, term: Term(random.below(3) as u32) }
}

fn entry(random: &mut Random) -> Entry {
    let activate = random.percent(50).then(|| NodeId(random.below(5) as u16));
    let kind = match random.below(5) {
        0 => EntryKind::Tick,
        1 => EntryKind::End { activate },
        2 => EntryKind::Reconfigure(Config {
            epoch: Epoch(random.below(4) as u32),
            voters: (0..random.below(4)).map(|_| (NodeId(random.below(5) as u16), 1)).collect(),
            promise_lead_us: number(random),
            removed: (0..random.below(2)).map(|_| NodeId(3 + random.below(2) as u16)).collect(),
        }),
        _ => EntryKind::Commands { commands: commands(random), activate },
    };
    Entry { ts: Ts(number(random)), kind }
}

fn commands(random: &mut Random) -> Vec<Command> {
    let count = random.below(3);
    let mut command = || {
        let origin = NodeId(2 + random.below(3) as u16);
        let id = OpId { origin, boot: number(random), seq: number(random) };
        Command { id, time: Timestamp::default(), cred: Cred::SYSTEM, op: Op::Noop }
    };
    (0..count).map(|_| command()).collect()
}

fn vote(random: &mut Random) -> Vote {
    let ballot = Ballot(number(random));
    Vote { lane: lane(random), ballot, first: Idx(number(random)), upto: Idx(number(random)) }
}

fn closed(random: &mut Random) -> Option<Closed> {
    let last = Idx(number(random));
    Some(Closed { lane: lane(random), last, ts: Ts(number(random)) })
}

fn message(random: &mut Random) -> Message {
    let lane = lane(random);
    let ballot = Ballot(number(random));
    let from = Idx(number(random));
    match random.below(10) {
        0 => {
            let entries = (0..random.below(4)).map(|_| entry(random)).collect();
            let start = Idx(number(random));
            Message::Propose { lane, ballot, start, first: from, entries }
        }
        1 => Message::Accepted { vote: vote(random), closed: closed(random) },
        2 => Message::Reject { lane, promised: ballot, gsn: Gsn(number(random)) },
        3 => Message::Need { lane, ballot, from },
        4 => Message::Prepare { lane, ballot, from },
        5 => {
            let entry = entry(random);
            let accepted = vec![AcceptedEntry { idx: from, ballot, entry }];
            Message::Promise { lane, ballot, first: Idx(number(random)), accepted }
        }
        6 => Message::Heartbeat(Heartbeat {
            sent_us: number(random),
            echo: Some((number(random), number(random))),
            gsn: Gsn(number(random)),
            order_hash: StateHash::default(),
            state: Some((Gsn(number(random)), StateHash::default())),
            votes: vec![vote(random)],
            closed: closed(random),
            follow: random.percent(50),
            proposing: random.percent(50),
            mute: random.percent(50).then_some(true),
            durable: Gsn(number(random)),
        }),
        7 => {
            let (origin, activate) = (NodeId(random.below(5) as u16), random.percent(50));
            let (hops, commands) = (number(random) as u8, commands(random));
            Message::Forward { origin, hops, commands, activate }
        }
        8 => Message::Fetch { from: Gsn(number(random)) },
        _ => {
            let (idx, entry) = (from, entry(random));
            let records = vec![OrderRecord { gsn: Gsn(number(random)), lane, idx, entry }];
            Message::Order { records, oldest: Gsn(number(random)), gsn: Gsn(number(random)) }
        }
    }
}

#[test]
fn nonsense_of_peers_never_panics() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut header = Header::genesis(NodeId(1 + (seed % 2) as u16));
        header.config.voters = BTreeMap::from([(NodeId(1), 1), (NodeId(2), 1), (NodeId(3), 1)]);
        let mut replica = Replica::recover(NodeId(1), 1, Recovered::fresh(header), seed);
        let mut effects = Vec::new();
        let mut now_us = NOW_US;
        replica.step(now_us, Input::Start, &mut effects);
        for _ in 0..500 {
            now_us += random.below(30_000);
            let from = NodeId(2 + random.below(3) as u16);
            let message = message(&mut random);
            let read = Message::decode(&message.encode()).expect("what was encoded");
            assert_eq!(read, message);
            replica.step(now_us, Input::Message { from, message }, &mut effects);
            // A disk that is never slow.
            for effect in std::mem::take(&mut effects) {
                if let Effect::SendDurable { to: NodeId(1), message } = effect {
                    let input = Input::Message { from: NodeId(1), message };
                    replica.step(now_us, input, &mut effects);
                }
            }
        }
        replica.status();
    }
}

/// Node 1 of three, and what it makes of what the others say their state is.
struct Comparing {
    replica: Replica,
    now_us: u64,
    said: Vec<Effect>,
}

impl Comparing {
    fn new() -> Comparing {
        let mut header = Header::genesis(NodeId(1));
        header.config.voters = (1..=3).map(|node| (NodeId(node), 1)).collect();
        let replica = Replica::recover(NodeId(1), 1, Recovered::fresh(header), 1);
        let mut comparing = Comparing { replica, now_us: NOW_US, said: Vec::new() };
        comparing.step(Input::Start);
        comparing
    }

    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.replica.step(self.now_us, input, &mut effects);
        let verdict =
            |it: &Effect| matches!(it, Effect::Diverged { .. } | Effect::PeerDiverged { .. });
        self.said.extend(effects.into_iter().filter(verdict));
    }

    fn own(&mut self, gsn: u64, hash: u8) {
        self.step(Input::StateHash { gsn: Gsn(gsn), hash: StateHash([hash; 32]) });
    }

    fn peer(&mut self, node: u16, gsn: u64, hash: u8) {
        let heartbeat = Heartbeat {
            sent_us: self.now_us,
            echo: None,
            gsn: Gsn(0),
            order_hash: StateHash::default(),
            state: Some((Gsn(gsn), StateHash([hash; 32]))),
            votes: vec![],
            closed: None,
            follow: false,
            proposing: false,
            mute: None,
            durable: Gsn(0),
        };
        let message = Message::Heartbeat(heartbeat);
        self.step(Input::Message { from: NodeId(node), message });
    }

    fn pass(&mut self, us: u64) {
        // In steps, since a long one would count as standing still.
        for _ in 0..us / 100_000 {
            self.now_us += 100_000;
            self.step(Input::Timer);
        }
    }
}

/// A node votes in a lane that its ring thread has come to, and dies before its tables have.
fn check_votes_are_kept(lane: LaneId) {
    let entry = Entry { ts: Ts(NOW_US), kind: EntryKind::Tick };
    let mut recovered = Recovered::fresh(Header::genesis(NodeId(1)));
    recovered.promised.insert(lane, Ballot(1 << 16 | 3));
    recovered.accepted.insert(lane, BTreeMap::from([(Idx(1), (Ballot(0), entry.clone()))]));
    let mut replica = Replica::recover(NodeId(1), 2, recovered, 1);
    let mut effects = Vec::new();
    replica.step(NOW_US, Input::Start, &mut effects);
    replica.step(NOW_US, Input::AppliedDurable(Gsn(0)), &mut effects);
    let forgets = |effect: &Effect| matches!(effect, Effect::Persist(LogRecord::Truncated { lane: over, .. }) if *over == lane);
    assert!(!effects.iter().any(forgets));
    let log = &replica.lanes[&lane];
    assert_eq!(log.promised, Ballot(1 << 16 | 3));
    assert_eq!(log.entries.get(&Idx(1)), Some(&(Ballot(0), entry)));
}

#[test]
fn votes_in_an_epoch_that_the_tables_had_not_come_to_are_kept() {
    check_votes_are_kept(LaneId { epoch: Epoch(2), node: NodeId(2), term: Term(0) });
}

/// Each restart costs the own lane a term: a node that dies again and again before its tables
/// are written has a log that is many terms ahead of them (seed 1795699228084).
#[test]
fn votes_in_a_lane_many_terms_ahead_of_the_tables_are_kept() {
    check_votes_are_kept(LaneId { epoch: Epoch(1), node: NodeId(1), term: Term(50) });
}

/// A node that lost its log came to a new epoch, forgot the loss at once, and died before its
/// tables had the epoch (seed 1795700064969).
#[test]
fn a_loss_is_forgotten_when_the_tables_have_the_new_epoch() {
    let mut recovered = Recovered::fresh(Header::genesis(NodeId(1)));
    recovered.forgetful = true;
    let mut replica = Replica::recover(NodeId(1), 2, recovered, 1);
    replica.memory = Memory::LostUpto(Epoch(1));
    replica.header.config.epoch = Epoch(2);
    replica.header.gsn = Gsn(5);
    replica.recollect();
    assert!(!replica.is_mute());
    assert_eq!(replica.out, []);
    let mut effects = Vec::new();
    replica.step(NOW_US, Input::AppliedDurable(Gsn(4)), &mut effects);
    assert!(!effects.contains(&Effect::MemoryWhole));
    replica.step(NOW_US, Input::AppliedDurable(Gsn(5)), &mut effects);
    assert!(effects.contains(&Effect::MemoryWhole));
}

/// The tables that tell it so know nothing of its commands any more (seed 1795700052164).
#[test]
fn a_snapshot_tells_a_node_that_it_was_removed() {
    let mut header = Header::genesis(NodeId(1));
    header.config.voters = (1..=2).map(|node| (NodeId(node), 1)).collect();
    let mut replica = Replica::recover(NodeId(1), 1, Recovered::fresh(header.clone()), 1);
    let id = OpId { origin: NodeId(1), boot: 1, seq: 1 };
    let time = Timestamp::default();
    replica.queue.push(Command { id, time, cred: Cred::SYSTEM, op: Op::Noop });
    assert!(replica.queue.executed(id));
    header.gsn = Gsn(9);
    header.config.epoch = Epoch(2);
    header.config.voters = BTreeMap::from([(NodeId(2), 1)]);
    header.config.removed.insert(NodeId(1));
    header.active = BTreeMap::new();
    let mut effects = Vec::new();
    replica.step(NOW_US, Input::Installed { header, finished_seq: 0 }, &mut effects);
    assert!(effects.contains(&Effect::Removed { gsn: Gsn(9) }), "{effects:?}");
}

#[test]
fn the_one_that_differs_from_two_others_stops() {
    let mut node = Comparing::new();
    node.own(1, 7);
    node.peer(2, 1, 7);
    node.peer(3, 1, 7);
    node.own(2, 8);
    node.peer(2, 2, 9);
    assert_eq!(node.said, [], "the third node has not spoken");
    node.peer(3, 2, 9);
    assert_eq!(node.said, [Effect::Diverged { peer: NodeId(2), gsn: Gsn(2) }]);
}

#[test]
fn two_that_agree_go_on_and_accuse_the_third() {
    let mut node = Comparing::new();
    node.peer(2, 2, 9);
    node.peer(3, 2, 8);
    node.own(2, 8);
    assert_eq!(node.said, [Effect::PeerDiverged { peer: NodeId(2), gsn: Gsn(2) }]);
    assert!(node.replica.status().peers.iter().any(|it| it.node == NodeId(2) && it.diverged));
    node.own(3, 18);
    node.peer(2, 3, 19);
    node.pass(5_000_000);
    assert_eq!(node.said.len(), 1, "said once, and nothing else");
}

#[test]
fn without_a_majority_whoever_sees_a_difference_stops() {
    let mut node = Comparing::new();
    node.own(2, 8);
    node.peer(2, 2, 9);
    node.pass(1_000_000);
    assert_eq!(node.said, [], "the third node may speak yet");
    node.pass(2_000_000);
    assert_eq!(node.said, [Effect::Diverged { peer: NodeId(2), gsn: Gsn(2) }]);
}

#[test]
fn an_old_agreement_of_the_third_decides_nothing() {
    let mut node = Comparing::new();
    node.own(1, 7);
    node.peer(3, 1, 7);
    node.own(2, 8);
    node.peer(2, 2, 9);
    assert_eq!(node.said, [], "node 3 agreed before the difference only");
    node.peer(3, 2, 8);
    assert_eq!(node.said, [Effect::PeerDiverged { peer: NodeId(2), gsn: Gsn(2) }]);
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let mut random = Random::new(1);
    for _ in 0..20_000 {
        let mut bytes = message(&mut random).encode();
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.next() as u8,
            _ => bytes.push(random.next() as u8),
        }
        // Whatever it is, it is a message again or an error.
        if let Ok(message) = Message::decode(&bytes) {
            assert_eq!(Message::decode(&message.encode()).expect("it was one"), message);
        }
    }
    assert!(matches!(Message::decode(&[]), Err(message::MessageError::Version(None))));
    assert!(matches!(Message::decode(&[9]), Err(message::MessageError::Version(Some(9)))));
}

/// Some day in 2025.
const NOW_US: u64 = 1_750_000_000_000_000;

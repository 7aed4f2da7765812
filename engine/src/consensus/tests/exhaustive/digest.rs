//! What a node's next steps depend on, in one number.
//!
//! Two nodes with equal digests behave alike from then on. Left out is what decides nothing
//! here: statistics; whatever only time would make use of, since time stands still; random
//! waits; and what the executed order determines, given its hash.

use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::node::{Node, Sent};
use super::ring::Ring;
use crate::consensus::lane::LaneLog;
use crate::consensus::replica::{Replica, Standing};
use crate::ids::Idx;

/// Of whatever can be written: what is written is hashed.
#[derive(Default)]
struct Digest(DefaultHasher);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl minicbor::encode::Write for Digest {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.write(bytes);
        Ok(())
    }
}

impl Digest {
    fn add(&mut self, value: impl Hash) {
        value.hash(&mut self.0);
    }

    fn encode(&mut self, value: &impl minicbor::Encode<()>) {
        minicbor::encode(value, self).expect("a hasher takes everything");
    }

    fn debug(&mut self, value: &impl fmt::Debug) {
        write!(self, "{value:?}").expect("a hasher takes everything");
    }
}

pub fn of_message(sent: &Sent) -> u64 {
    let mut digest = Digest::default();
    digest.add((sent.from, sent.to));
    digest.encode(&sent.message);
    digest.0.finish()
}

pub fn of_node(ring: &Ring, node: &Node) -> u64 {
    of(ring, node, true)
}

/// Without the votes that it has noted.
pub fn but_votes(ring: &Ring, node: &Node) -> u64 {
    of(ring, node, false)
}

fn of(ring: &Ring, node: &Node, votes: bool) -> u64 {
    let mut digest = Digest::default();
    digest.add((node.id, node.clock_us, node.seq, node.executed.len(), node.needs));
    replica(&mut digest, &node.replica, node.needs.ballots, votes);
    if node.needs.disk {
        disk(&mut digest, node);
    }
    if ring.is_slow(node.id) {
        digest.debug(&(&node.tail, &node.outbox));
    }
    digest.0.finish()
}

fn replica(digest: &mut Digest, replica: &Replica, ballots: bool, votes: bool) {
    // The header is a function of the order.
    digest.add((replica.boot, replica.header.order_hash, replica.epoch_gsn, replica.durable));
    digest.add(replica.config_at_start.epoch);
    for (id, lane) in &replica.lanes {
        let active = replica.header.active.get(id);
        if votes || active.is_some() || !is_blank(lane) {
            digest.add(id);
            log(digest, lane, ballots, votes);
        }
        // Promises, by what they allow after each of the next entries.
        if let Some(active) = active {
            let after = (0..ENTRIES).map(|more| Idx(active.next.0 + more));
            after.for_each(|next| digest.add(lane.promises.bound(next)));
        }
    }
    digest.add(&replica.started);
    if let Some(own) = &replica.own {
        digest.add((own.lane(), own.proposer.next, own.begun, own.ended));
        digest.add((own.last_ts, own.chosen_ts));
    }
    digest.debug(&(&replica.queue, &replica.forwarding, &replica.fetching));
    digest.debug(&replica.reconfiguring);
    for (lane, takeover) in &replica.takeovers {
        digest.add(lane);
        digest.debug(&takeover.gist());
    }
    for (node, peer) in &replica.peers {
        digest.add((node, peer.heard_us.is_some(), peer.clock.rtt_us().is_some()));
        digest.add((peer.durable, peer.mute, peer.wants_epoch, peer.follows, peer.proposing));
    }
    digest.add((replica.seen, replica.clock_offset_us, replica.quorum_rtt_us, replica.halted));
    digest.debug(&replica.memory);
}

fn log(digest: &mut Digest, log: &LaneLog, ballots: bool, votes: bool) {
    for (idx, (ballot, entry)) in &log.entries {
        digest.add((idx, ballot));
        digest.encode(entry);
    }
    digest.add((log.truncated, log.promised, log.chosen_upto, log.needed.0));
    // The next own one is higher.
    digest.add(ballots.then_some(log.highest));
    digest.add(log.range.is_some());
    log.range.iter().for_each(|run| digest.encode(run));
    for (node, vote) in log.votes.iter().filter(|_| votes) {
        digest.add(node);
        digest.encode(vote);
    }
}

/// Nothing but votes is known of it.
fn is_blank(log: &LaneLog) -> bool {
    let blank = LaneLog::new(Idx(1), 0);
    log.entries.is_empty() && log.promised == blank.promised && log.range.is_none()
}

/// Only what a restart would read.
fn disk(digest: &mut Digest, node: &Node) {
    let disk = &node.disk;
    let counts = |lane| disk.header.standing(lane) != Standing::Over;
    digest.add(disk.header.order_hash);
    digest.add(&disk.started);
    for (&lane, ballot) in disk.promised.iter().filter(|(lane, _)| counts(**lane)) {
        digest.add((lane, ballot));
    }
    for (&lane, entries) in disk.accepted.iter().filter(|(lane, _)| counts(**lane)) {
        for (idx, (ballot, entry)) in entries {
            digest.add((lane, idx, ballot));
            digest.encode(entry);
        }
    }
}

/// More than a lane gets here.
const ENTRIES: u64 = 6;

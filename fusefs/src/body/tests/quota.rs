//! Quotas: what is acknowledged never passes the limit, and the limit can be reached.

use std::time::Duration;

use engine::command::{Op, QuotaLimits};
use engine::ids::Ino;
use engine::namespace::Quota;
use engine::outcome::Outcome;

use super::cluster::{Cluster, Node, noise, until, wait};
use crate::ops::ports::{Bodies, BodyError, Handle};
use crate::ops::rules::Partition;

impl Cluster {
    /// A quota for the whole tree.
    fn limit(&self, bytes: u64) {
        let limits = QuotaLimits { bytes: Some(bytes), inodes: None };
        let (quota, node) = (Ino::ROOT, &self.nodes[0]);
        let set = Op::SetQuota { directory: quota, limits: Some(limits) };
        assert_eq!(node.agree(set), Outcome::Done);
        let mark = Op::MarkQuota { quota, directory: quota, after: 0, through: u64::MAX };
        assert_eq!(node.agree(mark), Outcome::Done);
        let began = self.quota().began;
        assert_eq!(node.agree(Op::FinishQuota { quota, began }), Outcome::Done);
    }

    fn quota(&self) -> Quota {
        self.nodes[0].view().quota(Ino::ROOT).expect("is sound").expect("there is a quota")
    }
}

impl Node {
    /// Writes as an operation does: asks for room when there is none.
    fn try_write(&self, handle: Handle, offset: u64, bytes: &[u8]) -> Result<(), BodyError> {
        loop {
            let written = wait(|done| self.service().write(handle, offset, bytes, false, done));
            match written {
                Ok(len) => {
                    assert_eq!(len as usize, bytes.len());
                    return Ok(());
                }
                Err(BodyError::NeedsQuota { quota, bytes }) => {
                    wait(|done| self.service().reserve(quota, bytes, Partition::Wait, done))?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_exceeded(result: Result<(), BodyError>) -> bool {
    match result {
        Ok(()) => false,
        Err(BodyError::QuotaExceeded { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

const PIECE: usize = 64 << 10;

/// Several times, as the nodes meet in another way each time.
#[test]
fn nodes_that_write_at_once_fill_a_quota_to_the_byte_and_no_further() {
    (0..ROUNDS).for_each(|_| fill_at_once());
}

fn fill_at_once() {
    let cluster = Cluster::new(3);
    let limit = 40 * PIECE as u64 + 7;
    cluster.limit(limit);
    let written: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| {
                scope.spawn(move || {
                    let handle = node.open(node.create(&format!("f{}", node.id)), true);
                    let mut at = 0;
                    for len in [PIECE, 1000, 1] {
                        while !is_exceeded(node.try_write(handle, at, &noise(at, len))) {
                            at += len as u64;
                        }
                    }
                    node.service().release(handle);
                    at
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("no panic")).sum()
    });
    assert_eq!(written, limit, "all of it can be used, by whoever comes");
    cluster.settle();
    let quota = cluster.quota();
    assert_eq!((quota.used.bytes, quota.reserved), (limit, 0));
}

#[test]
fn room_that_is_given_up_can_be_used_at_once_by_others() {
    // Nothing is sealed before the test says so.
    let cluster = Cluster::with(2, Duration::from_secs(3600), DEADLINE);
    cluster.limit(10 * PIECE as u64);
    let [first, second] = &cluster.nodes[..] else { panic!("there are two") };
    let ino = first.create("a");
    let handle = first.open(ino, true);
    for at in 0..10 {
        first.try_write(handle, at * PIECE as u64, &noise(at, PIECE)).expect("it fits");
    }
    let other = second.open(second.create("b"), true);
    assert!(is_exceeded(second.try_write(other, 0, b"x")));
    // Overwriting takes no room; cutting gives some, once it is agreed.
    first.try_write(handle, 0, &noise(77, PIECE)).expect("it overwrites");
    assert!(first.truncate(ino, PIECE as u64));
    cluster.settle();
    for at in 0..9 {
        second.try_write(other, at * PIECE as u64, &noise(at, PIECE)).expect("it fits");
    }
    assert!(is_exceeded(second.try_write(other, 9 * PIECE as u64, b"x")));
    first.service().release(handle);
    second.service().release(other);
    cluster.settle();
    assert_eq!(cluster.quota().used.bytes, 10 * PIECE as u64);
}

#[test]
fn holes_take_no_room() {
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    cluster.limit(4 << 20);
    let ino = node.create("sparse");
    let handle = node.open(ino, true);
    for at in [0, 1 << 30, 1 << 40] {
        node.try_write(handle, at, &noise(at, 1 << 20)).expect("it fits");
    }
    assert!(is_exceeded(node.try_write(handle, 1 << 41, &noise(1, 2 << 20))));
    node.service().release(handle);
    cluster.settle();
    let used = cluster.quota().used.bytes;
    assert!((3 << 20..=(3 << 20) + (512 << 10)).contains(&used), "{used}");
    assert_eq!(node.inode(ino).charge(), used);
}

#[test]
fn a_crash_gives_back_what_was_reserved_for_lost_bytes_only() {
    let mut cluster = Cluster::with(2, Duration::from_secs(3600), DEADLINE);
    cluster.limit(8 << 20);
    let node = &cluster.nodes[0];
    let (kept, lost) = (node.create("kept"), node.create("lost"));
    let handle = node.open(kept, true);
    node.try_write(handle, 0, &noise(1, 3 << 20)).expect("it fits");
    node.fsync(kept);
    let handle = node.open(lost, true);
    node.try_write(handle, 0, &noise(2, 2 << 20)).expect("it fits");
    assert!(cluster.quota().reserved >= 5 << 20);
    cluster.crash(0);
    let other = &cluster.nodes[1];
    let handle = other.open(other.create("other"), true);
    // The dead node may have acknowledged all of it.
    assert!(is_exceeded(other.try_write(handle, 0, &noise(3, 4 << 20))));
    cluster.restart(0);
    let other = &cluster.nodes[1];
    until("the lost bytes' room is free", || {
        (!is_exceeded(other.try_write(handle, 0, &noise(3, 4 << 20)))).then_some(())
    });
    other.service().release(handle);
    cluster.settle();
    assert_eq!(cluster.quota().used.bytes, 7 << 20);
}

const ROUNDS: usize = 6;
const DEADLINE: Duration = Duration::from_secs(20);

//! fsync beyond this node's disk.

use std::time::Duration;

use super::cluster::{Cluster, noise};
use crate::ops::ports::{Bodies, BodyError};
use crate::ops::rules::Durability;

#[test]
fn an_fsync_waits_for_what_its_rule_says() {
    // Nothing is sealed by age.
    let cluster = Cluster::with(3, Duration::from_secs(3600), Duration::from_secs(20));
    let node = &cluster.nodes[0];
    let ino = node.create("f");
    let handle = node.open(ino, true);
    for (round, len) in [(1, 100), (2, 70_000), (3, 3 << 20)] {
        node.write(handle, 0, &noise(round, len));
        node.fsync(ino);
        assert!(node.service().load().staged_files == 1, "local: nothing is published");
        node.fsync_as(ino, Durability::Agreed).expect("a majority is there");
        assert!(node.inode(ino).size >= len as u64);
        node.write(handle, 1, b"again");
        node.fsync_as(ino, Durability::All).expect("everybody is there");
        for other in &cluster.nodes {
            if len > 512 {
                assert!(other.service().holds(super::cluster::sealed_id(&other.inode(ino))));
            }
        }
    }
    let few = node.fsync_as(ino, Durability::Zones(4));
    assert!(matches!(few, Err(BodyError::Storage(_))), "there are three zones: {few:?}");
}

#[test]
fn an_fsync_for_two_zones_goes_on_when_the_third_is_away_and_one_for_all_waits_for_it() {
    let cluster = Cluster::with(3, Duration::from_secs(3600), Duration::from_secs(20));
    let node = &cluster.nodes[0];
    let ino = node.create("f");
    let handle = node.open(ino, true);
    cluster.cut(0, 2);
    cluster.cut(1, 2);
    node.write(handle, 0, &noise(1, 3 << 20));
    node.fsync_as(ino, Durability::Zones(2)).expect("two zones are there");
    let id = super::cluster::sealed_id(&node.inode(ino));
    assert!(cluster.nodes[1].service().holds(id));
    assert!(!cluster.nodes[2].service().holds(id));
    std::thread::scope(|scope| {
        let all = scope.spawn(|| node.fsync_as(ino, Durability::All));
        cluster.heal();
        all.join().expect("no panic").expect("everybody is there");
    });
    assert!(cluster.nodes[2].service().holds(id));
}

#[test]
fn what_was_refused_by_the_order_is_not_said_to_be_agreed() {
    let cluster = Cluster::with(2, Duration::from_secs(3600), Duration::from_secs(20));
    let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ino = first.create("f");
    let handle = first.open(ino, true);
    first.write(handle, 0, &noise(1, 70_000));
    // As a node whose token was taken away by the order.
    first.agree(engine::command::Op::ReleaseToken { ino, node: first.id });
    let inode = second.inode(ino);
    let op = engine::command::Op::Publish {
        ino,
        base: inode.version,
        body: engine::command::Body::Inline(b"other".to_vec()),
        size: 5,
        mtime: inode.mtime,
        holder: second.id,
        stored_len: 5,
        ctime: engine::time::Timestamp::new(1, 0),
    };
    second.agree(op);
    let refused = first.fsync_as(ino, Durability::Agreed);
    assert!(matches!(refused, Err(BodyError::Storage(_))), "{refused:?}");
    assert_eq!(first.service().conflicts().len(), 1);
    first.service().release(handle);
}

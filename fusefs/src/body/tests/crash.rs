//! What is there after a node died.

use std::time::Duration;

use engine::command::Op;

use super::cluster::{Cluster, noise, until};
use crate::ops::ports::Bodies;

#[test]
fn what_was_fsynced_comes_back_and_is_published() {
    for size in [100, 5000, 900_000] {
        let mut cluster = Cluster::with(2, Duration::from_secs(3600), Duration::from_secs(20));
        let writer = &cluster.nodes[0];
        let ino = writer.create("f");
        let handle = writer.open(ino, true);
        writer.write(handle, 0, &noise(1, size));
        writer.fsync(ino);
        writer.write(handle, 0, b"not synced");
        cluster.crash(0);
        cluster.restart(0);
        cluster.settle();
        for node in &cluster.nodes {
            let content = node.content(ino);
            assert_eq!(content.len(), size);
            assert!(content[10..] == noise(1, size)[10..], "{size} bytes");
        }
        assert!(cluster.nodes[0].service().conflicts().is_empty());
    }
}

#[test]
fn what_was_neither_fsynced_nor_closed_is_gone() {
    let mut cluster = Cluster::with(1, Duration::from_secs(3600), Duration::from_secs(20));
    let ino = cluster.nodes[0].create("f");
    let handle = cluster.nodes[0].open(ino, true);
    cluster.nodes[0].write(handle, 0, &noise(1, 900_000));
    cluster.crash(0);
    cluster.restart(0);
    assert!(cluster.nodes[0].content(ino).is_empty());
    assert_eq!(cluster.nodes[0].service().load().staged_files, 0);
}

#[test]
fn layers_on_each_other_come_back_in_order() {
    let mut cluster = Cluster::new(2);
    let ino = cluster.nodes[0].create("f");
    let handle = cluster.nodes[0].open(ino, true);
    cluster.nodes[0].write(handle, 0, &noise(1, 400_000));
    cluster.pause();
    // The first version is on its way while the second is written.
    until("the first is sealed", || {
        (cluster.nodes[0].service().counters().sealed.value() > 0).then_some(())
    });
    cluster.nodes[0].write(handle, 100, b"second");
    cluster.nodes[0].fsync(ino);
    cluster.crash(0);
    cluster.resume();
    cluster.restart(0);
    cluster.settle();
    let mut expected = noise(1, 400_000);
    expected[100..106].copy_from_slice(b"second");
    for node in &cluster.nodes {
        assert!(node.content(ino) == expected);
    }
    assert!(cluster.nodes[0].service().conflicts().is_empty());
}

#[test]
fn what_was_sealed_and_not_agreed_is_proposed_again() {
    let mut cluster = Cluster::new(2);
    let ino = cluster.nodes[0].create("f");
    cluster.pause();
    let handle = cluster.nodes[0].open(ino, true);
    cluster.nodes[0].write(handle, 0, &noise(1, 3 << 20));
    cluster.nodes[0].service().release(handle);
    until("it is sealed", || {
        (cluster.nodes[0].service().counters().sealed.value() > 0).then_some(())
    });
    cluster.crash(0);
    cluster.resume_without(0);
    cluster.restart(0);
    cluster.settle();
    assert!(cluster.nodes[1].content(ino) == noise(1, 3 << 20));
    assert!(cluster.nodes[0].service().conflicts().is_empty());
    let published = cluster.agreed().iter().filter(|op| matches!(op, Op::Publish { .. })).count();
    assert_eq!(published, 1);
}

#[test]
fn a_version_that_was_agreed_while_its_node_was_dead_is_not_published_twice() {
    let mut cluster = Cluster::new(2);
    let ino = cluster.nodes[0].create("f");
    cluster.pause();
    let handle = cluster.nodes[0].open(ino, true);
    cluster.nodes[0].write(handle, 0, &noise(1, 3 << 20));
    cluster.nodes[0].service().release(handle);
    until("it is sealed", || {
        (cluster.nodes[0].service().counters().sealed.value() > 0).then_some(())
    });
    cluster.crash(0);
    cluster.resume();
    until("it is agreed", || (cluster.nodes[1].inode(ino).size > 0).then_some(()));
    cluster.restart(0);
    cluster.settle();
    assert!(cluster.nodes[1].content(ino) == noise(1, 3 << 20));
    assert!(cluster.nodes[0].service().conflicts().is_empty());
    assert_eq!(cluster.nodes[0].service().load().staged_files, 0);
}

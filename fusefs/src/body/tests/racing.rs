//! Several threads at once: no write is lost, no reader sees a mixture.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::command::{Op, SetAttr};
use engine::outcome::Outcome;

use super::cluster::{Cluster, Node, noise, until, wait};
use crate::ops::ports::{Bodies, BodyError};

const RECORD: usize = 1000;

#[test]
fn writers_and_seals_lose_nothing() {
    let cluster = Cluster::with(2, Duration::from_millis(1), Duration::from_secs(20));
    let writer = &cluster.nodes[0];
    let ino = writer.create("f");
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            scope.spawn(move || {
                for round in 0..200usize {
                    // Open, write and close again and again: seals start all the time.
                    let handle = writer.open(ino, true);
                    let at = (round * 4 + thread) * RECORD;
                    writer.write(handle, at as u64, &noise(at as u64, RECORD));
                    writer.service().release(handle);
                }
            });
        }
    });
    let mut expected = Vec::new();
    for at in (0..800 * RECORD).step_by(RECORD) {
        expected.extend(noise(at as u64, RECORD));
    }
    assert!(writer.content(ino) == expected);
    cluster.settle();
    for node in &cluster.nodes {
        assert!(node.content(ino) == expected);
    }
    assert!(writer.service().conflicts().is_empty());
    assert!(writer.service().counters().published.value() > 1);
}

#[test]
fn a_reader_elsewhere_sees_whole_versions_only() {
    const LEN: usize = 300_000;
    let cluster = Cluster::with(2, Duration::from_secs(3600), Duration::from_secs(20));
    let (writer, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ino = writer.put("f", &vec![0; LEN]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..30u8 {
                let handle = writer.open(ino, true);
                writer.write(handle, 0, &vec![version; LEN]);
                writer.service().release(handle);
                cluster.block_on(writer.service().drain());
            }
            stop.store(true, Ordering::Relaxed);
        });
        let handle = reader.open(ino, false);
        while !stop.load(Ordering::Relaxed) {
            // One read call: one version.
            let bytes = reader.read(handle, 100_000, 100_000).expect("it can be read");
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture");
        }
        reader.service().release(handle);
    });
}

#[test]
fn truncations_that_race_with_seals_are_no_conflicts() {
    let cluster = Cluster::with(2, Duration::from_millis(1), Duration::from_secs(20));
    let writer = &cluster.nodes[0];
    let ino = writer.create("f");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300u64 {
                let handle = writer.open(ino, true);
                writer.write(handle, 0, &noise(round, 700));
                writer.service().release(handle);
            }
        });
        scope.spawn(|| {
            for round in 0..300u64 {
                let size = round % 900;
                if !writer.truncate(ino, size) {
                    let set = SetAttr { size: Some(size), ..SetAttr::default() };
                    assert_eq!(writer.agree(Op::SetAttr { ino, set }), Outcome::Done);
                }
            }
        });
    });
    let handle = writer.open(ino, true);
    writer.write(handle, 0, &noise(1, 1000));
    assert!(writer.truncate(ino, 1000));
    writer.service().release(handle);
    cluster.settle();
    for node in &cluster.nodes {
        assert!(node.content(ino) == noise(1, 1000));
    }
    assert!(writer.service().conflicts().is_empty());
}

#[test]
fn nodes_that_take_turns_append_every_line() {
    let cluster = Cluster::with(3, Duration::from_secs(3600), Duration::from_secs(20));
    let ino = cluster.nodes[0].create("log");
    std::thread::scope(|scope| {
        for node in &cluster.nodes {
            let cluster = &cluster;
            scope.spawn(move || {
                for line in 0..15 {
                    append(cluster, node, ino, &format!("{} {line}\n", node.id));
                }
            });
        }
    });
    cluster.settle();
    let content = String::from_utf8(cluster.nodes[1].content(ino)).expect("it is text");
    for node in &cluster.nodes {
        let mine = format!("{} ", node.id);
        let lines: Vec<&str> = content.lines().filter(|line| line.starts_with(&mine)).collect();
        let expected: Vec<String> = (0..15).map(|line| format!("{mine}{line}")).collect();
        assert_eq!(lines, expected);
    }
    assert_eq!(content.lines().count(), 45);
    for node in &cluster.nodes {
        assert!(node.service().conflicts().is_empty());
        assert_eq!(node.content(ino), content.as_bytes());
    }
}

/// Two ask for the token at once, and its holder goes on writing as soon as it may.
#[test]
fn recalls_at_once_leave_nothing_written_without_the_token() {
    let cluster = Cluster::with(3, Duration::from_secs(3600), Duration::from_secs(20));
    let ino = cluster.nodes[0].create("log");
    let stop = AtomicBool::new(false);
    let written: usize = std::thread::scope(|scope| {
        let askers = [1, 2].map(|at| {
            let cluster = &cluster;
            scope.spawn(move || {
                (0..60).for_each(|line| {
                    append(cluster, &cluster.nodes[at], ino, &format!("{at} {line}\n"))
                });
                60
            })
        });
        let holder = scope.spawn(|| {
            let mut lines = 0;
            while !stop.load(Ordering::Relaxed) {
                append(&cluster, &cluster.nodes[0], ino, &format!("0 {lines}\n"));
                lines += 1;
            }
            lines
        });
        let asked: usize = askers.into_iter().map(|asker| asker.join().expect("no panic")).sum();
        stop.store(true, Ordering::Relaxed);
        asked + holder.join().expect("no panic")
    });
    cluster.settle();
    let content = String::from_utf8(cluster.nodes[1].content(ino)).expect("it is text");
    assert_eq!(content.lines().count(), written);
    assert!(cluster.nodes.iter().all(|node| node.service().conflicts().is_empty()));
}

/// As operations do it: what lacks the token takes it, and recalls it where it is.
fn append(cluster: &Cluster, node: &Node, ino: engine::ids::Ino, line: &str) {
    loop {
        let inode = node.inode(ino);
        let written = node.service().open(ino, &inode, true, false).and_then(|handle| {
            let bytes = line.as_bytes();
            let written = wait(|done| node.service().write(handle, 0, bytes, true, done));
            node.service().release(handle);
            written
        });
        match written {
            Ok(_) => return,
            Err(BodyError::NeedsToken(_)) => {}
            Err(error) => panic!("{error}"),
        }
        let take = Op::TakeToken { ino, node: node.id };
        if let Outcome::Refused(engine::outcome::Refusal::TokenHeld(holder)) = node.agree(take) {
            let holder = cluster.nodes.iter().find(|node| node.id == holder).expect("a node");
            cluster.block_on(holder.service().recall(ino)).expect("it gives the token back");
        }
    }
}

#[test]
fn unlinking_during_a_seal_leaves_nothing_behind() {
    let cluster = Cluster::with(2, Duration::from_millis(1), Duration::from_secs(20));
    let writer = &cluster.nodes[0];
    for round in 0..60u64 {
        let name = format!("f{round}");
        let ino = writer.create(&name);
        let handle = writer.open(ino, true);
        writer.write(handle, 0, &noise(round, 200_000));
        if round % 2 == 0 {
            writer.service().release(handle);
            writer.unlink(&name);
        } else {
            writer.unlink(&name);
            assert!(
                writer.read(handle, 0, 200_000).expect("it can be read") == noise(round, 200_000)
            );
            writer.service().release(handle);
        }
    }
    cluster.settle();
    // The settling thread drops what is gone after it is told.
    until("nothing of them is staged", || {
        (writer.service().load().staged_files == 0).then_some(())
    });
    assert!(writer.service().conflicts().is_empty());
    until_the_journal_is_empty(writer);
}

fn until_the_journal_is_empty(node: &Node) {
    until("the journal has forgotten everything", || {
        let records = node.service().journal_records().expect("the journal can be read");
        records.is_empty().then_some(())
    });
}

/// An fsync writes down what is published in the same moment.
#[test]
fn an_fsync_during_a_publish_leaves_nothing_behind() {
    let cluster = Cluster::with(2, Duration::from_millis(1), Duration::from_secs(20));
    let writer = &cluster.nodes[0];
    let ino = writer.create("f");
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            scope.spawn(move || {
                for round in 0..150u64 {
                    let handle = writer.open(ino, true);
                    let len = if round % 3 == 0 { 200_000 } else { 900 };
                    writer.write(handle, thread * 300_000, &noise(round, len));
                    writer.service().release(handle);
                    writer.fsync(ino);
                }
            });
        }
    });
    cluster.settle();
    assert!(writer.service().conflicts().is_empty());
    until_the_journal_is_empty(writer);
}

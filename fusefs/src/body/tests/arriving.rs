//! Bodies on their way to other nodes.

use std::time::Duration;

use engine::command::Op;

use super::cluster::{Cluster, noise, until};
use crate::ops::ports::{Bodies, BodyError};

#[test]
fn a_reader_waits_for_bytes_and_never_sees_others() {
    let cluster = Cluster::new(2);
    let (writer, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.cut(0, 1);
    let body = noise(1, 20 << 20);
    let ino = writer.put("f", &body);
    cluster.block_on(writer.service().drain());
    assert!(reader.service().progress().missing_files <= 1);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            let handle = reader.open(ino, false);
            let bytes = reader.read(handle, 15 << 20, 300_000);
            reader.service().release(handle);
            bytes
        });
        until("it waits", || (reader.service().counters().reads_waited.value() > 0).then_some(()));
        cluster.heal();
        let bytes = read.join().expect("no panic").expect("it comes");
        assert!(bytes == body[15 << 20..(15 << 20) + 300_000]);
    });
    cluster.settle();
    assert!(reader.content(ino) == body);
}

#[test]
fn after_the_timeout_a_reader_is_told() {
    let cluster = Cluster::with(2, Duration::from_secs(5), Duration::from_millis(300));
    let (writer, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.cut(0, 1);
    let ino = writer.put("f", &noise(1, 600_000));
    cluster.block_on(writer.service().drain());
    let handle = reader.open(ino, false);
    let read = reader.read(handle, 0, 10);
    assert!(matches!(read, Err(BodyError::Unreachable { waited_ms: 300 })));
    cluster.heal();
    assert_eq!(reader.read(handle, 0, 10).expect("it comes now"), noise(1, 10));
    reader.service().release(handle);
}

#[test]
fn damaged_bytes_are_refused_and_fetched_again() {
    let cluster = Cluster::new(3);
    cluster.damage_next();
    let body = noise(1, 9 << 20);
    let ino = cluster.nodes[0].put("f", &body);
    cluster.settle();
    assert!(cluster.is_damage_done());
    let refused: u64 =
        cluster.nodes.iter().map(|node| node.service().counters().bad_chunks.value()).sum();
    assert_eq!(refused, 1);
    for node in &cluster.nodes {
        assert!(node.content(ino) == body);
    }
}

#[test]
fn a_node_that_was_away_catches_up_by_itself() {
    let mut cluster = Cluster::new(2);
    cluster.crash(1);
    let files: Vec<_> = (0..300u64)
        .map(|number| {
            let len = 600 + number as usize * 100;
            (cluster.nodes[0].put(&format!("f{number}"), &noise(number, len)), number, len)
        })
        .collect();
    let large = cluster.nodes[0].put("large", &noise(9, 6 << 20));
    cluster.block_on(cluster.nodes[0].service().drain());
    cluster.restart(1);
    cluster.settle();
    let node = &cluster.nodes[1];
    for (ino, number, len) in files {
        assert!(node.content(ino) == noise(number, len));
    }
    assert!(node.content(large) == noise(9, 6 << 20));
    assert_eq!(node.service().counters().reads_waited.value(), 0);
}

#[test]
fn the_watermark_is_reported_and_then_all_is_quiet() {
    let cluster = Cluster::new(2);
    cluster.nodes[0].put("f", &noise(1, 5000));
    cluster.settle();
    let published = cluster
        .agreed()
        .iter()
        .position(|op| matches!(op, Op::Publish { .. }))
        .expect("it was published");
    let reports = || {
        let agreed = cluster.agreed();
        agreed.iter().filter(|op| matches!(op, Op::HeldUpto { .. })).count()
    };
    until("both report", || (reports() >= 2).then_some(()));
    for report in cluster.agreed() {
        if let Op::HeldUpto { gsn, .. } = report {
            assert!(gsn.0 > published as u64, "{gsn}");
        }
    }
    // Two intervals of reports.
    std::thread::sleep(Duration::from_secs(5));
    assert!(reports() <= 4, "reports cause reports");
}

#[test]
fn a_file_unlinked_elsewhere_is_fetched_for_its_open_handle() {
    let cluster = Cluster::new(2);
    let (writer, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
    cluster.cut(0, 1);
    let body = noise(1, 5 << 20);
    let ino = writer.put("f", &body);
    cluster.block_on(writer.service().drain());
    let handle = reader.open(ino, false);
    writer.unlink("f");
    cluster.heal();
    assert!(reader.read(handle, 0, u64::MAX).expect("it comes") == body);
    reader.service().release(handle);
    cluster.settle();
}

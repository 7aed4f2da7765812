//! Writing on one node, reading on it and on others.

use std::time::Duration;

use engine::command::{Body, Op, SetAttr};
use engine::namespace::Inode;
use engine::outcome::Outcome;
use engine::time::Timestamp;

use super::cluster::{Cluster, noise, sealed_id, until, wait};
use crate::ops::ports::{Bodies, BodyError};

#[test]
fn files_of_every_size_are_equal_everywhere() {
    let cluster = Cluster::new(3);
    let sizes = [0, 1, 512, 513, 100_000, 128 << 10, (128 << 10) + 1, 3_000_000, 40 << 20];
    let writer = &cluster.nodes[0];
    let files: Vec<_> = sizes
        .iter()
        .map(|&size| (writer.put(&format!("f{size}"), &noise(size as u64, size)), size))
        .collect();
    for (ino, size) in &files {
        assert!(writer.content(*ino) == noise(*size as u64, *size), "{size} bytes, at once");
    }
    cluster.settle();
    for node in &cluster.nodes {
        for (ino, size) in &files {
            assert!(node.content(*ino) == noise(*size as u64, *size), "{size} bytes");
            assert!(node.service().local_attr(*ino).is_none(), "{size} bytes: published");
        }
    }
    assert!(matches!(writer.inode(files[2].0).body, Body::Inline(_)));
    assert!(matches!(writer.inode(files[3].0).body, Body::Sealed { .. }));
    assert!(writer.service().conflicts().is_empty());
}

#[test]
fn a_sparse_file_stays_sparse() {
    let cluster = Cluster::new(2);
    let writer = &cluster.nodes[0];
    let ino = writer.create("sparse");
    let handle = writer.open(ino, true);
    writer.write(handle, 1 << 40, b"far");
    writer.write(handle, 1 << 20, b"near");
    writer.service().release(handle);
    cluster.settle();
    let reader = &cluster.nodes[1];
    assert_eq!(reader.inode(ino).size, (1 << 40) + 3);
    let handle = reader.open(ino, false);
    assert_eq!(reader.read(handle, 1 << 40, 10).expect("it can be read"), b"far");
    assert_eq!(reader.read(handle, (1 << 20) - 2, 8).expect("it can be read"), b"\0\0near\0\0");
    reader.service().release(handle);
    // Changing one byte reads and stores no terabyte.
    let handle = writer.open(ino, true);
    writer.write(handle, 1 << 30, b"mid");
    writer.service().release(handle);
    cluster.settle();
    let handle = reader.open(ino, false);
    assert_eq!(reader.read(handle, 1 << 30, 4).expect("it can be read"), b"mid\0");
    assert_eq!(reader.read(handle, 1 << 40, 10).expect("it can be read"), b"far");
    reader.service().release(handle);
}

#[test]
fn a_modified_file_keeps_its_other_bytes() {
    let cluster = Cluster::new(2);
    let writer = &cluster.nodes[0];
    let mut model = noise(1, 5 << 20);
    let ino = writer.put("f", &model);
    cluster.settle();
    let first = sealed_id(&writer.inode(ino));
    let handle = writer.open(ino, true);
    writer.write(handle, 1_000_000, b"changed");
    model[1_000_000..1_000_007].copy_from_slice(b"changed");
    let appended = wait(|done| writer.service().write(handle, 0, b"tail", true, done));
    assert_eq!(appended.expect("appending works"), 4);
    model.extend(b"tail");
    writer.service().release(handle);
    assert!(writer.content(ino) == model, "before the seal");
    cluster.settle();
    assert_ne!(sealed_id(&writer.inode(ino)), first);
    for node in &cluster.nodes {
        assert!(node.content(ino) == model);
    }
    // Unchanged chunks were kept.
    let manifest = |id| writer.service().manifest_here(id).expect("it can be read");
    let old = manifest(first).expect("the old version is here");
    let new = manifest(sealed_id(&writer.inode(ino))).expect("the new version is here");
    let kept = new.chunks().iter().filter(|chunk| old.chunks().contains(chunk)).count();
    assert!(kept + 3 >= old.chunks().len(), "{kept} of {}", old.chunks().len());
}

#[test]
fn a_file_that_stays_open_is_published_by_age() {
    let cluster = Cluster::new(2);
    let (writer, reader) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ino = writer.create("log");
    let handle = writer.open(ino, true);
    writer.write(handle, 0, b"first line\n");
    until("the first line is seen", || (reader.content(ino) == b"first line\n").then_some(()));
    writer.write(handle, 11, b"second line\n");
    until("both are seen", || (reader.content(ino) == b"first line\nsecond line\n").then_some(()));
    writer.service().release(handle);
}

#[test]
fn utimes_on_a_file_being_written_wins() {
    let cluster = Cluster::new(2);
    let writer = &cluster.nodes[0];
    let ino = writer.create("f");
    let handle = writer.open(ino, true);
    writer.write(handle, 0, &noise(1, 2000));
    let time = Timestamp::new(1_000_000, 5);
    assert!(writer.service().set_mtime(ino, time));
    writer.service().release(handle);
    cluster.settle();
    assert_eq!(cluster.nodes[1].inode(ino).mtime, time);
}

#[test]
fn open_with_truncate_empties_the_file() {
    let cluster = Cluster::new(2);
    let writer = &cluster.nodes[0];
    let ino = writer.put("f", &noise(1, 300_000));
    cluster.settle();
    let inode = writer.inode(ino);
    let handle = writer.service().open(ino, &inode, true, true).expect("it can be opened");
    assert_eq!(writer.service().local_attr(ino).map(|attr| attr.size), Some(0));
    writer.write(handle, 0, b"short");
    writer.service().release(handle);
    cluster.settle();
    assert_eq!(cluster.nodes[1].content(ino), b"short");
}

#[test]
fn an_orphan_is_readable_and_writable_until_its_last_close() {
    let cluster = Cluster::new(2);
    let (writer, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    let body = noise(3, 700_000);
    let ino = writer.put("f", &body);
    cluster.settle();
    let here = writer.open(ino, true);
    let there = other.open(ino, false);
    other.unlink("f");
    assert!(other.read(there, 0, u64::MAX).expect("it can be read") == body);
    writer.write(here, 0, b"after");
    assert_eq!(writer.read(here, 0, 5).expect("it can be read"), b"after");
    assert_eq!(other.read(there, 0, 5).expect("it can be read"), &body[..5]);
    writer.service().release(here);
    other.service().release(there);
    let published = cluster.agreed().iter().filter(|op| matches!(op, Op::Publish { .. })).count();
    assert_eq!(published, 1, "what was written to the orphan is not published");
    assert!(writer.service().table.find(ino).is_none());
}

#[test]
fn a_second_node_writes_only_after_a_recall() {
    let cluster = Cluster::new(2);
    let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ino = first.create("f");
    let held = first.open(ino, true);
    first.write(held, 0, b"one ");
    let inode = second.inode(ino);
    let refused = second.service().open(ino, &inode, true, false);
    assert!(matches!(refused, Err(BodyError::NeedsToken(_))));
    cluster.block_on(first.service().recall(ino)).expect("the recall works");
    let take = Op::TakeToken { ino, node: second.id };
    assert_eq!(second.agree(take), Outcome::Done);
    let handle = second.open(ino, true);
    let appended = wait(|done| second.service().write(handle, 0, b"two", true, done));
    assert_eq!(appended.expect("it has the token"), 3);
    second.service().release(handle);
    let late = wait(|done| first.service().write(held, 0, b"no", false, done));
    assert!(matches!(late, Err(BodyError::NeedsToken(_))));
    first.service().release(held);
    cluster.settle();
    for node in &cluster.nodes {
        assert_eq!(node.content(ino), b"one two");
    }
}

#[test]
fn a_version_that_lost_is_kept_as_a_conflict() {
    let cluster = Cluster::with(2, Duration::from_secs(3600), Duration::from_secs(20));
    let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ino = first.create("f");
    let handle = first.open(ino, true);
    let lost = noise(1, 2000);
    first.write(handle, 0, &lost);
    // The token goes behind the writer's back, which only a bug or a repair by hand does.
    first.agree(Op::ReleaseToken { ino, node: first.id });
    let Inode { version: base, mtime, .. } = first.inode(ino);
    let body = Body::Inline(b"theirs".to_vec());
    let op = Op::Publish {
        ino,
        base,
        body,
        size: 6,
        mtime,
        holder: second.id,
        stored_len: 6,
        ctime: mtime,
    };
    assert!(matches!(second.agree(op), Outcome::Published(_)));
    assert_eq!(first.content(ino), lost, "the writer goes on seeing what it wrote");
    first.service().release(handle);
    let conflict = until("it is a conflict", || first.service().conflicts().pop());
    assert_eq!((conflict.ino, conflict.base, conflict.size_bytes), (ino, base, 2000));
    assert_eq!(std::fs::read(&conflict.kept_at).expect("it is kept"), lost);
    cluster.settle();
    for node in &cluster.nodes {
        assert_eq!(node.content(ino), b"theirs");
    }
}

#[test]
fn a_truncation_without_a_stage_is_left_to_the_order() {
    let cluster = Cluster::new(2);
    let writer = &cluster.nodes[0];
    let ino = writer.put("f", &noise(1, 200_000));
    cluster.settle();
    assert!(!writer.truncate(ino, 10));
    let set = SetAttr { size: Some(10), ..SetAttr::default() };
    assert_eq!(writer.agree(Op::SetAttr { ino, set }), Outcome::Done);
    assert_eq!(writer.content(ino), noise(1, 10));
    let handle = writer.open(ino, true);
    writer.write(handle, 20, b"x");
    assert!(writer.truncate(ino, 22));
    writer.service().release(handle);
    cluster.settle();
    let mut expected = noise(1, 10);
    expected.extend([0; 10]);
    expected.extend(b"x\0");
    for node in &cluster.nodes {
        assert_eq!(node.content(ino), expected);
    }
}

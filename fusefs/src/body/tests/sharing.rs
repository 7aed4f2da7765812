//! Holes that stay holes, copies that share, and what fallocate reserves.

use std::time::Duration;

use engine::command::Body;
use engine::ids::Ino;

use super::cluster::{Cluster, Node, noise, sealed_id, until, wait};
use crate::ops::ports::{Bodies, BodyError, Handle};

const MIB: u64 = 1 << 20;
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 16;

fn seek(node: &Node, handle: Handle, offset: u64, hole: bool) -> Result<u64, BodyError> {
    wait(|done| node.service().seek(handle, offset, hole, done))
}

/// Where data begins and ends, in turns, as SEEK_DATA and SEEK_HOLE tell.
fn map(node: &Node, ino: Ino) -> Vec<u64> {
    let handle = node.open(ino, false);
    let mut borders = Vec::new();
    let mut at = 0;
    while let Ok(start) = seek(node, handle, at, false) {
        let end = seek(node, handle, start, true).expect("there is a hole at every end");
        borders.extend([start, end]);
        at = end;
    }
    node.service().release(handle);
    borders
}

fn fallocate(
    node: &Node,
    handle: Handle,
    mode: u32,
    offset: u64,
    len: u64,
) -> Result<(), BodyError> {
    wait(|done| node.service().fallocate(handle, offset, len, mode, done))
}

fn copy(node: &Node, from: (Handle, u64), to: (Handle, u64), len: u64) -> u64 {
    let mut copied = 0;
    while copied < len {
        let step = wait(|done| {
            let (from, to) = ((from.0, from.1 + copied), (to.0, to.1 + copied));
            node.service().copy(from, to, len - copied, done);
        });
        match step.expect("copying works") {
            0 => break,
            step => copied += step,
        }
    }
    copied
}

#[test]
fn holes_are_the_same_before_a_seal_and_after_it_in_every_zone() {
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    // Small enough for a pack, and large; with a hole of one block, one too short, and one at
    // the end.
    for (name, scale) in [("small", 1), ("large", 64)] {
        let ino = node.create(name);
        let handle = node.open(ino, true);
        let at = |block: u64| block * 4096 * scale;
        for block in [0, 2, 3, 8] {
            node.write(handle, at(block), &noise(block, at(1) as usize));
        }
        node.write(handle, at(9) + 4095, b"x");
        assert!(node.truncate(ino, at(16)));
        // The zeros before the last byte are too few for a hole.
        let expected = [0, at(1), at(2), at(4), at(8), at(9) + 4096];
        assert_eq!(map(node, ino), expected, "{name}, staged");
        let content = node.content(ino);
        node.service().release(handle);
        cluster.settle();
        for node in &cluster.nodes {
            assert_eq!(map(node, ino), expected, "{name}, sealed");
            assert!(node.content(ino) == content);
            let stored = node.inode(ino).stored_len;
            let data: u64 = expected.chunks(2).map(|pair| pair[1] - pair[0]).sum();
            assert_eq!(stored, data, "{name}");
        }
    }
}

#[test]
fn a_seek_in_a_body_that_is_elsewhere_fetches_its_manifest_only() {
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    let ino = node.create("f");
    let handle = node.open(ino, true);
    node.write(handle, 0, &noise(1, 3 << 20));
    node.write(handle, 64 * MIB, &noise(2, 5 << 20));
    cluster.cut(0, 1);
    node.service().release(handle);
    until("it is agreed", || (node.inode(ino).size > 0).then_some(()));
    let other = &cluster.nodes[1];
    let reader = other.open(ino, false);
    let found = std::thread::scope(|scope| {
        let search = scope.spawn(|| seek(other, reader, 3 * MIB, false));
        cluster.heal();
        search.join().expect("no panic")
    });
    assert_eq!(found.expect("it is found"), 64 * MIB);
}

#[test]
fn a_terabyte_with_a_byte_in_it_is_one_byte_to_store() {
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    let ino = node.create("f");
    let handle = node.open(ino, true);
    node.write(handle, 1 << 40, b"x");
    assert!(node.truncate(ino, 2 << 40));
    node.service().release(handle);
    cluster.settle();
    for node in &cluster.nodes {
        let inode = node.inode(ino);
        assert_eq!((inode.size, inode.stored_len), (2 << 40, 1));
        assert_eq!(map(node, ino), [1 << 40, (1 << 40) + 1]);
        let reader = node.open(ino, false);
        let bytes = node.read(reader, (1 << 40) - 1, 3).expect("reading works");
        assert_eq!(bytes, b"\0x\0");
    }
}

#[test]
fn a_whole_file_is_copied_without_a_byte() {
    let cluster = Cluster::new(2);
    let node = &cluster.nodes[0];
    let ino = node.put("from", &noise(1, 20 << 20));
    cluster.settle();
    let written = node.service().counters().written_bytes.value();
    let target = node.create("to");
    let (from, to) = (node.open(ino, false), node.open(target, true));
    assert_eq!(copy(node, (from, 0), (to, 0), u64::MAX), 20 << 20);
    assert!(node.content(target) == noise(1, 20 << 20));
    node.service().release(to);
    cluster.settle();
    assert_eq!(node.service().counters().written_bytes.value(), written, "nothing was written");
    assert_eq!(sealed_id(&node.inode(target)), sealed_id(&node.inode(ino)));
    assert!(cluster.nodes[1].content(target) == noise(1, 20 << 20));
}

#[test]
fn copies_of_any_piece_equal_the_piece() {
    let cluster = Cluster::new(1);
    let node = &cluster.nodes[0];
    let mut source = noise(1, 3 << 20);
    let ino = node.put("from", &source);
    cluster.settle();
    // A part of it is newer and not sealed, and a part is a hole.
    let from = node.open(ino, true);
    node.write(from, 100_000, &noise(2, 200_000));
    source[100_000..300_000].copy_from_slice(&noise(2, 200_000));
    fallocate(node, from, PUNCH_HOLE | KEEP_SIZE, MIB, MIB / 2).expect("a hole is punched");
    source[1 << 20..(1 << 20) + (1 << 19)].fill(0);
    let target = node.put("to", &noise(3, 1 << 20));
    let mut expected = noise(3, 1 << 20);
    let to = node.open(target, true);
    for (at, offset, len) in
        [(0, 0, 4096), (50_000, 70_000, 500_000), (MIB - 10, MIB - 10, MIB), (7, 2 * MIB, 99)]
    {
        assert_eq!(copy(node, (from, at), (to, offset), len), len);
        let end = (offset + len) as usize;
        if expected.len() < end {
            expected.resize(end, 0);
        }
        expected[offset as usize..end].copy_from_slice(&source[at as usize..(at + len) as usize]);
        assert!(node.content(target) == expected, "{len} bytes from {at} to {offset}");
    }
    assert_eq!(copy(node, (from, 3 * MIB - 5), (to, 0), 100), 5, "up to the end only");
    expected[..5].copy_from_slice(&source[(3 << 20) - 5..]);
    node.service().release(to);
    node.service().release(from);
    cluster.settle();
    assert!(node.content(target) == expected);
    assert!(node.content(ino) == source);
}

#[test]
fn a_shared_piece_comes_back_after_a_crash() {
    let mut cluster = Cluster::with(1, Duration::from_secs(3600), Duration::from_secs(20));
    let node = &cluster.nodes[0];
    let ino = node.put("from", &noise(1, 3 << 20));
    cluster.settle();
    let node = &cluster.nodes[0];
    let target = node.create("to");
    let (from, to) = (node.open(ino, false), node.open(target, true));
    assert_eq!(copy(node, (from, 0), (to, 0), 3 * MIB), 3 * MIB);
    node.write(to, 10, b"own");
    node.fsync(target);
    cluster.crash(0);
    cluster.restart(0);
    cluster.settle();
    let mut expected = noise(1, 3 << 20);
    expected[10..13].copy_from_slice(b"own");
    assert!(cluster.nodes[0].content(target) == expected);
}

#[test]
fn what_is_reserved_shows_and_what_is_punched_does_not() {
    let cluster = Cluster::with(1, Duration::from_secs(3600), Duration::from_secs(20));
    let node = &cluster.nodes[0];
    let ino = node.create("f");
    let handle = node.open(ino, true);
    let blocks = || node.service().local_attr(ino).map(|attr| (attr.size, attr.blocks));
    fallocate(node, handle, 0, 0, MIB).expect("there is room");
    assert_eq!(blocks(), Some((MIB, 2048)));
    fallocate(node, handle, KEEP_SIZE, MIB, MIB).expect("there is room");
    assert_eq!(blocks(), Some((MIB, 4096)));
    assert_eq!(map(node, ino), [0_u64; 0], "nothing is written");
    node.write(handle, 0, &noise(1, 4096));
    assert_eq!(blocks(), Some((MIB, 4096)), "what is written had its room already");
    fallocate(node, handle, PUNCH_HOLE | KEEP_SIZE, 0, MIB / 2).expect("a hole is punched");
    assert_eq!(blocks(), Some((MIB, 3072)));
    fallocate(node, handle, ZERO_RANGE, 0, MIB / 2).expect("it is zeroed");
    assert_eq!(blocks(), Some((MIB, 4096)));
    assert!(node.content(ino) == vec![0; 1 << 20]);
    for mode in [8, 32, 64, PUNCH_HOLE, ZERO_RANGE | PUNCH_HOLE | KEEP_SIZE, 1 << 20] {
        let refused = fallocate(node, handle, mode, 0, 4096);
        assert!(matches!(refused, Err(BodyError::Unsupported)), "mode {mode}");
    }
    assert!(matches!(fallocate(node, handle, 0, 0, 0), Err(BodyError::Invalid)));
    assert!(matches!(fallocate(node, handle, 0, 16 << 40, 1), Err(BodyError::TooLarge)));
    assert!(matches!(fallocate(node, handle, 0, 0, 15 << 40), Err(BodyError::NoSpace)));
    node.write(handle, 10, b"x");
    node.service().release(handle);
    cluster.settle();
    let inode = node.inode(ino);
    assert_eq!((inode.size, inode.stored_len), (MIB, 11), "the room ends with the seal");
    assert!(matches!(inode.body, Body::Inline(_)));
}

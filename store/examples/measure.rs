//! Prints what the store does per second on this disk: `cargo run -p store --example measure`.
//! Figures, not assertions: they depend on the disk and on the neighbours.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use engine::chunking::{Chunk, ContentKey, Manifest};
use engine::consensus::entry::{Entry, EntryKind};
use engine::consensus::record::{Header, LogRecord, OrderRecord};
use engine::ids::{Ballot, Epoch, Gsn, Idx, LaneId, NodeId, Term, Ts, VolumeId};
use engine::namespace::tables::{Changes, Tables};
use store::bodies::SmallBody;
use store::{Identity, Options, Store};

const V: VolumeId = VolumeId(1);
const LANE: LaneId = LaneId { epoch: Epoch(1), node: NodeId(1), term: Term(0) };
const RUN: Duration = Duration::from_secs(2);

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let identity = Identity::new([1; 16], NodeId(1)).expect("random bytes");
    let store = Store::create(dir.path(), &identity, &Options::default()).expect("a store");
    store.initialize(V, &Changes::new(), &header(0)).expect("a volume");

    for threads in [1, 4, 16, 64] {
        group_commit(&store, threads);
    }
    let next = apply(&store, 1, 1);
    let next = apply(&store, next, 16);
    apply_during_syncs(&store, next);
    read(&store);
    for threads in [1, 16] {
        small_bodies(&store, threads);
    }
    drop(store);
    let start = Instant::now();
    Store::open(dir.path(), &Options::default()).expect("the store again");
    println!("open: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
}

/// Threads that append and sync, each its own record.
fn group_commit(store: &Store, threads: u64) {
    let done = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for t in 0..threads {
            let done = &done;
            scope.spawn(move || {
                while start.elapsed() < RUN {
                    let idx = Idx(done.fetch_add(1, Ordering::Relaxed) << 8 | t);
                    let record =
                        LogRecord::Accepted { lane: LANE, idx, ballot: Ballot(0), entry: tick(1) };
                    store.append(V, &[record]).expect("append");
                    store.sync().expect("sync");
                }
            });
        }
    });
    rate(&format!("durable appends, {threads} threads"), done.into_inner(), start);
}

/// One batch per agreement, with `changes` changed keys.
fn apply(store: &Store, first: u64, changes: u64) -> u64 {
    let start = Instant::now();
    let mut gsn = first;
    while start.elapsed() < RUN {
        apply_one(store, gsn, changes);
        gsn += 1;
    }
    rate(&format!("applies of {changes} keys"), gsn - first, start);
    gsn
}

/// How long an apply takes while another thread syncs without a pause.
fn apply_during_syncs(store: &Store, first: u64) {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (mut gsn, mut longest) = (first, Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.sync().expect("sync");
            }
        });
        while start.elapsed() < RUN {
            let one = Instant::now();
            apply_one(store, gsn, 4);
            longest = longest.max(one.elapsed());
            gsn += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    rate("applies of 4 keys beside syncs", gsn - first, start);
    println!("  the longest: {:.1} ms", longest.as_secs_f64() * 1e3);
}

fn apply_one(store: &Store, gsn: u64, changes: u64) {
    let change = |i: u64| {
        let key = [&b"I"[..], &(gsn.wrapping_mul(2654435761) + i).to_be_bytes()].concat();
        (key, Some(vec![gsn as u8; 120]))
    };
    let changes: Changes = (0..changes).map(change).collect();
    let order = OrderRecord { gsn: Gsn(gsn), lane: LANE, idx: Idx(gsn), entry: tick(gsn) };
    store.apply(V, &changes, &header(gsn), &[order.into()]).expect("apply");
}

fn read(store: &Store) {
    let tables = store.tables(V);
    for cache in ["cold", "warm"] {
        let start = Instant::now();
        for gsn in 1..=10_000u64 {
            let key = [&b"I"[..], &gsn.wrapping_mul(2654435761).to_be_bytes()].concat();
            tables.get(&key).expect("get").expect("the key is there");
        }
        rate(&format!("gets, {cache}"), 10_000, start);
    }
}

fn small_bodies(store: &Store, threads: u64) {
    let key = ContentKey::new([threads as u8; 32]);
    let done = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while start.elapsed() < RUN {
                    let bodies: Vec<_> = (0..16)
                        .map(|_| small(&key, done.fetch_add(1, Ordering::Relaxed)))
                        .collect();
                    store.bodies().put_small(&bodies).expect("put");
                }
            });
        }
    });
    rate(&format!("durable 4 KiB bodies, 16 a batch, {threads} threads"), done.into_inner(), start);
}

fn small(key: &ContentKey, n: u64) -> SmallBody {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    let chunk = Chunk { offset: 0, len: 4096, id: key.chunk_id(&bytes) };
    let manifest = Manifest::new(4096, vec![chunk]).expect("one chunk");
    SmallBody { id: key.body_id(&manifest), manifest, bytes }
}

fn header(gsn: u64) -> Header {
    Header { gsn: Gsn(gsn), ..Header::genesis(NodeId(1)) }
}

fn tick(ts: u64) -> Entry {
    Entry { ts: Ts(ts), kind: EntryKind::Tick }
}

fn rate(what: &str, count: u64, start: Instant) {
    println!("{what}: {:.0} /s", count as f64 / start.elapsed().as_secs_f64());
}

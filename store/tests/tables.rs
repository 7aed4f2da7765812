//! Tables, order, log, local tables and checkpoints of one store, over its public API.

use std::collections::BTreeMap;
use std::path::Path;

use engine::consensus::entry::{Entry, EntryKind};
use engine::consensus::record::{Header, LogRecord, OrderRecord};
use engine::ids::{Ballot, Epoch, Gsn, Idx, LaneId, NodeId, Term, Ts, VolumeId};
use engine::namespace::tables::{Changes, Tables};
use engine::outcome::{Refusal, Verdict};
use store::{AppliedRecord, CheckpointSegment, Identity, LocalBatch, Options, Store, StoreError};

const V: VolumeId = VolumeId(1);
const LANE: LaneId = LaneId { epoch: Epoch(1), node: NodeId(1), term: Term(0) };

fn create(dir: &Path) -> Store {
    let identity = Identity::new([1; 16], NodeId(1)).unwrap();
    Store::create(dir, &identity, &options()).unwrap()
}

fn options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

fn changes(pairs: &[(&str, Option<&str>)]) -> Changes {
    pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.map(|v| v.as_bytes().to_vec()))).collect()
}

fn header(gsn: u64) -> Header {
    Header { gsn: Gsn(gsn), ..Header::genesis(NodeId(1)) }
}

fn tick(gsn: u64) -> OrderRecord {
    let entry = Entry { ts: Ts(gsn), kind: EntryKind::Tick };
    OrderRecord { gsn: Gsn(gsn), lane: LANE, idx: Idx(gsn), entry }
}

fn keys<T: Tables>(tables: &T, prefix: &str, from: &str) -> Vec<String> {
    let mut found = Vec::new();
    tables
        .scan(prefix.as_bytes(), from.as_bytes(), &mut |key, _| {
            found.push(String::from_utf8(key.to_vec()).unwrap());
            true
        })
        .unwrap();
    found
}

#[test]
fn apply_is_seen_live_and_not_in_an_older_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.initialize(V, &changes(&[("a", Some("1")), ("b", Some("2"))]), &header(0)).unwrap();
    let live = store.tables(V);
    let before = store.snapshot(V).unwrap();
    store
        .apply(V, &changes(&[("a", None), ("c", Some("3"))]), &header(1), &[tick(1).into()])
        .unwrap();

    assert_eq!(live.get(b"a").unwrap(), None);
    assert_eq!(keys(&live, "", ""), ["b", "c"]);
    assert_eq!(before.get(b"a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(keys(&before, "", ""), ["a", "b"]);
    assert_eq!(before.header().gsn, Gsn(0));
    assert_eq!(store.header(V).unwrap().unwrap(), header(1));

    // A snapshot keeps the database open when the store is dropped.
    drop((store, live));
    assert_eq!(before.get(b"b").unwrap(), Some(b"2".to_vec()));
    assert!(matches!(Store::open(dir.path(), &options()), Err(StoreError::Locked { .. })));
    drop(before);
    Store::open(dir.path(), &options()).unwrap();
}

#[test]
fn volumes_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let other = VolumeId(2);
    store.initialize(V, &changes(&[("k", Some("1"))]), &header(0)).unwrap();
    store.initialize(other, &changes(&[("k", Some("2")), ("l", Some("3"))]), &header(0)).unwrap();
    assert_eq!(keys(&store.tables(V), "", ""), ["k"]);
    assert_eq!(store.tables(other).get(b"k").unwrap(), Some(b"2".to_vec()));
    assert_eq!(store.volumes(), [V, other]);
    let again = store.initialize(V, &Changes::new(), &header(0));
    assert!(matches!(again, Err(StoreError::VolumeExists(V))));
    assert!(store.tables(VolumeId(3)).get(b"k").is_err());
    assert!(matches!(store.snapshot(VolumeId(3)), Err(StoreError::UnknownVolume(_))));
}

#[test]
fn scan_keeps_to_prefix_and_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let all = ["C12345678a", "C12345678b", "C12345679a", "D", "Ia", "Ib"];
    let puts: Vec<_> = all.iter().map(|key| (*key, Some("x"))).collect();
    store.initialize(V, &changes(&puts), &header(0)).unwrap();
    let check = |tables: &dyn Fn(&str, &str) -> Vec<String>| {
        assert_eq!(tables("", ""), all);
        assert_eq!(tables("C12345678", ""), all[..2]);
        assert_eq!(tables("C12345678", "C12345678b"), all[1..2]);
        assert_eq!(tables("C12345678", "C12345678c"), all[..0]);
        assert_eq!(tables("C", "C12345678b"), all[1..3]);
        assert_eq!(tables("I", "A"), all[4..]);
        assert_eq!(tables("C12345678zz", ""), all[..0]);
    };
    check(&|prefix, from| keys(&store.tables(V), prefix, from));
    // The same from files, where prefix filters are used.
    store.checkpoint("flushes").unwrap();
    check(&|prefix, from| keys(&store.tables(V), prefix, from));
    check(&|prefix, from| keys(&store.snapshot(V).unwrap(), prefix, from));
}

#[test]
#[should_panic(expected = "without gaps")]
fn a_gap_in_the_order_is_our_bug() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.initialize(V, &Changes::new(), &header(0)).unwrap();
    let _ = store.apply(V, &Changes::new(), &header(2), &[tick(2).into()]);
}

#[test]
fn order_is_read_in_pieces_and_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.initialize(V, &Changes::new(), &header(0)).unwrap();
    assert_eq!(store.order_range(V).unwrap(), None);
    for gsn in 1..=10 {
        store.apply(V, &Changes::new(), &header(gsn), &[tick(gsn).into()]).unwrap();
    }
    let gsns = |from, bytes| {
        let records = store.order(V, Gsn(from), bytes).unwrap();
        records.iter().map(|record| record.gsn.0).collect::<Vec<_>>()
    };
    assert_eq!(gsns(1, usize::MAX), (1..=10).collect::<Vec<_>>());
    assert_eq!(gsns(4, 0), [4]);
    assert_eq!(gsns(11, usize::MAX), [0; 0]);
    let refused = BTreeMap::from([(1, Verdict::Refused(Refusal::Exists))]);
    let applied = AppliedRecord { record: tick(11), verdicts: Some(refused) };
    store.apply(V, &Changes::new(), &header(11), std::slice::from_ref(&applied)).unwrap();
    let read = store.order_applied(V, Gsn(10), Gsn(11), usize::MAX).unwrap();
    assert_eq!(read, [tick(10).into(), applied]);
    let verdicts = [0, 1].map(|place| read[1].verdict(place));
    assert_eq!(verdicts, [Some(Verdict::Done), Some(Verdict::Refused(Refusal::Exists))]);
    assert_eq!(read[0].verdict(0), None);
    store.truncate_order(V, Gsn(5)).unwrap();
    assert_eq!(store.order_range(V).unwrap(), Some((Gsn(5), Gsn(11))));
    assert_eq!(gsns(4, usize::MAX), [0; 0]);
    assert_eq!(gsns(9, usize::MAX), [9, 10, 11]);
}

#[test]
fn the_order_is_cut_by_bytes_and_its_space_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.initialize(V, &Changes::new(), &header(0)).unwrap();
    let apply = |from: u64, to: u64| {
        for gsn in from..=to {
            store.apply(V, &Changes::new(), &header(gsn), &[tick(gsn).into()]).unwrap();
        }
    };
    apply(1, 3000);
    let all = store.order_kept(V).unwrap().unwrap();
    assert_eq!((all.oldest, all.newest), (Gsn(1), Gsn(3000)));
    let each = all.bytes / 3000;
    assert!(each > 10, "{all:?}");
    assert_eq!(store.order_cut(V, u64::MAX).unwrap(), Gsn(0), "nothing has to go");

    // Exact to the marks, and never more than what was asked for.
    let cut = store.order_cut(V, each * 1000).unwrap();
    assert!(Gsn(2000) <= cut && cut <= Gsn(2000 + 257), "{cut}");
    store.truncate_order(V, cut).unwrap();
    let kept = store.order_kept(V).unwrap().unwrap();
    assert_eq!((kept.oldest, kept.newest), (cut, Gsn(3000)));
    assert!(kept.bytes <= each * 1001 && kept.bytes >= each * 700, "{kept:?}");
    assert_eq!(store.order_cut(V, each * 1000 + each).unwrap(), Gsn(0), "nothing more has to go");

    // Later cuts count on from there.
    apply(3001, 6000);
    let cut = store.order_cut(V, each * 1000).unwrap();
    assert!(Gsn(5000) <= cut && cut <= Gsn(5000 + 257), "{cut}");
    store.truncate_order(V, cut).unwrap();
    drop(store);
    let store = Store::open(dir.path(), &options()).unwrap();
    assert_eq!(store.order_kept(V).unwrap().unwrap().oldest, cut);
    assert_eq!(store.order(V, cut, usize::MAX).unwrap().len() as u64, 6000 - cut.0 + 1);
}

#[test]
fn log_comes_back_as_it_was_and_without_what_was_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.initialize(V, &Changes::new(), &header(0)).unwrap();
    let later = LaneId { term: Term(1), ..LANE };
    let accepted = |lane, idx, ballot, ts| LogRecord::Accepted {
        lane,
        idx: Idx(idx),
        ballot: Ballot(ballot),
        entry: Entry { ts: Ts(ts), kind: EntryKind::Tick },
    };
    store
        .append(
            V,
            &[
                LogRecord::Started { lane: LANE },
                accepted(LANE, 1, 0, 10),
                accepted(LANE, 2, 0, 20),
                accepted(LANE, 3, 0, 30),
                accepted(later, 1, 0, 40),
                LogRecord::Promised { lane: LANE, ballot: Ballot(7) },
                accepted(LANE, 3, 7, 31),
                LogRecord::Truncated { lane: LANE, upto: Idx(1) },
            ],
        )
        .unwrap();
    store.append(VolumeId(2), &[accepted(LANE, 9, 0, 99)]).unwrap();
    store.sync().unwrap();
    drop(store);

    let recovered = Store::open(dir.path(), &options()).unwrap().recover(V).unwrap();
    assert_eq!(recovered.header, header(0));
    assert_eq!(recovered.started.into_iter().collect::<Vec<_>>(), [LANE]);
    assert_eq!(recovered.promised.into_iter().collect::<Vec<_>>(), [(LANE, Ballot(7))]);
    let accepted: Vec<_> = recovered
        .accepted
        .iter()
        .flat_map(|(lane, entries)| {
            entries.iter().map(|(idx, (ballot, entry))| (*lane, idx.0, ballot.0, entry.ts.0))
        })
        .collect();
    assert_eq!(accepted, [(LANE, 2, 0, 20), (LANE, 3, 7, 31), (later, 1, 0, 40)]);
}

#[test]
fn local_tables_are_the_callers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store
        .local_write(LocalBatch::new().put(b"a/1", b"x").put(b"a/2", b"y").delete(b"b"), true)
        .unwrap();
    store.local_put(b"b", b"z").unwrap();
    store.local_delete(b"a/1").unwrap();
    let mut found = Vec::new();
    store
        .local_scan(b"", &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    let expected = [(&b"a/2"[..], &b"y"[..]), (b"b", b"z")];
    assert_eq!(found, expected.map(|(key, value)| (key.to_vec(), value.to_vec())));
    assert_eq!(store.local_get(b"a/1").unwrap(), None);
}

#[test]
fn boots_count_and_identity_stays() {
    let dir = tempfile::tempdir().unwrap();
    let identity = create(dir.path()).identity().clone();
    for boot in 2..5 {
        let store = Store::open(dir.path(), &options()).unwrap();
        assert_eq!(store.boot(), boot);
        assert_eq!(*store.identity(), identity);
    }
}

/// A sender with `count` keys of about 1 KiB at gsn 9, and a receiver at gsn 1.
fn pair(dir: &Path, count: usize) -> (Store, Store) {
    let (from, to) = (create(&dir.join("from")), create(&dir.join("to")));
    let mut many = Changes::new();
    for i in 0..count {
        many.insert(format!("key{i:06}").into_bytes(), Some(vec![i as u8; 1024]));
    }
    from.initialize(V, &many, &header(9)).unwrap();
    to.initialize(V, &changes(&[("old", Some("1"))]), &header(0)).unwrap();
    to.apply(V, &Changes::new(), &header(1), &[tick(1).into()]).unwrap();
    (from, to)
}

#[test]
fn checkpoint_goes_over_in_segments_and_replaces_the_tables_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = pair(dir.path(), 3000);
    let reader = from.export_checkpoint(V).unwrap();
    // What is applied later is not sent.
    from.apply(V, &changes(&[("later", Some("1"))]), &header(10), &[tick(10).into()]).unwrap();

    let mut install = to.begin_install(V, reader.header()).unwrap();
    let mut segments = 0;
    while !install.complete() {
        let bytes = reader.segment(install.resume_after()).unwrap().encode();
        assert!(bytes.len() < 1 << 21);
        install.segment(&CheckpointSegment::decode(&bytes).unwrap()).unwrap();
        assert_eq!(keys(&to.tables(V), "", ""), ["old"]);
        segments += 1;
    }
    assert_eq!(segments, 3);
    let old = to.snapshot(V).unwrap();
    install.finish().unwrap();

    assert_eq!(keys(&to.tables(V), "", ""), keys(&reader_tables(&from), "key", ""));
    assert_eq!(keys(&old, "", ""), ["old"]);
    assert_eq!(to.order_range(V).unwrap(), None);
    to.apply(V, &changes(&[("later", Some("1"))]), &header(10), &[tick(10).into()]).unwrap();
    to.sync().unwrap();
    drop((to, old));

    let to = Store::open(&dir.path().join("to"), &options()).unwrap();
    assert_eq!(to.recover(V).unwrap().header, header(10));
    assert_eq!(keys(&to.tables(V), "", ""), keys(&from.tables(V), "", ""));
}

fn reader_tables(store: &Store) -> impl Tables {
    store.tables(V)
}

#[test]
fn interrupted_install_goes_on_after_a_restart_and_another_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = pair(dir.path(), 3000);
    let reader = from.export_checkpoint(V).unwrap();
    let mut install = to.begin_install(V, reader.header()).unwrap();
    install.segment(&reader.segment(None).unwrap()).unwrap();
    let after = install.resume_after().unwrap().to_vec();
    to.sync().unwrap();
    drop((install, to));

    let to = Store::open(&dir.path().join("to"), &options()).unwrap();
    assert_eq!(keys(&to.tables(V), "", ""), ["old"]);
    let install = to.begin_install(V, reader.header()).unwrap();
    assert_eq!(install.resume_after(), Some(&after[..]));

    from.apply(V, &changes(&[("later", Some("1"))]), &header(10), &[tick(10).into()]).unwrap();
    let newer = from.export_checkpoint(V).unwrap();
    let mut install = to.begin_install(V, newer.header()).unwrap();
    assert_eq!(install.resume_after(), None);
    while !install.complete() {
        let segment = newer.segment(install.resume_after()).unwrap();
        install.segment(&segment).unwrap();
    }
    install.finish().unwrap();
    assert_eq!(keys(&to.tables(V), "", ""), keys(&from.tables(V), "", ""));
    assert!(matches!(to.begin_install(V, reader.header()), Err(StoreError::Invalid(_))));
}

#[test]
fn install_refuses_segments_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = pair(dir.path(), 3000);
    let reader = from.export_checkpoint(V).unwrap();
    let first = reader.segment(None).unwrap();
    let second = reader.segment(first.resume_after()).unwrap();
    let mut install = to.begin_install(V, reader.header()).unwrap();
    let mut refused = |segment: &CheckpointSegment| {
        assert!(matches!(install.segment(segment), Err(StoreError::Invalid(_))));
    };
    refused(&second);
    refused(&CheckpointSegment { gsn: Gsn(8), ..first.clone() });
    refused(&CheckpointSegment { volume: VolumeId(2), ..first.clone() });
    let mut reversed = first.clone();
    reversed.entries.reverse();
    refused(&reversed);
    refused(&CheckpointSegment { entries: vec![], ..first.clone() });
    install.segment(&first).unwrap();
    assert!(matches!(install.finish(), Err(StoreError::Invalid(_))));

    let bytes = first.encode();
    for at in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(CheckpointSegment::decode(&bad).is_err());
    }
    assert!(CheckpointSegment::decode(&bytes[..20]).is_err());
    assert!(CheckpointSegment::decode(&[]).is_err());
}

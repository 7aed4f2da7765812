//! Stages, packs, containers and parts of one store, over its public API.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use engine::chunking::{Chunk, ContentKey, Manifest};
use engine::ids::{BodyId, ChunkId, Ino, NodeId, Version, VolumeId};
use engine::time::Timestamp;
use store::bodies::{Part, Seal, SmallBody, StageId, StageRecord, StageState};
use store::{Area, Identity, Options, Store, StoreError};

const CHUNK: u64 = 100_000;

fn key() -> ContentKey {
    ContentKey::new([9; 32])
}

fn options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

fn create(dir: &Path) -> Store {
    let identity = Identity::new([1; 16], NodeId(1)).unwrap();
    Store::create(dir, &identity, &options()).unwrap()
}

fn reopen(store: Store) -> Store {
    let dir = store.dir().to_owned();
    drop(store);
    Store::open(&dir, &options()).unwrap()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// The manifest of `bytes` in chunks of [`CHUNK`], without those that are all zeros.
fn manifest(bytes: &[u8]) -> (BodyId, Manifest) {
    let chunk = |(i, part): (usize, &[u8])| Chunk {
        offset: i as u64 * CHUNK,
        len: part.len() as u32,
        id: if part.iter().all(|b| *b == 0) { ChunkId([0; 32]) } else { key().chunk_id(part) },
    };
    let chunks: Vec<_> = bytes.chunks(CHUNK as usize).enumerate().map(chunk).collect();
    let chunks = chunks.into_iter().filter(|chunk| chunk.id != ChunkId([0; 32])).collect();
    let manifest = Manifest::new(bytes.len() as u64, chunks).unwrap();
    (key().body_id(&manifest), manifest)
}

fn small(seed: u64, len: usize) -> SmallBody {
    let bytes = bytes(seed, len);
    let (id, manifest) = manifest(&bytes);
    SmallBody { id, manifest, bytes }
}

fn record(id: StageId, size: u64, state: StageState) -> StageRecord {
    StageRecord {
        id,
        volume: VolumeId(1),
        ino: Ino(77),
        base: Version(3),
        size,
        mtime: Timestamp::new(5, 6),
        state,
    }
}

fn check_body(store: &Store, id: BodyId, expected: &[u8], manifest: &Manifest) {
    let bodies = store.bodies();
    assert!(bodies.has(id).unwrap());
    let body = bodies.open_body(id).unwrap().unwrap();
    assert_eq!(body.len(), expected.len() as u64);
    let mut read = vec![0; expected.len() + 10];
    assert_eq!(body.read_at(0, &mut read).unwrap(), expected.len());
    assert_eq!(&read[..expected.len()], expected);
    let mut few = [0; 7];
    let offset = expected.len() as u64 / 2;
    let count = bodies.read_at(id, offset, &mut few).unwrap().unwrap();
    assert_eq!(few[..count], expected[offset as usize..][..count]);
    assert_eq!(body.read_at(expected.len() as u64 + 1, &mut few).unwrap(), 0);
    assert_eq!(bodies.manifest(id).unwrap().unwrap(), *manifest);
    assert!(bodies.verify(id, &key()).unwrap());
}

fn pack_file(store: &Store) -> PathBuf {
    store.dir().join("packs/00000001")
}

fn container(store: &Store, area: &str, id: BodyId) -> PathBuf {
    let hex = id.to_hex();
    store.dir().join(area).join(&hex[..2]).join(hex)
}

fn names(dir: PathBuf) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn small_bodies_are_packed_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = create(dir.path());
    let all: Vec<_> = (0..20).map(|i| small(i, 1 + i as usize * 6_000)).collect();
    store.bodies().put_small(&all[..10]).unwrap();
    store.bodies().put_small(&all).unwrap();
    let len = fs::metadata(pack_file(&store)).unwrap().len();
    store.bodies().put_small(&all).unwrap();
    assert_eq!(fs::metadata(pack_file(&store)).unwrap().len(), len, "what is here stays single");
    for _ in 0..2 {
        for body in &all {
            check_body(&store, body.id, &body.bytes, &body.manifest);
        }
        store = reopen(store);
    }
    let mut listed = Vec::new();
    store
        .bodies()
        .scan(&mut |info| {
            listed.push(info.id);
            true
        })
        .unwrap();
    let mut expected: Vec<_> = all.iter().map(|body| body.id).collect();
    expected.sort();
    assert_eq!(listed, expected);
    assert_eq!(store.bodies().read_at(BodyId([0; 32]), 0, &mut [0]).unwrap(), None);

    let too_large = small(99, 128 * 1024 + 1);
    assert!(matches!(store.bodies().put_small(&[too_large]), Err(StoreError::Invalid(_))));
    let mut short = small(98, 100);
    short.bytes.pop();
    assert!(matches!(store.bodies().put_small(&[short]), Err(StoreError::Invalid(_))));
}

#[test]
fn threads_pack_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    thread::scope(|scope| {
        for t in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..20 {
                    store.bodies().put_small(&[small(t * 100 + i, 3000)]).unwrap();
                }
            });
        }
    });
    let store = reopen(store);
    for t in 0..8 {
        for i in 0..20 {
            let body = small(t * 100 + i, 3000);
            check_body(&store, body.id, &body.bytes, &body.manifest);
        }
    }
}

#[test]
fn records_behind_the_durable_end_are_taken_over_and_a_torn_one_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (first, second, third) = (small(1, 5000), small(2, 6000), small(3, 7000));
    store.bodies().put_small(std::slice::from_ref(&first)).unwrap();
    let end = fs::metadata(pack_file(&store)).unwrap().len();
    // Another store's pack has the records that this one "lost" the index of.
    let other = create(&dir.path().join("other"));
    other.bodies().put_small(&[second.clone(), third.clone()]).unwrap();
    let mut tail = fs::read(pack_file(&other)).unwrap();
    tail.truncate(tail.len() - 1);
    let path = pack_file(&store);
    drop(store);
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&tail, end).unwrap();

    let store = Store::open(dir.path(), &options()).unwrap();
    check_body(&store, first.id, &first.bytes, &first.manifest);
    check_body(&store, second.id, &second.bytes, &second.manifest);
    assert!(!store.bodies().has(third.id).unwrap());
    // What comes next lies where the torn record was.
    store.bodies().put_small(std::slice::from_ref(&third)).unwrap();
    let store = reopen(store);
    for body in [&first, &second, &third] {
        check_body(&store, body.id, &body.bytes, &body.manifest);
    }
}

#[test]
fn a_flipped_bit_in_a_pack_is_found_and_the_body_can_be_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (good, bad) = (small(1, 5000), small(2, 6000));
    store.bodies().put_small(&[good.clone(), bad.clone()]).unwrap();
    let path = pack_file(&store);
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let at = file.metadata().unwrap().len() - 100;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();

    let store = reopen(store);
    check_body(&store, good.id, &good.bytes, &good.manifest);
    let damaged = store.bodies().open_body(bad.id);
    assert!(matches!(damaged, Err(StoreError::DamagedBody { id, .. }) if id == bad.id));
    store.bodies().delete(&[bad.id]).unwrap();
    store.bodies().put_small(std::slice::from_ref(&bad)).unwrap();
    check_body(&store, bad.id, &bad.bytes, &bad.manifest);
}

/// A body of about 450 kB with a hole of three chunks in it.
fn large() -> (Vec<u8>, BodyId, Manifest) {
    let mut content = bytes(7, 450_000);
    content[100_000..400_000].fill(0);
    let (id, manifest) = manifest(&content);
    assert_eq!(manifest.chunks().len(), 2);
    (content, id, manifest)
}

#[test]
fn a_stage_becomes_the_container_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (content, id, manifest) = large();
    let stage = store.bodies().stage_create().unwrap();
    stage.write_at(0, &content[..100_000]).unwrap();
    stage.write_at(400_000, &content[400_000..]).unwrap();
    stage.sync().unwrap();
    store.bodies().stage_record(&record(stage.id(), 450_000, StageState::Synced), true).unwrap();
    let inode = stage.file().metadata().unwrap().ino();
    store.bodies().adopt_stage(stage.id(), id, &manifest).unwrap();

    let path = container(&store, "objects", id);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.ino(), inode, "no byte is copied");
    assert!(metadata.blocks() * 512 < 300_000, "the hole stays");
    assert_eq!(names(store.dir().join("stage")), [""; 0]);
    let stage_id = stage.id();
    let sealed = [record(stage_id, 450_000, StageState::Sealed(id))];
    assert_eq!(store.bodies().stages().unwrap(), sealed);
    drop(stage);

    let store = reopen(store);
    check_body(&store, id, &content, &manifest);
    assert!(store.bodies().open_body(id).unwrap().unwrap().file().is_some());
    assert_eq!(store.bodies().stages().unwrap(), sealed);
    store.bodies().stage_remove(stage_id).unwrap();
    assert_eq!(store.bodies().stages().unwrap(), []);
    let store = reopen(store);
    assert_eq!(store.bodies().stages().unwrap(), []);

    store.bodies().delete(&[id, BodyId([0; 32])]).unwrap();
    assert!(!store.bodies().has(id).unwrap());
    assert!(!path.exists());
}

#[test]
fn one_seal_takes_many_and_content_that_is_here_already() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let bodies = store.bodies();
    let (content, id, manifest) = large();
    let stages: Vec<_> = (0..3).map(|_| bodies.stage_create().unwrap()).collect();
    for stage in &stages {
        stage.write_at(0, &content).unwrap();
        bodies.stage_record(&record(stage.id(), 450_000, StageState::Open), false).unwrap();
    }
    let tiny = small(1, 10);
    let seal = |stage: &store::bodies::Stage| Seal::Stage {
        id,
        manifest: manifest.clone(),
        stage: stage.id(),
    };
    let small_seal = Seal::Small { body: tiny.clone(), stage: Some(stages[2].id()) };
    bodies.seal(&[seal(&stages[0]), small_seal]).unwrap();
    bodies.seal(&[seal(&stages[1])]).unwrap();
    let states: Vec<_> = bodies.stages().unwrap().iter().map(|record| record.state).collect();
    use StageState::Sealed;
    assert_eq!(states, [Sealed(id), Sealed(id), Sealed(tiny.id)]);
    assert_eq!(names(store.dir().join("stage")), [""; 0]);
    check_body(&store, id, &content, &manifest);
    check_body(&store, tiny.id, &tiny.bytes, &tiny.manifest);
}

#[test]
fn a_stage_longer_than_its_manifest_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (content, id, manifest) = large();
    let stage = store.bodies().stage_create().unwrap();
    stage.write_at(0, &content).unwrap();
    stage.write_at(450_000, b"more").unwrap();
    let refused = store.bodies().adopt_stage(stage.id(), id, &manifest);
    assert!(matches!(refused, Err(StoreError::Invalid(_))));
    assert_eq!(store.bodies().stage_open(stage.id()).unwrap().len().unwrap(), 450_004);
}

#[test]
fn a_crash_amid_sealing_gives_the_stage_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (content, id, manifest) = large();
    let stage = store.bodies().stage_create().unwrap();
    stage.write_at(0, &content).unwrap();
    store.bodies().stage_record(&record(stage.id(), 450_000, StageState::Synced), true).unwrap();
    let plain = store.dir().join("stage").join(stage.id().to_string());
    let sealing = plain.with_extension("seal-450000");
    let stage_id = stage.id();
    drop((stage, store));
    // As a crash leaves it: the name changed, half a footer behind the body.
    fs::rename(&plain, &sealing).unwrap();
    fs::File::options().write(true).open(&sealing).unwrap().write_all_at(b"half", 450_000).unwrap();

    let store = Store::open(dir.path(), &options()).unwrap();
    assert_eq!(store.bodies().swept().seals_undone, 1);
    let again = store.bodies().stage_open(stage_id).unwrap();
    assert_eq!(again.len().unwrap(), 450_000);
    store.bodies().adopt_stage(stage_id, id, &manifest).unwrap();
    check_body(&store, id, &content, &manifest);
}

#[test]
fn a_crash_between_container_and_index_still_knows_whose_bytes_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("s"));
    let (content, id, manifest) = large();
    let stage = store.bodies().stage_create().unwrap();
    let stage_id = stage.id();
    stage.write_at(0, &content).unwrap();
    stage.sync().unwrap();
    store.bodies().stage_record(&record(stage_id, 450_000, StageState::Synced), true).unwrap();
    // The database as it was before the seal, the files as they were after it.
    let before = dir.path().join("before");
    let db = store.dir().join("db");
    fs::create_dir(&before).unwrap();
    for entry in fs::read_dir(&db).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), before.join(entry.file_name())).unwrap();
    }
    let synced = fs::read(store.dir().join("synced")).unwrap();
    store.bodies().adopt_stage(stage_id, id, &manifest).unwrap();
    let root = store.dir().to_owned();
    drop((stage, store));
    fs::remove_dir_all(&db).unwrap();
    fs::rename(&before, &db).unwrap();
    fs::write(root.join("synced"), synced).unwrap();

    let store = Store::open(&root, &options()).unwrap();
    assert_eq!(store.bodies().swept().containers_found, 1);
    assert_eq!(store.bodies().swept().stages_missing, 0);
    let sealed = record(stage_id, 450_000, StageState::Sealed(id));
    assert_eq!(store.bodies().stages().unwrap(), [sealed]);
    check_body(&store, id, &content, &manifest);
}

#[test]
fn a_container_that_the_index_missed_is_found_and_a_missing_one_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (content, id, manifest) = large();
    let stage = store.bodies().stage_create().unwrap();
    stage.write_at(0, &content).unwrap();
    store.bodies().adopt_stage(stage.id(), id, &manifest).unwrap();
    let path = container(&store, "objects", id);
    let aside = dir.path().join("aside");
    drop((stage, store));
    fs::rename(&path, &aside).unwrap();

    let store = Store::open(dir.path(), &options()).unwrap();
    assert_eq!(store.bodies().swept().containers_missing, 1);
    assert!(!store.bodies().has(id).unwrap());
    drop(store);
    fs::rename(&aside, &path).unwrap();
    let store = Store::open(dir.path(), &options()).unwrap();
    assert_eq!(store.bodies().swept().containers_found, 1);
    check_body(&store, id, &content, &manifest);
}

#[test]
fn flipped_bits_in_a_container_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (content, id, manifest) = large();
    let stage = store.bodies().stage_create().unwrap();
    stage.write_at(0, &content).unwrap();
    store.bodies().adopt_stage(stage.id(), id, &manifest).unwrap();
    let path = container(&store, "objects", id);
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    for at in [0, 449_999, 450_001, len - 1, len - 40] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let found = store.bodies().verify(id, &key());
        assert!(matches!(found, Err(StoreError::DamagedBody { .. })), "byte {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(store.bodies().verify(id, &key()).unwrap());
    file.set_len(len - 1).unwrap();
    assert!(matches!(store.bodies().open_body(id), Err(StoreError::DamagedBody { .. })));
}

#[test]
fn unexplained_files_are_kept_aside_and_garbage_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let root = store.dir().to_owned();
    // Made, but no record was written: empty ones are garbage, others somebody's bytes.
    let empty = store.bodies().stage_create().unwrap();
    let full = store.bodies().stage_create().unwrap();
    full.write_at(0, b"bytes").unwrap();
    let removed = store.bodies().stage_create().unwrap();
    let removed_name = removed.id().to_string();
    store.bodies().stage_record(&record(removed.id(), 0, StageState::Open), false).unwrap();
    store.bodies().stage_remove(removed.id()).unwrap();
    let lost = record(StageId(1 << 40), 5, StageState::Synced);
    store.bodies().stage_record(&lost, false).unwrap();
    drop((empty, full, removed, store));
    let (_, id, _) = large();
    let hex = id.to_hex();
    // A name that power loss brought back.
    fs::write(root.join("stage").join(removed_name), b"old").unwrap();
    fs::write(root.join("stage/what"), b"1").unwrap();
    fs::write(root.join("packs/what"), b"2").unwrap();
    fs::write(root.join("part/what"), b"3").unwrap();
    fs::write(root.join("part").join(&hex), b"4").unwrap();
    fs::create_dir(root.join("objects").join(&hex[..2])).unwrap();
    fs::write(root.join("objects").join(&hex[..2]).join(&hex), b"not whole").unwrap();
    fs::create_dir(root.join("cache/what")).unwrap();

    let store = Store::open(dir.path(), &options()).unwrap();
    let swept = store.bodies().swept();
    assert_eq!((swept.lost.len(), swept.removed, swept.stages_missing), (6, 3, 1));
    assert_eq!(names(root.join("lost+found")).len(), 6);
    assert_eq!(names(root.join("stage")), [""; 0]);
    assert_eq!(names(root.join("part")), [""; 0]);
    assert!(!store.bodies().has(id).unwrap());
    let store = reopen(store);
    assert_eq!(*store.bodies().swept(), store::bodies::Swept::default());
}

fn write_chunks(part: &Part, content: &[u8], chunks: &[Chunk]) {
    for chunk in chunks {
        part.write_chunk(chunk, &content[chunk.offset as usize..chunk.end() as usize]).unwrap();
    }
}

#[test]
fn a_part_is_read_while_it_arrives_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = bytes(5, 1_050_000);
    let (id, manifest) = manifest(&content);
    let part = store.bodies().part(id, &manifest).unwrap();
    assert!(Arc::ptr_eq(&part, &store.bodies().part_of(id).unwrap().unwrap()));
    write_chunks(&part, &content, &manifest.chunks()[3..6]);
    let mut buf = vec![0; 150_000];
    assert_eq!(part.read_at(310_000, &mut buf).unwrap(), Some(150_000));
    assert_eq!(buf, content[310_000..460_000]);
    assert_eq!(part.read_at(290_000, &mut buf).unwrap(), None);
    assert_eq!(part.read_at(500_000, &mut buf).unwrap(), None);
    part.persist().unwrap();
    write_chunks(&part, &content, &manifest.chunks()[8..9]);
    let refused = store.bodies().part_complete(&part, Area::Objects);
    assert!(matches!(refused, Err(StoreError::Invalid(_))));
    assert!(!store.bodies().has(id).unwrap());
    drop(part);

    let store = reopen(store);
    assert_eq!(store.bodies().parts().unwrap()[0].here_bytes, 300_000);
    let part = store.bodies().part_of(id).unwrap().unwrap();
    assert_eq!(*part.manifest(), manifest);
    // What was not persisted is fetched again, never believed.
    assert_eq!(part.missing().len(), 8);
    write_chunks(&part, &content, &part.missing());
    store.bodies().part_complete(&part, Area::Cache).unwrap();
    assert!(container(&store, "cache", id).exists());
    check_body(&store, id, &content, &manifest);
    assert_eq!(part.read_at(0, &mut buf).unwrap(), Some(150_000));
    assert_eq!(store.bodies().parts().unwrap(), []);
    drop(part);
    let store = reopen(store);
    check_body(&store, id, &content, &manifest);
}

#[test]
fn a_part_with_holes_and_a_small_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (content, id, manifest) = large();
    let part = store.bodies().part(id, &manifest).unwrap();
    assert_eq!(part.here_bytes(), 300_000);
    write_chunks(&part, &content, manifest.chunks());
    store.bodies().part_complete(&part, Area::Objects).unwrap();
    check_body(&store, id, &content, &manifest);

    let tiny = small(4, 1000);
    let part = store.bodies().part(tiny.id, &tiny.manifest).unwrap();
    write_chunks(&part, &tiny.bytes, tiny.manifest.chunks());
    store.bodies().part_complete(&part, Area::Objects).unwrap();
    check_body(&store, tiny.id, &tiny.bytes, &tiny.manifest);
    assert_eq!(names(store.dir().join("part")), [""; 0]);
}

#[test]
fn a_part_refuses_bytes_that_are_no_chunk_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (content, id, manifest) = large();
    let part = store.bodies().part(id, &manifest).unwrap();
    let chunk = manifest.chunks()[1];
    let shifted = Chunk { offset: chunk.offset + 1, ..chunk };
    for (chunk, len) in [(shifted, 50_000), (chunk, 49_999)] {
        let refused = part.write_chunk(&chunk, &content[..len]);
        assert!(matches!(refused, Err(StoreError::Invalid(_))));
    }
    store.bodies().part_discard(id).unwrap();
    assert!(store.bodies().part_of(id).unwrap().is_none());
    assert_eq!(part.read_at(0, &mut [0]).unwrap(), None);
    let again = store.bodies().part(id, &manifest).unwrap();
    assert_eq!(again.missing().len(), 2);
}

#[test]
fn the_reserve_stops_bodies_but_not_the_log() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let full = Options { reserve_bytes: u64::MAX, ..options() };
    let store = Store::open(dir.path(), &full).unwrap();
    let stage = store.bodies().stage_create().unwrap();
    assert!(matches!(stage.write_at(0, b"x"), Err(StoreError::NoSpace { .. })));
    assert!(matches!(store.bodies().put_small(&[small(1, 9)]), Err(StoreError::NoSpace { .. })));
    store.local_put(b"k", b"v").unwrap();
    store.sync().unwrap();
}

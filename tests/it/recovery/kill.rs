//! A process that is killed in the middle of its work.

use std::os::unix::process::ExitStatusExt;

use engine::chunking::{Chunk, ContentKey, Manifest};
use engine::ids::{Ino, Version};
use engine::time::Timestamp;
use store::Store;
use store::bodies::{Seal, SmallBody, StageRecord, StageState};

use super::{V, check_prefix, child_dir, create, next_done, options, spawn_child, write_step};

#[test]
fn kill_9_loses_nothing_that_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let mut least = 0;
    for round in 1..=4u64 {
        let (mut child, mut lines) = spawn_child("recovery::kill::steps", dir.path());
        let mut done = 0;
        for _ in 0..7 * round {
            done = next_done(&mut lines).expect("the child works until it is killed");
        }
        child.kill().unwrap();
        while let Some(later) = next_done(&mut lines) {
            done = later;
        }
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(done > least);

        let store = Store::open(dir.path(), &options()).unwrap();
        least = check_prefix(&store).unwrap();
        assert!(least >= done, "{done} steps were synced, {least} are here");
        assert_eq!(store.boot(), 1 + 2 * round);
    }
}

#[test]
#[ignore = "the child of kill_9_loses_nothing_that_was_synced"]
fn steps() {
    let Some(dir) = child_dir() else { return };
    let store = Store::open(&dir, &options()).unwrap();
    // The last kill may have come between a step's log and its apply.
    let mut n = check_prefix(&store).unwrap();
    loop {
        for _ in 0..5 {
            n += 1;
            write_step(&store, n).unwrap();
        }
        store.sync().unwrap();
        println!("done {n}");
    }
}

fn key() -> ContentKey {
    ContentKey::new([3; 32])
}

/// The `n`th body: every third one is larger than a pack takes.
fn body(n: u64) -> (SmallBody, bool) {
    let large = n.is_multiple_of(3);
    let mut bytes = vec![n as u8; if large { 200_000 } else { 2_000 }];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    let chunk = Chunk { offset: 0, len: bytes.len() as u32, id: key().chunk_id(&bytes) };
    let manifest = Manifest::new(bytes.len() as u64, vec![chunk]).unwrap();
    (SmallBody { id: key().body_id(&manifest), manifest, bytes }, large)
}

#[test]
fn kill_9_loses_no_body_that_was_sealed_and_leaves_nothing_unexplained() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let mut first = 1;
    for round in 1..=4u64 {
        let (mut child, mut lines) = spawn_child("recovery::kill::seals", dir.path());
        let mut done = 0;
        for _ in 0..3 + 5 * round {
            done = next_done(&mut lines).expect("the child works until it is killed");
        }
        child.kill().unwrap();
        while let Some(later) = next_done(&mut lines) {
            done = later;
        }
        child.wait().unwrap();

        let store = Store::open(dir.path(), &options()).unwrap();
        let bodies = store.bodies();
        for n in first..=done {
            let (body, _) = body(n);
            assert!(bodies.verify(body.id, &key()).unwrap(), "body {n} of {done}");
        }
        assert_eq!(bodies.swept().lost, [] as [std::path::PathBuf; 0]);
        for record in bodies.stages().unwrap() {
            // A stage is either still one or a whole body.
            match record.state {
                StageState::Sealed(id) => assert!(bodies.verify(id, &key()).unwrap()),
                _ => assert!(bodies.stage_open(record.id).unwrap().len().unwrap() <= record.size),
            }
            bodies.stage_remove(record.id).unwrap();
        }
        first = done + 1;
    }
}

#[test]
#[ignore = "the child of kill_9_loses_no_body_that_was_sealed_and_leaves_nothing_unexplained"]
fn seals() {
    let Some(dir) = child_dir() else { return };
    let store = Store::open(&dir, &options()).unwrap();
    let bodies = store.bodies();
    let mut n = 0;
    bodies
        .scan(&mut |_| {
            n += 1;
            true
        })
        .unwrap();
    loop {
        n += 1;
        let (body, large) = body(n);
        let stage = bodies.stage_create().unwrap();
        let record = StageRecord {
            id: stage.id(),
            volume: V,
            ino: Ino(100),
            base: Version(0),
            size: body.bytes.len() as u64,
            mtime: Timestamp::new(0, 0),
            state: StageState::Open,
        };
        bodies.stage_record(&record, false).unwrap();
        stage.write_at(0, &body.bytes).unwrap();
        let stage = stage.id();
        let seal = if large {
            Seal::Stage { id: body.id, manifest: body.manifest.clone(), stage }
        } else {
            Seal::Small { body, stage: Some(stage) }
        };
        bodies.seal(&[seal]).unwrap();
        println!("done {n}");
        if n % 2 == 0 {
            bodies.stage_remove(stage).unwrap();
        }
    }
}

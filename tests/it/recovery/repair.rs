//! A damaged database is replaced by one that believes only what can be read whole.

use std::fs;
use std::path::{Path, PathBuf};

use engine::consensus::record::Recovered;
use engine::namespace::tables::Changes;
use store::{Repaired, Store, StoreError};

use super::{LANE, V, copy_dir, create, db_files, header, options, write_step};

const STEPS: u64 = 40;

/// A closed store in table files, and with a last step in the log.
fn written(dir: &Path) -> PathBuf {
    let path = dir.join("store");
    let store = create(&path);
    for n in 1..=STEPS {
        write_step(&store, n).unwrap();
    }
    store.checkpoint("flushes").unwrap();
    store.local_put(b"own", b"kept").unwrap();
    write_step(&store, STEPS + 1).unwrap();
    store.sync().unwrap();
    path
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn repair(dir: &Path) -> Repaired {
    let refused = Store::open(dir, &options()).and_then(|store| store.recover(V).map(drop));
    let Err(StoreError::Damaged { detail, .. }) = refused else { panic!("{refused:?}") };
    Store::repair(dir, &detail, &options()).unwrap()
}

/// What the replica starts from once a checkpoint is there again.
fn recovered(dir: &Path) -> (Store, Recovered) {
    let store = Store::open(dir, &options()).unwrap();
    assert_eq!(store.header(V).unwrap(), None, "the tables are given up");
    store.initialize(V, &Changes::new(), &header(STEPS + 1)).unwrap();
    let recovered = store.recover(V).unwrap();
    (store, recovered)
}

#[test]
fn distrusted_tables_go_and_the_log_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let store = Store::open(&path, &options()).unwrap();
    let boot = store.boot();
    store.distrust("they differ").unwrap();
    drop(store);
    assert_eq!(Store::distrusted(&path).unwrap().as_deref(), Some("they differ"));
    let repaired = repair(&path);
    assert!(repaired.log_kept && repaired.local_kept, "{repaired:?}");
    assert!(repaired.kept_at.join("CURRENT").exists(), "the old database is kept");

    let (store, recovered) = recovered(&path);
    assert_eq!(Store::distrusted(&path).unwrap(), None);
    assert_eq!(store.boot(), boot + 1);
    assert!(!recovered.forgetful);
    assert_eq!(recovered.promised[&LANE].0, STEPS + 1);
    assert_eq!(recovered.accepted[&LANE].len() as u64, STEPS + 1);
    assert_eq!(store.local_get(b"own").unwrap().as_deref(), Some(&b"kept"[..]));
}

#[test]
fn a_damaged_log_makes_the_node_forgetful_until_it_is_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let boot = Store::open(&path, &options()).unwrap().boot();
    let logs = db_files(&path, ".log");
    let log = logs.iter().max_by_key(|log| fs::metadata(log).unwrap().len()).unwrap();
    flip(log, fs::metadata(log).unwrap().len() as usize / 2);
    let repaired = repair(&path);
    assert!(!repaired.log_kept, "{repaired:?}");

    let (store, found) = recovered(&path);
    assert!(found.forgetful);
    assert!(found.promised.is_empty() && found.accepted.is_empty());
    assert!(store.boot() > boot, "no command gets a name that another one had");
    drop(store);
    // What was forgotten stays forgotten over restarts and repairs.
    let store = Store::open(&path, &options()).unwrap();
    assert!(store.recover(V).unwrap().forgetful);
    store.distrust("again").unwrap();
    drop(store);
    repair(&path);
    let (store, found) = recovered(&path);
    assert!(found.forgetful);
    store.remember(V).unwrap();
    assert!(!store.recover(V).unwrap().forgetful);
}

/// Whatever bit flips in whatever file of the database: either nothing is missing, or the
/// damage is found, and the repaired store never claims to remember what it does not.
#[test]
fn no_flipped_bit_makes_a_node_remember_too_little_without_knowing() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let files = fs::read_dir(path.join("db")).unwrap().map(|entry| entry.unwrap().file_name());
    let files: Vec<_> = files.filter(|name| name != "LOCK" && name != "LOG").collect();
    let (mut found, mut harmless, mut forgetful) = (0, 0, 0);
    for name in files {
        let len = fs::metadata(path.join("db").join(&name)).unwrap().len() as usize;
        for at in (0..len).step_by((len / 5).max(1)) {
            let copy = path.with_file_name("copy");
            copy_dir(&path, &copy);
            flip(&copy.join("db").join(&name), at);
            let opened = Store::open(&copy, &options());
            let read = opened.and_then(|store| {
                let recovered = store.recover(V)?;
                store.order(V, engine::ids::Gsn(1), usize::MAX)?;
                Ok(recovered)
            });
            let log = match read {
                Ok(recovered) => {
                    harmless += 1;
                    recovered
                }
                Err(_) => {
                    found += 1;
                    let repaired = Store::repair(&copy, "a test", &options()).unwrap();
                    let (_, recovered) = recovered(&copy);
                    assert_eq!(recovered.forgetful, !repaired.log_kept);
                    forgetful += u32::from(recovered.forgetful);
                    recovered
                }
            };
            if !log.forgetful {
                let promised = log.promised.get(&LANE).map(|ballot| ballot.0);
                assert_eq!(promised, Some(STEPS + 1), "{name:?} at {at}: a promise is forgotten");
                assert_eq!(log.accepted[&LANE].len() as u64, STEPS + 1, "{name:?} at {at}");
            }
            fs::remove_dir_all(copy).unwrap();
        }
    }
    println!("{found} found, {forgetful} of them with a lost log; {harmless} harmless");
    assert!(found > 20 && forgetful > 0 && forgetful < found);
}

#[test]
fn a_repair_that_a_crash_interrupted_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    Store::open(&path, &options()).unwrap().distrust("a test").unwrap();
    Store::repair(&path, "a test", &options()).unwrap();
    // As between the two renames: the old database is away, the new one not yet there.
    fs::rename(path.join("db"), path.join("db.new")).unwrap();
    fs::rename(path.join("synced"), path.join("synced.new")).unwrap();
    fs::write(path.join("distrusted"), "a test").unwrap();
    let repaired = repair(&path);
    assert!(repaired.log_kept, "{repaired:?}");
    let (_, found) = recovered(&path);
    assert_eq!(found.promised[&LANE].0, STEPS + 1);
}

#[test]
fn evidence_is_a_whole_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path());
    let store = Store::open(&path, &options()).unwrap();
    let kept = store.keep_evidence("diverged-7", "because").unwrap();
    assert_eq!(store.keep_evidence("diverged-7", "another reason").unwrap(), kept);
    drop(store);
    assert_eq!(fs::read_to_string(kept.join("why.txt")).unwrap(), "because");
    // In the place of the database it opens as the store that it was.
    let copy = dir.path().join("copy");
    copy_dir(&path, &copy);
    fs::remove_dir_all(copy.join("db")).unwrap();
    copy_dir(&kept.join("db"), &copy.join("db"));
    let store = Store::open(&copy, &options()).unwrap();
    assert_eq!(super::check_prefix(&store).unwrap(), STEPS + 1);
}

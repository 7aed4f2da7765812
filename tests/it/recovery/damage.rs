//! Bits that flip in files that were written and synced.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use store::{Store, StoreError};

use super::{check_prefix, copy_dir, create, db_files, options, write_step};

const STEPS: u64 = 60;

/// A cleanly closed store, its steps in table files if `flushed`, in the log otherwise.
fn written(dir: &Path, flushed: bool) -> PathBuf {
    let path = dir.join("store");
    let store = create(&path);
    for n in 1..=STEPS {
        write_step(&store, n).unwrap();
    }
    store.sync().unwrap();
    if flushed {
        store.checkpoint("flushes").unwrap();
    }
    drop(store);
    path
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Flips single bits all over the files and opens the store each time. Returns how many were
/// found; each of the others must have changed nothing.
fn check_flips(store: &Path, suffix: &str, flips: u64) -> (u64, u64) {
    let (mut found, mut harmless) = (0, 0);
    for file in db_files(store, suffix) {
        let len = fs::metadata(&file).unwrap().len();
        for at in (0..len).step_by((len / flips).max(1) as usize) {
            let copy = store.with_file_name("copy");
            copy_dir(store, &copy);
            flip(&copy.join("db").join(file.file_name().unwrap()), at);
            match Store::open(&copy, &options()).and_then(|store| check_prefix(&store)) {
                Ok(steps) => {
                    assert_eq!(steps, STEPS, "{} at {at}: steps are missing", file.display());
                    harmless += 1;
                }
                Err(StoreError::Damaged { .. } | StoreError::Database { .. }) => found += 1,
                Err(other) => panic!("{} at {at}: {other:?}", file.display()),
            }
            fs::remove_dir_all(copy).unwrap();
        }
    }
    (found, harmless)
}

#[test]
fn a_flipped_bit_in_the_synced_log_is_never_taken_for_a_torn_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(dir.path(), false);
    let (found, harmless) = check_flips(&store, ".log", 40);
    // Every byte of the log counts.
    assert!(found >= 40);
    assert_eq!(harmless, 0);
}

#[test]
fn a_flipped_bit_in_a_table_file_is_found_before_it_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let store = written(dir.path(), true);
    let (found, _) = check_flips(&store, ".sst", 12);
    // Some bytes are statistics that nothing here reads.
    assert!(found >= 12);
}

#[test]
fn a_missing_log_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), false);
    for log in db_files(&path, ".log") {
        fs::remove_file(log).unwrap();
    }
    let refused = Store::open(&path, &options()).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
}

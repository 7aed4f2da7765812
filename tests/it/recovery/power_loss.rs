//! Power loss: everything that was not fsynced is gone, or worse, partly there.
//!
//! The database appends to one write-ahead log file. Its length after a sync is what is
//! durable; the bytes behind it may be missing, zero or mixed after power loss. So a copy of
//! the store with the end of that file cut off or overwritten is exactly such a store, as
//! long as no other file changed since the sync, which is asserted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use store::{Store, StoreError};

use super::{check_prefix, copy_dir, create, db_files, options, write_step};

/// A store with 40 synced steps and 20 more that were not synced.
struct Loss {
    _dir: tempfile::TempDir,
    /// The directory with all 60 steps, copied while the store was open.
    whole: PathBuf,
    /// The log file's name, and its length at the last sync and at the end.
    log: PathBuf,
    synced_len: u64,
    full_len: u64,
    copies: u64,
}

const SYNCED_STEPS: u64 = 40;
const ALL_STEPS: u64 = 60;

impl Loss {
    /// With `flushed`, a part of the synced steps is in table files, not in the log.
    fn new(flushed: bool) -> Loss {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let store = create(&live);
        for n in 1..=SYNCED_STEPS {
            write_step(&store, n).unwrap();
            if flushed && n == SYNCED_STEPS / 2 {
                store.checkpoint("flushes").unwrap();
            }
        }
        store.sync().unwrap();
        let before = sizes(&live);
        for n in SYNCED_STEPS + 1..=ALL_STEPS {
            write_step(&store, n).unwrap();
        }
        let after = sizes(&live);
        let whole = dir.path().join("whole");
        copy_dir(&live, &whole);
        assert_eq!(sizes(&whole), after, "nothing goes on in the background");

        let changed: Vec<_> =
            after.iter().filter(|(name, len)| before.get(*name) != Some(*len)).collect();
        let [(log, full_len)] = changed[..] else { panic!("only the log grows: {changed:?}") };
        assert!(log.extension().is_some_and(|extension| extension == "log"));
        let (synced_len, full_len) = (before[log], *full_len);
        assert!(synced_len < full_len);
        Loss { _dir: dir, whole, log: log.clone(), synced_len, full_len, copies: 0 }
    }

    /// A copy whose log was changed by `change`, opened and read.
    fn open(&mut self, change: impl FnOnce(&File)) -> Result<u64, StoreError> {
        self.copies += 1;
        let dir = self.whole.with_file_name(format!("copy{}", self.copies));
        copy_dir(&self.whole, &dir);
        change(&File::options().write(true).open(dir.join("db").join(&self.log)).unwrap());
        let read = Store::open(&dir, &options()).and_then(|store| {
            let steps = check_prefix(&store)?;
            // It can go on from there.
            write_step(&store, steps + 1)?;
            store.sync()?;
            assert_eq!(check_prefix(&store)?, steps + 1);
            Ok(steps)
        });
        fs::remove_dir_all(dir).unwrap();
        read
    }
}

fn sizes(store: &Path) -> BTreeMap<PathBuf, u64> {
    let file = |path: PathBuf| {
        let len = fs::metadata(&path).unwrap().len();
        (PathBuf::from(path.file_name().unwrap()), len)
    };
    db_files(store, "").into_iter().map(file).collect()
}

fn check_lost_ends(flushed: bool) {
    let mut loss = Loss::new(flushed);
    let (synced, full) = (loss.synced_len, loss.full_len);
    let mut most = 0;
    for cut in (synced..=full).step_by((full - synced) as usize / 12).chain([full]) {
        let steps = loss.open(|log| log.set_len(cut).unwrap()).unwrap();
        assert!((SYNCED_STEPS..=ALL_STEPS).contains(&steps), "{steps} steps at {cut}");
        assert!(steps >= most, "a longer log holds no less");
        most = steps;

        // The file has its length, but the data of its end was not written.
        let zeros = vec![0; (full - cut) as usize];
        let steps = loss.open(|log| log.write_all_at(&zeros, cut).unwrap()).unwrap();
        assert!(SYNCED_STEPS <= steps && steps <= most);
    }
    assert_eq!(most, ALL_STEPS);
}

#[test]
fn what_was_synced_survives_any_lost_end() {
    check_lost_ends(false);
}

#[test]
fn what_was_synced_survives_any_lost_end_after_a_flush() {
    check_lost_ends(true);
}

#[test]
fn pages_written_in_any_order_behind_the_synced_end_leave_a_prefix() {
    let mut loss = Loss::new(false);
    let (synced, full) = (loss.synced_len, loss.full_len);
    let page = 1024;
    for hole in (synced..full - page).step_by((full - synced) as usize / 8) {
        let holed = |bytes: u8| {
            move |log: &File| log.write_all_at(&vec![bytes; page as usize], hole).unwrap()
        };
        for fill in [0, 0xa5] {
            let steps = loss.open(holed(fill)).unwrap();
            assert!((SYNCED_STEPS..ALL_STEPS).contains(&steps), "{steps} steps, hole at {hole}");
        }
    }
}

#[test]
fn a_log_shorter_than_what_was_synced_is_refused() {
    let mut loss = Loss::new(false);
    let synced = loss.synced_len;
    for cut in [synced - 1, synced / 2, 1, 0] {
        let refused = loss.open(|log| log.set_len(cut).unwrap());
        assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{cut}: {refused:?}");
    }
}

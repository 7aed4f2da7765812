//! A write that fails, and what follows.

use rustix::process::{Resource, Rlimit, setrlimit};
use store::{LocalBatch, Store, StoreError};

use super::{
    V, check_prefix, child_dir, create, db_files, next_done, options, spawn_child, write_step,
};

#[test]
fn after_a_failed_write_nothing_is_promised_until_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let (mut child, mut lines) = spawn_child("recovery::poison::full", dir.path());
    let mut synced = 0;
    while let Some(done) = next_done(&mut lines) {
        synced = done;
    }
    assert!(child.wait().unwrap().success(), "the child's own checks");
    assert!(synced > 0);
    let store = Store::open(dir.path(), &options()).unwrap();
    assert!(check_prefix(&store).unwrap() >= synced);
}

/// A limit on the length of files stands for a disk that fails: a write returns an error.
#[test]
#[ignore = "the child of after_a_failed_write_nothing_is_promised_until_a_restart"]
fn full() {
    let Some(dir) = child_dir() else { return };
    let store = Store::open(&dir, &options()).unwrap();
    let lens = db_files(&dir, ".log").into_iter().map(|log| log.metadata().unwrap().len());
    let limit = lens.max().unwrap() + 64 * 1024;
    // SAFETY: ignoring a signal installs no handler; this process has no other threads that
    // care. Without it the limit kills the process instead of failing the write.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();

    let mut n = 0;
    let error = loop {
        match write_step(&store, n + 1).and_then(|()| store.sync()) {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        println!("done {n}");
    };
    assert!(matches!(error, StoreError::Database { .. }), "{error:?}");
    assert!(store.poisoned().is_some());
    let poisoned = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::Poisoned { .. })), "{result:?}");
    };
    poisoned(store.append(V, &[]));
    poisoned(store.sync());
    poisoned(store.recover(V).map(|_| ()));
    poisoned(store.local_put(b"k", b"v"));
    poisoned(store.local_write(&LocalBatch::new(), true));
    poisoned(store.snapshot(V).map(|_| ()));
    poisoned(store.header(V).map(|_| ()));
    poisoned(store.bodies().put_small(&[]));
    assert!(engine::namespace::tables::Tables::get(&store.tables(V), b"newest").is_err());
}

//! Stores that must not be opened, or not be created.

use std::fs;

use engine::ids::NodeId;
use store::{Identity, Options, Store, StoreError};

use super::{CLUSTER, create, options};

#[test]
fn no_store_no_second_store_no_second_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    assert!(matches!(Store::open(&path, &options()), Err(StoreError::NotAStore { .. })));
    // A node's keys may be there before its store is.
    fs::create_dir_all(path.join("identity")).unwrap();
    let store = create(&path);
    assert!(matches!(Store::open(&path, &options()), Err(StoreError::Locked { .. })));
    let again = Store::create(&path, store.identity(), &options());
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
}

#[test]
fn another_nodes_or_clusters_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    for expect in [(CLUSTER, NodeId(2)), ([2; 16], NodeId(1))] {
        let wrong = Options { expect: Some(expect), ..options() };
        let refused = Store::open(dir.path(), &wrong).map(|_| ()).unwrap_err();
        assert!(matches!(refused, StoreError::WrongIdentity { .. }));
        assert!(refused.to_string().contains("give it its own store directory"));
    }
    let right = Options { expect: Some((CLUSTER, NodeId(1))), ..options() };
    assert_eq!(Store::open(dir.path(), &right).unwrap().boot(), 2, "a refusal is no start");
}

#[test]
fn a_database_moved_in_from_another_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (dir.path().join("mine"), dir.path().join("other"));
    drop(create(&mine));
    let identity = Identity::new(CLUSTER, NodeId(2)).unwrap();
    drop(Store::create(&other, &identity, &options()).unwrap());
    fs::remove_dir_all(mine.join("db")).unwrap();
    fs::rename(other.join("db"), mine.join("db")).unwrap();
    fs::copy(other.join("synced"), mine.join("synced")).unwrap();
    let refused = Store::open(&mine, &options()).map(|_| ());
    assert!(matches!(refused, Err(StoreError::WrongIdentity { .. })), "{refused:?}");
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    let path = dir.path().join("format");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("fusionfs-store 1", "fusionfs-store 2")).unwrap();
    let refused = Store::open(dir.path(), &options()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::NewerVersion { found: 2, supported: 1, .. }));
    assert!(refused.to_string().contains("start the newer `fusion`"));
}

#[test]
fn a_missing_format_file_is_no_reason_to_make_a_new_store_over_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let identity = create(dir.path()).identity().clone();
    fs::remove_file(dir.path().join("format")).unwrap();
    assert!(matches!(Store::open(dir.path(), &options()), Err(StoreError::NotAStore { .. })));
    let refused = Store::create(dir.path(), &identity, &options());
    assert!(matches!(refused, Err(StoreError::Damaged { .. })));
    // Unless its creation was interrupted.
    fs::write(dir.path().join("creating"), "").unwrap();
    assert_eq!(Store::create(dir.path(), &identity, &options()).unwrap().boot(), 1);
}

#[test]
fn a_lost_database_is_not_replaced_by_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path()));
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let refused = Store::open(dir.path(), &options()).map(|_| ());
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
}

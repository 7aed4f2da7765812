//! readdir: complete, stable under changes, `.` and `..` first.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use engine::command::Kind;

use super::{Rig, errno, eventually};

fn names(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn thousands_of_names_are_listed_once_each_with_their_attributes() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    for i in 0..3000 {
        fs::File::create(rig.at(&format!("d/file{i}"))).unwrap();
    }
    let mut seen = Vec::new();
    for entry in fs::read_dir(rig.at("d")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert_eq!(rig.ino(&format!("d/{name}")).unwrap().0, entry.metadata().unwrap().ino());
        seen.push(name);
    }
    assert_eq!(seen.len(), 3000);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3000);
    assert_eq!(names(&rig.at("d")).len(), 3000, "and again, from the kernel's cache");
}

#[test]
fn dots_lead_here_and_up() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir_all(rig.at("a/b")).unwrap();
    let dir = fs::File::open(rig.at("a/b")).unwrap();
    let mut entries = rustix::fs::Dir::read_from(&dir).unwrap();
    let mut next = || {
        let entry = entries.next().unwrap().unwrap();
        (entry.file_name().to_str().unwrap().to_owned(), entry.ino())
    };
    assert_eq!(next(), (".".to_owned(), rig.ino("a/b").unwrap().0));
    assert_eq!(next(), ("..".to_owned(), rig.ino("a").unwrap().0));
}

#[test]
fn removing_while_listing_loses_nothing() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    for i in 0..2000 {
        fs::File::create(rig.at(&format!("d/{i}"))).unwrap();
    }
    fs::remove_dir_all(rig.at("d")).unwrap();
    assert_eq!(errno(fs::metadata(rig.at("d"))), libc::ENOENT);
}

#[test]
fn a_cached_listing_follows_changes_from_elsewhere() {
    let Some(rig) = Rig::new() else { return };
    let directory = rig.make_elsewhere("d", Kind::Directory);
    assert_eq!(fs::metadata(rig.at("d")).unwrap().ino(), directory.0);
    let mut expected = BTreeSet::new();
    for i in 0..50 {
        assert_eq!(names(&rig.at("d")).len(), i);
        assert_eq!(names(&rig.at("d")), expected);
        rig.make_elsewhere(&format!("d/{i}"), Kind::File);
        expected.insert(i.to_string());
        eventually("the new name is listed", || names(&rig.at("d")) == expected);
    }
    for i in 0..50 {
        rig.unlink_elsewhere(&format!("d/{i}"));
        expected.remove(&i.to_string());
        eventually("the old name is not listed", || names(&rig.at("d")) == expected);
    }
}

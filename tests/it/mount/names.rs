//! mkdir, mknod, symlink, link, unlink, rmdir, rename.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use super::{Rig, errno, read};

#[test]
fn every_kind_of_inode_is_made_and_found() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    fs::write(rig.at("f"), "x").unwrap();
    symlink("some/where", rig.at("l")).unwrap();
    for (kind, name) in [(rustix::fs::FileType::Fifo, "p"), (rustix::fs::FileType::Socket, "s")] {
        rustix::fs::mknodat(rustix::fs::CWD, rig.at(name), kind, 0o600.into(), 0).unwrap();
    }
    assert!(fs::metadata(rig.at("d")).unwrap().is_dir());
    assert!(fs::metadata(rig.at("f")).unwrap().is_file());
    assert_eq!(fs::read_link(rig.at("l")).unwrap().to_str(), Some("some/where"));
    assert!(fs::metadata(rig.at("p")).unwrap().file_type().is_fifo());
    assert!(fs::metadata(rig.at("s")).unwrap().file_type().is_socket());
    assert_eq!(fs::metadata(&rig.path).unwrap().nlink(), 3);
    assert_eq!(fs::metadata(rig.at("d")).unwrap().ino(), rig.ino("d").unwrap().0);
}

#[test]
fn errors_are_those_of_native_filesystems() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir_all(rig.at("d/e")).unwrap();
    fs::write(rig.at("f"), "").unwrap();
    assert_eq!(errno(fs::create_dir(rig.at("d"))), libc::EEXIST);
    assert_eq!(errno(fs::File::create_new(rig.at("f"))), libc::EEXIST);
    assert_eq!(errno(fs::metadata(rig.at("no"))), libc::ENOENT);
    assert_eq!(errno(fs::metadata(rig.at("f/x"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_dir(rig.at("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(rig.at("f"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_file(rig.at("d"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(rig.at("d"), rig.at("d/e/x"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(rig.at("f"), rig.at("d"))), libc::EISDIR);
    assert_eq!(errno(fs::write(rig.at(&"n".repeat(256)), "")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::hard_link(rig.at("d"), rig.at("h"))), libc::EPERM);
}

#[test]
fn links_share_the_inode() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("a"), "text").unwrap();
    fs::hard_link(rig.at("a"), rig.at("b")).unwrap();
    let (a, b) = (fs::metadata(rig.at("a")).unwrap(), fs::metadata(rig.at("b")).unwrap());
    assert_eq!((a.ino(), a.nlink(), b.nlink()), (b.ino(), 2, 2));
    fs::remove_file(rig.at("a")).unwrap();
    assert_eq!(fs::metadata(rig.at("b")).unwrap().nlink(), 1);
    assert_eq!(read(&rig.at("b")), "text");
}

#[test]
fn rename_replaces_exchanges_and_refuses() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("a"), "a").unwrap();
    fs::write(rig.at("b"), "b").unwrap();
    let rename = |flags| renameat_with(CWD, rig.at("a"), CWD, rig.at("b"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read(&rig.at("a")), read(&rig.at("b"))), ("b".into(), "a".into()));
    rename(RenameFlags::empty()).unwrap();
    assert_eq!(read(&rig.at("b")), "b");
    assert_eq!(errno(fs::metadata(rig.at("a"))), libc::ENOENT);
}

#[test]
fn a_directory_moves_with_what_is_in_it() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir_all(rig.at("a/b")).unwrap();
    fs::create_dir(rig.at("c")).unwrap();
    fs::write(rig.at("a/b/f"), "text").unwrap();
    fs::rename(rig.at("a/b"), rig.at("c/d")).unwrap();
    assert_eq!(read(&rig.at("c/d/f")), "text");
    assert_eq!(read(&rig.at("c/d/../d/f")), "text");
    let nlink = |name| fs::metadata(rig.at(name)).unwrap().nlink();
    assert_eq!((nlink("a"), nlink("c")), (2, 3));
}

#[test]
fn create_without_excl_raced_from_elsewhere_opens_the_one_file() {
    let Some(rig) = Rig::new() else { return };
    for round in 0..100 {
        let name = format!("f{round}");
        let path = rig.at(&name);
        assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
        // Both queue; which comes first is up to the machine.
        let stopped = rig.ring.stop_order();
        std::thread::scope(|scope| {
            let there = scope.spawn(|| rig.try_make_elsewhere(&name));
            let here = scope.spawn(|| {
                fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)
            });
            drop(stopped);
            let (there, file) = (there.join().unwrap(), here.join().unwrap().unwrap());
            let ino = rig.ino(&name).unwrap().0;
            assert_eq!(file.metadata().unwrap().ino(), ino, "in round {round}");
            assert!(there.is_none_or(|there| there.0 == ino), "in round {round}");
        });
    }
}

#[test]
fn a_new_directory_inherits_the_group_of_a_setgid_parent() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    if !super::root_only("give to any group") {
        return;
    }
    std::os::unix::fs::chown(rig.at("d"), None, Some(4242)).unwrap();
    fs::set_permissions(rig.at("d"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(rig.at("d/e")).unwrap();
    fs::write(rig.at("d/f"), "").unwrap();
    let meta = fs::metadata(rig.at("d/e")).unwrap();
    assert_eq!((meta.gid(), meta.mode() & 0o2000), (4242, 0o2000));
    assert_eq!(fs::metadata(rig.at("d/f")).unwrap().gid(), 4242);
}

/// As overlay filesystems need it, and ext4 has it.
#[test]
fn a_rename_can_leave_a_whiteout() {
    let Some(rig) = Rig::new() else { return };
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let rename = |flags| renameat_with(CWD, rig.at("f"), CWD, rig.at("g"), flags);
    fs::write(rig.at("f"), "text").unwrap();
    fs::write(rig.at("g"), "old").unwrap();
    let refused = rename(RenameFlags::WHITEOUT | RenameFlags::NOREPLACE);
    assert_eq!(refused, Err(rustix::io::Errno::EXIST));
    assert_eq!(
        rename(RenameFlags::WHITEOUT | RenameFlags::EXCHANGE),
        Err(rustix::io::Errno::INVAL)
    );
    rename(RenameFlags::WHITEOUT).unwrap();
    assert_eq!(fs::read_to_string(rig.at("g")).unwrap(), "text");
    let left = fs::symlink_metadata(rig.at("f")).unwrap();
    assert!(left.file_type().is_char_device());
    assert_eq!((left.rdev(), left.mode() & 0o7777, left.nlink()), (0, 0, 1));
    let listed: Vec<_> = fs::read_dir(&rig.path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed.len(), 2);
    fs::remove_file(rig.at("f")).unwrap();
}

#[test]
fn names_have_up_to_255_bytes_of_any_value() {
    let Some(rig) = Rig::new() else { return };
    let all: Vec<u8> = (1..=u8::MAX).filter(|byte| *byte != b'/').chain([b'\n']).collect();
    assert_eq!(all.len(), 255);
    let mut backwards = all.clone();
    backwards.reverse();
    let at = |name: &[u8]| rig.path.join(OsStr::from_bytes(name));
    fs::write(at(&all), "text").unwrap();
    fs::create_dir(at(&backwards)).unwrap();
    let inside = at(&backwards).join(OsStr::from_bytes(&all));
    fs::rename(at(&all), &inside).unwrap();
    assert_eq!(fs::read(&inside).unwrap(), b"text");
    let listed = fs::read_dir(at(&backwards)).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(listed.collect::<Vec<_>>(), [OsStr::from_bytes(&all)]);
    let longer = [&all[..], b"x"].concat();
    assert_eq!(errno(fs::write(at(&longer), "")), libc::ENAMETOOLONG);
    fs::remove_file(&inside).unwrap();
    fs::remove_dir(at(&backwards)).unwrap();
    assert_eq!(fs::read_dir(&rig.path).unwrap().count(), 0);
}

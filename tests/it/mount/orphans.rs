//! Files that lose their last name while they are open.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use engine::acl::Acl;
use engine::command::Kind;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::{Rig, errno, eventually};

fn open(rig: &Rig, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(rig.at(name)).unwrap()
}

/// An open file without a name does everything that one with a name does.
fn works(mut file: File) {
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b" and more").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text and more");
    file.set_len(4).unwrap();
    file.set_permissions(Permissions::from_mode(0o640)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    file.sync_all().unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.nlink(), meta.len(), meta.mode() & 0o7777, meta.mtime()), (0, 4, 0o640, 0));
}

#[test]
fn an_open_file_keeps_its_attributes_without_a_name() {
    let Some(rig) = Rig::new() else { return };
    for unlink in
        [|rig: &Rig| fs::remove_file(rig.at("f")).unwrap(), |rig: &Rig| rig.unlink_elsewhere("f")]
    {
        fs::write(rig.at("f"), "text").unwrap();
        let file = open(&rig, "f");
        let none = XattrFlags::empty();
        rustix::fs::fsetxattr(&file, "user.kept", b"1", none).unwrap();
        unlink(&rig);
        eventually("it has no name", || file.metadata().unwrap().nlink() == 0);
        let get = |name: &str| {
            let mut value = [0; 64];
            rustix::fs::fgetxattr(&file, name, &mut value[..]).map(|len| value[..len].to_vec())
        };
        assert_eq!(get("user.kept"), Ok(b"1".to_vec()));
        rustix::fs::fsetxattr(&file, "user.new", b"2", XattrFlags::CREATE).unwrap();
        assert_eq!(get("user.new"), Ok(b"2".to_vec()));
        let again = rustix::fs::fsetxattr(&file, "user.new", b"3", XattrFlags::CREATE);
        assert_eq!(again, Err(Errno::EXIST));
        let none_there = rustix::fs::fsetxattr(&file, "user.none", b"3", XattrFlags::REPLACE);
        assert_eq!(none_there, Err(Errno::NODATA));
        let mut list = [0; 64];
        let len = rustix::fs::flistxattr(&file, &mut list[..]).unwrap();
        assert_eq!(&list[..len], b"user.kept\0user.new\0");
        rustix::fs::fremovexattr(&file, "user.kept").unwrap();
        assert_eq!(get("user.kept"), Err(Errno::NODATA));
        assert_eq!(rustix::fs::fremovexattr(&file, "user.kept"), Err(Errno::NODATA));

        // An access list: user 7 may read, through the mask.
        let acl = Acl { users: vec![(7, 4)], mask: Some(4), ..plain_acl() }.to_xattr();
        rustix::fs::fsetxattr(&file, ACCESS, &acl, none).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(get(ACCESS), Ok(acl.clone()));
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        let closed = Acl { users: vec![(7, 4)], mask: Some(0), ..plain_acl() }.to_xattr();
        assert_eq!(get(ACCESS), Ok(closed), "chmod changes the mask");
        rustix::fs::fsetxattr(&file, ACCESS, &plain_acl().to_xattr(), none).unwrap();
        assert_eq!(get(ACCESS), Err(Errno::NODATA), "it says no more than the mode");
        drop(file);
        eventually("the pin ends", || rig.fs.pinned() == 0);
    }
}

const ACCESS: &str = "system.posix_acl_access";

/// rw-r-----
fn plain_acl() -> Acl {
    Acl { owner: 6, group: 4, other: 0, mask: None, users: Vec::new(), groups: Vec::new() }
}

/// Between the moment in which the tables show that a file is gone and that in which it is pinned,
/// whoever has it must not hear that it never was: the kernel would repeat the call.
#[test]
fn a_file_that_goes_elsewhere_is_never_out_of_sight() {
    let Some(rig) = Rig::new() else { return };
    let ino = rig.make_elsewhere("f", Kind::File);
    let _open = File::open(rig.at("f")).unwrap();
    let telling = rig.ring.stop_telling();
    std::thread::scope(|scope| {
        let there = scope.spawn(|| rig.unlink_elsewhere("f"));
        eventually("it is gone from the tables", || rig.ino("f").is_none());
        let before = rig.ring.looks();
        let here = scope.spawn(|| rig.fs.attr(ino));
        eventually("somebody looks for it", || rig.ring.looks() > before);
        drop(telling);
        there.join().unwrap();
        assert_eq!(here.join().unwrap().unwrap().nlink, 0);
    });
}

#[test]
fn an_open_file_outlives_its_unlink_here() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("f"), "text").unwrap();
    let file = open(&rig, "f");
    fs::remove_file(rig.at("f")).unwrap();
    assert_eq!(errno(fs::metadata(rig.at("f"))), libc::ENOENT);
    works(file);
    eventually("the pin ends", || rig.fs.pinned() == 0);
}

#[test]
fn an_open_file_outlives_its_unlink_elsewhere() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("f"), "text").unwrap();
    let file = open(&rig, "f");
    rig.unlink_elsewhere("f");
    eventually("the name goes", || errno(fs::metadata(rig.at("f"))) == libc::ENOENT);
    eventually("the link count follows", || file.metadata().unwrap().nlink() == 0);
    works(file);
    eventually("the pin ends", || rig.fs.pinned() == 0);
}

#[test]
fn an_open_file_outlives_being_renamed_over() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("old"), "text").unwrap();
    fs::write(rig.at("new"), "another").unwrap();
    let file = open(&rig, "old");
    fs::rename(rig.at("new"), rig.at("old")).unwrap();
    works(file);
    assert_eq!(super::read(&rig.at("old")), "another");
}

#[test]
fn a_working_directory_outlives_its_rmdir() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    let dir = File::open(rig.at("d")).unwrap();
    fs::remove_dir(rig.at("d")).unwrap();
    assert_eq!(dir.metadata().unwrap().nlink(), 0);
    let made = rustix::fs::mkdirat(&dir, "e", 0o777.into());
    assert_eq!(made, Err(rustix::io::Errno::NOENT));
    assert!(rustix::fs::Dir::read_from(&dir).unwrap().next().is_none());
}

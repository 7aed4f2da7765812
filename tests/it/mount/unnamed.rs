//! Files without a name (O_TMPFILE), and linkat, which gives them one.

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use fusefs::ops::ports::Ring;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, linkat};
use rustix::io::Errno;

use super::fake_ring::HERE;
use super::{Rig, eventually, read};

fn open(rig: &Rig, more: OFlags) -> File {
    let flags = OFlags::TMPFILE | OFlags::RDWR | more;
    File::from(rustix::fs::open(&rig.path, flags, Mode::from_raw_mode(0o640)).unwrap())
}

fn name(rig: &Rig, file: &File, as_name: &str) -> Result<(), Errno> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, from, CWD, rig.at(as_name), AtFlags::SYMLINK_FOLLOW)
}

fn unnamed(rig: &Rig) -> usize {
    rig.ring.view().unnamed(HERE).unwrap().len()
}

#[test]
fn it_is_nowhere_and_goes_with_its_last_handle() {
    let Some(rig) = Rig::new() else { return };
    let mut file = open(&rig, OFlags::empty());
    file.write_all(b"some text").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "some text");
    file.sync_all().unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!((meta.nlink(), meta.len(), meta.mode() & 0o7777), (0, 9, 0o640));
    assert_eq!(fs::read_dir(&rig.path).unwrap().count(), 0);
    assert_eq!(unnamed(&rig), 1);
    drop(file);
    eventually("it is dropped", || unnamed(&rig) == 0);
    assert_eq!(rig.ring.view().usage().unwrap().inodes, 1);
}

#[test]
fn a_link_names_it_with_all_that_was_written() {
    let Some(rig) = Rig::new() else { return };
    let mut file = open(&rig, OFlags::empty());
    file.write_all(b"some text").unwrap();
    fsetxattr(&file, "user.a", b"1", XattrFlags::empty()).unwrap();
    file.set_permissions(Permissions::from_mode(0o604)).unwrap();
    let ino = engine::ids::Ino(file.metadata().unwrap().ino());
    assert_eq!(rig.ring.view().inode(ino).unwrap().unwrap().size, 0, "nobody else has it");
    name(&rig, &file, "f").unwrap();
    // Agreed with the name, though the file is open still.
    assert_eq!(rig.ring.view().inode(ino).unwrap().unwrap().size, 9);
    assert_eq!(unnamed(&rig), 0);
    assert_eq!(name(&rig, &file, "f"), Err(Errno::EXIST));
    name(&rig, &file, "g").unwrap();
    file.write_all(b" and more").unwrap();
    drop(file);
    assert_eq!(read(&rig.at("f")), "some text and more");
    let meta = fs::metadata(rig.at("g")).unwrap();
    assert_eq!((meta.nlink(), meta.len(), meta.mode() & 0o7777), (2, 18, 0o604));
    let kept = fgetxattr(File::open(rig.at("g")).unwrap(), "user.a", &mut [0_u8; 9][..]);
    assert_eq!(kept, Ok(1));
    fs::remove_file(rig.at("f")).unwrap();
    fs::remove_file(rig.at("g")).unwrap();
    eventually("it goes like any other", || rig.ring.view().usage().unwrap().inodes == 1);
}

#[test]
fn an_exclusive_one_stays_without_a_name() {
    let Some(rig) = Rig::new() else { return };
    let file = open(&rig, OFlags::EXCL);
    assert_eq!(name(&rig, &file, "f"), Err(Errno::NOENT));
}

#[test]
fn what_was_open_at_the_unmount_goes() {
    let Some(mut rig) = Rig::new() else { return };
    let file = open(&rig, OFlags::empty());
    let mounted = rig.mounted.take().unwrap();
    mounted.unmount(true).unwrap();
    assert_eq!(unnamed(&rig), 1);
    drop(file);
    mounted.join().unwrap();
    eventually("it is dropped", || unnamed(&rig) == 0);
}

//! What the options of a mount forbid, and what no option gives.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::Command;

use engine::command::Kind;
use fusefs::kernel::{MountOptions, remount};
use rustix::fs::{FileType, Mode, makedev};

use super::user::as_user;
use super::{Rig, errno, root_only};

/// With `options`: the error of running a program, the user as whom a set-user-id program of
/// root runs when user 1000 starts it, and the error of opening a device.
fn forbidden(options: &str) -> Option<(i32, String, i32)> {
    let rig = Rig::with(&MountOptions::parse(options).unwrap())?;
    let program = rig.at("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let started = as_user(1000, 1000, &[], || Command::new(&program).arg("-u").output());
    let device = rig.at("null");
    let (mode, null) = (Mode::from_raw_mode(0o666), makedev(1, 3));
    rustix::fs::mknodat(rustix::fs::CWD, &device, FileType::CharacterDevice, mode, null).unwrap();
    let opened = errno(File::open(&device));
    Some(match started {
        Ok(output) => (0, String::from_utf8_lossy(&output.stdout).trim().to_owned(), opened),
        Err(error) => (error.raw_os_error().unwrap(), String::new(), opened),
    })
}

#[test]
fn noexec_nosuid_and_nodev_hold() {
    if !root_only("make devices and become other users") {
        return;
    }
    let Some(free) = forbidden("exec,suid,dev") else { return };
    assert_eq!(free, (0, "0".to_owned(), 0));
    assert_eq!(forbidden("nosuid"), Some((0, "1000".to_owned(), 0)));
    assert_eq!(forbidden("nodev"), Some((0, "0".to_owned(), libc::EACCES)));
    assert_eq!(forbidden("noexec"), Some((libc::EACCES, String::new(), 0)));
}

#[test]
fn a_mount_becomes_read_only_and_back_while_it_is_read() {
    if !root_only("remount") {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("f"), "text").unwrap();
    let reader = File::open(rig.at("f")).unwrap();
    let writer = File::options().write(true).open(rig.at("f")).unwrap();
    let read_only = MountOptions { read_only: true, ..MountOptions::default() };
    // As on any filesystem, not while somebody may write.
    assert!(remount(&rig.path, &read_only).is_err());
    fs::write(rig.at("f"), "more").unwrap();
    drop(writer);
    super::eventually("it is remounted once nobody writes", || {
        remount(&rig.path, &read_only).is_ok()
    });
    for refused in [
        errno(fs::write(rig.at("g"), "x")),
        errno(File::options().write(true).open(rig.at("f"))),
        errno(fs::remove_file(rig.at("f"))),
        errno(fs::set_permissions(rig.at("f"), Permissions::from_mode(0o600))),
    ] {
        assert_eq!(refused, libc::EROFS);
    }
    assert_eq!(fs::read(rig.at("f")).unwrap(), b"more");
    remount(&rig.path, &MountOptions::default()).unwrap();
    fs::write(rig.at("g"), "x").unwrap();
    assert_eq!(reader.metadata().unwrap().len(), 4);
}

/// Linux gives leases of FUSE's files by itself, and asks nobody: docs/SEMANTICS.md, "Differences
/// from a local filesystem".
#[test]
fn leases_know_the_opens_of_their_own_node_only() {
    let Some(rig) = Rig::new() else { return };
    let ino = rig.make_elsewhere("f", Kind::File);
    let file = File::open(rig.at("f")).unwrap();
    // Safety (here and below): plain system calls on an open descriptor. Who breaks a lease sends
    // a signal, which must not end the tests.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let lease = |wanted: i32| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, wanted) };
    let held = || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    assert_eq!(lease(libc::F_RDLCK), 0);
    rig.publish_elsewhere(ino, "text");
    super::eventually("it changed", || fs::read(rig.at("f")).is_ok_and(|read| read == b"text"));
    assert_eq!(held(), libc::F_RDLCK, "another node's change breaks no lease");
    let at_once = || {
        let mut options = File::options();
        options.write(true).custom_flags(libc::O_NONBLOCK).open(rig.at("f"))
    };
    assert_eq!(errno(at_once()), libc::EWOULDBLOCK);
    assert_eq!(held(), libc::F_UNLCK, "it is being broken");
    assert_eq!(lease(libc::F_UNLCK), 0);
    at_once().unwrap();
}

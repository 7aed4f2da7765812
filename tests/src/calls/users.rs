//! What other users than root may do.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{
    Access, AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, Uid, XattrFlags,
};

use super::{Calls, become_root, become_user, open};

/// Anybody, with a second group.
const USER: u32 = 2000;
const GROUP: u32 = 2001;
const SECOND_GROUP: u32 = 2002;
const OTHER: u32 = 3000;

pub fn run(c: &mut Calls) {
    // Whoever is not root must get here.
    let mut path = Some(c.dir.as_path());
    let mut closed = Vec::new();
    while let Some(dir) = path {
        let mode = dir.metadata().expect("a parent").mode();
        if mode & 0o001 == 0 {
            closed.push((dir.to_owned(), mode & 0o7777));
            fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011)).expect("root may");
        }
        path = dir.parent();
    }
    lay_out(c);
    become_user(USER, GROUP, &[SECOND_GROUP]);
    opening(c);
    names(c);
    changing(c);
    set_id(c);
    become_root();
    for (dir, mode) in closed {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("root may");
    }
}

fn lay_out(c: &Calls) {
    let file = |name: &str, owner, group, mode| {
        let path = c.file(name, b"0123456789");
        chown(&path, Some(owner), Some(group)).expect("root may");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
    };
    let dir = |name: &str, owner, group, mode| {
        fs::create_dir(c.path(name)).expect("a directory");
        chown(c.path(name), Some(owner), Some(group)).expect("root may");
        fs::set_permissions(c.path(name), fs::Permissions::from_mode(mode)).expect("root may");
    };
    dir("own", USER, GROUP, 0o755);
    dir("theirs", OTHER, OTHER, 0o755);
    dir("open", OTHER, OTHER, 0o777);
    dir("sticky", OTHER, OTHER, 0o1777);
    dir("own-sticky", USER, GROUP, 0o1777);
    dir("dark", OTHER, OTHER, 0o744);
    dir("blind", OTHER, OTHER, 0o711);
    dir("set-group", OTHER, SECOND_GROUP, 0o2777);
    dir("set-other", OTHER, OTHER, 0o2777);
    for parent in ["own", "theirs", "open", "sticky", "own-sticky", "dark", "blind"] {
        file(&format!("{parent}/own"), USER, GROUP, 0o600);
        file(&format!("{parent}/theirs"), OTHER, OTHER, 0o600);
        file(&format!("{parent}/public"), OTHER, OTHER, 0o666);
        file(&format!("{parent}/group"), OTHER, SECOND_GROUP, 0o060);
        dir(&format!("{parent}/own-dir"), USER, GROUP, 0o755);
        dir(&format!("{parent}/their-dir"), OTHER, OTHER, 0o755);
    }
    file("own/none", USER, GROUP, 0o000);
    file("own/set-id", USER, GROUP, 0o6777);
    file("own/set-id2", USER, GROUP, 0o6777);
    file("own/set-id3", USER, GROUP, 0o6777);
    file("own/set-group", USER, SECOND_GROUP, 0o2755);
    file("own/mandatory", USER, GROUP, 0o2644);
    file("open/set-id", OTHER, OTHER, 0o6777);
    file("open/set-id2", OTHER, OTHER, 0o6777);
    symlink("../theirs/theirs", c.path("own/link")).expect("a link");
}

fn opening(c: &mut Calls) {
    for parent in ["own", "theirs", "dark", "blind"] {
        for name in ["own", "theirs", "public", "group", "nothing"] {
            for (what, flags) in [
                ("read", OFlags::RDONLY),
                ("write", OFlags::WRONLY),
                ("truncate", OFlags::RDONLY | OFlags::TRUNC),
                ("create", OFlags::RDONLY | OFlags::CREATE),
            ] {
                let name = format!("{parent}/{name}");
                let opened = c.open(&name, flags);
                c.call(&format!("{what} {name}"), opened);
                if name.ends_with("nothing") {
                    let _ = fs::remove_file(c.path(&name));
                }
            }
        }
        c.call(&format!("list {parent}"), fs::read_dir(c.path(parent)));
        let found = c.path(&format!("{parent}/own")).metadata().map(|found| found.len());
        c.gives(&format!("stat in {parent}"), found);
    }
    let opened = c.open("own/none", OFlags::RDONLY);
    c.call("an own file without rights", opened);
    let opened = c.open("open/public", OFlags::RDONLY | OFlags::NOATIME);
    c.call("O_NOATIME of another's file", opened);
    let opened = c.open("own/own", OFlags::RDONLY | OFlags::NOATIME);
    c.call("O_NOATIME of an own file", opened);
    let opened = c.open("own/link", OFlags::RDONLY);
    c.call("through a link", opened);
    for (what, access) in
        [("read", Access::READ_OK), ("write", Access::WRITE_OK), ("execute", Access::EXEC_OK)]
    {
        for name in ["own/own", "own/theirs", "own/public", "own/group", "theirs", "open"] {
            let flags = AtFlags::EACCESS;
            let allowed = rustix::fs::accessat(CWD, c.path(name), access, flags);
            c.call(&format!("access {name} to {what}"), allowed);
        }
    }
}

fn names(c: &mut Calls) {
    for parent in ["own", "theirs", "open", "sticky", "own-sticky"] {
        let at = |c: &Calls, name: &str| c.path(&format!("{parent}/{name}"));
        c.call(&format!("mkdir in {parent}"), fs::create_dir(at(c, "new")));
        let moved = fs::rename(at(c, "theirs"), at(c, "theirs2"));
        c.call(&format!("rename of theirs in {parent}"), moved);
        let moved = fs::rename(at(c, "own"), at(c, "own2"));
        c.call(&format!("rename of own in {parent}"), moved);
        let moved = fs::rename(at(c, "own2"), at(c, "public"));
        c.call(&format!("rename of own over theirs in {parent}"), moved);
        let moved = fs::rename(at(c, "their-dir"), at(c, "their-dir2"));
        c.call(&format!("rename of their directory in {parent}"), moved);
        let moved = fs::rename(at(c, "their-dir"), c.path("own-sticky/moved"));
        c.call(&format!("move of their directory from {parent}"), moved);
        let linked = fs::hard_link(at(c, "theirs"), at(c, "linked"));
        c.call(&format!("link of theirs in {parent}"), linked);
        c.call(&format!("unlink of theirs in {parent}"), fs::remove_file(at(c, "theirs")));
        c.call(&format!("unlink of group's in {parent}"), fs::remove_file(at(c, "group")));
        c.call(&format!("rmdir of theirs in {parent}"), fs::remove_dir(at(c, "their-dir")));
        c.call(&format!("rmdir of own in {parent}"), fs::remove_dir(at(c, "own-dir")));
    }
    for parent in ["set-group", "set-other"] {
        let path = c.path(&format!("{parent}/f"));
        let made =
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o2775));
        c.call(&format!("create in {parent}"), made);
        let found = path.metadata().map(|found| (found.gid(), format!("{:o}", found.mode())));
        c.gives(&format!("group and mode in {parent}"), found);
        let path = c.path(&format!("{parent}/d"));
        c.call(&format!("mkdir in {parent}"), fs::create_dir(&path));
        let found = path.metadata().map(|found| (found.gid(), format!("{:o}", found.mode())));
        c.gives(&format!("group and mode of a directory in {parent}"), found);
    }
    let made = rustix::fs::mknodat(
        CWD,
        c.path("own/device"),
        rustix::fs::FileType::CharacterDevice,
        Mode::RUSR,
        0,
    );
    c.call("mknod of a device", made);
}

fn changing(c: &mut Calls) {
    let mode = |name: &str| c.path(name).metadata().map(|found| format!("{:o}", found.mode()));
    let own = mode("own");
    c.gives("own directory", own);
    let chmod = |c: &mut Calls, name: &str, mode: u32| {
        let changed = rustix::fs::chmod(c.path(name), Mode::from_raw_mode(mode));
        c.call(&format!("chmod {mode:o} {name}"), changed);
        let found = c.path(name).metadata().map(|found| format!("{:o}", found.mode()));
        c.gives(&format!("mode of {name}"), found);
    };
    chmod(c, "own/none", 0o644);
    chmod(c, "own/none", 0o2755);
    chmod(c, "own/set-group", 0o2755);
    chmod(c, "own/none", 0o1644);
    chmod(c, "own", 0o1755);
    chmod(c, "own", 0o2755);
    chmod(c, "theirs", 0o777);
    chmod(c, "blind/public", 0o777);
    let chown = |c: &mut Calls, name: &str, user: Option<u32>, group: Option<u32>| {
        let (user_id, group_id) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        let changed = rustix::fs::chown(c.path(name), user_id, group_id);
        c.call(&format!("chown {user:?} {group:?} {name}"), changed);
        let found =
            c.path(name).metadata().map(|found| (found.gid(), format!("{:o}", found.mode())));
        c.gives(&format!("then {name}"), found);
    };
    chown(c, "own/set-id", Some(OTHER), None);
    chown(c, "own/set-id", None, Some(OTHER));
    chown(c, "own/set-id", Some(USER), Some(SECOND_GROUP));
    chown(c, "own/set-id3", Some(USER), None);
    chown(c, "own/mandatory", None, Some(SECOND_GROUP));
    chown(c, "open/set-id", None, None);
    chown(c, "open/set-id", None, Some(GROUP));
    let times = |c: &mut Calls, name: &str, nanoseconds: i64| {
        let time = Timespec { tv_sec: 1000, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        let set = rustix::fs::utimensat(CWD, c.path(name), &times, AtFlags::empty());
        let what = if nanoseconds == UTIME_NOW { "now" } else { "then" };
        c.call(&format!("times of {name} to {what}"), set);
    };
    for name in ["own/none", "dark/own", "blind/own", "blind/public", "blind/theirs"] {
        times(c, name, 0);
        times(c, name, UTIME_NOW);
    }
    for name in ["own/none", "blind/own", "blind/public", "blind/theirs"] {
        for attribute in ["user.a", "trusted.a", "security.a"] {
            let none = XattrFlags::empty();
            let set = rustix::fs::setxattr(c.path(name), attribute, b"1", none);
            c.call(&format!("set {attribute} of {name}"), set);
            let got = rustix::fs::getxattr(c.path(name), attribute, &mut [0_u8; 8]);
            c.gives(&format!("get {attribute} of {name}"), got);
        }
    }
    let cut = |path: &Path| -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(path)?.set_len(3)
    };
    c.call("truncate theirs", cut(&c.path("blind/theirs")));
}

/// Whoever writes takes the set-id bits away.
fn set_id(c: &mut Calls) {
    let mode = |c: &mut Calls, what: &str, name: &str| {
        let found = c.path(name).metadata().map(|found| format!("{:o}", found.mode()));
        c.gives(what, found);
    };
    let wrote = open(&c.path("open/set-id"), OFlags::WRONLY)
        .and_then(|file| rustix::io::write(&file, b"x"));
    c.gives("write to their set-id file", wrote);
    mode(c, "its mode", "open/set-id");
    let cut = open(&c.path("open/set-id2"), OFlags::WRONLY)
        .and_then(|file| rustix::fs::ftruncate(&file, 2));
    c.call("truncate of their set-id file", cut);
    mode(c, "its mode then", "open/set-id2");
    let wrote = open(&c.path("own/set-id2"), OFlags::WRONLY)
        .and_then(|file| rustix::io::write(&file, b"x"));
    c.gives("write to an own set-id file", wrote);
    mode(c, "its mode", "own/set-id2");
}

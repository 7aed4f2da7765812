//! stat, chmod, chown, utimensat, statfs, access.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{
    Access, AtFlags, CWD, Gid, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid,
};

use super::{Calls, open, set_old};

pub fn run(c: &mut Calls) {
    c.file("f", b"0123456789");
    fs::create_dir(c.path("d")).expect("a directory");
    symlink("f", c.path("to-f")).expect("a link");
    status(c);
    chmod(c);
    chown(c);
    utimes(c);
    access(c);
    extended(c);
    filesystem(c);
}

fn status(c: &mut Calls) {
    for (what, name) in
        [("nothing", "none"), ("below a file", "f/x"), ("a slash", "f/"), ("a link", "to-f")]
    {
        let found = c.path(name).metadata().map(|found| (found.len(), found.nlink()));
        c.gives(&format!("stat of {what}"), found);
    }
    let found = c.path("to-f").symlink_metadata().map(|found| (found.len(), found.mode()));
    c.gives("lstat of a link", found);
    let found = c.path("f").metadata().map(|found| (found.blksize(), found.rdev()));
    c.gives("block size and device", found);
    let device = |name: &str| c.path(name).metadata().map_or(0, |found| found.dev());
    let same = device("f") == device("d");
    c.note("one device", &same.to_string());
    c.file("page", &[1; 4096]);
    let blocks = c.path("page").metadata().map(|found| found.blocks());
    c.gives("blocks of a page", blocks);
    rustix::fs::mknodat(
        CWD,
        c.path("device"),
        rustix::fs::FileType::BlockDevice,
        Mode::RUSR,
        rustix::fs::makedev(700, 70000),
    )
    .expect("a device");
    let found = c.path("device").metadata();
    c.gives("a device", found.map(|found| (found.file_type().is_block_device(), found.rdev())));
}

fn chmod(c: &mut Calls) {
    for mode in [0o0, 0o777, 0o4755, 0o2755, 0o1755, 0o7777] {
        for name in ["f", "d"] {
            let changed = rustix::fs::chmod(c.path(name), Mode::from_raw_mode(mode));
            c.call(&format!("chmod {mode:o} {name}"), changed);
            let found = c.path(name).metadata().map(|found| format!("{:o}", found.mode()));
            c.gives(&format!("mode {mode:o} {name}"), found);
        }
    }
    c.call("chmod of nothing", rustix::fs::chmod(c.path("none"), Mode::RUSR));
    c.call("chmod through a link", rustix::fs::chmod(c.path("to-f"), Mode::from_raw_mode(0o640)));
    c.gives("mode through a link", c.path("f").metadata().map(|found| found.mode()));
    c.times("times: chmod", "f", |path| rustix::fs::chmod(path, Mode::from_raw_mode(0o600)));
    c.times("times: chmod to the same", "f", |path| {
        rustix::fs::chmod(path, Mode::from_raw_mode(0o600))
    });
    c.times("times: chmod of a directory", "d", |path| {
        rustix::fs::chmod(path, Mode::from_raw_mode(0o755))
    });
}

fn chown(c: &mut Calls) {
    let owner = |c: &mut Calls, what: &str| {
        let found = c.path("f").metadata();
        c.gives(what, found.map(|found| (found.uid(), found.gid(), format!("{:o}", found.mode()))));
    };
    for (mode, user, group) in [
        (0o644, Some(1000), Some(1001)),
        (0o6755, Some(1002), None),
        (0o6745, None, Some(7)),
        (0o6755, None, None),
        (0o2644, Some(3), Some(4)),
        (0o644, Some(u32::MAX - 1), Some(u32::MAX - 1)),
    ] {
        rustix::fs::chmod(c.path("f"), Mode::from_raw_mode(mode)).expect("root may");
        let ids = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        let changed = rustix::fs::chown(c.path("f"), ids.0, ids.1);
        c.call(&format!("chown {user:?} {group:?} of {mode:o}"), changed);
        owner(c, &format!("owner {user:?} {group:?} of {mode:o}"));
    }
    rustix::fs::chmod(c.path("d"), Mode::from_raw_mode(0o6755)).expect("root may");
    c.call("chown of a directory", rustix::fs::chown(c.path("d"), Some(Uid::from_raw(5)), None));
    c.gives("its mode", c.path("d").metadata().map(|found| format!("{:o}", found.mode())));
    c.times("times: chown", "f", |path| rustix::fs::chown(path, Some(Uid::from_raw(9)), None));
    c.times("times: chown to the same", "f", |path| {
        rustix::fs::chown(path, Some(Uid::from_raw(9)), None)
    });
    c.times("times: chown to nobody", "f", |path| rustix::fs::chown(path, None, None));
    rustix::fs::chmod(c.path("f"), Mode::from_raw_mode(0o6777)).expect("root may");
    c.call(
        "root writes to set-id",
        open(&c.path("f"), OFlags::WRONLY).and_then(|file| rustix::io::write(&file, b"x")),
    );
    owner(c, "and it stays");
}

fn utimes(c: &mut Calls) {
    let at = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let cases = [
        ("both", at(1000, 1), at(2000, 2)),
        ("greatest nanosecond", at(1, 999_999_999), at(1, 999_999_999)),
        ("too many nanoseconds", at(1, 1_000_000_000), at(1, 0)),
        ("negative nanoseconds", at(1, -1), at(1, 0)),
        ("before 1970", at(-1, 5), at(-1_000_000, 0)),
        ("after 2038", at(1 << 32, 0), at((1 << 32) + 5, 7)),
        ("omit one", at(0, UTIME_OMIT), at(3000, 3)),
        ("omit the other", at(4000, 4), at(0, UTIME_OMIT)),
        ("omit both", at(0, UTIME_OMIT), at(0, UTIME_OMIT)),
    ];
    for (what, last_access, last_modification) in cases {
        let times = Timestamps { last_access, last_modification };
        c.call(what, rustix::fs::utimensat(CWD, c.path("f"), &times, AtFlags::empty()));
        let found = c
            .path("f")
            .metadata()
            .map(|found| (found.atime(), found.atime_nsec(), found.mtime(), found.mtime_nsec()));
        c.gives(&format!("times of {what}"), found);
    }
    let set = |path: &Path, first: i64, second: i64| {
        let times = Timestamps { last_access: at(50, first), last_modification: at(60, second) };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
    };
    c.times("times: set", "f", |path| set(path, 0, 0));
    c.times("times: now", "f", |path| set(path, UTIME_NOW, UTIME_NOW));
    c.times("times: mtime now", "f", |path| set(path, UTIME_OMIT, UTIME_NOW));
    c.times("times: atime now", "f", |path| set(path, UTIME_NOW, UTIME_OMIT));
    c.times("times: omit both", "f", |path| set(path, UTIME_OMIT, UTIME_OMIT));
    c.times("times: of a link", "to-f", |path| set(path, UTIME_NOW, UTIME_NOW));
    let now = Timestamps { last_access: at(0, UTIME_NOW), last_modification: at(0, UTIME_NOW) };
    c.call("of nothing", rustix::fs::utimensat(CWD, c.path("none"), &now, AtFlags::empty()));
    set_old(&c.path("f"));
    c.gives("old", c.path("f").metadata().map(|found| found.mtime()));
}

fn access(c: &mut Calls) {
    for mode in [0o000, 0o100, 0o644] {
        rustix::fs::chmod(c.path("f"), Mode::from_raw_mode(mode)).expect("root may");
        for (what, access) in
            [("read", Access::READ_OK), ("write", Access::WRITE_OK), ("execute", Access::EXEC_OK)]
        {
            let allowed = rustix::fs::accessat(CWD, c.path("f"), access, AtFlags::empty());
            c.call(&format!("access {mode:o} to {what}"), allowed);
        }
    }
    let none = rustix::fs::accessat(CWD, c.path("none"), Access::EXISTS, AtFlags::empty());
    c.call("access of nothing", none);
}

fn extended(c: &mut Calls) {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    for flags in [AtFlags::empty(), AtFlags::STATX_FORCE_SYNC, AtFlags::STATX_DONT_SYNC] {
        let found = rustix::fs::statx(CWD, c.path("f"), flags, wanted);
        c.gives(
            &format!("statx {flags:?}"),
            found.map(|found| (found.stx_mask & wanted.bits(), found.stx_size)),
        );
    }
    let found = rustix::fs::statx(CWD, c.path("f"), AtFlags::empty(), wanted);
    let born = found.map(|found| {
        let (birth, changed) = (found.stx_btime, found.stx_ctime);
        birth.tv_sec > 0 && (birth.tv_sec, birth.tv_nsec) <= (changed.tv_sec, changed.tv_nsec)
    });
    c.gives("it was born before it was changed", born);
    let bad = rustix::fs::statx(CWD, c.path("f"), AtFlags::REMOVEDIR, wanted);
    c.call("statx with a wrong flag", bad);
    let two = AtFlags::STATX_FORCE_SYNC | AtFlags::STATX_DONT_SYNC;
    c.call("statx with two kinds of sync", rustix::fs::statx(CWD, c.path("f"), two, wanted));
}

fn filesystem(c: &mut Calls) {
    let found = rustix::fs::statfs(c.path("f"));
    c.gives("longest name", found.map(|found| found.f_namelen));
    let found = rustix::fs::statvfs(c.path("f"));
    c.gives(
        "statvfs",
        found.map(|found| {
            let space = found.f_blocks > found.f_bfree && found.f_bfree >= found.f_bavail;
            let inodes = found.f_files > found.f_ffree && found.f_ffree >= found.f_favail;
            (found.f_namemax, found.f_bsize, found.f_frsize, space, inodes)
        }),
    );
    let by_file = open(&c.path("f"), OFlags::RDONLY).and_then(|file| rustix::fs::fstatfs(&file));
    c.gives("fstatfs", by_file.map(|found| found.f_namelen));
    c.call("statfs of nothing", rustix::fs::statfs(c.path("none")));
}

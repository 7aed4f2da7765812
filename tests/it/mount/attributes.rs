//! stat, chmod, chown, utimens, truncate, statfs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use rustix::fs::{CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use super::{Rig, errno, read};

#[test]
fn modes_and_owners_are_kept() {
    let Some(rig) = Rig::new() else { return };
    if !super::root_only("change owners") {
        return;
    }
    fs::write(rig.at("f"), "x").unwrap();
    fs::set_permissions(rig.at("f"), Permissions::from_mode(0o6751)).unwrap();
    assert_eq!(fs::metadata(rig.at("f")).unwrap().mode(), libc::S_IFREG | 0o6751);
    chown(rig.at("f"), Some(1234), Some(5678)).unwrap();
    let meta = fs::metadata(rig.at("f")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1234, 5678));
    assert_eq!(meta.mode() & 0o6000, 0, "a change of owner takes the set-id bits away");
}

#[test]
fn a_write_by_another_user_takes_the_set_id_bits_away() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("f"), "x").unwrap();
    fs::set_permissions(rig.at("f"), Permissions::from_mode(0o4777)).unwrap();
    if !super::root_only("write as somebody else") {
        return;
    }
    // The descriptor is inherited, because the way to the mount point may be closed to others.
    let file = fs::OpenOptions::new().append(true).open(rig.at("f")).unwrap();
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--bounding-set=-all", "echo", "more"])
        .stdout(file)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fs::metadata(rig.at("f")).unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    let set = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    for (seconds, nanos) in [(1, 2), (-1, 500_000_000), (-86_400, 1), (4_000_000_000, 999_999_999)]
    {
        let times = Timestamps { last_access: set(9, 9), last_modification: set(seconds, nanos) };
        utimensat(CWD, rig.at("d"), &times, rustix::fs::AtFlags::empty()).unwrap();
        let meta = fs::metadata(rig.at("d")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, nanos));
        assert_eq!((meta.atime(), meta.atime_nsec()), (9, 9));
    }
    let times = Timestamps {
        last_access: set(0, UTIME_OMIT as _),
        last_modification: set(0, UTIME_NOW as _),
    };
    utimensat(CWD, rig.at("d"), &times, rustix::fs::AtFlags::empty()).unwrap();
    let meta = fs::metadata(rig.at("d")).unwrap();
    assert_eq!(meta.atime(), 9);
    assert!(meta.mtime() > 1_700_000_000);
}

/// As far as a clock can go; and the mount is still there afterwards.
#[test]
fn extreme_times_are_kept_and_harm_nobody() {
    let Some(rig) = Rig::new() else { return };
    fs::create_dir(rig.at("d")).unwrap();
    for seconds in [i64::MIN, i64::MIN + 1, i64::MAX] {
        for _ in 0..8 {
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, rig.at("d"), &times, rustix::fs::AtFlags::empty()).unwrap();
        }
        assert_eq!(fs::metadata(rig.at("d")).unwrap().mtime(), seconds);
    }
}

/// The same in every call, whatever happens to name and content later.
#[test]
fn a_birth_time_is_kept() {
    let Some(rig) = Rig::new() else { return };
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let birth = |name: &str| {
        let flags = StatxFlags::BTIME | StatxFlags::BASIC_STATS;
        let found = statx(CWD, rig.at(name), AtFlags::empty(), flags).unwrap();
        assert!(StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME));
        (found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
    };
    fs::write(rig.at("f"), "x").unwrap();
    let born = birth("f");
    assert!(born.0 > 1_700_000_000);
    assert!(birth(".").0 <= born.0);
    fs::rename(rig.at("f"), rig.at("g")).unwrap();
    fs::write(rig.at("g"), "another").unwrap();
    File::open(rig.at("g")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(birth("g"), born);
}

#[test]
fn an_mtime_set_while_writing_outlives_the_close() {
    let Some(rig) = Rig::new() else { return };
    let file = File::create(rig.at("f")).unwrap();
    fs::write(rig.at("f"), "some text").unwrap();
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    file.set_modified(then).unwrap();
    drop(file);
    super::eventually("the version is published", || {
        let ino = rig.ino("f").unwrap();
        use fusefs::ops::ports::Ring;
        rig.ring.view().inode(ino).unwrap().unwrap().size == 9
    });
    assert_eq!(fs::metadata(rig.at("f")).unwrap().mtime(), 1_000_000_000);
}

#[test]
fn truncate_works_with_and_without_an_open_file() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("f"), "0123456789").unwrap();
    let file = File::options().write(true).open(rig.at("f")).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(read(&rig.at("f")), "0123");
    file.set_len(6).unwrap();
    drop(file);
    assert_eq!(fs::read(rig.at("f")).unwrap(), b"0123\0\0");
    rustix::fs::ftruncate(File::options().write(true).open(rig.at("f")).unwrap(), 1).unwrap();
    assert_eq!(read(&rig.at("f")), "0");
    assert_eq!(errno(File::options().write(true).open(&rig.path)), libc::EISDIR);
}

/// A program that runs is not cut off under its processes, not even by an open that fails.
#[test]
fn a_running_program_cannot_be_changed() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.at("program");
    fs::copy("/bin/sleep", &path).unwrap();
    let len = fs::metadata(&path).unwrap().len();
    let mut process = std::process::Command::new(&path).arg("60").spawn().unwrap();
    use rustix::fs::{Mode, OFlags};
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        let opened = rustix::fs::open(&path, flags, Mode::empty());
        assert_eq!(opened.err(), Some(rustix::io::Errno::TXTBSY), "{flags:?}");
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), len);
    assert!(process.try_wait().unwrap().is_none(), "it runs on");
    process.kill().unwrap();
    process.wait().unwrap();
    fs::write(&path, "changed").unwrap();
    assert_eq!(read(&path), "changed");
}

#[test]
fn statfs_shows_room() {
    let Some(rig) = Rig::new() else { return };
    let stat = rustix::fs::statvfs(&rig.path).unwrap();
    assert_eq!(stat.f_namemax, 255);
    assert!(stat.f_blocks > stat.f_bavail && stat.f_bavail > 0 && stat.f_ffree > 0);
}

/// relatime: a read moves the access time once after each change; noatime and O_NOATIME never.
#[test]
fn reading_moves_the_access_time_as_the_mount_says() {
    use fusefs::kernel::MountOptions;
    use std::os::unix::fs::OpenOptionsExt;
    for (options, first, second) in
        [("", true, false), ("strictatime", true, true), ("noatime", false, false)]
    {
        let Some(rig) = Rig::with(&MountOptions::parse(options).unwrap()) else { return };
        let path = rig.at("f");
        let atime = || {
            let meta = fs::metadata(&path).unwrap();
            (meta.atime(), meta.atime_nsec())
        };
        // Whether the access time moves; it does so after the open has returned.
        let moves = |open: &dyn Fn()| {
            let before = atime();
            open();
            let until = std::time::Instant::now() + std::time::Duration::from_millis(300);
            while atime() == before && std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            atime() != before
        };
        let read = || drop(fs::read(&path).unwrap());
        fs::write(&path, "text").unwrap();
        // Its ctime is the last before the reads.
        super::eventually("the version is published", || {
            use fusefs::ops::ports::Ring;
            rig.ring.view().inode(rig.ino("f").unwrap()).unwrap().unwrap().size == 4
        });
        let quietly = || {
            drop(File::options().read(true).custom_flags(libc::O_NOATIME).open(&path).unwrap());
        };
        assert!(!moves(&quietly), "{options}");
        assert!(!moves(&|| drop(File::options().write(true).open(&path).unwrap())), "{options}");
        assert_eq!(moves(&read), first, "{options}");
        assert_eq!(moves(&read), second, "{options}");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(moves(&read), first, "{options}: after a change");
        let then = Timespec { tv_sec: 7, tv_nsec: 8 };
        let times = Timestamps { last_access: then, last_modification: then };
        utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!(atime(), (7, 8), "{options}");
    }
}

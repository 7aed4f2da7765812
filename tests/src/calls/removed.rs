//! Files without names that are still open.

use std::fs;
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, Uid, XattrFlags};

use super::{Calls, open};

pub fn run(c: &mut Calls) {
    c.file("f", b"0123456789");
    let Ok(file) = c.open("f", OFlags::RDWR) else { return };
    let Ok(path_only) = c.open("f", OFlags::PATH) else { return };
    c.call("unlink", fs::remove_file(c.path("f")));
    c.gives("links", rustix::fs::fstat(&file).map(|stat| stat.st_nlink));
    let mut bytes = [0; 10];
    c.gives("read", rustix::io::pread(&file, &mut bytes, 0).map(|_| bytes));
    c.gives("write", rustix::io::pwrite(&file, b"abc", 20));
    c.gives("size", rustix::fs::fstat(&file).map(|stat| stat.st_size));
    c.call("truncate", rustix::fs::ftruncate(&file, 5));
    c.gives("size then", rustix::fs::fstat(&file).map(|stat| stat.st_size));
    let none = FallocateFlags::empty();
    c.call("allocate", rustix::fs::fallocate(&file, none, 0, 1 << 20));
    c.call("chmod", rustix::fs::fchmod(&file, Mode::from_raw_mode(0o640)));
    let ids = (Some(Uid::from_raw(12)), Some(Gid::from_raw(13)));
    c.call("chown", rustix::fs::fchown(&file, ids.0, ids.1));
    c.gives(
        "what they set",
        rustix::fs::fstat(&file)
            .map(|stat| (format!("{:o}", stat.st_mode), stat.st_uid, stat.st_gid)),
    );
    let old = rustix::fs::Timespec { tv_sec: 1000, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
    c.call("utimens", rustix::fs::futimens(&file, &times));
    let found = rustix::fs::fstat(&file).map(|stat| (stat.st_mtime, stat.st_mtime_nsec));
    c.gives("mtime", found);
    c.call("setxattr", rustix::fs::fsetxattr(&file, "user.gone", b"1", XattrFlags::empty()));
    let mut value = [0_u8; 8];
    c.gives("getxattr", rustix::fs::fgetxattr(&file, "user.gone", &mut value[..]));
    let mut list = [0_u8; 64];
    c.gives("listxattr", rustix::fs::flistxattr(&file, &mut list[..]));
    c.call("fsync", rustix::fs::fsync(&file));
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    c.call("open again", open(again.as_ref(), OFlags::RDWR));
    let again_path = format!("/proc/self/fd/{}", path_only.as_raw_fd());
    c.call("open again by path", open(again_path.as_ref(), OFlags::RDWR));
    c.call("open again with truncate", open(again.as_ref(), OFlags::RDWR | OFlags::TRUNC));
    c.gives("size after it", rustix::fs::fstat(&file).map(|stat| stat.st_size));
    let flags = AtFlags::SYMLINK_FOLLOW;
    let linked = rustix::fs::linkat(CWD, again.as_str(), CWD, c.path("back"), flags);
    c.call("a new name", linked);
    let named = fs::read_link(&again).map(|path| path.to_string_lossy().ends_with(" (deleted)"));
    c.gives("it is called deleted", named);
    c.call("a new file of its name", fs::write(c.path("f"), b"new"));
    c.gives("the old one", rustix::fs::fstat(&file).map(|stat| (stat.st_nlink, stat.st_size)));

    // One of two names goes.
    c.file("two", b"2");
    fs::hard_link(c.path("two"), c.path("names")).expect("a link");
    let Ok(file) = c.open("two", OFlags::RDWR) else { return };
    c.call("unlink of one of two", fs::remove_file(c.path("two")));
    c.gives("one link", rustix::fs::fstat(&file).map(|stat| stat.st_nlink));
    c.gives("write by the open one", rustix::io::pwrite(&file, b"!", 0));
    c.gives("read by the other name", fs::read(c.path("names")));
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = rustix::fs::linkat(CWD, again.as_str(), CWD, c.path("back"), flags);
    c.call("a name again", linked);
    c.gives("two links", rustix::fs::fstat(&file).map(|stat| stat.st_nlink));
}

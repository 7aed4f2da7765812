//! open(2) and creat(2): every flag, and every way to be refused.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{Mode, OFlags};

use super::{Calls, open};

pub fn run(c: &mut Calls) {
    c.file("f", b"0123456789");
    fs::create_dir(c.path("d")).expect("a directory");
    symlink("f", c.path("to-f")).expect("a link");
    symlink("d", c.path("to-d")).expect("a link");
    symlink("nothing", c.path("to-nothing")).expect("a link");
    symlink("loop", c.path("loop")).expect("a link");
    let (read, write, both) = (OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR);
    let (create, exclusive) = (OFlags::CREATE, OFlags::EXCL);

    let cases: [(&str, &str, OFlags); 44] = [
        ("nothing", "none", read),
        ("create", "new1", write | create),
        ("create, exclusive, new", "new2", write | create | exclusive),
        ("create, exclusive, there", "f", write | create | exclusive),
        ("create, exclusive, a link to a file", "to-f", write | create | exclusive),
        ("create, exclusive, a dangling link", "to-nothing", write | create | exclusive),
        ("create, exclusive, a directory", "d", write | create | exclusive),
        ("create through a dangling link", "to-nothing", write | create),
        ("a directory to read", "d", read),
        ("a directory to write", "d", write),
        ("a directory to read and write", "d", both),
        ("a directory to read with create", "d", read | create),
        ("a directory with truncate", "d", read | OFlags::TRUNC),
        ("O_DIRECTORY of a file", "f", read | OFlags::DIRECTORY),
        ("O_DIRECTORY of a directory", "d", read | OFlags::DIRECTORY),
        ("O_DIRECTORY of a link to one", "to-d", read | OFlags::DIRECTORY),
        ("O_DIRECTORY|O_NOFOLLOW of a link", "to-d", read | OFlags::DIRECTORY | OFlags::NOFOLLOW),
        ("O_DIRECTORY|O_CREAT", "new3", read | create | OFlags::DIRECTORY),
        ("O_NOFOLLOW of a link", "to-f", read | OFlags::NOFOLLOW),
        ("O_NOFOLLOW of a file", "f", read | OFlags::NOFOLLOW),
        ("O_PATH of a file", "f", OFlags::PATH),
        ("O_PATH|O_NOFOLLOW of a link", "to-f", OFlags::PATH | OFlags::NOFOLLOW),
        ("O_PATH of a dangling link", "loop", OFlags::PATH),
        ("a loop", "loop", read),
        ("below a file", "f/x", read),
        ("create below a file", "f/x", write | create),
        ("a file with a slash", "f/", read),
        ("a directory with a slash", "d/", read),
        ("create with a slash", "new4/", write | create),
        ("create in nothing", "none/x", write | create),
        ("the dot of a file", "f/.", read),
        ("the dot of a directory", "d/.", read),
        ("create a dot", "d/.", write | create),
        ("create two dots", "d/..", write | create),
        ("O_SYNC", "f", both | OFlags::SYNC),
        ("O_DSYNC", "f", both | OFlags::DSYNC),
        ("O_NOATIME", "f", read | OFlags::NOATIME),
        ("O_NONBLOCK", "f", read | OFlags::NONBLOCK),
        ("O_DIRECT", "f", both | OFlags::DIRECT),
        ("O_ASYNC", "f", both | OFlags::from_bits_retain(libc::O_ASYNC as u32)),
        ("O_APPEND", "f", write | OFlags::APPEND),
        ("O_TMPFILE to read only", "d", read | OFlags::TMPFILE),
        ("O_TMPFILE in a file", "f", write | OFlags::TMPFILE),
        ("write and read at once", "f", OFlags::from_bits_retain(3)),
    ];
    for (what, name, flags) in cases {
        let opened = c.open(name, flags);
        c.call(what, opened);
    }

    let names = [
        ("a name of 255 bytes", "n".repeat(255)),
        ("a name of 256 bytes", "n".repeat(256)),
        ("an empty path", String::new()),
        ("bytes that are no text", "a\u{1}\n\u{7f}".to_owned()),
    ];
    for (what, name) in names {
        let opened = match name.is_empty() {
            true => open("".as_ref(), write | create),
            false => c.open(&name, write | create),
        };
        c.call(what, opened);
    }
    let long = format!("{}f", "./".repeat(2100));
    let opened = c.open(&long, read);
    c.call("a path of 4200 bytes", opened);

    truncating(c);
    flags_of_descriptors(c);
    modes(c);
    temporary(c);
}

fn truncating(c: &mut Calls) {
    let sized = |c: &mut Calls, what: &str, flags| {
        c.file("t", b"0123456789");
        let opened = c.open("t", flags | OFlags::TRUNC);
        c.call(what, opened);
        let size = c.path("t").metadata().map(|metadata| metadata.len());
        c.gives(&format!("{what}: size"), size);
    };
    sized(c, "truncate, write", OFlags::WRONLY);
    sized(c, "truncate, read and write", OFlags::RDWR);
    sized(c, "truncate, read only", OFlags::RDONLY);
    sized(c, "truncate with create", OFlags::WRONLY | OFlags::CREATE);
    sized(c, "truncate with append", OFlags::WRONLY | OFlags::APPEND);
    c.times("times: O_TRUNC of bytes", "f", |path| open(path, OFlags::WRONLY | OFlags::TRUNC));
    c.times("times: O_TRUNC of nothing", "f", |path| open(path, OFlags::WRONLY | OFlags::TRUNC));
    c.times("times: O_CREAT of what is there", "f", |path| {
        open(path, OFlags::WRONLY | OFlags::CREATE)
    });
    c.times("times: open to write and close", "f", |path| open(path, OFlags::RDWR));
}

fn flags_of_descriptors(c: &mut Calls) {
    c.file("f", b"0123456789");
    let Ok(file) = c.open("f", OFlags::RDWR | OFlags::APPEND | OFlags::NOATIME) else { return };
    c.gives("F_GETFL", rustix::fs::fcntl_getfl(&file).map(|flags| flags.bits() & 0o7777777));
    c.call("F_SETFL without append", rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK));
    c.gives("F_GETFL again", rustix::fs::fcntl_getfl(&file).map(|flags| flags.bits() & 0o7777777));
    c.call("F_SETFL with O_DIRECT", rustix::fs::fcntl_setfl(&file, OFlags::DIRECT));
    let Ok(path_only) = c.open("f", OFlags::PATH) else { return };
    let mut buffer = [0; 4];
    c.gives("read of O_PATH", rustix::io::read(&path_only, &mut buffer));
    c.gives("write to O_PATH", rustix::io::write(&path_only, b"x"));
    c.call("fchmod of O_PATH", rustix::fs::fchmod(&path_only, Mode::RUSR));
    c.gives("fstat of O_PATH", rustix::fs::fstat(&path_only).map(|stat| stat.st_size));
    c.call("ftruncate of O_PATH", rustix::fs::ftruncate(&path_only, 1));
    c.call("fsync of O_PATH", rustix::fs::fsync(&path_only));
    let again = format!("/proc/self/fd/{}", path_only.as_raw_fd());
    c.call("open through O_PATH", open(again.as_ref(), OFlags::RDWR));
    let Ok(to_read) = c.open("f", OFlags::RDONLY) else { return };
    c.gives("write to a reader", rustix::io::write(&to_read, b"x"));
    c.call("ftruncate of a reader", rustix::fs::ftruncate(&to_read, 1));
    let Ok(to_write) = c.open("f", OFlags::WRONLY) else { return };
    c.gives("read of a writer", rustix::io::read(&to_write, &mut buffer));
    let Ok(directory) = c.open("d", OFlags::RDONLY) else { return };
    c.gives("read of a directory", rustix::io::read(&directory, &mut buffer));
    c.gives("write to a directory", rustix::io::write(&directory, b"x"));
    c.call("ftruncate of a directory", rustix::fs::ftruncate(&directory, 1));
    c.call("fsync of a directory", rustix::fs::fsync(&directory));
    c.call("fdatasync of a directory", rustix::fs::fdatasync(&directory));
    c.call("syncfs", rustix::fs::syncfs(&directory));
}

fn modes(c: &mut Calls) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    for mode in [0o000, 0o444, 0o666, 0o777, 0o7777] {
        let name = format!("mode-{mode:o}");
        let opened = rustix::fs::open(c.path(&name), flags, Mode::from_raw_mode(mode));
        // What was opened by its creation may be written, whatever the mode.
        let written = opened.and_then(|file| rustix::io::write(&file, b"x"));
        c.gives(&format!("write to what was created with {mode:o}"), written);
        let found = c.path(&name).metadata().map(|metadata| format!("{:o}", metadata.mode()));
        c.gives(&format!("mode of what was created with {mode:o}"), found);
    }
}

fn temporary(c: &mut Calls) {
    let Some(file) = ({
        let opened = c.open("d", OFlags::RDWR | OFlags::TMPFILE);
        c.call("O_TMPFILE", opened)
    }) else {
        return;
    };
    c.gives("write to it", rustix::io::write(&file, b"nameless"));
    c.gives("its links", rustix::fs::fstat(&file).map(|stat| stat.st_nlink));
    let names = fs::read_dir(c.path("d")).map(|entries| entries.count());
    c.gives("names beside it", names);
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = rustix::fs::linkat(
        rustix::fs::CWD,
        from.as_str(),
        rustix::fs::CWD,
        c.path("d/named"),
        rustix::fs::AtFlags::SYMLINK_FOLLOW,
    );
    c.call("its first name", linked);
    c.gives("its links then", rustix::fs::fstat(&file).map(|stat| stat.st_nlink));
    c.gives("its bytes by name", fs::read(c.path("d/named")));
    let opened = c.open("d", OFlags::RDWR | OFlags::TMPFILE | OFlags::EXCL);
    if let Some(file) = c.call("O_TMPFILE|O_EXCL", opened) {
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        let linked = rustix::fs::linkat(
            rustix::fs::CWD,
            from.as_str(),
            rustix::fs::CWD,
            c.path("d/never"),
            rustix::fs::AtFlags::SYMLINK_FOLLOW,
        );
        c.call("a name for O_TMPFILE|O_EXCL", linked);
    }
}

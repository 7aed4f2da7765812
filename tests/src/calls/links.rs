//! link, symlink, readlink, unlink.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};

use super::{Calls, open};

pub fn run(c: &mut Calls) {
    c.file("f", b"0123456789");
    fs::create_dir(c.path("d")).expect("a directory");
    symlink("f", c.path("to-f")).expect("a link");
    symlink("d", c.path("to-d")).expect("a link");
    symlink("nothing", c.path("to-nothing")).expect("a link");
    for (kind, name) in [(FileType::Fifo, "pipe"), (FileType::Socket, "socket")] {
        rustix::fs::mknodat(CWD, c.path(name), kind, Mode::RUSR, 0).expect("a special file");
    }
    let hard = [
        ("link", "f", "f2"),
        ("link over a name", "f", "to-f"),
        ("link over itself", "f", "f"),
        ("link of a directory", "d", "d2"),
        ("link of nothing", "none", "none2"),
        ("link of a symbolic link", "to-f", "to-f2"),
        ("link of a dangling link", "to-nothing", "to-nothing2"),
        ("link over a dangling link", "f", "to-nothing"),
        ("link of a pipe", "pipe", "pipe2"),
        ("link of a socket", "socket", "socket2"),
        ("link into nothing", "f", "none/x"),
        ("link below a file", "f", "f/x"),
        ("link with a slash", "f", "f3/"),
        ("link of a file with a slash", "f/", "f4"),
    ];
    for (what, from, to) in hard {
        let linked = rustix::fs::link(c.path(from), c.path(to));
        c.call(what, linked);
    }
    let linkat = |c: &Calls, from: &str, to: &str, flags| {
        rustix::fs::linkat(CWD, c.path(from), CWD, c.path(to), flags)
    };
    let linked = linkat(c, "to-f", "followed", AtFlags::SYMLINK_FOLLOW);
    c.call("link of what a link leads to", linked);
    let linked = linkat(c, "to-nothing", "followed2", AtFlags::SYMLINK_FOLLOW);
    c.call("link of what a dangling link leads to", linked);
    let linked = linkat(c, "f", "x", AtFlags::REMOVEDIR);
    c.call("link with a wrong flag", linked);
    if let Ok(file) = c.open("f", OFlags::PATH) {
        let linked = rustix::fs::linkat(&file, "", CWD, c.path("empty"), AtFlags::EMPTY_PATH);
        c.call("link of a descriptor", linked);
    }
    for name in ["f", "to-f", "to-f2", "pipe"] {
        let found = c.path(name).symlink_metadata();
        c.gives(&format!("links of {name}"), found.map(|found| found.nlink()));
    }
    let across = rustix::fs::link("/proc/self/status", c.path("across"));
    c.call("link from elsewhere", across);

    symbolic(c);
    unlinking(c);
    times(c);
}

fn symbolic(c: &mut Calls) {
    let long = "t".repeat(4095);
    let longer = "t".repeat(4096);
    let targets = [
        ("symlink", "anything", "s1"),
        ("symlink to nothing", "", "s2"),
        ("symlink of 4095 bytes", &*long, "s3"),
        ("symlink of 4096 bytes", &*longer, "s4"),
        ("symlink over a file", "x", "f"),
        ("symlink over a dangling link", "x", "to-nothing"),
        ("symlink into nothing", "x", "none/x"),
        ("symlink with a slash", "x", "s5/"),
    ];
    for (what, target, name) in targets {
        let made = rustix::fs::symlink(target, c.path(name));
        c.call(what, made);
        let found = c.path(name).symlink_metadata();
        c.gives(&format!("{what}: size and mode"), found.map(|found| (found.len(), found.mode())));
    }
    for name in ["s1", "f", "d", "none", "s1/x"] {
        let read = rustix::fs::readlink(c.path(name), Vec::new());
        c.gives(&format!("readlink of {name}"), read);
    }
    let mut three = [0_u8; 3];
    let returned = {
        let (path, at) = (super::c_path(&c.path("s1")), three.as_mut_ptr());
        // SAFETY: the buffer has three bytes.
        unsafe { libc::readlink(path.as_ptr(), at.cast(), 3) as i64 }
    };
    c.raw("readlink of 3 bytes", returned);
    // A chain of 40 is followed, one of 41 is not.
    c.file("chain0", b"end");
    for number in 1..=41 {
        symlink(format!("chain{}", number - 1), c.path(&format!("chain{number}"))).expect("a link");
    }
    for number in [40, 41] {
        let opened = c.open(&format!("chain{number}"), OFlags::RDONLY);
        c.call(&format!("a chain of {number}"), opened);
    }
    let opened = c.open("to-d/../f", OFlags::RDONLY);
    c.call("up through a link", opened);
}

fn unlinking(c: &mut Calls) {
    for (what, name) in [
        ("unlink of a directory", "d"),
        ("unlink of nothing", "none"),
        ("unlink below a file", "f/x"),
        ("unlink with a slash", "f/"),
        ("unlink of a link with a slash", "to-d/"),
        ("unlink of a dot", "d/."),
        ("unlink of a link", "to-d"),
        ("unlink of a pipe", "pipe2"),
        ("unlink of one name", "f2"),
        ("unlink of the empty name", ""),
    ] {
        let path = if name.is_empty() { "".into() } else { c.path(name) };
        let removed = rustix::fs::unlink(path);
        c.call(what, removed);
    }
    c.gives("the file stays by its other names", fs::read(c.path("followed")));
}

fn times(c: &mut Calls) {
    c.file("t", b"x");
    symlink("t", c.path("to-t")).expect("a link");
    c.times("times: readlink", "to-t", |path| fs::read_link(path));
    c.times("a file's times: read through a link", "t", |path| {
        fs::read(path.with_file_name("to-t"))
    });
    c.times("a link's times: chown", "to-t", |path| {
        std::os::unix::fs::lchown(path, Some(1), Some(1))
    });
    c.times("a link's times: link", "to-t", |path| {
        rustix::fs::link(path, path.with_file_name("to-t2"))
    });
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let changed = rustix::fs::chmodat(CWD, c.path("to-t"), Mode::RUSR, flags);
    c.call("chmod of a link", changed);
    if let Ok(link) = open(&c.path("to-t"), OFlags::PATH | OFlags::NOFOLLOW) {
        let stat = rustix::fs::fstat(&link).map(|stat| stat.st_size);
        c.gives("a link's size by descriptor", stat);
        c.gives("readlink by descriptor", rustix::fs::readlinkat(&link, "", Vec::new()));
    }
}

//! mkdir, rmdir, listing, and the working directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};

use super::{Calls, open};

pub fn run(c: &mut Calls) {
    c.file("f", b"x");
    symlink("nothing", c.path("to-nothing")).expect("a link");
    let mode = Mode::from_raw_mode(0o777);
    let makes = [
        ("mkdir", "d"),
        ("mkdir again", "d"),
        ("mkdir with a slash", "slash/"),
        ("mkdir of two slashes", "d//e"),
        ("mkdir over a file", "f"),
        ("mkdir below a file", "f/x"),
        ("mkdir below nothing", "none/x"),
        ("mkdir over a dangling link", "to-nothing"),
        ("mkdir through a dangling link", "to-nothing/"),
        ("mkdir of a dot", "d/."),
        ("mkdir of two dots", "d/.."),
    ];
    for (what, name) in makes {
        let made = rustix::fs::mkdir(c.path(name), mode);
        c.call(what, made);
    }
    for mode in [0o000, 0o700, 0o1777, 0o2755, 0o7777] {
        let name = format!("mode-{mode:o}");
        let made = rustix::fs::mkdir(c.path(&name), Mode::from_raw_mode(mode));
        c.call(&format!("mkdir with {mode:o}"), made);
        let found = c.path(&name).metadata().map(|found| format!("{:o}", found.mode()));
        c.gives(&format!("its mode {mode:o}"), found);
    }
    let links = |c: &mut Calls, what: &str, name: &str| {
        let found = c.path(name).metadata().map(|found| found.nlink());
        c.gives(what, found);
    };
    fs::create_dir(c.path("counted")).expect("a directory");
    links(c, "links of an empty directory", "counted");
    for name in ["counted/a", "counted/b"] {
        fs::create_dir(c.path(name)).expect("a directory");
    }
    links(c, "links with two inside", "counted");
    c.file("counted/f", b"");
    links(c, "files do not count", "counted");
    fs::remove_dir(c.path("counted/a")).expect("goes");
    links(c, "links with one inside", "counted");

    let removes = [
        ("rmdir of what is full", "counted"),
        ("rmdir of a file", "f"),
        ("rmdir of a link", "to-nothing"),
        ("rmdir of nothing", "none"),
        ("rmdir of a dot", "d/."),
        ("rmdir of two dots", "d/.."),
        ("rmdir below a file", "f/x"),
        ("rmdir with a slash", "slash/"),
        ("rmdir", "d/e"),
    ];
    for (what, name) in removes {
        let removed = rustix::fs::rmdir(c.path(name));
        c.call(what, removed);
    }
    inherited(c);
    times(c);
    listing(c);
    working(c);
    deep(c);
}

/// A set-group-id directory hands its group and the bit on.
fn inherited(c: &mut Calls) {
    fs::create_dir(c.path("group")).expect("a directory");
    rustix::fs::chown(c.path("group"), None, Some(rustix::fs::Gid::from_raw(54321)))
        .expect("root may");
    rustix::fs::chmod(c.path("group"), Mode::from_raw_mode(0o2775)).expect("root may");
    fs::create_dir(c.path("group/d")).expect("a directory");
    c.file("group/f", b"");
    symlink("x", c.path("group/l")).expect("a link");
    for name in ["group/d", "group/f", "group/l"] {
        let found = c.path(name).symlink_metadata();
        c.gives(name, found.map(|found| (format!("{:o}", found.mode()), found.gid())));
    }
}

fn times(c: &mut Calls) {
    fs::create_dir(c.path("p")).expect("a directory");
    c.times("parent's times: create", "p", |path| fs::write(path.join("f"), b""));
    c.times("parent's times: write", "p", |path| fs::write(path.join("f"), b"x"));
    c.times("parent's times: mkdir", "p", |path| fs::create_dir(path.join("d")));
    c.times("parent's times: mkdir deeper", "p", |path| fs::create_dir(path.join("d/e")));
    c.times("parent's times: symlink", "p", |path| symlink("x", path.join("l")));
    c.times("parent's times: link", "p", |path| fs::hard_link(path.join("f"), path.join("g")));
    c.times("file's times: link", "p/f", |path| fs::hard_link(path, path.with_file_name("h")));
    c.times("file's times: unlink of another name", "p/f", |path| {
        fs::remove_file(path.with_file_name("h"))
    });
    c.times("parent's times: rename", "p", |path| fs::rename(path.join("g"), path.join("h")));
    c.times("file's times: rename of another name", "p/f", |path| {
        fs::rename(path.with_file_name("h"), path.with_file_name("i"))
    });
    c.times("parent's times: rename into", "p", |path| {
        fs::rename(path.join("i"), path.join("d/i"))
    });
    c.times("target's times: rename into", "p/d", |path| {
        fs::rename(path.join("i"), path.join("j"))
    });
    c.times("moved directory's times", "p/d", |path| {
        fs::rename(path, path.with_file_name("d2"))?;
        fs::rename(path.with_file_name("d2"), path)
    });
    c.times("parent's times: unlink", "p", |path| fs::remove_file(path.join("l")));
    c.times("parent's times: rmdir", "p", |path| fs::remove_dir(path.join("d/e")));
    c.times("parent's times: failed mkdir", "p", |path| fs::create_dir(path.join("d")));
    c.times("parent's times: chmod inside", "p", |path| {
        rustix::fs::chmod(path.join("f"), Mode::from_raw_mode(0o600))
    });
}

fn names(dir: &std::path::Path) -> rustix::io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push((name, format!("{:?}", entry.file_type())));
    }
    found.sort();
    Ok(found)
}

fn listing(c: &mut Calls) {
    fs::create_dir(c.path("list")).expect("a directory");
    c.gives("an empty directory", names(&c.path("list")));
    fs::create_dir(c.path("list/d")).expect("a directory");
    c.file("list/f", b"");
    symlink("f", c.path("list/l")).expect("a link");
    rustix::fs::mknodat(CWD, c.path("list/p"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
        .expect("a pipe");
    rustix::fs::mknodat(CWD, c.path("list/s"), rustix::fs::FileType::Socket, Mode::RUSR, 0)
        .expect("a socket");
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        CWD,
        c.path("list/c"),
        rustix::fs::FileType::CharacterDevice,
        Mode::RUSR,
        null,
    )
    .expect("a device");
    c.gives("every kind", names(&c.path("list")));
    c.gives("listing a file", names(&c.path("f")));

    fs::create_dir(c.path("many")).expect("a directory");
    for number in 0..500 {
        c.file(&format!("many/{number}"), b"");
    }
    let Ok(fd) = c.open("many", OFlags::RDONLY | OFlags::DIRECTORY) else { return };
    let mut small = [0_u8; 10];
    let returned = {
        let (fd, at, len) = (fd.as_raw_fd(), small.as_mut_ptr(), small.len());
        // SAFETY: the buffer is as long as told.
        unsafe { libc::syscall(libc::SYS_getdents64, fd, at, len) }
    };
    c.raw("getdents with 10 bytes", returned);
    c.call("seek to the start", rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0)));
    // Half is read, then names come and go.
    let Ok(mut dir) = Dir::read_from(fd.as_fd()) else { return };
    let mut seen = Vec::new();
    for _ in 0..250 {
        if let Some(Ok(entry)) = dir.read() {
            seen.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    for number in 0..500 {
        if number % 3 == 0 {
            fs::remove_file(c.path(&format!("many/{number}"))).expect("goes");
            c.file(&format!("many/new-{number}"), b"");
        }
    }
    while let Some(Ok(entry)) = dir.read() {
        seen.push(entry.file_name().to_string_lossy().into_owned());
    }
    let distinct: BTreeSet<&String> = seen.iter().collect();
    let stayed = (0..500).filter(|number| number % 3 != 0).map(|number| number.to_string());
    c.note("names twice", &(seen.len() - distinct.len()).to_string());
    c.note("names lost", &stayed.filter(|name| !distinct.contains(name)).count().to_string());
    dir.rewind();
    let again = std::iter::from_fn(|| dir.read()).count();
    c.note("names after rewind", &again.to_string());
}

/// Calls relative to descriptors, which need no working directory of the process.
fn working(c: &mut Calls) {
    fs::create_dir(c.path("w")).expect("a directory");
    let Ok(dir) = c.open("w", OFlags::RDONLY | OFlags::DIRECTORY) else { return };
    c.call("mkdirat", rustix::fs::mkdirat(&dir, "in", Mode::RWXU));
    let Ok(inner) = c.open("w/in", OFlags::RDONLY | OFlags::DIRECTORY) else { return };
    c.call("unlinkat without AT_REMOVEDIR", rustix::fs::unlinkat(&dir, "in", AtFlags::empty()));
    c.call("unlinkat", rustix::fs::unlinkat(&dir, "in", AtFlags::REMOVEDIR));
    let create = OFlags::WRONLY | OFlags::CREATE;
    c.call("create in what is removed", rustix::fs::openat(&inner, "x", create, Mode::RUSR));
    c.call("mkdir in what is removed", rustix::fs::mkdirat(&inner, "x", Mode::RWXU));
    c.call(
        "open the dot of what is removed",
        rustix::fs::openat(&inner, ".", OFlags::RDONLY, Mode::RUSR),
    );
    c.call("open its parent", rustix::fs::openat(&inner, "..", OFlags::RDONLY, Mode::RUSR));
    let listed = Dir::read_from(inner.as_fd()).map(|dir| dir.filter(Result::is_ok).count());
    c.gives("names in what is removed", listed);
    c.gives("links of what is removed", rustix::fs::fstat(&inner).map(|stat| stat.st_nlink));
    let link = fs::read_link(format!("/proc/self/fd/{}", inner.as_raw_fd()));
    let ends = link.map(|link| link.to_string_lossy().ends_with("/w/in (deleted)"));
    c.gives("its name in /proc", ends);
    c.call("chmod of what is removed", rustix::fs::fchmod(&inner, Mode::RUSR));
    c.call("a new one of its name", rustix::fs::mkdirat(&dir, "in", Mode::RWXU));
    let same =
        rustix::fs::fstat(&inner).ok().zip(rustix::fs::statat(&dir, "in", AtFlags::empty()).ok());
    c.note("is another", &same.is_some_and(|(old, new)| old.st_ino != new.st_ino).to_string());
    let up =
        rustix::fs::statat(&dir, "in/..", AtFlags::empty()).ok().zip(rustix::fs::fstat(&dir).ok());
    c.note("its parent", &up.is_some_and(|(up, dir)| up.st_ino == dir.st_ino).to_string());
}

fn deep(c: &mut Calls) {
    // Deeper than a path may be long.
    let name = "x".repeat(200);
    let mut at = open(&c.dir.clone(), OFlags::RDONLY | OFlags::DIRECTORY);
    for _ in 0..40 {
        at = at.and_then(|dir| {
            rustix::fs::mkdirat(&dir, &*name, Mode::RWXU)?;
            rustix::fs::openat(&dir, &*name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::RUSR)
        });
    }
    c.gives(
        "8000 bytes deep",
        at.map(|dir| {
            let _ = rustix::fs::mkdirat(&dir, "last", Mode::RWXU);
            rustix::fs::fstat(&dir).map(|stat| stat.st_nlink)
        }),
    );
}

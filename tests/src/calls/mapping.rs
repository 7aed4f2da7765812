//! mmap(2): what is stored in memory and what is written meet in one place.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::fs::OFlags;

use super::{Calls, open};

const PAGE: usize = 4096;

/// A mapping, until it is dropped.
struct Map {
    at: *mut u8,
    bytes: usize,
}

impl Map {
    fn new(file: &OwnedFd, bytes: usize, protection: i32, flags: i32, offset: i64) -> Option<Map> {
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, offset) };
        (at != libc::MAP_FAILED).then(|| Map { at: at.cast(), bytes })
    }

    fn get(&self, at: usize) -> u8 {
        assert!(at < self.bytes, "inside the mapping");
        // SAFETY: inside the mapping; the caller keeps to pages that have bytes.
        unsafe { self.at.add(at).read_volatile() }
    }

    fn set(&self, at: usize, byte: u8) {
        assert!(at < self.bytes, "inside the mapping");
        // SAFETY: as above.
        unsafe { self.at.add(at).write_volatile(byte) }
    }

    fn sync(&self, flags: i32) -> i32 {
        // SAFETY: the mapping is there.
        unsafe { libc::msync(self.at.cast(), self.bytes, flags) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length; nobody else has it.
        unsafe { libc::munmap(self.at.cast(), self.bytes) };
    }
}

pub fn run(c: &mut Calls) {
    let (read, both) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    c.file("f", &[b'a'; 3 * PAGE]);
    let Ok(file) = c.open("f", OFlags::RDWR) else { return };

    if let Some(map) = mapped(c, "shared", &file, PAGE, both, libc::MAP_SHARED, 0) {
        map.set(10, b'M');
        let mut found = [0; 1];
        let got = rustix::io::pread(&file, &mut found, 10).map(|_| found);
        c.gives("a store is read", got);
        c.gives("a write", rustix::io::pwrite(&file, b"W", 11));
        c.note("a write is loaded", &map.get(11).to_string());
        c.raw("msync MS_SYNC", map.sync(libc::MS_SYNC));
        c.raw("msync MS_ASYNC", map.sync(libc::MS_ASYNC));
        c.raw("msync MS_INVALIDATE", map.sync(libc::MS_INVALIDATE | libc::MS_SYNC));
        c.raw("msync of both kinds", map.sync(libc::MS_SYNC | libc::MS_ASYNC));
    }
    if let Some(map) = mapped(c, "private", &file, PAGE, both, libc::MAP_PRIVATE, 0) {
        map.set(20, b'P');
        let mut found = [0; 1];
        let got = rustix::io::pread(&file, &mut found, 20).map(|_| found);
        c.gives("a private store is not read", got);
    }
    if let Some(map) = mapped(c, "a later page", &file, PAGE, both, libc::MAP_SHARED, 4096) {
        map.set(0, b'L');
    }
    c.gives(
        "what was stored is there",
        fs::read(c.path("f")).map(|bytes| (bytes[10], bytes[4096])),
    );

    ends(c);
    let validated = libc::MAP_SHARED_VALIDATE;
    mapped(c, "MAP_SHARED_VALIDATE", &file, PAGE, both, validated, 0);
    mapped(c, "MAP_SYNC", &file, PAGE, both, validated | libc::MAP_SYNC, 0);
    mapped(c, "an odd offset", &file, PAGE, read, libc::MAP_SHARED, 100);
    mapped(c, "no length", &file, 0, read, libc::MAP_SHARED, 0);
    mapped(c, "neither shared nor private", &file, PAGE, read, 0, 0);
    mapped(c, "behind the end", &file, PAGE, read, libc::MAP_SHARED, 1 << 20);
    mapped(c, "populated", &file, PAGE, both, libc::MAP_SHARED | libc::MAP_POPULATE, 0);
    mapped(c, "locked", &file, PAGE, both, libc::MAP_SHARED | libc::MAP_LOCKED, 0);
    mapped(c, "executable", &file, PAGE, read | libc::PROT_EXEC, libc::MAP_PRIVATE, 0);
    if let Ok(reader) = c.open("f", OFlags::RDONLY) {
        mapped(c, "a reader, shared, to write", &reader, PAGE, both, libc::MAP_SHARED, 0);
        mapped(c, "a reader, private, to write", &reader, PAGE, both, libc::MAP_PRIVATE, 0);
    }
    if let Ok(writer) = c.open("f", OFlags::WRONLY) {
        mapped(c, "a writer", &writer, PAGE, libc::PROT_WRITE, libc::MAP_SHARED, 0);
    }
    if let Ok(appender) = c.open("f", OFlags::RDWR | OFlags::APPEND) {
        mapped(c, "an appender", &appender, PAGE, both, libc::MAP_SHARED, 0);
    }
    if let Ok(directory) = open(&c.dir.clone(), OFlags::RDONLY) {
        mapped(c, "a directory", &directory, PAGE, read, libc::MAP_PRIVATE, 0);
    }
    times(c);
}

fn mapped(
    c: &mut Calls,
    what: &str,
    file: &OwnedFd,
    bytes: usize,
    protection: i32,
    flags: i32,
    offset: i64,
) -> Option<Map> {
    let map = Map::new(file, bytes, protection, flags, offset);
    let answer = match map {
        Some(_) => "ok".to_owned(),
        None => std::io::Error::last_os_error().to_string(),
    };
    c.note(&format!("map {what}"), &answer);
    map
}

/// What lies between the end of a file and the end of its page.
fn ends(c: &mut Calls) {
    c.file("e", b"12345");
    let Ok(file) = c.open("e", OFlags::RDWR) else { return };
    let both = libc::PROT_READ | libc::PROT_WRITE;
    let Some(map) = mapped(c, "a short file", &file, PAGE, both, libc::MAP_SHARED, 0) else {
        return;
    };
    c.note("behind the end are zeros", &map.get(5).to_string());
    map.set(7, b'x');
    map.sync(libc::MS_SYNC);
    c.gives("a store there is not kept", fs::read(c.path("e")));
    map.set(7, b'x');
    c.call("extending", rustix::fs::ftruncate(&file, 10));
    c.note("what was stored behind the old end", &map.get(7).to_string());
    c.call("shortening", rustix::fs::ftruncate(&file, 2));
    c.call("and extending", rustix::fs::ftruncate(&file, 6));
    let seen: Vec<u8> = (0..6).map(|at| map.get(at)).collect();
    c.note("loaded after both", &format!("{seen:?}"));
    c.gives("read after both", fs::read(c.path("e")));
}

fn times(c: &mut Calls) {
    c.file("t", &[b't'; PAGE]);
    let both = libc::PROT_READ | libc::PROT_WRITE;
    c.times("times: a store and msync", "t", |path| {
        let file = open(path, OFlags::RDWR)?;
        let map = Map::new(&file, PAGE, both, libc::MAP_SHARED, 0);
        let map = map.ok_or_else(std::io::Error::last_os_error)?;
        map.set(0, b'!');
        map.sync(libc::MS_SYNC);
        Ok::<_, std::io::Error>(())
    });
    c.times("times: a load", "t", |path| {
        let file = open(path, OFlags::RDWR)?;
        let map = Map::new(&file, PAGE, both, libc::MAP_SHARED, 0);
        let map = map.ok_or_else(std::io::Error::last_os_error)?;
        map.get(0);
        Ok::<_, std::io::Error>(())
    });
}

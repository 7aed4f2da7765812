//! Bytes: read, write, seek, truncate, allocate, copy, sync, and their vectored kin.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, OFlags, SeekFrom};

use super::{Calls, open};

pub fn run(c: &mut Calls) {
    plain(c);
    appending(c);
    seeking(c);
    truncating(c);
    allocating(c);
    vectors(c);
    copying(c);
    times(c);
    advice(c);
}

fn plain(c: &mut Calls) {
    c.file("f", b"0123456789");
    let Ok(file) = c.open("f", OFlags::RDWR) else { return };
    let mut four = [0; 4];
    c.gives("read", rustix::io::read(&file, &mut four));
    c.gives("pread beyond the end", rustix::io::pread(&file, &mut four, 100));
    c.gives("pread across the end", rustix::io::pread(&file, &mut four, 8));
    c.raw("pread at -1", raw_pread(&file, -1));
    c.raw("pwrite at -1", raw_pwrite(&file, b"x", -1));
    c.raw("pwrite at the greatest offset", raw_pwrite(&file, b"x", i64::MAX));
    c.gives("write of nothing", rustix::io::write(&file, b""));
    c.gives("write", rustix::io::write(&file, b"ab"));
    c.gives("pwrite behind the end", rustix::io::pwrite(&file, b"end", 20));
    c.gives("all of it", fs::read(c.path("f")));
    // A bad buffer.
    let returned = {
        // SAFETY: the kernel checks the address and refuses it.
        unsafe { libc::write(file.as_raw_fd(), std::ptr::without_provenance(8), 10) as i64 }
    };
    c.raw("write from nowhere", returned);
    let returned = {
        // SAFETY: as above.
        unsafe { libc::read(file.as_raw_fd(), std::ptr::without_provenance_mut(8), 1) as i64 }
    };
    c.raw("read to nowhere", returned);
    c.gives("size", c.path("f").metadata().map(|metadata| metadata.len()));
    c.gives("a TiB away", rustix::io::pwrite(&file, b"far", 1 << 40));
    c.gives("size then", c.path("f").metadata().map(|metadata| metadata.len()));
    let mut three = [0; 3];
    c.gives("read there", rustix::io::pread(&file, &mut three, 1 << 40).map(|_| three));
    let few = c.path("f").metadata().map(|metadata| metadata.blocks() < 100);
    c.gives("few blocks", few);
}

fn raw_pread(file: &OwnedFd, offset: i64) -> i64 {
    let mut buffer = [0_u8; 4];
    // SAFETY: the buffer is as long as told.
    unsafe { libc::pread(file.as_raw_fd(), buffer.as_mut_ptr().cast(), 4, offset) as i64 }
}

fn raw_pwrite(file: &OwnedFd, bytes: &[u8], offset: i64) -> i64 {
    // SAFETY: the buffer is as long as told.
    unsafe { libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), offset) as i64 }
}

fn appending(c: &mut Calls) {
    c.file("a", b"first ");
    let Ok(file) = c.open("a", OFlags::RDWR | OFlags::APPEND) else { return };
    let Ok(second) = c.open("a", OFlags::WRONLY | OFlags::APPEND) else { return };
    c.gives("append", rustix::io::write(&file, b"one "));
    c.gives("append elsewhere", rustix::io::write(&second, b"two "));
    c.gives("append again", rustix::io::write(&file, b"three "));
    c.gives("position", rustix::fs::tell(&file));
    // Linux appends whatever the offset says (pwrite(2), bugs).
    c.gives("pwrite to an appender", rustix::io::pwrite(&file, b"four ", 0));
    c.call("seek of an appender", rustix::fs::seek(&file, SeekFrom::Start(0)));
    c.gives("append after seek", rustix::io::write(&file, b"five"));
    c.call("truncate of an appender", rustix::fs::ftruncate(&file, 3));
    c.gives("append to the rest", rustix::io::write(&file, b"!"));
    c.gives("all that was appended", fs::read_to_string(c.path("a")));
}

fn seeking(c: &mut Calls) {
    c.file("s", b"0123456789");
    let Ok(file) = c.open("s", OFlags::RDWR) else { return };
    c.gives("SEEK_SET", rustix::fs::seek(&file, SeekFrom::Start(4)));
    c.gives("SEEK_CUR", rustix::fs::seek(&file, SeekFrom::Current(-2)));
    c.gives("SEEK_CUR before the start", rustix::fs::seek(&file, SeekFrom::Current(-3)));
    c.gives("SEEK_END", rustix::fs::seek(&file, SeekFrom::End(0)));
    c.gives("SEEK_END before the start", rustix::fs::seek(&file, SeekFrom::End(-11)));
    c.gives("SEEK_END behind", rustix::fs::seek(&file, SeekFrom::End(100)));
    c.raw("an unknown whence", raw_seek(&file, 0, 77));
    c.raw("SEEK_SET to -1", raw_seek(&file, -1, libc::SEEK_SET));
    for (what, at) in [("start", 0), ("middle", 5), ("end", 10), ("behind the end", 11)] {
        c.raw(&format!("SEEK_DATA from the {what}"), raw_seek(&file, at, libc::SEEK_DATA));
        c.raw(&format!("SEEK_HOLE from the {what}"), raw_seek(&file, at, libc::SEEK_HOLE));
    }
    c.raw("SEEK_DATA from -1", raw_seek(&file, -1, libc::SEEK_DATA));
    let Ok(sparse) = c.open("sparse", OFlags::RDWR | OFlags::CREATE) else { return };
    c.gives("a block", rustix::io::pwrite(&sparse, &[1; 4096], 1 << 20));
    c.gives("another", rustix::io::pwrite(&sparse, &[1; 4096], 4 << 20));
    c.call("a hole at the end", rustix::fs::ftruncate(&sparse, 8 << 20));
    let mut at = 0;
    for turn in 0..3 {
        let data = c.raw(&format!("data {turn}"), raw_seek(&sparse, at, libc::SEEK_DATA));
        if data < 0 {
            break;
        }
        at = c.raw(&format!("hole {turn}"), raw_seek(&sparse, data, libc::SEEK_HOLE));
    }
    let Ok(empty) = c.open("empty", OFlags::RDWR | OFlags::CREATE) else { return };
    c.raw("SEEK_DATA of nothing", raw_seek(&empty, 0, libc::SEEK_DATA));
    c.raw("SEEK_HOLE of nothing", raw_seek(&empty, 0, libc::SEEK_HOLE));
    c.call("only a hole", rustix::fs::ftruncate(&empty, 1 << 20));
    c.raw("SEEK_DATA of a hole", raw_seek(&empty, 0, libc::SEEK_DATA));
    c.raw("SEEK_HOLE of a hole", raw_seek(&empty, 0, libc::SEEK_HOLE));
}

fn raw_seek(file: &OwnedFd, offset: i64, whence: i32) -> i64 {
    // SAFETY: no memory is involved.
    unsafe { libc::lseek(file.as_raw_fd(), offset, whence) }
}

fn truncating(c: &mut Calls) {
    let path = c.file("t", b"0123456789");
    let size = |c: &mut Calls, what: &str| {
        let found = fs::read(c.path("t"));
        c.gives(what, found);
    };
    let Ok(file) = c.open("t", OFlags::RDWR) else { return };
    c.call("shorter", rustix::fs::ftruncate(&file, 4));
    size(c, "bytes then");
    c.call("longer", rustix::fs::ftruncate(&file, 8));
    size(c, "bytes of the longer");
    // SAFETY: no memory is involved.
    let returned = unsafe { libc::ftruncate(file.as_raw_fd(), -1) };
    c.raw("to -1", returned);
    // SAFETY: no memory is involved.
    let returned = unsafe { libc::ftruncate(file.as_raw_fd(), i64::MAX) };
    c.raw("to the greatest size", returned);
    let by_path = |path: &std::path::Path, size: i64| {
        let path = super::c_path(path);
        // SAFETY: the path ends with NUL.
        unsafe { libc::truncate(path.as_ptr(), size) }
    };
    let returned = by_path(&path, 2);
    c.raw("by path", returned);
    size(c, "bytes by path");
    let returned = by_path(&c.path("none"), 2);
    c.raw("of nothing", returned);
    let returned = by_path(&c.dir.clone(), 2);
    c.raw("of a directory", returned);
    let returned = by_path(&c.path("t/"), 2);
    c.raw("with a slash", returned);
    rustix::fs::mknodat(CWD, c.path("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    let returned = by_path(&c.path("pipe"), 2);
    c.raw("of a pipe", returned);
}

fn allocating(c: &mut Calls) {
    let Ok(file) = c.open("l", OFlags::RDWR | OFlags::CREATE) else { return };
    let keep = FallocateFlags::KEEP_SIZE;
    let punch = FallocateFlags::PUNCH_HOLE;
    let zero = FallocateFlags::ZERO_RANGE;
    let size = |c: &mut Calls, what: &str| {
        let found = c.path("l").metadata().map(|metadata| metadata.len());
        c.gives(&format!("size after {what}"), found);
    };
    let none = FallocateFlags::empty();
    let cases: [(&str, FallocateFlags, u64, u64); 8] = [
        ("a MiB", none, 0, 1 << 20),
        ("keep size", keep, 1 << 20, 1 << 20),
        ("of length 0", none, 0, 0),
        ("punch", punch | keep, 4096, 8192),
        ("punch without keep", punch, 4096, 8192),
        ("zero range", zero, 0, 4096),
        ("zero range behind the end", zero, 2 << 20, 4096),
        ("zero range, keep size", zero | keep, 8 << 20, 4096),
    ];
    for (what, flags, offset, length) in cases {
        c.call(&format!("allocate: {what}"), rustix::fs::fallocate(&file, flags, offset, length));
        size(c, what);
    }
    let raw = |file: &OwnedFd, mode, offset, length| {
        // SAFETY: no memory is involved.
        unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) }
    };
    c.raw("allocate at -1", raw(&file, 0, -1, 10));
    c.raw("allocate -1 bytes", raw(&file, 0, 0, -1));
    c.raw("allocate at the greatest offset", raw(&file, 0, i64::MAX, 10));
    c.raw("allocate with an unknown flag", raw(&file, 0x4000, 0, 10));
    c.gives(
        "zero | punch",
        Err::<(), _>({
            let result = rustix::fs::fallocate(&file, zero | punch | keep, 0, 4096);
            result.err().unwrap_or(rustix::io::Errno::CANCELED)
        }),
    );
    let Ok(reader) = c.open("l", OFlags::RDONLY) else { return };
    c.raw("allocate for a reader", raw(&reader, 0, 0, 10));
    let Ok(directory) = open(&c.dir.clone(), OFlags::RDONLY) else { return };
    c.raw("allocate for a directory", raw(&directory, 0, 0, 10));
    // SAFETY: no memory is involved. It returns the error itself.
    let returned = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, 16 << 20) };
    c.raw("posix_fallocate", returned);
    size(c, "posix_fallocate");
    let blocks = c.path("l").metadata().map(|metadata| metadata.blocks() >= (15 << 20) / 512);
    c.gives("it has its blocks", blocks);
}

fn vectors(c: &mut Calls) {
    c.file("v", b"0123456789");
    let Ok(file) = c.open("v", OFlags::RDWR) else { return };
    let parts = [io::IoSlice::new(b"ab"), io::IoSlice::new(b""), io::IoSlice::new(b"cd")];
    c.gives("writev", rustix::io::writev(&file, &parts));
    c.gives("pwritev", rustix::io::pwritev(&file, &parts, 6));
    c.gives("readv of nothing", rustix::io::readv(&file, &mut []));
    let flagged = |file: &OwnedFd, offset: i64, flags: i32| {
        let part = libc::iovec { iov_base: b"xy".as_ptr().cast_mut().cast(), iov_len: 2 };
        // SAFETY: one part, as long as told; it is only read.
        unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, offset, flags) as i64 }
    };
    c.raw("pwritev2 without flags", flagged(&file, 0, 0));
    c.raw("pwritev2 at the position", flagged(&file, -1, 0));
    c.raw("pwritev2 RWF_APPEND", flagged(&file, 0, libc::RWF_APPEND));
    c.raw("pwritev2 RWF_SYNC", flagged(&file, 2, libc::RWF_SYNC));
    c.raw("pwritev2 RWF_DSYNC", flagged(&file, 2, libc::RWF_DSYNC));
    c.raw("pwritev2 RWF_HIPRI", flagged(&file, 2, libc::RWF_HIPRI));
    c.raw("pwritev2 with an unknown flag", flagged(&file, 2, 0x4000_0000));
    c.raw("pwritev2 at -2", flagged(&file, -2, 0));
    c.gives("all of it in the end", fs::read_to_string(c.path("v")));
    // SAFETY: more parts than allowed are refused unread.
    let returned = unsafe { libc::readv(file.as_raw_fd(), std::ptr::null(), 1025) as i64 };
    c.raw("1025 parts", returned);
}

fn copying(c: &mut Calls) {
    c.file("from", &b"0123456789".repeat(1000));
    let flags = OFlags::RDWR | OFlags::CREATE;
    let (Ok(from), Ok(to)) = (c.open("from", flags), c.open("to", flags)) else { return };
    let (mut start, mut other) = (0, 0);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut start), &to, Some(&mut other), 5000);
    c.gives("copy_file_range", copied);
    c.gives("it moves the offsets", Ok::<_, io::Error>((start, other)));
    let copied = rustix::fs::copy_file_range(&from, None, &to, None, 1 << 20);
    c.gives("by position", copied);
    let (mut start, mut other) = (0, 100);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut start), &from, Some(&mut other), 200);
    c.gives("onto itself, overlapping", copied);
    let (mut start, mut other) = (0, 500);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut start), &from, Some(&mut other), 200);
    c.gives("onto itself", copied);
    let (mut start, mut other) = (1 << 20, 0);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut start), &to, Some(&mut other), 200);
    c.gives("from behind the end", copied);
    let (Ok(reader), Ok(appender)) =
        (c.open("from", OFlags::RDONLY), c.open("to", OFlags::WRONLY | OFlags::APPEND))
    else {
        return;
    };
    c.gives("to a reader", rustix::fs::copy_file_range(&from, None, &reader, None, 10));
    c.gives("to an appender", rustix::fs::copy_file_range(&from, None, &appender, None, 10));
    let Ok(directory) = open(&c.dir.clone(), OFlags::RDONLY) else { return };
    c.gives("from a directory", rustix::fs::copy_file_range(&directory, None, &to, None, 10));
    let sent = rustix::fs::sendfile(&to, &from, Some(&mut 0), 3000);
    c.gives("sendfile", sent);
    let mut pipe = [0; 2];
    // SAFETY: two descriptors are written.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0, "a pipe");
    let mut at = 10_i64;
    // SAFETY: the offset lives as long as the call.
    let returned = unsafe {
        let none = std::ptr::null_mut();
        libc::splice(from.as_raw_fd(), &raw mut at, pipe[1], none, 4000, 0) as i64
    };
    c.raw("splice to a pipe", returned);
    // SAFETY: as above.
    let returned = unsafe {
        let none = std::ptr::null_mut();
        libc::splice(pipe[0], none, to.as_raw_fd(), &raw mut at, 4000, 0) as i64
    };
    c.raw("splice from a pipe", returned);
    // SAFETY: both are open and used no more.
    unsafe {
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
    let sums = ["from", "to"].map(|name| {
        let bytes = fs::read(c.path(name)).expect("readable");
        (bytes.len(), bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>())
    });
    c.gives("lengths and sums", Ok::<_, io::Error>(sums));
}

fn times(c: &mut Calls) {
    c.file("m", b"0123456789");
    let at = |offset: u64| {
        move |path: &std::path::Path| rustix::io::pwrite(&open(path, OFlags::WRONLY)?, b"x", offset)
    };
    c.times("times: write", "m", at(0));
    c.times("times: write behind the end", "m", at(100));
    c.times("times: write of nothing", "m", |path| {
        rustix::io::write(&open(path, OFlags::WRONLY)?, b"")
    });
    c.times("times: read", "m", |path| fs::read(path));
    let cut = |size: u64| {
        move |path: &std::path::Path| rustix::fs::ftruncate(&open(path, OFlags::WRONLY)?, size)
    };
    c.times("times: ftruncate to less", "m", cut(50));
    c.times("times: ftruncate to the same", "m", cut(50));
    c.times("times: ftruncate to more", "m", cut(60));
    let by_path = |size: i64| {
        move |path: &std::path::Path| {
            let path = super::c_path(path);
            // SAFETY: the path ends with NUL.
            match unsafe { libc::truncate(path.as_ptr(), size) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    };
    c.times("times: truncate to less", "m", by_path(40));
    c.times("times: truncate to the same", "m", by_path(40));
    c.times("times: truncate to more", "m", by_path(44));
    let allocate = |flags, offset: u64| {
        move |path: &std::path::Path| {
            rustix::fs::fallocate(open(path, OFlags::WRONLY)?, flags, offset, 4096)
        }
    };
    c.times("times: allocate", "m", allocate(FallocateFlags::empty(), 1 << 16));
    c.times("times: allocate, keep size", "m", allocate(FallocateFlags::KEEP_SIZE, 1 << 20));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    c.times("times: punch", "m", allocate(punch, 0));
    c.times("times: zero range", "m", allocate(FallocateFlags::ZERO_RANGE, 0));
    c.times("times: fsync", "m", |path| rustix::fs::fsync(open(path, OFlags::WRONLY)?));
    c.file("source", b"0123456789");
    let source = c.path("source");
    c.times("times: copy_file_range", "m", |path| {
        let from = open(&source, OFlags::RDONLY)?;
        rustix::fs::copy_file_range(&from, None, open(path, OFlags::WRONLY)?, None, 10)
    });
}

fn advice(c: &mut Calls) {
    c.file("adv", &[7; 8192]);
    let Ok(file) = c.open("adv", OFlags::RDWR) else { return };
    for advice in 0..7 {
        // SAFETY: no memory is involved. It returns the error itself.
        let returned = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
        c.raw(&format!("fadvise {advice}"), returned);
    }
    // SAFETY: no memory is involved.
    let returned = unsafe { libc::readahead(file.as_raw_fd(), 0, 8192) as i64 };
    c.raw("readahead", returned);
    for flags in [1, 2, 4, 7, 8] {
        // SAFETY: no memory is involved.
        let returned = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 4096, flags) };
        c.raw(&format!("sync_file_range {flags}"), returned);
    }
    c.call("fsync", rustix::fs::fsync(&file));
    c.call("fdatasync", rustix::fs::fdatasync(&file));
    let Ok(reader) = c.open("adv", OFlags::RDONLY) else { return };
    c.call("fsync of a reader", rustix::fs::fsync(&reader));
}

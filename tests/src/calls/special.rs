//! Pipes, sockets, programs, events, handles, ioctl and fcntl.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::{Calls, c_path};

pub fn run(c: &mut Calls) {
    nodes(c);
    pipes(c);
    sockets(c);
    programs(c);
    events(c);
    handles(c);
    controls(c);
}

fn nodes(c: &mut Calls) {
    let kinds = [
        ("a regular file", "n1", FileType::RegularFile),
        ("a pipe", "n2", FileType::Fifo),
        ("a socket", "n3", FileType::Socket),
        ("a character device", "n4", FileType::CharacterDevice),
        ("a block device", "n5", FileType::BlockDevice),
        ("a directory", "n6", FileType::Directory),
        ("a link", "n7", FileType::Symlink),
        ("over a name", "n1", FileType::Fifo),
        ("in nothing", "none/n", FileType::Fifo),
        ("with a slash", "n8/", FileType::Fifo),
    ];
    for (what, name, kind) in kinds {
        let made = rustix::fs::mknodat(CWD, c.path(name), kind, Mode::from_raw_mode(0o7777), 0x103);
        c.call(&format!("mknod {what}"), made);
        let found = c.path(name).symlink_metadata();
        let found = found.map(|found| format!("{:o}", found.permissions().mode()));
        c.gives(&format!("mode of {what}"), found);
    }
    // Character device 1:3 is /dev/null.
    let written = fs::OpenOptions::new().write(true).open(c.path("n4"));
    c.gives("a device works", written.and_then(|mut file| file.write(b"x")));
    let opened = c.open("n3", OFlags::RDWR);
    c.call("open of a socket", opened);
    let seek = c
        .open("n2", OFlags::RDWR | OFlags::NONBLOCK)
        .and_then(|pipe| rustix::fs::seek(&pipe, rustix::fs::SeekFrom::Start(0)));
    c.gives("seek in a pipe", seek);
}

fn pipes(c: &mut Calls) {
    let opened = c.open("n2", OFlags::WRONLY | OFlags::NONBLOCK);
    c.call("a pipe to write without a reader", opened);
    let reader = c.open("n2", OFlags::RDONLY | OFlags::NONBLOCK);
    let Some(reader) = c.call("a pipe to read", reader) else { return };
    let writer = c.open("n2", OFlags::WRONLY);
    let Some(writer) = c.call("a pipe to write", writer) else { return };
    c.gives("write to a pipe", rustix::io::write(&writer, b"through"));
    let mut bytes = [0; 7];
    c.gives("read from a pipe", rustix::io::read(&reader, &mut bytes).map(|_| bytes));
    c.gives("read from an empty pipe", rustix::io::read(&reader, &mut bytes));
    drop(writer);
    c.gives("read from a pipe without a writer", rustix::io::read(&reader, &mut bytes));
    c.gives("size of a pipe", rustix::fs::fstat(&reader).map(|stat| stat.st_size));
}

fn sockets(c: &mut Calls) {
    // A socket's path is at most 107 bytes.
    let Ok(dir) = c.open(".", OFlags::PATH) else { return };
    let at = |name: &str| format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let Some(listener) = c.call("bind", UnixListener::bind(at("sock"))) else { return };
    c.call("bind again", UnixListener::bind(at("sock")));
    let kind = c.path("sock").symlink_metadata().map(|found| format!("{:?}", found.file_type()));
    c.gives("a socket's kind", kind.map(|kind| kind.contains("socket")));
    let connected = UnixStream::connect(at("sock"));
    if let Some(mut stream) = c.call("connect", connected) {
        c.gives("send", stream.write(b"hello"));
        drop(stream);
        let received = listener.accept().and_then(|(mut stream, _)| {
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        c.gives("receive", received);
    }
    fs::rename(c.path("sock"), c.path("sock2")).expect("a socket's name moves");
    c.call("connect to its new name", UnixStream::connect(at("sock2")));
    drop(listener);
    c.call("connect to nobody", UnixStream::connect(at("sock2")));
    c.call("unlink of a socket", fs::remove_file(c.path("sock2")));
    c.call("bind a datagram socket", UnixDatagram::bind(at("datagram")));
}

fn programs(c: &mut Calls) {
    let script = c.file("script", b"#!/bin/sh\necho script $1\n");
    c.call("a program without the right", Command::new(&script).output());
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("root may");
    let run = Command::new(&script).arg("ran").output();
    c.gives("a script", run.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()));
    let program = c.path("program");
    fs::copy("/bin/sleep", &program).expect("a program to copy");
    let Some(mut child) = c.call("a program", Command::new(&program).arg("60").spawn()) else {
        return;
    };
    // Running once it is no copy of this process any more.
    let exe = format!("/proc/{}/exe", child.id());
    while fs::read_link(&exe).is_ok_and(|path| path != program) {
        std::thread::yield_now();
    }
    let opened = c.open("program", OFlags::WRONLY);
    c.call("write to a program that runs", opened);
    c.call("unlink of a program that runs", fs::remove_file(&program));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    fs::copy("/bin/true", &program).expect("a program to copy");
    let Ok(writer) = c.open("program", OFlags::WRONLY) else { return };
    c.call("a program that is written to", Command::new(&program).output());
    drop(writer);
    let ended = Command::new(&program).status();
    c.gives("and afterwards", ended.map(|status| status.code()));
}

fn events(c: &mut Calls) {
    fs::create_dir(c.path("watched")).expect("a directory");
    let watcher = inotify::init(CreateFlags::NONBLOCK).expect("inotify");
    let added = inotify::add_watch(&watcher, c.path("watched"), WatchFlags::ALL_EVENTS);
    c.call("a watch", added);
    let file = c.path("watched/f");
    fs::write(&file, b"x").expect("a file");
    fs::read(&file).expect("readable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("root may");
    fs::rename(&file, c.path("watched/g")).expect("moves");
    fs::create_dir(c.path("watched/d")).expect("a directory");
    fs::remove_dir(c.path("watched/d")).expect("goes");
    fs::hard_link(c.path("watched/g"), c.path("watched/h")).expect("a link");
    fs::remove_file(c.path("watched/g")).expect("goes");
    fs::remove_file(c.path("watched/h")).expect("goes");
    fs::remove_dir(c.path("watched")).expect("goes");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
    let mut reader = inotify::Reader::new(&watcher, &mut buffer);
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
        let what: ReadFlags = event.events();
        c.note("event", &format!("{what:?} {}", name.unwrap_or_default()));
    }
}

/// name_to_handle_at and open_by_handle_at.
fn handles(c: &mut Calls) {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        handle: [u8; 128],
    }
    let path = c_path(&c.file("handled", b"by handle"));
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0;
    let returned = {
        let handle = (&raw mut handle).cast();
        // SAFETY: the handle has the room that it says.
        unsafe { libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), handle, &raw mut mount, 0) }
    };
    c.raw("name_to_handle_at", returned);
    let Ok(dir) = c.open(".", OFlags::RDONLY) else { return };
    let opened = {
        let handle = (&raw mut handle).cast();
        // SAFETY: the handle is one that the kernel made.
        unsafe { libc::open_by_handle_at(dir.as_raw_fd(), handle, libc::O_RDONLY) }
    };
    let answer =
        if opened >= 0 { "ok".to_owned() } else { std::io::Error::last_os_error().to_string() };
    c.note("open_by_handle_at", &answer);
    if opened >= 0 {
        // SAFETY: just opened; nobody else has it.
        let file: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(opened) };
        let mut bytes = [0; 9];
        c.gives("read by handle", rustix::io::read(&file, &mut bytes).map(|_| bytes));
    }
}

fn controls(c: &mut Calls) {
    c.file("ctl", &[1; 5000]);
    let Ok(file) = c.open("ctl", OFlags::RDWR) else { return };
    let mut number: libc::c_int = 0;
    // SAFETY: each request writes one int.
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD, &raw mut number) };
    c.raw("FIONREAD", returned);
    c.note("bytes to read", &number.to_string());
    // SAFETY: as above; FIGETBSZ is _IO(0, 2).
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), 2, &raw mut number) };
    c.raw("FIGETBSZ", returned);
    c.note("size of a block", &number.to_string());
    let mut room = [0_u8; 256];
    // SAFETY: it writes less than 256 bytes.
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), libc::TCGETS, room.as_mut_ptr()) };
    c.raw("TCGETS", returned);
    // SAFETY: no such request: nothing is touched.
    let returned = unsafe { libc::ioctl(file.as_raw_fd(), 0x7777, room.as_mut_ptr()) };
    c.raw("an unknown request", returned);
    let Ok(other) = c.open("ctl2", OFlags::RDWR | OFlags::CREATE) else { return };
    c.raw("FICLONE", {
        // SAFETY: the argument is a descriptor.
        unsafe { libc::ioctl(other.as_raw_fd(), libc::FICLONE, file.as_raw_fd()) }
    });
    let fcntl = |file: &OwnedFd, command, argument: libc::c_int| {
        // SAFETY: none of the commands takes a pointer.
        unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }
    };
    c.raw("F_GETLEASE", fcntl(&file, libc::F_GETLEASE, 0));
    c.raw("F_SETPIPE_SZ", fcntl(&file, libc::F_SETPIPE_SZ, 4096));
    c.raw("F_GET_SEALS", fcntl(&file, libc::F_GET_SEALS, 0));
    c.raw("F_ADD_SEALS", fcntl(&file, libc::F_ADD_SEALS, 1));
    c.raw("an unknown command", fcntl(&file, 9999, 0));
    let Ok(dir) = c.open(".", OFlags::RDONLY) else { return };
    c.raw("F_NOTIFY of a file", fcntl(&file, libc::F_NOTIFY, 1));
    c.raw("F_NOTIFY of a directory", fcntl(&dir, libc::F_NOTIFY, 1));
    let path = c_path(&c.path("ctl"));
    // SAFETY: the paths end with NUL.
    c.raw("swapon of a file that is none", unsafe { libc::swapon(path.as_ptr(), 0) });
    c.raw("chroot to a file", {
        // SAFETY: as above; it is refused.
        unsafe { libc::chroot(path.as_ptr()) }
    });
    let mut poll =
        libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: one entry.
    c.raw("poll", unsafe { libc::poll(&raw mut poll, 1, 0) });
    c.note("what can be done", &poll.revents.to_string());
    // SAFETY: no memory is involved.
    let epoll = unsafe { libc::epoll_create1(0) };
    let mut event = libc::epoll_event { events: 1, u64: 0 };
    c.raw("epoll of a file", {
        // SAFETY: the event lives as long as the call.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, file.as_raw_fd(), &raw mut event) }
    });
    // SAFETY: nobody else has it.
    unsafe { libc::close(epoll) };
}

//! A few hundred calls and what they answer, line by line: run on two filesystems, the lines
//! of which differ only where an application could tell the two apart.
//!
//! What is called comes from the manual pages; what must be answered is what the local
//! filesystem answers on the same machine in the same run.

mod attributes;
mod content;
mod directories;
mod links;
mod mapping;
mod opening;
mod removed;
mod renames;
mod special;
mod users;
mod xattrs;

use std::ffi::CString;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};

/// Every family of calls, each in a directory of its own.
const FAMILIES: [(&str, fn(&mut Calls)); 11] = [
    ("opening", opening::run),
    ("content", content::run),
    ("mapping", mapping::run),
    ("directories", directories::run),
    ("links", links::run),
    ("renames", renames::run),
    ("attributes", attributes::run),
    ("xattrs", xattrs::run),
    ("removed", removed::run),
    ("special", special::run),
    ("users", users::run),
];

/// Makes all the calls below the existing directory `root`, as root, and returns a line for
/// each. Changes the process's umask.
///
/// # Panics
/// Where what a family needs to begin with can't be made.
pub fn transcript(root: &Path) -> Vec<String> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let mut lines = Vec::new();
    for (family, run) in FAMILIES {
        let dir = root.join(family);
        fs::create_dir(&dir).expect("a directory for the family");
        // A thread for each: some change their user, which is a thread's own.
        let mut calls = Calls { dir, family, lines: Vec::new() };
        let told = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                run(&mut calls);
                calls.lines
            });
            thread.join().expect("a family of calls does not panic")
        });
        lines.extend(told);
    }
    lines
}

/// One family's directory and its lines so far.
struct Calls {
    dir: PathBuf,
    family: &'static str,
    lines: Vec<String>,
}

impl Calls {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Notes how a call ended, and hands its result on.
    fn call<T, E: Into<io::Error>>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => {
                self.note(what, "ok");
                Some(value)
            }
            Err(error) => {
                self.note(what, &error.into().to_string());
                None
            }
        }
    }

    /// Notes a call that must say what it returned.
    fn gives<T: Debug, E: Into<io::Error>>(&mut self, what: &str, result: Result<T, E>) {
        match result {
            Ok(value) => self.note(what, &format!("{value:?}")),
            Err(error) => self.note(what, &error.into().to_string()),
        }
    }

    /// Notes what a raw call of libc returned.
    fn raw(&mut self, what: &str, returned: impl Into<i64>) -> i64 {
        let returned = returned.into();
        match returned {
            -1 => self.note(what, &io::Error::last_os_error().to_string()),
            _ => self.note(what, &returned.to_string()),
        }
        returned
    }

    fn note(&mut self, what: &str, answer: &str) {
        self.lines.push(format!("{}: {what}: {answer}", self.family));
    }

    /// A file with some bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file to begin with");
        path
    }

    fn open(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open(&self.path(name), flags)
    }

    /// Notes which times of `name` a call moved on, with the call's own result. The times are
    /// long ago before it.
    fn times<T, E: Into<io::Error>>(
        &mut self,
        what: &str,
        name: &str,
        change: impl FnOnce(&Path) -> Result<T, E>,
    ) {
        let path = self.path(name);
        set_old(&path);
        let before = path.symlink_metadata().expect("the file is there");
        wait_for_tick(before.ctime(), before.ctime_nsec(), &self.dir);
        let result = change(&path);
        let moved = match path.symlink_metadata() {
            Ok(after) => {
                let mtime = (before.mtime(), before.mtime_nsec());
                let ctime = (before.ctime(), before.ctime_nsec());
                let m = if (after.mtime(), after.mtime_nsec()) > mtime { "mtime" } else { "-" };
                let c = if (after.ctime(), after.ctime_nsec()) > ctime { "ctime" } else { "-" };
                format!("{m} {c}")
            }
            Err(error) => error.to_string(),
        };
        match result {
            Ok(_) => self.note(what, &moved),
            Err(error) => {
                let error = error.into();
                self.note(what, &format!("{error}; {moved}"));
            }
        }
    }
}

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o666))
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

/// Sets atime and mtime to the morning of 2001.
fn set_old(path: &Path) {
    let old = Timespec { tv_sec: 978_307_200, tv_nsec: 0 };
    let times = Timestamps { last_access: old, last_modification: old };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times can be set");
}

/// Waits until a change would get a later time than that; filesystems take the time of the
/// last tick.
fn wait_for_tick(seconds: i64, nanoseconds: i64, dir: &Path) {
    let probe = dir.join(".tick");
    loop {
        fs::write(&probe, b"x").expect("a probe");
        let now = probe.metadata().expect("the probe is there");
        let later = (now.ctime(), now.ctime_nsec()) > (seconds, nanoseconds);
        fs::remove_file(&probe).expect("the probe goes");
        if later {
            return;
        }
    }
}

/// Becomes another user, on this thread only: libc's own calls would change all of them.
fn become_user(user: u32, group: u32, groups: &[u32]) {
    // SAFETY: the pointers are valid for the lengths beside them; the calls change only
    // credentials.
    unsafe {
        let none: libc::c_long = -1;
        assert_eq!(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), 0);
        assert_eq!(libc::syscall(libc::SYS_setresgid, none, libc::c_long::from(group), none), 0);
        assert_eq!(libc::syscall(libc::SYS_setresuid, none, libc::c_long::from(user), none), 0);
    }
}

/// Root again.
fn become_root() {
    // SAFETY: as above.
    unsafe {
        let none: libc::c_long = -1;
        assert_eq!(libc::syscall(libc::SYS_setresuid, none, 0 as libc::c_long, none), 0);
        assert_eq!(libc::syscall(libc::SYS_setresgid, none, 0 as libc::c_long, none), 0);
        let nobody: [u32; 0] = [];
        assert_eq!(libc::syscall(libc::SYS_setgroups, 0, nobody.as_ptr()), 0);
    }
}

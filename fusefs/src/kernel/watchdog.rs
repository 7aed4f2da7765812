//! Frees a mount whose daemon was killed.
//!
//! A killed daemon's requests are aborted when its last descriptor of /dev/fuse is closed. But
//! one of its threads can be waiting in the kernel, uninterruptibly, for the lock of a
//! directory (a notification, see [`super::invalidate`]) that a request of some program holds,
//! and that request waits for the daemon. Then neither ends, ever: the daemon is not quite
//! dead, keeps the lock of its store, and nobody can start the next one. Only an abort from
//! outside helps.
//!
//! So each mount has a small process beside the daemon that sleeps until the kernel tells it
//! that the daemon's thread is gone (`PR_SET_PDEATHSIG`), and then aborts the connection.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::device;

/// The process beside the daemon; it ends with this.
pub struct Watchdog {
    process: OwnedFd,
}

/// How a program starts [`watch`] in a process of its own.
static COMMAND: OnceLock<Vec<OsString>> = OnceLock::new();

/// Mounts get watchdogs from now on: `command` is the program and its first arguments, which
/// calls [`watch`] with the two that follow.
pub fn enable(command: Vec<OsString>) {
    // The same again, if a process serves twice.
    let _ = COMMAND.set(command);
}

impl Watchdog {
    /// Starts one for the mount at `path`; `None` where they are not enabled.
    ///
    /// # Errors
    /// Those of starting a process.
    pub fn start(path: &Path) -> io::Result<Option<Watchdog>> {
        let Some(words) = COMMAND.get() else { return Ok(None) };
        let connection = device::connection_at(path)
            .ok_or_else(|| io::Error::other("the mount is not in the kernel's list"))?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(connection.to_string()).arg(path);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        let daemon = rustix::process::getpid();
        // SAFETY: only system calls between fork and exec, nothing that takes a lock.
        unsafe { command.pre_exec(move || bind_to_parent(daemon)) };
        // The signal comes with the end of the thread that forked, so that thread must last
        // as long as the process.
        let (started, outcome) = mpsc::channel();
        std::thread::Builder::new().name("fuse-watchdog".to_owned()).spawn(move || {
            let spawned = command.spawn().and_then(|child| {
                let pid = Pid::from_child(&child);
                Ok((child, pidfd_open(pid, PidfdFlags::empty())?))
            });
            match spawned {
                Ok((mut child, process)) => {
                    let _ = started.send(Ok(process));
                    let _ = child.wait();
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        let outcome = outcome.recv().map_err(io::Error::other)?;
        outcome.map(|process| Some(Watchdog { process }))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

/// In the new process: the kernel sends it [`ORPHANED`] when its parent is gone.
fn bind_to_parent(parent: Pid) -> io::Result<()> {
    // SAFETY: plain system calls with constant arguments and a local signal set.
    unsafe {
        // What ends a daemon in order (a service manager tells all processes) is not for it.
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        if libc::prctl(libc::PR_SET_PDEATHSIG, ORPHANED) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        // It died before the line above; its mount is served by nobody yet.
        Err(io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// The watchdog's own work: waits for the end of the process that started this one, then
/// aborts the connection with this number, of the mount at `path`.
///
/// # Errors
/// Why the kernel refused.
pub fn watch(connection: u32, path: &Path) -> io::Result<()> {
    // SAFETY: a local signal set; the signal is blocked since before the exec.
    unsafe {
        let mut orphaned = std::mem::zeroed();
        libc::sigemptyset(&raw mut orphaned);
        libc::sigaddset(&raw mut orphaned, ORPHANED);
        let mut signal = 0;
        if libc::sigwait(&raw const orphaned, &raw mut signal) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let file = PathBuf::from(format!("/sys/fs/fuse/connections/{connection}/abort"));
    match std::fs::write(&file, "1") {
        // Its daemon was quite dead, and the mount is gone.
        Err(_) if device::connection_at(path) != Some(connection) => Ok(()),
        // No such file system, or read-only (containers): root can do without.
        Err(_) if rustix::process::geteuid().is_root() => {
            use rustix::mount::{UnmountFlags, unmount};
            match unmount(path, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
                // Aborted all the same, only not unmounted.
                Err(rustix::io::Errno::BUSY) | Ok(()) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        other => other,
    }
}

/// Not among those that others send.
const ORPHANED: libc::c_int = libc::SIGUSR1;

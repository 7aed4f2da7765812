//! A process that locks a file as it is told on its standard input, and says what came of it.
//!
//! `locker PATH` says `open` when it has opened the file. Then one command a line: `posix|ofd|flock s|x|u [START LEN] [wait]`,
//! `get|ofd-get s|x START LEN`, `reopen` (opens the file again and closes that),
//! `close` (what it has open), `append TEXT`, `put TEXT` (instead of what is there), `read`,
//! `size`. SIGUSR1 is caught and ends a wait.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};

fn main() -> io::Result<()> {
    let path = std::env::args_os().nth(1).expect("the file's path");
    catch_signals();
    let mut open = File::options();
    let open = open.read(true).append(true).create(true);
    let mut file = Some(open.open(&path)?);
    println!("open");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match (words.as_slice(), &mut file) {
            (["close"], _) => {
                file = None;
                Ok("ok".to_owned())
            }
            (["reopen"], _) => File::open(&path).map(|_| "ok".to_owned()),
            (words, Some(file)) => run(file, words),
            _ => panic!("the file is closed: {line}"),
        };
        let answer = answer.unwrap_or_else(|error| name(&error));
        println!("{answer}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn run(file: &mut File, words: &[&str]) -> io::Result<String> {
    let fd = file.as_raw_fd();
    match words {
        ["flock", mode, wait @ ..] => {
            let how = match *mode {
                "s" => libc::LOCK_SH,
                "x" => libc::LOCK_EX,
                _ => libc::LOCK_UN,
            };
            let how = if wait.is_empty() { how | libc::LOCK_NB } else { how };
            // SAFETY: a system call on an open descriptor, with numbers.
            done(unsafe { libc::flock(fd, how) })
        }
        ["posix", mode, start, len, wait @ ..] => {
            let command = if wait.is_empty() { libc::F_SETLK } else { libc::F_SETLKW };
            fcntl(fd, command, &mut range(mode, start, len))
        }
        ["ofd", mode, start, len, wait @ ..] => {
            let command = if wait.is_empty() { F_OFD_SETLK } else { F_OFD_SETLKW };
            fcntl(fd, command, &mut range(mode, start, len))
        }
        ["get", mode, start, len] => get(fd, libc::F_GETLK, range(mode, start, len)),
        ["ofd-get", mode, start, len] => get(fd, F_OFD_GETLK, range(mode, start, len)),
        ["append", text] => file.write_all(text.as_bytes()).map(|()| "ok".to_owned()),
        ["put", text @ ..] => {
            file.set_len(0)?;
            file.write_all(text.concat().as_bytes()).map(|()| "ok".to_owned())
        }
        ["read"] => {
            let mut text = String::new();
            file.seek(SeekFrom::Start(0))?;
            file.read_to_string(&mut text).map(|_| text)
        }
        ["size"] => Ok(file.metadata()?.len().to_string()),
        other => panic!("no command {other:?}"),
    }
}

fn range(mode: &str, start: &str, len: &str) -> libc::flock {
    // SAFETY: all zeros is a lock request of nothing, and every field that counts is set.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = match mode {
        "s" => libc::F_RDLCK,
        "x" => libc::F_WRLCK,
        _ => libc::F_UNLCK,
    } as i16;
    range.l_whence = libc::SEEK_SET as i16;
    range.l_start = start.parse().expect("a number");
    range.l_len = len.parse().expect("a number");
    range
}

fn fcntl(fd: RawFd, command: i32, range: &mut libc::flock) -> io::Result<String> {
    // SAFETY: the structure is valid for the call and the descriptor open.
    done(unsafe { libc::fcntl(fd, command, std::ptr::from_mut(range)) })
}

fn get(fd: RawFd, command: i32, mut range: libc::flock) -> io::Result<String> {
    fcntl(fd, command, &mut range)?;
    Ok(match i32::from(range.l_type) {
        libc::F_UNLCK => "free".to_owned(),
        mode => {
            let mode = if mode == libc::F_RDLCK { "s" } else { "x" };
            format!("{mode} {} {} {}", range.l_start, range.l_len, range.l_pid)
        }
    })
}

fn done(result: i32) -> io::Result<String> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok("ok".to_owned()) }
}

fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => "EAGAIN".to_owned(),
        Some(libc::EDEADLK) => "EDEADLK".to_owned(),
        Some(libc::EINTR) => "EINTR".to_owned(),
        Some(libc::ENOLCK) => "ENOLCK".to_owned(),
        _ => error.to_string(),
    }
}

/// Without SA_RESTART, so that waits end.
fn catch_signals() {
    extern "C" fn caught(_: i32) {}
    // SAFETY: the handler does nothing, and the action is set up whole.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = caught as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
    }
}

/// uapi/asm-generic/fcntl.h.
const F_OFD_GETLK: i32 = 36;
const F_OFD_SETLK: i32 = 37;
const F_OFD_SETLKW: i32 = 38;

//! Starts a daemon that outlives this program, and waits until it says that it is ready.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};

use crate::admin::control::ControlError;
use crate::admin::socket;

/// How much of a dead daemon's log goes into the error message.
const LOG_TAIL_BYTES: u64 = 2048;

/// A daemon to start: this same program with other arguments.
#[derive(Clone, Debug)]
pub struct Daemon {
    pub arguments: Vec<String>,
    /// Its output is appended here.
    pub log: PathBuf,
}

impl Daemon {
    /// Starts it in a session of its own and returns its process id once it has said
    /// `READY=1`.
    ///
    /// # Errors
    /// `Failed` with the end of its log if it ends before, `Timeout` if it is not ready within
    /// `patience`; it is killed then.
    pub async fn start(&self, patience: Duration) -> Result<u32, ControlError> {
        let ready = ReadySocket::bind().map_err(|error| {
            ControlError::failed(format!("cannot make a socket for the daemon's answer: {error}"))
                .hint("is /tmp or the runtime directory writable?")
        })?;
        let mut child = self.spawn(&ready.path).map_err(|error| {
            ControlError::failed(format!("cannot start the daemon: {error}"))
                .hint(format!("is {} writable?", self.log.display()))
        })?;
        let pid = child.id().expect("the child was not waited for yet");
        tokio::select! {
            outcome = ready.wait() => match outcome {
                Ok(()) => Ok(pid),
                Err(error) => Err(ControlError::failed(format!("no word from the daemon: {error}"))),
            },
            status = child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                Err(ControlError::failed(format!("the daemon ended at once ({status})"))
                    .hint(format!("its log, {}, ends with:\n{}", self.log.display(), tail(&self.log))))
            }
            () = tokio::time::sleep(patience) => {
                // Not ready, but maybe holding the store: it must not stay behind unknown.
                let _ = child.kill().await;
                Err(ControlError::timeout(format!("the daemon was not ready within {} s", patience.as_secs()))
                    .hint(format!("its log, {}, ends with:\n{}", self.log.display(), tail(&self.log))))
            }
        }
    }

    fn spawn(&self, ready: &Path) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(&self.arguments)
            .env("NOTIFY_SOCKET", ready)
            .env_remove("JOURNAL_STREAM")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: setsid is async-signal-safe, and the closure does nothing else.
        unsafe {
            command.pre_exec(|| {
                // A session of its own, so that a Ctrl-C at the terminal is not for it.
                rustix::process::setsid()?;
                Ok(())
            });
        }
        command.spawn()
    }
}

/// The receiving end of the service manager protocol, see sd_notify(3).
struct ReadySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ReadySocket {
    fn bind() -> io::Result<ReadySocket> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let directory = socket::make_registry()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("ready-{}-{count}", std::process::id()));
        let socket = UnixDatagram::bind(&path)?;
        Ok(ReadySocket { socket, path })
    }

    async fn wait(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let message = String::from_utf8_lossy(&buffer[..length]);
            if message.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
        }
    }
}

impl Drop for ReadySocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The last lines of a log file; empty if it cannot be read.
pub fn tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let whole_lines = match text.split_once('\n') {
            Some((_, rest)) if length > LOG_TAIL_BYTES => rest.to_owned(),
            _ => text,
        };
        Ok(whole_lines.trim_end().to_owned())
    };
    read().unwrap_or_default()
}

/// Whether the process `pid` is alive and was started with all of `words` among its
/// arguments: a pid file outlives its process, and the number gets another one.
pub fn runs_with(pid: u32, words: &[&str]) -> bool {
    let Ok(bytes) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let arguments: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    // A zombie's command line is empty.
    words.iter().all(|word| arguments.contains(&word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_long_log_begins_at_a_line() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("log");
        let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(&path, lines).expect("a log");
        let tail = tail(&path);
        assert!(tail.starts_with("line "), "{tail}");
        assert!(tail.ends_with("line 999"));
    }

    #[test]
    fn a_process_is_known_by_its_arguments() {
        let first = std::env::args().next().expect("a program name");
        assert!(runs_with(std::process::id(), &[&first]));
        assert!(!runs_with(std::process::id(), &["no such argument"]));
    }
}

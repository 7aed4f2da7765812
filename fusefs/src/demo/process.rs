//! The demo's processes: started detached, found again by their pid files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::plan::{Plan, loopback};
use crate::admin::client::Client;
use crate::admin::control::ControlError;
use crate::config::STORE_FILE;
use crate::detach::{self, Daemon};

/// A start recovers the store, mounts, and reads what it missed.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Quick answers only: used where a daemon may hang or be dead.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// A process of the demo: a zone's daemon or the relay.
#[derive(Clone, Debug)]
pub struct Process {
    pub name: String,
    pid_file: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    /// Words of its command line that no other process has together.
    marks: Vec<String>,
}

impl Process {
    /// The daemon of the node `zone`.
    pub fn of_zone(plan: &Plan, zone: &str) -> Process {
        let store = text(&plan.store(zone));
        let mut arguments = vec!["serve".to_owned()];
        arguments.extend(["--config".to_owned(), text(&plan.store(zone).join(STORE_FILE))]);
        arguments.extend(["--store".to_owned(), store.clone()]);
        if plan.zones.iter().any(|node| node.name == zone && !node.witness) {
            arguments.extend(["--mount".to_owned(), text(&plan.mount(zone))]);
        }
        arguments.extend(["--source".to_owned(), format!("fusion-demo-{zone}")]);
        for link in plan.links.iter().filter(|link| link.from == zone) {
            let port = plan.relay_port_of(&link.from, &link.to);
            let relay = loopback(port.expect("every link belongs to a pair"));
            arguments.extend(["--override".to_owned(), format!("{}={relay}", link.to)]);
        }
        Process {
            name: zone.to_owned(),
            pid_file: plan.pid_file(zone),
            log: plan.log(zone),
            marks: vec!["serve".to_owned(), store],
            arguments,
        }
    }

    /// The relay between the zones.
    pub fn relay(plan: &Plan) -> Process {
        let config = text(&plan.relay_config());
        let socket = text(&plan.relay_socket());
        let words = ["wan", "--config", &config, "--control", &socket];
        Process {
            name: "wan".to_owned(),
            pid_file: plan.pid_file("wan"),
            log: plan.log("wan"),
            arguments: words.map(str::to_owned).to_vec(),
            marks: vec!["wan".to_owned(), config.clone()],
        }
    }

    /// Its process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()?;
        let marks: Vec<&str> = self.marks.iter().map(String::as_str).collect();
        detach::runs_with(pid, &marks).then_some(pid)
    }

    /// Starts it unless it runs; returns whether it was started.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn start(&self) -> Result<bool, ControlError> {
        if self.pid().is_some() {
            return Ok(false);
        }
        let daemon = Daemon { arguments: self.arguments.clone(), log: self.log.clone() };
        let pid = daemon.start(START_PATIENCE).await.map_err(|error| ControlError {
            message: format!("{}: {}", self.name, error.message),
            ..error
        })?;
        std::fs::write(&self.pid_file, format!("{pid}\n")).map_err(|error| {
            ControlError::failed(format!("{} cannot be written: {error}", self.pid_file.display()))
        })?;
        Ok(true)
    }

    /// Asks it to end and waits; kills it when it does not within `patience`. Returns whether
    /// it ended by itself.
    ///
    /// # Errors
    /// `Failed` if it may not be signalled.
    pub async fn stop(&self, patience: Duration) -> Result<bool, ControlError> {
        if self.signal_and_wait(Signal::TERM, patience).await? {
            return Ok(true);
        }
        self.kill().await?;
        Ok(false)
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// `Failed` if it may not be signalled.
    pub async fn kill(&self) -> Result<(), ControlError> {
        self.signal_and_wait(Signal::KILL, START_PATIENCE).await.map(drop)
    }

    /// Whether it is gone in time.
    async fn signal_and_wait(
        &self,
        signal: Signal,
        patience: Duration,
    ) -> Result<bool, ControlError> {
        let Some(pid) = self.pid() else { return Ok(true) };
        let name = self.name.clone();
        let wait =
            tokio::task::spawn_blocking(move || signal_and_wait(pid, signal, patience)).await;
        let gone = wait.expect("the waiting thread does not panic").map_err(|error| {
            ControlError::failed(format!("{name} (process {pid}) cannot be ended: {error}"))
                .hint("run this as the user who started the demo")
        })?;
        if gone {
            let _ = std::fs::remove_file(&self.pid_file);
        }
        Ok(gone)
    }
}

fn signal_and_wait(pid: u32, signal: Signal, patience: Duration) -> io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // A descriptor of the process: it cannot come to mean another one, and it can be waited for.
    let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other?,
    };
    match rustix::process::pidfd_send_signal(&process, signal) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        other => other?,
    }
    let patience = rustix::time::Timespec::try_from(patience)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut waited = [PollFd::new(&process, PollFlags::IN)];
    Ok(rustix::event::poll(&mut waited, Some(&patience))? == 1)
}

/// The client of a zone's daemon, for quick questions.
pub fn client(plan: &Plan, zone: &str) -> Client {
    Client::new(plan.socket(zone), ANSWER_PATIENCE)
}

/// Runs this program with other arguments to its end and returns its JSON answer.
///
/// # Errors
/// The program's own error.
pub async fn run_verb(arguments: &[&str]) -> Result<serde_json::Value, ControlError> {
    let broken = |what: String| ControlError::failed(format!("`fusion {}`: {what}", arguments[0]));
    let program = std::env::current_exe().map_err(|error| broken(error.to_string()))?;
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .arg("--json")
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|error| broken(error.to_string()))?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        broken(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    })?;
    match answer.get("error") {
        None => Ok(answer),
        Some(error) => Err(serde_json::from_value::<ControlError>(error.clone())
            .unwrap_or_else(|_| broken(error.to_string()))),
    }
}

/// Paths of a demo are UTF-8: its root was checked when it was given.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

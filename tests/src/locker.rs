//! Processes that lock files, for tests: see `bin/locker.rs`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::wait::PATIENCE;

/// A process with one file open.
pub struct Locker {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Locker {
    /// Opens `path`, made if it is not there. `program` is the `locker` built with the tests.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(program: &str, path: &Path) -> Locker {
        let mut child = Command::new(program)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the locker starts");
        let commands = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut locker = Locker { child, commands, answers };
        assert_eq!(locker.answer(), "open", "{}", path.display());
        locker
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.begin(command);
        self.answer()
    }

    /// Gives a command; [`Self::answer`] follows.
    #[track_caller]
    pub fn begin(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the locker listens");
    }

    #[track_caller]
    pub fn answer(&mut self) -> String {
        self.answers.recv_timeout(PATIENCE).expect("the locker answers")
    }

    /// The answer, if it is there within `wait`.
    pub fn answer_within(&mut self, wait: Duration) -> Option<String> {
        self.answers.recv_timeout(wait).ok()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGUSR1, which ends a wait.
    pub fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("a signal");
    }

    /// Ends it as kill -9 does, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("its status");
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

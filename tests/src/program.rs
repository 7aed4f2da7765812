//! The `fusion` program that was built with these tests.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Path of the program: beside this test's own, in the same target directory, unless the
/// environment variable FUSION_BINARY names another.
///
/// # Panics
/// If it was not built.
pub fn path() -> PathBuf {
    if let Some(path) = std::env::var_os("FUSION_BINARY") {
        return path.into();
    }
    let own = std::env::current_exe().expect("a test has a program file");
    // target/debug/deps/it-1234 -> target/debug/fusion; a bench lies in target/debug itself.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("fusion"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no `fusion` near {}: cargo build -p fusefs --bin fusion", own.display())
    })
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// # Panics
    /// If it did not end with 0.
    #[track_caller]
    pub fn expect_ok(self) -> Run {
        assert_eq!(self.code, 0, "fusion failed: {}\n{}", self.stderr, self.stdout);
        self
    }

    /// The answer as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}\n{}", self.stdout, self.stderr))
    }
}

/// Runs `fusion` with these arguments, away from the settings of this machine and user.
pub fn fusion<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Run {
    let output = command(arguments).output().expect("the program starts");
    run_of(output)
}

/// The same, to be started in another way.
pub fn command<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(path());
    command.args(arguments).stdin(Stdio::null());
    for variable in [
        "FUSION_CONFIG",
        "FUSION_SOCKET",
        "FUSION_STORE",
        "FUSION_DEMO_ROOT",
        "FUSION_LOG",
        "NO_COLOR",
    ] {
        command.env_remove(variable);
    }
    command
}

fn run_of(output: Output) -> Run {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

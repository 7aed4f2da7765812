//! Programs of others on a mount of one node of a three-zone cluster.

mod fsx;
mod git;
mod pjdfstest;
mod sqlite;
mod tar;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A program that `./x test` has installed; `None`, loudly, where it is missing.
///
/// # Panics
/// Where it is missing and FUSION_REQUIRE_FUSE=1 demands everything.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("FUSION_TOOLS").map(|dir| Path::new(&dir).join(name));
    if let Some(path) = path.filter(|path| path.is_file()) {
        return Some(path);
    }
    let required = std::env::var_os("FUSION_REQUIRE_FUSE").is_some_and(|value| value == "1");
    assert!(!required, "{name} is missing: run the tests through ./x test");
    eprintln!("SKIPPED, nothing was tested: {name} is missing; ./x test installs it");
    None
}

/// Runs a shell script in `dir`, away from the user's own configuration.
#[track_caller]
fn shell(dir: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(dir)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "test")
        .env("GIT_AUTHOR_EMAIL", "test@example.org")
        .env("GIT_COMMITTER_NAME", "test")
        .env("GIT_COMMITTER_EMAIL", "test@example.org")
        .output()
        .expect("sh starts");
    succeeded(script, &output)
}

/// Standard output of a program that must have ended well.
#[track_caller]
fn succeeded(what: &str, output: &Output) -> String {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}\n{}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// A small source tree that is the same in every run.
fn source_tree(dir: &Path) {
    for part in 0..8 {
        let sub = dir.join(format!("part{part}/deep/er"));
        std::fs::create_dir_all(&sub).expect("a directory");
        for file in 0..12 {
            let line = format!("line of file {file} in part {part}\n");
            let text = line.repeat(1 + 40 * file);
            std::fs::write(sub.join(format!("f{file}.txt")), text).expect("a file");
        }
    }
}

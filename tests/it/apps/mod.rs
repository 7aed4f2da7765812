//! Programs of others on a mount of one node of a three-zone cluster.

mod acl;
mod building;
mod calls;
mod dbench;
mod files;
mod fsx;
mod git;
mod locks;
mod mail;
mod pjdfstest;
mod postgres;
mod racer;
mod rsync;
mod sqlite;
mod tar;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tests::cluster::Cluster;
use tests::wait::wait_for_ok;

/// A program that `./x test` has installed; `None`, loudly, where it is missing.
///
/// # Panics
/// Where it is missing and FUSION_REQUIRE_FUSE=1 demands everything.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("FUSION_TOOLS").map(|dir| Path::new(&dir).join(name));
    if let Some(path) = path.filter(|path| path.is_file()) {
        return Some(path);
    }
    missing(name);
    None
}

/// A program of the system; `None`, loudly, where it is missing.
///
/// # Panics
/// As [`tool`].
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        missing(name);
    }
    found
}

fn missing(name: &str) {
    let required = std::env::var_os("FUSION_REQUIRE_FUSE").is_some_and(|value| value == "1");
    assert!(!required, "{name} is missing: run the tests through ./x test");
    eprintln!("SKIPPED, nothing was tested: {name} is missing; ./x test installs it");
}

/// Waits until everything that was written below `name` in `zone` is published and applied
/// everywhere: close(2) returns before that.
#[track_caller]
fn hand_over(cluster: &Cluster, zone: &str, name: &str) {
    let root = cluster.mount(zone).join(name);
    wait_for_ok("everything written is published", || match staged_below(&root) {
        Some(path) => Err(path.display().to_string()),
        None => Ok(()),
    });
    cluster.wait_for_equal_state();
}

/// A file below `dir` with bytes that only this node has.
fn staged_below(dir: &Path) -> Option<PathBuf> {
    let is_staged = |path: &Path| {
        let mut state = [0; 16];
        let length = rustix::fs::lgetxattr(path, "user.fusion.state", &mut state[..]);
        length.is_ok_and(|length| &state[..length] == b"staged")
    };
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|file_type| file_type.is_dir());
        match is_directory {
            true => match staged_below(&path) {
                None => {}
                found => return found,
            },
            false if is_staged(&path) => return Some(path),
            false => {}
        }
    }
    None
}

/// Lets every user pass through a directory.
fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// Runs a shell script in `dir`, away from the user's own configuration.
#[track_caller]
fn shell(dir: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(dir)
        .env("HOME", dir)
        .env("REAL_HOME", std::env::var_os("HOME").unwrap_or_default())
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

//! `consistency=strict`: whoever looks sees everything that was agreed before, in whichever zone,
//! without looking twice.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::XattrFlags;
use tests::cluster::{Cluster, Wishes};
use tests::program;
use tests::wait::{wait_for, wait_until};

use super::handles::xattr;
use super::rules::{self, OP_TIMEOUT, limit_waits};

const ROUNDS: usize = 10;

/// The tree in z1 as always, and in z2 strictly.
fn mounts(cluster: &Cluster) -> (PathBuf, PathBuf) {
    let (store, strict) = (cluster.store("z2"), cluster.mount("z2"));
    let text = |path: &Path| path.to_str().expect("temporary paths are UTF-8").to_owned();
    program::fusion(["umount", &text(&strict)]).expect_ok();
    let (store, directory) = (text(&store), text(&strict));
    program::fusion(["mount", "--store", &store, "-o", "consistency=strict", &directory])
        .expect_ok();
    (cluster.mount("z1"), strict)
}

#[test]
fn a_strict_mount_shows_what_returned_before() {
    let wishes = Wishes { round_trips_ms: vec![4.0, 10.0, 12.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let (there, here) = mounts(&cluster);
    let names = |directory: &Path| {
        let entries = fs::read_dir(directory).expect("a listing");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>()
    };
    for round in 0..ROUNDS {
        let at = |root: &Path, name: &str| root.join(format!("{name}{round}"));
        let missing = fs::metadata(at(&here, "d")).expect_err("it is not there yet");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        fs::create_dir(at(&there, "d")).expect("a directory");
        assert!(fs::metadata(at(&here, "d")).expect("it is there").is_dir());

        let (file, seen) = (at(&there, "d").join("f"), at(&here, "d").join("f"));
        for turn in 0..3 {
            let text = format!("{round} {turn} {}", "text".repeat(turn * 1000));
            fs::write(&file, &text).expect("it is written");
            let len = fs::metadata(&seen).expect("it is there").len();
            assert_eq!(len, text.len() as u64, "the size in round {round}");
            assert_eq!(fs::read_to_string(&seen).expect("it can be read"), text);
            // Another one, which is opened without a look before.
            fs::write(&file, "short").expect("it is written");
            assert_eq!(fs::read_to_string(&seen).expect("it can be read"), "short");
        }
        assert_eq!(names(&at(&here, "d")), ["f"]);

        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("it is the owner's");
        let mode = fs::metadata(&seen).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let value = round.to_string();
        rustix::fs::setxattr(&file, "user.round", value.as_bytes(), XattrFlags::empty())
            .expect("it is set");
        assert_eq!(xattr(&seen, "user.round"), Some(value));

        fs::rename(&file, at(&there, "d").join("g")).expect("it is moved");
        assert_eq!(names(&at(&here, "d")), ["g"]);
        assert_eq!(fs::metadata(&seen).expect_err("it moved").kind(), ErrorKind::NotFound);
        fs::remove_dir_all(at(&there, "d")).expect("it is removed");
        let gone = fs::metadata(at(&here, "d")).expect_err("it is gone");
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }
    cluster.wait_for_equal_state();
}

#[test]
fn a_strict_mount_says_so_when_it_cannot_know() {
    let Some(cluster) = Cluster::start() else { return };
    let (there, here) = mounts(&cluster);
    let rule = XattrFlags::empty();
    rustix::fs::setxattr(&there, "user.fusion.partition", b"readonly", rule).expect("a rule");
    fs::write(there.join("f"), "old").expect("a file");
    assert_eq!(fs::read_to_string(here.join("f")).expect("it can be read"), "old");
    cluster.cut("z2");
    fs::write(there.join("f"), "newer").expect("the majority goes on");
    fs::create_dir(there.join("d")).expect("the majority goes on");
    let cannot_know = |result: std::io::Result<()>| {
        let error = result.expect_err("what is old is not shown");
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    };
    cannot_know(fs::metadata(here.join("f")).map(drop));
    cannot_know(fs::read(here.join("f")).map(drop));
    cannot_know(fs::metadata(here.join("d")).map(drop));
    cannot_know(fs::read_dir(&here).and_then(|mut entries| entries.next().transpose()).map(drop));
    cluster.heal();
    wait_until("it is back", || fs::metadata(here.join("d")).is_ok());
    assert_eq!(fs::read_to_string(here.join("f")).expect("it can be read"), "newer");
}

#[test]
fn a_strict_mount_fails_or_waits_as_the_directory_says() {
    let Some(cluster) = Cluster::start() else { return };
    limit_waits(&cluster, "z2");
    let (there, here) = mounts(&cluster);
    for rule in ["wait", "error"] {
        fs::create_dir(there.join(rule)).expect("a directory");
        rules::set(&there.join(rule), "user.fusion.partition", rule).expect("it is a rule");
        fs::write(there.join(rule).join("f"), "old").expect("a file");
    }
    let fails = File::open(here.join("error")).expect("a directory");
    // In the directory already, since the way there leads through others with other rules.
    let mut waiting: Vec<Child> = (0..2)
        .map(|_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "read line; exec cat f"]).current_dir(here.join("wait"));
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh starts")
        })
        .collect();
    cluster.wait_for_equal_state();
    cluster.cut("z2");
    for rule in ["wait", "error"] {
        fs::write(there.join(rule).join("f"), "newer").expect("the majority goes on");
    }

    let began = Instant::now();
    let look = rustix::fs::statat(&fails, "f", rustix::fs::AtFlags::empty());
    assert_eq!(look.map(drop), Err(rustix::io::Errno::TIMEDOUT), "what is old is not shown");
    assert!(began.elapsed() >= OP_TIMEOUT);

    for cat in &mut waiting {
        let mut input = cat.stdin.take().expect("a pipe");
        input.write_all(b"go\n").expect("it reads");
    }
    let comm = |child: &Child| fs::read_to_string(format!("/proc/{}/comm", child.id()));
    wait_until("both look", || {
        waiting.iter().all(|cat| comm(cat).is_ok_and(|comm| comm == "cat\n"))
            && cluster.status("z2").is_some_and(|it| it["ring"]["pending"].as_u64() >= Some(1))
    });
    let mut ended = waiting.remove(0);
    let pid = rustix::process::Pid::from_child(&ended);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    let (status, _) = wait_for("a signal ends the look", || ended.try_wait().expect("its status"));
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    let cat = waiting.remove(0);
    assert!(comm(&cat).is_ok(), "the other one waits");

    cluster.heal();
    let said = cat.wait_with_output().expect("it ends").stdout;
    assert_eq!(String::from_utf8_lossy(&said), "newer");
    wait_until("it is back", || {
        fs::read_to_string(here.join("error/f")).is_ok_and(|it| it == "newer")
    });
}

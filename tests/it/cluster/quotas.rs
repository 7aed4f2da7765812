//! Quotas by directory: set with the command line, felt by applications in every zone.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::wait::{wait_for, wait_until};

use super::rules::{self, OP_TIMEOUT, limit_waits};

const MIB: usize = 1 << 20;

fn set(cluster: &Cluster, zone: &str, path: &str, arguments: &[&str]) -> Value {
    let directory = cluster.mount(zone).join(path);
    let directory = directory.to_str().expect("paths are UTF-8");
    let call = [&["quota", "set", directory, "--json"], arguments].concat();
    cluster.fusion(zone, &call).expect_ok().json()
}

fn quota(cluster: &Cluster, zone: &str, path: &str) -> Value {
    let quotas = cluster.fusion(zone, &["quota", "ls", "--json"]).expect_ok().json();
    let quotas = quotas.as_array().expect("a list").clone();
    let found = quotas.iter().find(|quota| quota["path"] == path);
    found.unwrap_or_else(|| panic!("{path} has no quota: {quotas:?}")).clone()
}

/// Appends mebibytes until the quota says no; gives the bytes that were written.
fn fill(path: &Path) -> io::Result<usize> {
    let mut file = File::options().append(true).create(true).open(path)?;
    let mut written = 0;
    loop {
        match file.write(&vec![7; MIB]) {
            Ok(len) => written += len,
            Err(error) if error.kind() == ErrorKind::QuotaExceeded => return Ok(written),
            Err(error) => return Err(error),
        }
    }
}

#[test]
fn a_write_that_waits_for_room_ends_with_a_signal_or_by_its_rule() {
    let Some(cluster) = Cluster::start() else { return };
    limit_waits(&cluster, "z2");
    let [z1, z2] = ["z1", "z2"].map(|zone| cluster.mount(zone));
    for directory in ["waits", "refuses", "fails"] {
        fs::create_dir(z1.join(directory)).expect("a directory");
        set(&cluster, "z1", directory, &["--bytes", "1000000"]);
    }
    for (directory, rule) in [("refuses", "readonly"), ("fails", "error")] {
        rules::set(&z1.join(directory), "user.fusion.partition", rule).expect("it is a rule");
    }
    cluster.wait_for_equal_state();
    let [waits, mut refuses, mut fails] = ["waits/f", "refuses/f", "fails/f"]
        .map(|path| File::create_new(z2.join(path)).expect("it is made while all are there"));
    cluster.cut("z2");

    let began = Instant::now();
    let late = fails.write(b"no room is reserved yet").expect_err("nobody can give room");
    assert_eq!(late.raw_os_error(), Some(libc::ETIMEDOUT));
    assert!(began.elapsed() >= OP_TIMEOUT);

    let refused = refuses.write(b"no room is reserved yet").expect_err("nobody can give room");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));

    let mut writer = Command::new("dd")
        .args(["if=/dev/zero", "bs=1000", "count=1"])
        .stdout(waits)
        .stderr(Stdio::null())
        .spawn()
        .expect("dd starts");
    wait_until("all requests for room are proposed", || {
        cluster.status("z2").is_some_and(|status| status["ring"]["pending"].as_u64() >= Some(3))
    });
    let pid = rustix::process::Pid::from_child(&writer);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    let (ended, _) = wait_for("the writer ends", || writer.try_wait().expect("its status"));
    assert_eq!(ended.signal(), Some(libc::SIGTERM));

    cluster.heal();
    wait_until("there is room", || fs::write(z2.join("refuses/f"), "room").is_ok());
    for path in ["waits/f", "fails/f"] {
        fs::write(z2.join(path), "room").expect("there is room");
    }
    cluster.wait_for_equal_state();
}

#[test]
fn a_quota_holds_to_the_byte_in_all_zones() {
    let Some(cluster) = Cluster::start() else { return };
    let [z1, z2, z3] = ["z1", "z2", "z3"].map(|zone| cluster.mount(zone));
    fs::create_dir_all(z1.join("home/ann/old")).expect("directories");
    fs::write(z1.join("home/ann/old/file"), vec![1; 3 * MIB]).expect("a file");
    cluster.wait_for_path("z2", "home/ann/old/file");
    wait_until("the file is published", || {
        fs::metadata(z2.join("home/ann/old/file")).is_ok_and(|it| it.len() == 3 * MIB as u64)
    });
    // 3 directories' worth of inodes are there: ann, old, file.
    let limit = 10 * MIB + 12_345;
    let report = set(&cluster, "z2", "home/ann", &["--bytes", &limit.to_string(), "--inodes", "6"]);
    assert_eq!(report["used_bytes"], 3 * MIB);
    assert_eq!(report["used_inodes"], 3);
    assert_eq!(report["state"], "active");
    cluster.wait_for_equal_state();

    // Two zones fill what is left together.
    let writers = [z1.join("home/ann/from-z1"), z3.join("home/ann/from-z3")];
    let written: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = writers.iter().map(|path| scope.spawn(|| fill(path))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, io::Result<usize>>| {
            thread.join().expect("no panic").expect("EDQUOT is the only error")
        };
        threads.into_iter().map(join).collect()
    });
    assert!(written.iter().sum::<usize>() <= limit - 3 * MIB, "{written:?}");
    // What one of them had set aside and not used is free for the other.
    let more = fill(&writers[0]).expect("EDQUOT is the only error");
    assert_eq!(written.iter().sum::<usize>() + more, limit - 3 * MIB, "{written:?} and {more}");
    wait_until("everything is published", || {
        quota(&cluster, "z2", "/home/ann")["used_bytes"] == limit
    });
    let denied = fs::write(z2.join("home/ann/late"), b"x").expect_err("there is no room");
    assert_eq!(denied.kind(), ErrorKind::QuotaExceeded);

    // df shows the quota: nothing is left.
    let mut df = Command::new("df");
    df.args(["-B1", "--output=size,avail"]).arg(z1.join("home/ann"));
    let df = df.output().expect("df runs");
    let df = String::from_utf8_lossy(&df.stdout).into_owned();
    let figures: Vec<&str> = df.lines().last().expect("a line").split_whitespace().collect();
    assert_eq!(figures[1], "0", "{df}");
    let size: usize = figures[0].parse().expect("a number");
    assert!(size.abs_diff(limit) <= 4096, "{df}");

    // Inodes: late is the sixth.
    let denied = fs::create_dir(z3.join("home/ann/more")).expect_err("six there are");
    assert_eq!(denied.kind(), ErrorKind::QuotaExceeded);
    fs::create_dir(z3.join("home/free")).expect("outside there is no limit");

    // Room that is given up in one zone is there for another.
    fs::remove_file(z2.join("home/ann/old/file")).expect("it can be removed");
    cluster.wait_for_equal_state();
    fs::write(z3.join("home/ann/late"), vec![2; 2 * MIB]).expect("there is room again");

    // Names don't cross the border, and mv copies.
    let crossed = fs::rename(z1.join("home/ann/late"), z1.join("home/free/late"));
    assert_eq!(crossed.expect_err("EXDEV").kind(), ErrorKind::CrossesDevices);
    let mut moved = Command::new("mv");
    moved.args([z1.join("home/ann/late"), z1.join("home/free/late")]);
    assert!(moved.status().expect("mv runs").success());

    set(&cluster, "z3", "home/ann", &["--none"]);
    cluster.wait_for_equal_state();
    fs::write(z1.join("home/ann/large"), vec![3; 12 * MIB]).expect("there is no limit any more");
    fs::rename(z1.join("home/free/late"), z1.join("home/ann/late")).expect("and no border");
    let quotas = cluster.fusion("z1", &["quota", "ls", "--json"]).expect_ok().json();
    assert_eq!(quotas, Value::Array(Vec::new()));
    cluster.wait_for_equal_state();
}

#[test]
fn quotas_in_each_other_all_apply_and_survive_restarts() {
    let Some(cluster) = Cluster::start() else { return };
    let [z1, z2] = ["z1", "z2"].map(|zone| cluster.mount(zone));
    fs::create_dir_all(z1.join("a/b")).expect("directories");
    for name in ["a/f", "a/b/g"] {
        fs::write(z1.join(name), vec![1; MIB]).expect("a file");
    }
    set(&cluster, "z1", "a/b", &["--bytes", "100M"]);
    set(&cluster, "z1", "a", &["--bytes", "8M", "--inodes", "100"]);
    wait_until("what was there counts", || quota(&cluster, "z1", "/a")["used_bytes"] == 2 * MIB);
    assert_eq!(quota(&cluster, "z1", "/a/b")["used_bytes"], MIB);
    assert_eq!(fill(&z1.join("a/b/g")).expect("EDQUOT"), 6 * MIB, "the outer one is smaller");
    cluster.wait_for_equal_state();

    // A node that is killed keeps what it has set aside; when it is back, it gives that up.
    fs::remove_file(z1.join("a/f")).expect("it can be removed");
    fs::write(z1.join("a/b/h"), vec![1; MIB / 2]).expect("half of it is used");
    cluster.kill("z1");
    cluster.start_missing();
    wait_until("all of the rest can be used in z2", || {
        fill(&z2.join("a/b/rest")).expect("EDQUOT");
        fs::metadata(z2.join("a/b/rest")).is_ok_and(|it| it.len() >= MIB as u64 / 2)
    });
    let refused = cluster.fusion("z1", &["quota", "set", "/tmp", "--bytes", "1M"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    cluster.wait_for_equal_state();
}

//! Members that come, change, fail and go, on real daemons, while others work.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tests::cluster::{Cluster, Wishes};
use tests::program::{command, fusion};
use tests::wait::{wait_for_ok, wait_until};

use super::load::{Load, wait_until_kept};
use super::order::commands;

/// Operations of each zone between two changes.
const WORK: u64 = 40;
/// More than the default `failover_after_ms`, and less than a person would wait.
const SURELY_FAILED_OVER: Duration = Duration::from_secs(20);

/// A daemon beside those of the demo, ended when dropped.
struct Extra {
    name: String,
    store: PathBuf,
    daemon: Child,
}

impl Extra {
    /// Joins a node of this role to `zone`, through `sponsor`, and serves it without a mount.
    fn join(cluster: &Cluster, sponsor: &str, name: &str, zone: &str, role: &str) -> Extra {
        let token = ["token", "create", "--zone", zone, "--role", role, "--json"];
        let token = cluster.fusion(sponsor, &token).expect_ok().json();
        let store = cluster.root().join("store").join(name);
        let free = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it is bound").to_string();
        drop(free);
        let path = store.to_str().expect("temporary paths are UTF-8");
        let token = token["token"].as_str().expect("a token");
        let place =
            ["--store", path, "--name", name, "--listen", &address, "--advertise", &address];
        fusion([&["join", token], &place[..]].concat()).expect_ok();
        let log = File::create(cluster.root().join("log").join(format!("{name}.log")));
        let log = log.expect("the log's directory is there");
        let config = store.join("fusion.toml");
        let config = config.to_str().expect("temporary paths are UTF-8");
        let mut serve: Command = command(["serve", "--config", config, "--store", path]);
        let daemon = serve
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("the program starts");
        let extra = Extra { name: name.to_owned(), store, daemon };
        wait_until(&format!("{name} follows the order"), || {
            cluster.line(sponsor, name).is_some_and(|line| line["state"] == "ok")
        });
        extra
    }

    /// Waits for the daemon's own end, and returns its exit code.
    fn wait(&mut self) -> Option<i32> {
        let (status, _) = wait_for_ok(&format!("{} ends", self.name), || {
            self.daemon.try_wait().ok().flatten().ok_or_else(|| "it runs".to_owned())
        });
        status.code()
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
    kill_process(pid.expect("a process id"), signal).expect("it is ours");
}

/// What the threads of a process do, in the letters of proc_pid_stat(5).
fn threads(pid: u32) -> Vec<char> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let state = |task: io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        // Behind the name, which may have anything in it.
        stat.rsplit_once(") ")?.1.chars().next()
    };
    tasks.filter_map(state).collect()
}

fn role(cluster: &Cluster, at: &str, node: &str) -> String {
    let line = cluster.line(at, node).unwrap_or_default();
    line["role"].as_str().unwrap_or("unknown").to_owned()
}

fn epoch(cluster: &Cluster, at: &str) -> u64 {
    let status = cluster.status(at).unwrap_or_default();
    status["ring"]["epoch"].as_u64().unwrap_or_default()
}

/// Starts `node` again and expects that it refuses, since it was removed.
#[track_caller]
fn expect_refused_start(cluster: &Cluster, node: &str) {
    let store = cluster.store(node);
    let config = store.join("fusion.toml");
    let text = |path: &PathBuf| path.to_str().expect("temporary paths are UTF-8").to_owned();
    let (store, config) = (text(&store), text(&config));
    // It finds out by asking the others, or knows it already.
    let run = fusion(["serve", "--config", &config, "--store", &store]);
    assert_eq!(run.code, 6, "{}{}", run.stdout, run.stderr);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("this node was removed at GSN"), "{said}");
    assert!(said.contains("join as a new node"), "{said}");
}

#[test]
fn members_come_change_and_go_while_all_zones_write() {
    let Some(cluster) = Cluster::start() else { return };
    const ZONES: [&str; 3] = ["z1", "z2", "z3"];
    let load = Load::start(&cluster, &ZONES);
    let work = |what: &str| {
        for zone in ZONES {
            load.wait_for_more(zone, WORK);
        }
        let longest = ZONES.map(|zone| load.longest(zone).as_millis());
        println!("members: longest operation with {what}: {longest:?} ms");
    };
    work("three voters");

    let mut fourth = Extra::join(&cluster, "z1", "z4", "z4", "voter");
    cluster.wait_for_voters("z2", &["z1", "z2", "z3", "z4"]);
    work("a fourth voter");
    let observer = Extra::join(&cluster, "z2", "z5", "z5", "observer");
    assert_eq!(role(&cluster, "z1", "z5"), "observer");
    // Asked at a node without a vote.
    let socket = observer.store.join("admin.sock");
    let socket = socket.to_str().expect("temporary paths are UTF-8");
    fusion(["--socket", socket, "node", "promote", "z5"]).expect_ok();
    cluster.wait_for_voters("z1", &["z1", "z2", "z3", "z4", "z5"]);
    work("an observer promoted");
    cluster.fusion("z3", &["node", "demote", "z5"]).expect_ok();
    cluster.wait_for_voters("z1", &["z1", "z2", "z3", "z4"]);
    work("the observer demoted");
    cluster.fusion("z1", &["node", "promote", "z1", "--weight", "2"]).expect_ok();
    let status = cluster.status("z1").expect("it answers");
    assert_eq!(status["ring"]["zones_may_fail"], 1);
    cluster.fusion("z1", &["node", "promote", "z1", "--weight", "1"]).expect_ok();

    // Alive and not drained: something could be lost.
    let refused = cluster.fusion("z2", &["node", "remove", "z4"]);
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(refused.stderr.contains("z4 is alive"), "{}", refused.stderr);
    cluster.fusion("z2", &["node", "drain", "z4"]).expect_ok();
    cluster.wait_for_voters("z1", &["z1", "z2", "z3"]);
    cluster.fusion("z2", &["node", "remove", "z4"]).expect_ok();
    assert_eq!(fourth.wait(), Some(6));
    work("the fourth voter drained and removed");
    let list = cluster.fusion("z3", &["node", "list", "--json"]).expect_ok().json();
    assert_eq!(list["removed"][0]["node"], "z4", "{list}");

    let accounts = load.stop();
    cluster.wait_for_equal_state();
    wait_until_kept(&cluster, &accounts, &ZONES);
    let log =
        cluster.fusion("z1", &["log", "show", "--from", "1", "--limit", "100000"]).expect_ok();
    for what in ["set-member", "z5 is a voter", "z4 drains", "reconfigure", "; removed "] {
        assert!(log.stdout.contains(what), "`fusion log` does not show '{what}'");
    }
}

#[test]
fn a_dead_node_is_removed_by_the_others_and_does_not_come_back() {
    let Some(cluster) = Cluster::start() else { return };
    fs::write(cluster.mount("z3").join("kept"), vec![7; 300_000]).expect("a file");
    let mut held = File::create(cluster.mount("z3").join("held")).expect("a file");
    held.write_all(b"not sealed").expect("written");
    for zone in ["z1", "z2"] {
        let path = cluster.wait_for_path(zone, "kept");
        wait_until("its bytes are here", || fs::read(&path).is_ok_and(|b| b.len() == 300_000));
        let text = path.to_str().expect("temporary paths are UTF-8");
        wait_until("they are held here", || {
            let place = cluster.fusion(zone, &["where", text, "--json"]).json();
            let holders = place["holders"].as_array().cloned().unwrap_or_default();
            holders.iter().any(|holder| holder["node"] == zone && holder["state"] == "held")
        });
    }
    drop(held);
    // A lock that is agreed, since two zones have just used it, and somebody who waits for it.
    let lock = |zone: &str| File::open(cluster.mount(zone).join("kept")).expect("it is there");
    let (by_z2, by_z3, by_z1) = (lock("z2"), lock("z3"), lock("z1"));
    flock(&by_z2, FlockOperation::LockExclusive).expect("the lock is free");
    flock(&by_z2, FlockOperation::Unlock).expect("z2 has it");
    flock(&by_z3, FlockOperation::LockExclusive).expect("the lock is free");
    let refused = flock(&by_z1, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused, Err(rustix::io::Errno::WOULDBLOCK), "z3 has the lock");
    let (granted, waiting) = mpsc::channel();
    std::thread::spawn(move || granted.send(flock(&by_z1, FlockOperation::LockExclusive)));
    cluster.kill("z3");
    // Refused until its silence is noticed.
    wait_for_ok("z3 is removed", || {
        let run = cluster.fusion("z2", &["node", "remove", "z3"]);
        if run.code == 0 { Ok(()) } else { Err(run.stderr) }
    });
    cluster.wait_for_voters("z1", &["z1", "z2"]);
    let status = cluster.status("z1").expect("it answers");
    assert_eq!(status["ring"]["removed"][0]["node"], "z3");
    assert_eq!(status["ring"]["zones_may_fail"], 0);
    let lock = waiting.recv_timeout(Duration::from_secs(60)).expect("the lock went with z3");
    lock.expect("it is granted");
    // Its write token went with it: nobody waits for the end of a dead holder's lease.
    let held = cluster.mount("z1").join("held");
    fs::write(&held, b"by z1").expect("the token is free");
    let held = held.to_str().expect("temporary paths are UTF-8");
    let of_held = commands(&cluster, "z1", &["--path", held]);
    assert!(of_held.iter().any(|it| it["op"] == "create"), "{of_held:?}");
    assert!(of_held.iter().all(|it| it["op"] != "expire"), "{of_held:?}");
    assert_eq!(fs::read(cluster.mount("z1").join("kept")).expect("it is here").len(), 300_000);

    // It asks, is told, and remembers it.
    expect_refused_start(&cluster, "z3");
    expect_refused_start(&cluster, "z3");
    fs::create_dir(cluster.mount("z2").join("goes-on")).expect("agreed");
    cluster.wait_for_equal_state_of(&["z1", "z2"]);
    // Its place is taken by a new node of the same zone, with an id of its own.
    let _again = Extra::join(&cluster, "z1", "z3-new", "z3", "voter");
    cluster.wait_for_voters("z2", &["z1", "z2", "z3-new"]);
    let line = cluster.line("z1", "z3-new").expect("it is a member");
    assert_eq!(line["id"], 4);
}

#[test]
fn a_node_that_stood_still_while_it_was_removed_gets_nothing_agreed() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.wait_for_equal_state();
    let pid = cluster.pid("z3").expect("it runs");
    let at = cluster.mount("z3");
    signal(pid, Signal::STOP);
    // A thread that was in a system call stops when that ends, and might take the request.
    wait_until("all of it stands still", || threads(pid).iter().all(|state| *state == 'T'));
    let call = std::thread::spawn(move || fs::create_dir(at.join("too-late")));
    let removed = cluster.fusion("z1", &["node", "remove", "z3", "--force"]);
    signal(pid, Signal::CONT);
    removed.expect_ok();
    let outcome = call.join().expect("it does not panic");
    assert!(outcome.is_err(), "a removed node acknowledged a change");
    wait_until("the daemon has ended", || cluster.pid("z3").is_none());
    assert!(cluster.log("z3").contains("this node was removed at GSN"), "{}", cluster.log("z3"));
    fs::create_dir(cluster.mount("z1").join("goes-on")).expect("agreed");
    cluster.wait_for_path("z2", "goes-on");
    cluster.wait_for_equal_state_of(&["z1", "z2"]);
    for zone in ["z1", "z2"] {
        let found = cluster.mount(zone).join("too-late").symlink_metadata();
        assert_eq!(found.expect_err("nothing of it").kind(), io::ErrorKind::NotFound);
    }
}

#[test]
fn another_node_of_the_zone_takes_over_the_vote_of_a_dead_one() {
    let wishes = Wishes { nodes: 2, ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    cluster.wait_for_voters("z2", &["z1", "z2", "z3"]);
    assert_eq!(role(&cluster, "z2", "z1b"), "standby");
    fs::create_dir(cluster.mount("z1b").join("by-a-standby")).expect("agreed");
    let start = Instant::now();
    cluster.kill("z1");
    cluster.wait_for_voters("z2", &["z1b", "z2", "z3"]);
    println!("members: the vote of z1 is with z1b after {:?}", start.elapsed());
    assert!(start.elapsed() >= Duration::from_secs(5), "not before failover_after_ms");
    fs::create_dir(cluster.mount("z1b").join("by-the-new-voter")).expect("agreed");

    // It comes back and stands by: nothing changes any more.
    let before = epoch(&cluster, "z2");
    cluster.start_one("z1");
    wait_until("z1 has caught up", || {
        cluster.line("z2", "z1").is_some_and(|line| line["state"] == "ok")
    });
    let back = Instant::now();
    wait_until("time enough for another failover", || back.elapsed() > SURELY_FAILED_OVER);
    assert_eq!(epoch(&cluster, "z2"), before);
    assert_eq!(role(&cluster, "z2", "z1"), "standby");
    cluster.kill("z1b");
    cluster.wait_for_voters("z2", &["z1", "z2", "z3"]);
    cluster.start_one("z1b");
    cluster.wait_for_equal_state();
}

#[test]
fn two_zones_and_a_witness_outlive_either_zone() {
    let wishes = Wishes { witness: true, ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    cluster.wait_for_voters("z1", &["z1", "z2", "z3"]);
    assert_eq!(role(&cluster, "z1", "z3"), "witness");
    fs::write(cluster.mount("z1").join("file"), vec![1; 200_000]).expect("a file");
    let there = cluster.wait_for_path("z2", "file");
    wait_until("its bytes are in z2", || fs::read(&there).is_ok_and(|b| b.len() == 200_000));
    for cut in ["z2", "z1"] {
        let other = if cut == "z1" { "z2" } else { "z1" };
        cluster.cut(cut);
        let start = Instant::now();
        fs::create_dir(cluster.mount(other).join(format!("without-{cut}"))).expect("agreed");
        println!("members: mkdir in {other} without {cut}: {:?}", start.elapsed());
        cluster.heal();
        cluster.wait_for_equal_state();
    }
    // It has the tables, and no file's content.
    let store = cluster.store("z3");
    let packs = fs::read_dir(store.join("packs")).into_iter().flatten().flatten();
    assert_eq!(packs.filter(|pack| pack.metadata().is_ok_and(|m| m.len() > 0)).count(), 0);
    assert_eq!(fs::read_dir(store.join("objects")).into_iter().flatten().count(), 0);
    let refused = cluster.fusion("z3", &["mount", "/mnt"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("witness"), "{}", refused.stderr);
    // It cannot admit: it was not given the authority's key.
    let refused = cluster.fusion("z3", &["token", "create", "--zone", "z4"]);
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    let file = cluster.mount("z1").join("file");
    let file = file.to_str().expect("temporary paths are UTF-8");
    let place = cluster.fusion("z1", &["where", file, "--json"]).expect_ok().json();
    let holders = place["holders"].as_array().expect("a list");
    assert!(holders.iter().all(|holder| holder["node"] != "z3"), "{place}");
}

#[test]
fn a_drained_zone_hands_over_everything_and_changes_nothing_more() {
    let Some(cluster) = Cluster::start() else { return };
    let at = cluster.mount("z3");
    let mut file = File::create(at.join("file")).expect("a file");
    file.write_all(&vec![3; 400_000]).expect("written");
    cluster.wait_for_path("z1", "file");
    cluster.fusion("z1", &["zone", "drain", "z3"]).expect_ok();
    cluster.wait_for_voters("z3", &["z1", "z2"]);
    // It reads on, and changes nothing.
    let mut content = Vec::new();
    File::open(at.join("file")).and_then(|mut f| f.read_to_end(&mut content)).expect("it reads");
    assert_eq!(content.len(), 400_000);
    let refused = fs::create_dir(at.join("new")).expect_err("it drains");
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    drop(file);
    cluster.fusion("z2", &["zone", "resume", "z3"]).expect_ok();
    cluster.wait_for_voters("z1", &["z1", "z2", "z3"]);
    wait_until("z3 changes again", || fs::create_dir(at.join("new")).is_ok());
    cluster.fusion("z1", &["zone", "drain", "z3"]).expect_ok();
    cluster.fusion("z1", &["zone", "remove", "z3"]).expect_ok();
    wait_until("the daemon has ended", || cluster.pid("z3").is_none());
    for zone in ["z1", "z2"] {
        assert_eq!(fs::read(cluster.mount(zone).join("file")).expect("it is here").len(), 400_000);
    }
}

#[test]
fn one_survivor_goes_on_alone_when_the_operator_says_so() {
    let Some(cluster) = Cluster::start() else { return };
    fs::create_dir(cluster.mount("z2").join("before")).expect("agreed");
    cluster.wait_for_path("z1", "before");
    let store = cluster.store("z1").to_str().expect("temporary paths are UTF-8").to_owned();
    let busy = fusion(["disaster", "force-new-epoch", "--store", &store]);
    assert_ne!(busy.code, 0, "its daemon runs: {}", busy.stdout);
    for zone in ["z3", "z2", "z1"] {
        cluster.kill(zone);
    }
    let looked = fusion(["disaster", "force-new-epoch", "--store", &store]).expect_ok();
    assert!(looked.stdout.contains("nothing was changed"), "{}", looked.stdout);
    assert!(looked.stdout.contains("lost"), "{}", looked.stdout);
    let unsure = fusion(["disaster", "force-new-epoch", "--store", &store, "--apply"]);
    assert_eq!(unsure.code, 6, "{}", unsure.stdout);
    fusion(["disaster", "force-new-epoch", "--store", &store, "--apply", "--yes"]).expect_ok();
    cluster.start_one("z1");
    cluster.wait_for_voters("z1", &["z1"]);
    assert!(cluster.mount("z1").join("before").is_dir());
    fs::create_dir(cluster.mount("z1").join("alone")).expect("agreed by itself");

    // The old ones are told, and a new one is welcome.
    expect_refused_start(&cluster, "z2");
    expect_refused_start(&cluster, "z3");
    let _new = Extra::join(&cluster, "z1", "z2-new", "z2", "voter");
    cluster.wait_for_voters("z1", &["z1", "z2-new"]);
    fs::create_dir(cluster.mount("z1").join("together")).expect("agreed");
}

#[test]
fn a_certificate_is_renewed_without_a_pause() {
    let wishes = Wishes { witness: true, ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    for node in ["z1", "z3"] {
        let certificate = || {
            let path = cluster.store(node).join("identity/node.pem");
            fs::read(path).expect("every node has a certificate")
        };
        let before = certificate();
        let shown = cluster.fusion(node, &["cert", "show", "--json"]).expect_ok().json();
        // The witness asks another node.
        assert_eq!(shown["issues"], node != "z3", "{shown}");
        let rotated = cluster.fusion(node, &["cert", "rotate", "--json"]).expect_ok().json();
        assert_eq!(rotated["key"], shown["key"]);
        assert_ne!(certificate(), before);
    }
    fs::create_dir(cluster.mount("z1").join("goes-on")).expect("agreed");
    cluster.demo(&["restart", "z3"]).expect_ok();
    cluster.wait_for_equal_state();
}

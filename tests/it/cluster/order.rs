//! The agreed order as a product: followed by many, from any place, through restarts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;
use tests::cluster::{Cluster, Wishes};
use tests::program::command;
use tests::wait::{wait_for, wait_for_ok, wait_until};

use super::behind::keep_little;
use super::load::Load;

/// What one follower was given: GSN to line.
type Lines = BTreeMap<u64, String>;

/// Follows the order of `zone` from `from` on until `done` says that this GSN was the last.
/// Whenever the daemon goes away it goes on behind the last line that it got.
fn follow(
    cluster: &Cluster,
    zone: &str,
    from: u64,
    at: &AtomicU64,
    done: &dyn Fn(u64) -> bool,
) -> Lines {
    let mut lines = Lines::new();
    let mut next = from;
    while !done(next - 1) {
        let socket = cluster.store(zone).join("admin.sock");
        wait_until("the daemon is back", || UnixStream::connect(&socket).is_ok());
        let mut follower = command(["--socket", socket.to_str().expect("UTF-8")])
            .args(["log", "follow", "--all", "--json", "--from", &next.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines_of_it = BufReader::new(follower.stdout.take().expect("piped")).lines();
        while let Some(line) = lines_of_it.next() {
            let line = line.expect("UTF-8");
            if line == "{" {
                // An error, over several lines.
                let rest: Vec<String> = lines_of_it.by_ref().map_while(Result::ok).collect();
                let error = rest.concat();
                assert!(error.contains("\"no-daemon\""), "{error}");
                break;
            }
            let value: Value = serde_json::from_str(&line).expect("JSON");
            let gsn = value["gsn"].as_u64().expect("a GSN");
            assert_eq!(gsn, next, "{zone} gives every agreement once, in order");
            assert!(lines.insert(gsn, line).is_none());
            next = gsn + 1;
            at.store(gsn, Ordering::Relaxed);
            if done(gsn) {
                break;
            }
        }
        let _ = follower.kill();
        follower.wait().expect("it was started");
    }
    lines
}

#[test]
fn eight_followers_get_one_order_through_a_restart() {
    let Some(cluster) = Cluster::start() else { return };
    let load = Load::start(&cluster, &["z1", "z3"]);
    load.wait_for_more("z1", 200);
    let newest = cluster.gsn("z2").expect("it answers");
    let end = AtomicU64::new(u64::MAX);
    let restarts = AtomicBool::new(false);
    let places: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
    let followed: Vec<(String, u64, Lines)> = std::thread::scope(|scope| {
        let followers: Vec<_> = places
            .iter()
            .enumerate()
            .map(|(number, at)| {
                let zone = if number % 2 == 0 { "z1" } else { "z2" };
                let from = 1 + newest * number as u64 / 8;
                let (cluster, end, restarts) = (&cluster, &end, &restarts);
                scope.spawn(move || {
                    let done = |gsn| {
                        // The last one takes nothing while the daemon restarts: what the
                        // kernel and the daemon hold for it is bounded, and nobody waits.
                        if number == 7 && gsn == from + 10 {
                            wait_until("the restart is over", || restarts.load(Ordering::Relaxed));
                        }
                        gsn >= end.load(Ordering::Relaxed)
                    };
                    (zone.to_owned(), from, follow(cluster, zone, from, at, &done))
                })
            })
            .collect();
        wait_until("all follow", || places.iter().all(|at| at.load(Ordering::Relaxed) > 0));
        load.wait_for_more("z1", 200);
        cluster.restart("z2");
        restarts.store(true, Ordering::Relaxed);
        load.wait_for_more("z1", 200);
        load.wait_for_more("z3", 200);
        load.stop();
        end.store(cluster.wait_for_equal_state(), Ordering::Relaxed);
        // Whoever was already there waits for one more.
        fs::create_dir(cluster.mount("z1").join("last")).expect("a directory");
        followers.into_iter().map(|it| it.join().expect("a follower")).collect()
    });
    let end = end.into_inner();
    let (_, _, all) = &followed[0];
    assert!(all.len() as u64 >= end && end > newest + 200, "{end} after {newest}");
    for (zone, from, lines) in &followed {
        for gsn in *from..=end {
            assert_eq!(lines.get(&gsn), all.get(&gsn), "{zone} from {from} at {gsn}");
        }
    }
    let carries_commands = |line: &&String| line.contains("\"outcome\":\"ok\"");
    assert!(all.values().filter(carries_commands).count() > 100);
}

/// The commands in the order of a zone that `arguments` select. A zone that joined has none of
/// before. Each once: on a busy machine one can be handed in again, and is skipped then.
pub fn commands(cluster: &Cluster, zone: &str, arguments: &[&str]) -> Vec<Value> {
    let oldest = || cluster.node(zone)?["order_oldest"].as_u64().filter(|oldest| *oldest > 0);
    let oldest = wait_for("it says what it keeps", oldest).0.to_string();
    let all = ["log", "show", "--json", "--from", &oldest, "--limit", "1000000"];
    let run = cluster.fusion(zone, &[&all[..], arguments].concat()).expect_ok();
    let mut commands = Vec::new();
    for line in run.stdout.lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        let all = entry["commands"].as_array().expect("commands").clone();
        commands.extend(all.into_iter().filter(|command| command["outcome"] != "skipped"));
    }
    commands
}

#[test]
fn the_order_says_who_did_what_and_how_it_went() {
    let wishes = Wishes { round_trips_ms: vec![20.0, 20.0, 20.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    // Both kernels find no such name, and both ask: the order decides.
    let barrier = Barrier::new(2);
    let race = |zone: &'static str| -> Vec<(String, bool)> {
        let make = |number: u32| {
            let name = format!("raced\n{number}");
            barrier.wait();
            let made = fs::create_dir(cluster.mount(zone).join(&name));
            let refused = match made {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
                Err(error) => panic!("{error}"),
            };
            (format!("raced\\n{number}"), refused)
        };
        (0..20).map(make).collect()
    };
    let told: BTreeMap<&str, Vec<(String, bool)>> = std::thread::scope(|scope| {
        let race = &race;
        let racers = ["z1", "z3"].map(|zone| (zone, scope.spawn(move || race(zone))));
        racers.into_iter().map(|(zone, it)| (zone, it.join().expect("a racer"))).collect()
    });
    cluster.wait_for_equal_state();
    let mut refusals = 0;
    for zone in ["z1", "z2", "z3"] {
        let raced: Vec<Value> = commands(&cluster, zone, &[])
            .into_iter()
            .filter(|it| it["op"] == "mkdir" && it["parent"] == 1)
            .filter(|it| it["name"].as_str().is_some_and(|name| name.starts_with("raced")))
            .collect();
        let refused: Vec<&Value> = raced.iter().filter(|it| it["outcome"] != "ok").collect();
        assert_eq!(raced.len() - refused.len(), 20, "each name has one winner");
        for command in &refused {
            assert_eq!(command["outcome"], "EEXIST", "{command}");
            assert_eq!(command["reason"], "the name exists", "{command}");
            let from = command["zone"].as_str().expect("a zone");
            let name = command["name"].as_str().expect("a name");
            assert!(told[from].contains(&(name.to_owned(), true)), "{command} was told");
        }
        refusals = refused.len();
        assert!(refusals > 0, "they met at least once");
    }
    println!("{refusals} of 20 met");

    // Another user, seen by who it is and by what it did.
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(cluster.root(), everybody.clone()).expect("chmod");
    let shared = cluster.mount("z1").join("shared");
    fs::create_dir(&shared).expect("a directory");
    fs::set_permissions(&shared, everybody).expect("chmod");
    let made = Command::new("mkdir").arg(shared.join("theirs")).uid(4711).gid(4712).status();
    assert!(made.expect("mkdir runs").success());
    fs::rename(shared.join("theirs"), shared.join("ours")).expect("a rename");
    let theirs = commands(&cluster, "z1", &["--uid", "4711"]);
    assert_eq!(theirs.len(), 1, "{theirs:?}");
    let theirs = &theirs[0];
    assert_eq!((&theirs["uid"], &theirs["gid"]), (&4711.into(), &4712.into()));
    assert_eq!((&theirs["op"], &theirs["name"]), (&"mkdir".into(), &"theirs".into()));
    let path = shared.join("ours");
    let path = path.to_str().expect("UTF-8");
    let ops = |commands: &[Value]| -> Vec<String> {
        commands.iter().map(|it| it["op"].as_str().expect("an op").to_owned()).collect()
    };
    let of_path = commands(&cluster, "z1", &["--path", path]);
    assert_eq!(ops(&of_path), ["mkdir", "rename"], "by its inode, and by its name");
    assert_eq!(of_path[1]["ino"], Value::Null);
    assert_eq!(of_path[1]["to_name"], "ours");
    assert!(commands(&cluster, "z1", &["--zone", "z2", "--path", path]).is_empty());

    let text = cluster.fusion("z1", &["log", "show", "--path", path, "--from", "1"]).expect_ok();
    let columns: Vec<Vec<&str>> =
        text.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0][3..7], ["z1/z1", "4711:4712", "mkdir", "ok"], "{}", text.stdout);
}

#[test]
fn a_reader_that_goes_away_ends_nobody_else() {
    let Some(cluster) = Cluster::start() else { return };
    let daemon = cluster.pid("z1");
    // Which write meets a closed connection is chance; that none of them ends the daemon is not.
    let status = format!("/proc/{}/status", daemon.expect("it runs"));
    let status = fs::read_to_string(status).expect("the daemon lives");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    assert!(ignored.is_some_and(|mask| mask & 1 << (libc::SIGPIPE - 1) != 0), "{ignored:?}");
    let load = Load::start(&cluster, &["z1"]);
    // More than the socket holds: the daemon waits in the middle of its answer.
    load.wait_for_more("z1", 1000);
    for _ in 0..20 {
        let socket = cluster.store("z1").join("admin.sock");
        let mut stream = UnixStream::connect(socket).expect("the daemon is there");
        let request = "GET /v1/log/follow?from=1 HTTP/1.1\r\nhost: fusion\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        stream.read_exact(&mut [0]).expect("an answer");
        load.wait_for_more("z1", 5);
        drop(stream);
    }
    for account in load.stop() {
        assert!(account.errors.is_empty(), "{:?}", account.errors);
    }
    assert_eq!(cluster.pid("z1"), daemon, "the daemon lives");
    wait_until("their places are free", || {
        let socket = cluster.store("z1").join("admin.sock");
        let mut stream = UnixStream::connect(socket).expect("the daemon is there");
        let request = "GET /v1/metrics HTTP/1.1\r\nhost: fusion\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("UTF-8");
        answer.contains("fusion_order_followers{volume=\"root\"} 0.0\n")
    });
}

/// The lines of a follower that only gets news.
fn news(cluster: &Cluster, zone: &str) -> (std::process::Child, Receiver<Value>) {
    let socket = cluster.store(zone).join("admin.sock");
    let mut follower = command(["--socket", socket.to_str().expect("UTF-8")])
        .args(["log", "follow", "--json", "--retry", "--quiet"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdout = follower.stdout.take().expect("piped");
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str(&line).expect("JSON"));
        }
    });
    (follower, lines)
}

#[test]
fn what_is_not_kept_any_more_is_said_with_the_oldest_that_is() {
    let Some(cluster) = Cluster::start() else { return };
    keep_little(&cluster);
    let load = Load::start(&cluster, &["z1"]);
    let oldest = || cluster.node("z1").and_then(|node| node["order_oldest"].as_u64());
    wait_until("the order is truncated", || oldest().is_some_and(|oldest| oldest > 1));
    load.stop();
    for verb in ["show", "follow"] {
        let run = cluster.fusion("z1", &["log", verb, "--from", "1", "--json"]);
        assert_eq!(run.code, 1, "{}", run.stderr);
        let error = run.json();
        assert_eq!(error["error"]["kind"], "gone", "{error}");
        let message = error["error"]["message"].as_str().expect("a message").to_owned();
        let named: u64 = message
            .rsplit(' ')
            .next()
            .and_then(|last| last.parse().ok())
            .unwrap_or_else(|| panic!("it names the oldest: {message}"));
        assert!(named > 1);
        // From there on it is there, unless still more went meanwhile.
        wait_for_ok("the oldest is there", || {
            let oldest = oldest().ok_or("no answer")?.max(named);
            let from = oldest.to_string();
            let run = cluster.fusion("z1", &["log", "show", "--from", &from, "--all", "--json"]);
            let first = run.stdout.lines().next().unwrap_or_default();
            let first: Value = serde_json::from_str(first).map_err(|error| error.to_string())?;
            if first["gsn"] == oldest { Ok(()) } else { Err(first.to_string()) }
        });
    }
}

#[test]
fn a_follower_of_news_goes_on_when_its_daemon_is_back() {
    let Some(cluster) = Cluster::start() else { return };
    let (mut follower, lines) = news(&cluster, "z2");
    let mut heard = Vec::new();
    // It says nothing before there is news: whichever of these is its first.
    for number in 0.. {
        fs::create_dir(cluster.mount("z1").join(format!("before{number}"))).expect("a directory");
        if let Ok(entry) = lines.recv_timeout(Duration::from_millis(100)) {
            heard.push(entry);
            break;
        }
    }
    let mut wait_for_name = |name: &str| {
        wait_until(&format!("the follower hears of {name}"), || {
            heard.extend(lines.try_iter());
            let commands = |entry: &Value| entry["commands"].as_array().cloned();
            heard.iter().filter_map(commands).flatten().any(|command| command["name"] == name)
        });
    };
    cluster.kill("z2");
    fs::create_dir(cluster.mount("z1").join("meanwhile")).expect("the majority goes on");
    cluster.start_one("z2");
    fs::create_dir(cluster.mount("z1").join("after")).expect("a directory");
    wait_for_name("meanwhile");
    wait_for_name("after");
    let gsns: Vec<u64> = heard.iter().filter_map(|entry| entry["gsn"].as_u64()).collect();
    assert!(gsns.is_sorted_by(|a, b| a < b), "each once, in order: {gsns:?}");
    let _ = follower.kill();
    follower.wait().expect("it was started");
}

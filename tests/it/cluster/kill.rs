//! Daemons killed with -9 at random, under load from all zones.

use std::fs;
use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::random::Random;
use tests::wait::wait_until;

use super::load::{Load, wait_until_kept};

const ZONES: [&str; 3] = ["z1", "z2", "z3"];
/// Without FUSION_TEST_MINUTES.
const DEFAULT_MINUTES: f64 = 1.25;
/// Operations that the others must get done while one is dead.
const MEANWHILE: u64 = 30;

#[test]
fn any_daemon_killed_under_load_catches_up_and_nothing_is_lost() {
    let Some(cluster) = Cluster::start() else { return };
    let mut random = Random::announced("kill");
    let load = Load::start(&cluster, &ZONES);
    let end = Instant::now() + minutes();
    let mut kills = 0;
    let mut pauses = Vec::new();
    while Instant::now() < end {
        let killed = ZONES[random.below(3) as usize];
        let others: Vec<&str> = ZONES.into_iter().filter(|zone| *zone != killed).collect();
        // At another moment of the work each time.
        load.wait_for_more(killed, 1 + random.below(100));
        for zone in &others {
            load.longest(zone);
        }
        cluster.kill(killed);
        kills += 1;
        for zone in &others {
            load.wait_for_more(zone, MEANWHILE);
        }
        let dead = others.iter().map(|zone| load.longest(zone)).max().unwrap_or_default();
        let start = Instant::now();
        cluster.start_missing();
        let usable = start.elapsed();
        load.wait_for_more(killed, 1);
        for zone in &others {
            load.wait_for_more(zone, 1);
        }
        let back = others.iter().map(|zone| load.longest(zone)).max().unwrap_or_default();
        let [dead_ms, back_ms, usable_ms] = [dead, back, usable].map(|time| time.as_millis());
        println!(
            "kill {kills}: {killed}; longest operation of the others: {dead_ms} ms while it was \
             dead, {back_ms} ms while it came back; usable again in {usable_ms} ms"
        );
        pauses.push(dead);
    }
    let accounts = load.stop();
    for account in &accounts {
        println!("kill: {} acknowledged; failed: {:?}", account.acknowledged, account.errors);
    }
    cluster.wait_for_equal_state();
    wait_until_kept(&cluster, &accounts, &ZONES);
    cluster.wait_for_equal_state();
    pauses.sort();
    let [half, most] = [pauses[pauses.len() / 2], pauses[pauses.len() - 1]];
    println!("kill: {kills} kills; longest pause of the others: p50 {half:?}, max {most:?}");
}

/// A thread of the daemon waits in the kernel for a directory that a call keeps locked, and
/// that call waits for the daemon: neither would end by the kill alone.
#[test]
fn a_daemon_that_the_kernel_holds_dies_and_is_started_again() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = cluster.mount("z1").join("held");
    fs::create_dir(&directory).expect("a directory");
    let held = cluster.wait_for_path("z3", "held");
    assert_eq!(fs::read_dir(&held).expect("it is known here").count(), 0);
    let pid = cluster.pid("z3").expect("it runs");
    for near in ["z1", "z2"] {
        cluster.demo(&["link", near, "z3", "--rtt", "4000"]).expect_ok();
    }
    let waiting = std::thread::spawn(move || fs::create_dir(held.join("from-z3")));
    wait_until("the call in z3 is proposed", || {
        cluster.status("z3").is_some_and(|status| status["ring"]["pending"].as_u64() >= Some(1))
    });
    // Each is told to the kernel of z3, which keeps the directory for the call.
    fs::create_dir(directory.join("from-z1")).expect("a directory");
    wait_until("a thread of z3's daemon waits in the kernel", || any_thread_is_held(pid));
    cluster.kill("z3");
    wait_until("the daemon is gone", || !any_thread_is_held(pid));
    let ended = waiting.join().expect("it does not panic");
    assert!(ended.is_err(), "nobody was there to answer");
    cluster.heal();
    for near in ["z1", "z2"] {
        cluster.demo(&["link", near, "z3", "--rtt", "0"]).expect_ok();
    }
    cluster.start_missing();
    cluster.wait_for_path("z3", "held/from-z1");
    cluster.wait_for_equal_state();
}

/// Whether a thread of the process is in uninterruptible sleep.
fn any_thread_is_held(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let is_notifier = status.starts_with("Name:\tfuse-notify\n");
        is_notifier && status.lines().any(|line| line.starts_with("State:\tD"))
    })
}

fn minutes() -> Duration {
    let given = std::env::var("FUSION_TEST_MINUTES").ok();
    let given = given.map(|text| text.parse().expect("FUSION_TEST_MINUTES is a number"));
    Duration::from_secs_f64(given.unwrap_or(DEFAULT_MINUTES) * 60.0)
}

//! Reading one's own writes on another node, by the GSN as a token.

use std::io::Write;
use std::path::Path;

use tests::cluster::{Cluster, Wishes};
use tests::wait::wait_until;

fn gsn_of(cluster: &Cluster, zone: &str, path: &Path) -> String {
    let path = path.to_str().expect("temporary paths are UTF-8");
    let run = cluster.fusion(zone, &["gsn", path]);
    run.expect_ok();
    cluster.fusion(zone, &["gsn", path, "--json"]).json()["gsn"].to_string()
}

#[test]
fn what_was_waited_for_is_there() {
    let wishes = Wishes { round_trips_ms: vec![20.0, 80.0, 90.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    for round in 0..10 {
        let name = format!("d{round}");
        let made = cluster.mount("z1").join(&name);
        std::fs::create_dir(&made).expect("a directory");
        let gsn = gsn_of(&cluster, "z1", &made);
        // Asked of the reader's own daemon, and of the writer's about the reader's zone.
        if round % 2 == 0 {
            cluster.fusion("z3", &["wait", "--gsn", &gsn]).expect_ok();
        } else {
            cluster.fusion("z1", &["wait", "--gsn", &gsn, "--zone", "z3"]).expect_ok();
        }
        assert!(cluster.mount("z3").join(&name).is_dir(), "{name} is there, without looking twice");
    }
}

#[test]
fn content_is_waited_for_too() {
    let wishes = Wishes { round_trips_ms: vec![5.0, 30.0, 30.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let file = cluster.mount("z1").join("f");
    let content: Vec<u8> = (0..3 << 20).map(|at: u32| (at / 7) as u8).collect();
    std::fs::write(&file, &content).expect("a file");
    wait_until("the version is published", || {
        let path = file.to_str().expect("temporary paths are UTF-8");
        let report = cluster.fusion("z1", &["where", path, "--json"]).json();
        report["size_bytes"] == content.len()
    });
    let gsn = gsn_of(&cluster, "z1", &file);
    cluster.fusion("z1", &["wait", "--gsn", &gsn, "--all", "--bodies"]).expect_ok();
    for zone in ["z1", "z2", "z3"] {
        let path = cluster.mount(zone).join("f");
        let path = path.to_str().expect("temporary paths are UTF-8");
        let report = cluster.fusion("z1", &["where", path, "--json"]).json();
        let states: Vec<_> =
            report["holders"].as_array().expect("holders").iter().map(|h| &h["state"]).collect();
        assert!(states.iter().all(|state| **state == "held"), "{report}");
    }
}

#[test]
fn waiting_for_a_zone_that_is_cut_off_ends_with_its_patience() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.cut("z3");
    let made = cluster.mount("z1").join("d");
    std::fs::create_dir(&made).expect("the majority goes on");
    let gsn = gsn_of(&cluster, "z1", &made);
    let waited = cluster.fusion("z1", &["wait", "--gsn", &gsn, "--zone", "z3", "--timeout", "2"]);
    assert_eq!(waited.code, 5, "{}", waited.stderr);
    let unknown = cluster.fusion("z1", &["wait", "--gsn", &gsn, "--zone", "nowhere"]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    cluster.heal();
    cluster.fusion("z1", &["wait", "--gsn", &gsn, "--zone", "z3"]).expect_ok();
    assert!(cluster.mount("z3").join("d").is_dir());
}

#[test]
fn a_barrier_shows_what_was_written_elsewhere_before_it() {
    let wishes = Wishes { round_trips_ms: vec![10.0, 40.0, 45.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let (here, there) = (cluster.mount("z1").join("f"), cluster.mount("z3").join("f"));
    std::fs::write(&here, b"").expect("a file");
    cluster.wait_for_path("z3", "f");
    // Still open and not sealed: the barrier has its writer publish it.
    let mut writer = std::fs::File::options().write(true).open(&here).expect("opens");
    for round in 1..=10 {
        writer.write_all(b"x").expect("writes");
        let made = cluster.mount("z1").join(format!("made-{round}"));
        std::fs::create_dir(&made).expect("a directory");
        let path = there.to_str().expect("temporary paths are UTF-8");
        cluster.fusion("z3", &["sync", path]).expect_ok();
        assert_eq!(std::fs::read(&there).expect("reads").len(), round);
        assert_eq!(std::fs::metadata(&there).expect("stat").len(), round as u64);
        assert!(cluster.mount("z3").join(format!("made-{round}")).is_dir());
    }
}

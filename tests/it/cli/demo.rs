//! A cluster by the verbs that people use.

use std::fs;

use tests::cluster::{Cluster, Wishes};
use tests::wait::wait_until;

#[test]
fn a_demo_starts_completes_itself_and_stops() {
    let Some(cluster) = Cluster::start() else { return };
    let report = cluster.demo(&["status", "--json"]).expect_ok().json();
    let zones = report["zones"].as_array().expect("zones").clone();
    assert_eq!(zones.len(), 3);
    for (zone, name) in zones.iter().zip(["z1", "z2", "z3"]) {
        assert_eq!(zone["name"], name);
        assert_eq!(zone["mount"].as_str(), cluster.mount(name).to_str());
        assert_eq!(zone["store"].as_str(), cluster.store(name).to_str());
        assert!(zone["pid"].as_u64().is_some() && zone["port"].as_u64().is_some(), "{zone}");
    }

    // Up again: nothing is started.
    let pids: Vec<_> = cluster.zones().map(|zone| cluster.pid(zone)).collect();
    let again = cluster.demo(&["up", "--no-tour"]).expect_ok();
    assert!(again.stdout.contains("runs already"), "{}", again.stdout);
    assert_eq!(pids, cluster.zones().map(|zone| cluster.pid(zone)).collect::<Vec<_>>());

    // Killed: only the dead one is started, and its dead mount is replaced.
    cluster.kill("z2");
    assert_eq!(cluster.pid("z2"), None);
    cluster.start_missing();
    assert_eq!(cluster.pid("z1"), pids[0]);
    assert_ne!(cluster.pid("z2"), pids[1]);
    fs::create_dir(cluster.mount("z2").join("after")).expect("the mount works again");
    cluster.wait_for_path("z1", "after");

    // Down and up: everything is still there.
    cluster.demo(&["down"]).expect_ok();
    assert!(cluster.pid("z1").is_none());
    cluster.start_missing();
    assert!(cluster.mount("z3").join("after").is_dir());
    cluster.wait_for_equal_state();
}

#[test]
fn status_log_and_where_show_what_happened() {
    let Some(cluster) = Cluster::start() else { return };
    let file = cluster.mount("z1").join("report");
    fs::write(&file, vec![7; 100_000]).expect("a file is written");
    cluster.wait_for_path("z3", "report");
    cluster.wait_for_equal_state();

    // Exit code 0: every node is well, also as z2 last heard of it.
    wait_until("all nodes are ok", || cluster.fusion("z2", &["status"]).code == 0);
    let status = cluster.status("z2").expect("z2 answers");
    assert_eq!(status["node"], "z2");
    assert_eq!(status["ring"]["voters"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["links"].as_array().map(Vec::len), Some(2));
    let text = cluster.fusion("z2", &["status"]).stdout;
    assert!(text.contains("voters z1 z2 z3"), "{text}");

    let log = cluster
        .fusion("z1", &["log", "show", "--from", "1", "--limit", "100000", "--json"])
        .expect_ok();
    let entries: Vec<serde_json::Value> = log
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("one JSON value per line"))
        .collect();
    let operations: Vec<&str> = entries
        .iter()
        .flat_map(|entry| entry["commands"].as_array().into_iter().flatten())
        .filter_map(|command| command["op"].as_str())
        .collect();
    for operation in ["create", "publish", "admit-node"] {
        assert!(operations.contains(&operation), "{operation} is not in {operations:?}");
    }
    let gsns: Vec<u64> = entries.iter().filter_map(|entry| entry["gsn"].as_u64()).collect();
    assert!(gsns.is_sorted_by(|a, b| a < b), "{gsns:?}");

    let path = file.to_str().expect("temporary paths are UTF-8");
    wait_until("all zones hold the file", || {
        let report = cluster.fusion("z1", &["where", path, "--json"]).expect_ok().json();
        assert_eq!(
            (report["path"].as_str(), report["size_bytes"].as_u64()),
            (Some("/report"), Some(100_000))
        );
        let holders = report["holders"].as_array().cloned().unwrap_or_default();
        holders.len() == 3 && holders.iter().all(|holder| holder["state"] == "held")
    });
}

#[test]
fn tokens_are_listed_and_revoked() {
    let Some(cluster) = Cluster::start_with(&Wishes { zones: 1, ..Wishes::default() }) else {
        return;
    };
    let created =
        cluster.fusion("z1", &["token", "create", "--zone", "z9", "--json"]).expect_ok().json();
    assert!(created["token"].as_str().is_some_and(|token| token.starts_with("FUS1-")), "{created}");
    let id = created["id"].as_str().expect("an id").to_owned();
    let listed = || cluster.fusion("z1", &["token", "list", "--json"]).expect_ok().json();
    assert!(
        listed().as_array().is_some_and(|tokens| tokens.iter().any(|token| token["id"] == *id))
    );
    cluster.fusion("z1", &["token", "revoke", &id]).expect_ok();
    assert_eq!(listed().as_array().map(Vec::len), Some(0));
    let store = cluster.root().join("never");
    let store = store.to_str().expect("temporary paths are UTF-8");
    let token = created["token"].as_str().expect("a token");
    let join = tests::program::fusion([
        "join",
        token,
        "--store",
        store,
        "--name",
        "n9",
        "--listen",
        "127.0.0.1:0",
        "--advertise",
        "127.0.0.1:1",
    ]);
    assert_ne!(join.code, 0, "a revoked token admits nobody");
}

#[test]
fn a_link_is_as_long_as_it_was_made() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.demo(&["link", "z1", "z2", "--rtt", "60"]).expect_ok();
    wait_until("z1 measures about 60 ms to z2", || {
        let status = cluster.status("z1").expect("z1 answers");
        let links = status["links"].as_array().cloned().unwrap_or_default();
        let link = links.into_iter().find(|link| link["peer"] == "z2");
        link.and_then(|link| link["rtt_ms"].as_f64()).is_some_and(|rtt| (55.0..90.0).contains(&rtt))
    });
    assert_eq!(cluster.demo(&["link", "z1", "z9", "--rtt", "60"]).code, 2);
}

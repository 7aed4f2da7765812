//! Stores that are not what was written, and nodes that applied something else.

use std::fs;
use std::path::PathBuf;

use engine::command::{Command, Cred, Op, SetAttr};
use engine::ids::{Gsn, Ino, NodeId, OpId, VolumeId};
use engine::namespace::tables::Overlay;
use engine::namespace::{apply, recompute};
use engine::time::Timestamp;
use store::{Options, Store};
use tests::cluster::Cluster;
use tests::wait::{wait_for_ok, wait_until};

const VOLUME: VolumeId = VolumeId(1);

/// Applies a command to a zone's tables that nobody agreed on. Its daemon must not run.
fn diverge(cluster: &Cluster, zone: &str) -> Gsn {
    let options = Options { reserve_bytes: 0, ..Options::default() };
    let store = Store::open(&cluster.store(zone), &options).expect("the daemon has stopped");
    let header = store.header(VOLUME).expect("readable").expect("the volume is there");
    let mut overlay = Overlay::new(store.tables(VOLUME));
    let command = Command {
        id: OpId { origin: NodeId(3), boot: 1 << 40, seq: 1 },
        time: Timestamp::new(1, 0),
        cred: Cred::SYSTEM,
        op: Op::SetAttr {
            ino: Ino::ROOT,
            set: SetAttr { mode: Some(0o700), ..SetAttr::default() },
        },
    };
    apply(&mut overlay, header.gsn, &command).expect("the tables can be read");
    store.apply(VOLUME, overlay.changes(), &header, &[]).expect("the tables can be written");
    store.sync().expect("the disk is there");
    header.gsn
}

#[test]
fn a_diverged_zone_stops_alone_keeps_the_evidence_and_comes_back_by_a_restart() {
    let Some(cluster) = Cluster::start() else { return };
    fs::create_dir(cluster.mount("z1").join("before")).expect("agreed");
    cluster.wait_for_equal_state();
    cluster.kill("z3");
    let gsn = diverge(&cluster, "z3");
    cluster.start_one("z3");
    fs::create_dir(cluster.mount("z1").join("after")).expect("agreed");

    wait_for_ok("z3 says that it failed", || {
        let status = cluster.status("z3").ok_or("it does not answer")?;
        let state = status["state"].as_str().unwrap_or_default().to_owned();
        (state == "failed").then_some(()).ok_or(state)
    });
    assert_eq!(cluster.fusion("z3", &["status"]).code, 3);
    let evidence = fs::read_dir(cluster.store("z3").join("evidence")).expect("it is kept");
    let evidence: Vec<PathBuf> = evidence.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(evidence.len(), 1, "diverged at {gsn} or later: {evidence:?}");
    assert!(evidence[0].join("db/CURRENT").exists() && evidence[0].join("why.txt").exists());
    // What it knows is wrong: it does not show it.
    assert!(fs::read_dir(cluster.mount("z3").join("before")).is_err());
    for zone in ["z1", "z2"] {
        fs::create_dir(cluster.mount(zone).join(zone)).expect("the others go on");
        wait_until(&format!("{zone} has raised the alarm"), || {
            cluster.log(zone).contains("differs from the majority's")
        });
        let own = cluster.node(zone).expect("it answers");
        assert_eq!(own["state"], "ok", "{zone} is not the one that is wrong");
    }

    cluster.restart("z3");
    cluster.wait_for_equal_state();
    for name in ["before", "after", "z1", "z2"] {
        cluster.wait_for_path("z3", name);
    }
    fs::create_dir(cluster.mount("z3").join("z3")).expect("it takes part again");
    assert!(evidence[0].exists(), "a restart leaves the evidence");
    check_tables(&cluster, "z3");
}

/// The state hash is what the rows give.
fn check_tables(cluster: &Cluster, zone: &str) {
    cluster.wait_for_equal_state();
    cluster.kill(zone);
    let options = Options { reserve_bytes: 0, ..Options::default() };
    let store = Store::open(&cluster.store(zone), &options).expect("the daemon is dead");
    let tables = store.tables(VOLUME);
    let (hash, _) = recompute(&tables).expect("readable");
    let told = engine::namespace::View::new(&tables).state_hash().expect("readable");
    assert_eq!(hash, told);
    drop((tables, store));
    cluster.start_missing();
}

fn flip_middle(path: &PathBuf) {
    let mut bytes = fs::read(path).expect("a file of the store");
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("a file of the store");
}

#[test]
fn a_zone_whose_log_is_damaged_learns_first_and_votes_in_another_epoch() {
    let Some(cluster) = Cluster::start() else { return };
    let body = vec![7; 300_000];
    fs::write(cluster.mount("z3").join("file"), &body).expect("written");
    for number in 0..50 {
        fs::create_dir(cluster.mount("z1").join(format!("d{number}"))).expect("agreed");
    }
    cluster.wait_for_equal_state();
    let epoch = |zone: &str| cluster.status(zone).and_then(|it| it["ring"]["epoch"].as_u64());
    let before = epoch("z1").expect("it answers");
    cluster.kill("z3");
    let logs = fs::read_dir(cluster.store("z3").join("db")).expect("a database");
    let logs = logs.map(|entry| entry.expect("an entry").path());
    let log = logs
        .filter(|path| path.extension().is_some_and(|it| it == "log"))
        .max_by_key(|path| fs::metadata(path).map_or(0, |it| it.len()))
        .expect("a write-ahead log");
    flip_middle(&log);

    cluster.start_one("z3");
    wait_for_ok("z3 votes again", || {
        let log = cluster.log("z3");
        log.contains("this node votes again").then_some(()).ok_or("not yet".to_owned())
    });
    assert!(cluster.log("z3").contains("does not vote before"), "it has said why");
    assert!(epoch("z1") > Some(before), "in an epoch of its own");
    cluster.wait_for_equal_state();
    fs::create_dir(cluster.mount("z3").join("again")).expect("it takes part");
    cluster.wait_for_path("z1", "again");
    assert_eq!(fs::read(cluster.mount("z3").join("file")).expect("read"), body);
    let kept = fs::read_dir(cluster.store("z3").join("lost+found")).expect("a directory");
    let kept = kept.flatten().any(|it| it.file_name().to_string_lossy().ends_with("-db"));
    assert!(kept, "the damaged database is kept");
    // The vote counts: without it two of three are no majority.
    cluster.kill("z2");
    fs::create_dir(cluster.mount("z1").join("with z3")).expect("z1 and z3 are a majority");
    cluster.start_missing();
}

#[test]
fn a_zone_with_damaged_tables_takes_a_peers_state_by_itself() {
    let Some(cluster) = Cluster::start() else { return };
    for number in 0..200 {
        let name = format!("d{number}-{}", "x".repeat(200));
        fs::create_dir(cluster.mount("z1").join(name)).expect("agreed");
    }
    cluster.wait_for_equal_state();
    // A start writes what the log held to table files.
    cluster.restart("z3");
    cluster.wait_for_equal_state();
    cluster.kill("z3");
    let files = fs::read_dir(cluster.store("z3").join("db")).expect("a database");
    let files = files.map(|entry| entry.expect("an entry").path());
    let tables: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|it| it == "sst")).collect();
    assert!(!tables.is_empty());
    tables.iter().for_each(flip_middle);
    cluster.start_one("z3");
    wait_for_ok("z3 has given its database up", || {
        // Reading everything finds it, wherever it is.
        let _ = fs::read_dir(cluster.mount("z3")).map(|entries| {
            entries.flatten().for_each(|entry| drop(entry.metadata()));
        });
        let log = cluster.log("z3");
        let given_up = log.contains("the damaged database was replaced");
        given_up.then_some(()).ok_or("not yet".to_owned())
    });
    cluster.start_missing();
    cluster.wait_for_equal_state();
    let expected = fs::read_dir(cluster.mount("z1")).expect("the root").count();
    wait_for_ok("z3 shows everything", || {
        let shown = fs::read_dir(cluster.mount("z3")).map_err(|it| it.to_string())?.count();
        (shown == expected).then_some(()).ok_or(format!("{shown} of {expected}"))
    });
}

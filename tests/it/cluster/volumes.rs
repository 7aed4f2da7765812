//! Several volumes in one daemon: rings of their own over the same connections.

use std::path::PathBuf;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::wait::{wait_for, wait_until};

/// Mounts `volume` beside the root tree of `zone`, as soon as it is there.
fn mount(cluster: &Cluster, zone: &str, volume: &str) -> PathBuf {
    let directory = cluster.root().join(format!("{volume}-{zone}"));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.to_str().expect("temporary paths are UTF-8");
    let options = format!("volume={volume}");
    wait_until(&format!("{volume} is mounted in {zone}"), || {
        cluster.fusion(zone, &["mount", path, "-o", &options]).code == 0
    });
    directory
}

/// What `fusion volume list` of a zone's daemon says about a volume.
fn report(cluster: &Cluster, zone: &str, volume: &str) -> Option<Value> {
    let list = cluster.fusion(zone, &["volume", "list", "--json"]).json();
    let volumes = list.as_array()?.clone();
    volumes.into_iter().find(|entry| entry["name"] == volume)
}

fn wait_for_equal_state(cluster: &Cluster, volume: &str, zones: &[&str]) {
    wait_until(&format!("{volume} has one state in {zones:?}"), || {
        let states: Option<Vec<(Value, Value)>> = zones
            .iter()
            .map(|zone| {
                let here = report(cluster, zone, volume)?["here"].clone();
                here.is_object().then(|| (here["gsn_applied"].clone(), here["state_hash"].clone()))
            })
            .collect();
        states.is_some_and(|states| states.iter().all(|state| *state == states[0]))
    });
}

#[test]
fn a_volume_has_its_own_tree_and_ring_on_the_nodes_that_take_part() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.fusion("z1", &["volume", "create", "pair", "--nodes", "z1,z2"]).expect_ok();
    let again = cluster.fusion("z2", &["volume", "create", "pair"]);
    assert_eq!(again.code, 6, "a name is taken once: {}", again.stderr);
    let unknown = cluster.fusion("z2", &["volume", "create", "other", "--nodes", "z9"]);
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);

    let (one, two) = (mount(&cluster, "z1", "pair"), mount(&cluster, "z2", "pair"));
    std::fs::write(one.join("f"), b"only in the pair").expect("a file");
    wait_until("z2 reads it", || {
        std::fs::read(two.join("f")).is_ok_and(|read| read == b"only in the pair")
    });
    std::fs::create_dir(two.join("d")).expect("written in both");
    wait_until("z1 sees it", || one.join("d").is_dir());
    assert!(!cluster.mount("z1").join("f").exists(), "the root tree is another one");

    // z3 knows that it exists, and takes no part.
    wait_until("z3 knows of it", || {
        report(&cluster, "z3", "pair").is_some_and(|volume| volume["here"].is_null())
    });
    let place = cluster.root().join("nowhere");
    std::fs::create_dir(&place).expect("a directory");
    let place = place.to_str().expect("temporary paths are UTF-8");
    let refused = cluster.fusion("z3", &["mount", place, "-o", "volume=pair"]);
    assert_eq!(refused.code, 6, "{}", refused.stderr);

    // Both rings vote: the pair's needs both of its nodes, the root's any two of three.
    wait_for("both vote in the pair", || {
        let volume = report(&cluster, "z1", "pair")?;
        (volume["here"]["voters"] == serde_json::json!(["z1", "z2"])).then_some(())
    });
    cluster.cut("z3");
    std::fs::create_dir(one.join("without-z3")).expect("z3 is nobody's business");
    cluster.heal();
    wait_for_equal_state(&cluster, "pair", &["z1", "z2"]);
    cluster.wait_for_equal_state();
}

#[test]
fn a_volume_is_there_again_after_a_kill() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.fusion("z2", &["volume", "create", "all"]).expect_ok();
    let tree = mount(&cluster, "z2", "all");
    let file = tree.join("kept");
    std::fs::write(&file, b"kept").expect("a file");
    std::fs::File::open(&file).and_then(|file| file.sync_all()).expect("fsync");
    for zone in ["z1", "z2", "z3"] {
        mount(&cluster, zone, "all");
    }
    for zone in ["z1", "z2", "z3"] {
        cluster.kill(zone);
    }
    cluster.start_missing();
    for zone in ["z1", "z2", "z3"] {
        let file = mount(&cluster, zone, "all").join("kept");
        wait_until(&format!("{zone} has the file again"), || {
            std::fs::read(&file).is_ok_and(|read| read == b"kept")
        });
    }
    wait_for_equal_state(&cluster, "all", &["z1", "z2", "z3"]);
}

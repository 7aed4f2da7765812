//! Power loss on one node: everything that was not fsynced is gone.

use std::path::Path;
use std::process::Command;

use tests::cluster::Cluster;
use tests::random::Random;

use super::fragile_disk::FragileDisk;
use super::load::{Load, wait_until_agreed, wait_until_kept};

const ZONES: [&str; 3] = ["z1", "z2", "z3"];
const ROUNDS: usize = 6;
/// Operations of the others while the node has no power.
const MEANWHILE: u64 = 30;

#[test]
fn power_loss_under_load_loses_nothing_acknowledged() {
    let Some((cluster, disk)) = cluster_with_fragile_z2() else { return };
    let mut random = Random::announced("power_loss");
    let load = Load::start(&cluster, &ZONES);
    for round in 1..=ROUNDS {
        load.wait_for_more("z2", 20 + random.below(100));
        lose_power(&cluster, &disk, round);
        for zone in ["z1", "z3"] {
            load.wait_for_more(zone, MEANWHILE);
        }
        cluster.start_missing();
        load.wait_for_more("z2", 1);
    }
    let accounts = load.stop();
    for account in &accounts {
        println!("power_loss: {} acknowledged; failed: {:?}", account.acknowledged, account.errors);
    }
    cluster.wait_for_equal_state();
    wait_until_kept(&cluster, &accounts, &ZONES);
    cluster.wait_for_equal_state();
    stop(cluster, disk);
}

/// z1's work is agreed by z1 and z2 alone; then only z2, after its power loss, can tell z3.
#[test]
fn a_vote_survives_power_loss() {
    let Some((cluster, disk)) = cluster_with_fragile_z2() else { return };
    let mut random = Random::announced("power_loss");
    let load = Load::start(&cluster, &["z1"]);
    cluster.cut("z3");
    for round in 1..=ROUNDS {
        load.wait_for_more("z1", 20 + random.below(100));
        lose_power(&cluster, &disk, round);
        cluster.start_one("z2");
        // Agreed with the voice of the restarted z2, as z3 hears nothing.
        load.wait_for_more("z1", 1);
    }
    load.wait_for_more("z1", 20);
    // Both at one moment, with z1's work on its way.
    lose_power(&cluster, &disk, ROUNDS + 1);
    cluster.kill("z1");
    let accounts = load.stop();
    cluster.heal();
    cluster.start_one("z2");
    for zone in ["z2", "z3"] {
        for account in &accounts {
            wait_until_agreed(&cluster, account, zone);
        }
    }
    cluster.start_missing();
    cluster.wait_for_equal_state();
    wait_until_kept(&cluster, &accounts, &ZONES);
    cluster.wait_for_equal_state();
    println!(
        "power_loss: {} acknowledged by two, told to the third by one",
        accounts[0].acknowledged
    );
    stop(cluster, disk);
}

/// A cluster whose zone z2 has its store on a disk that can lose power.
fn cluster_with_fragile_z2() -> Option<(Cluster, FragileDisk)> {
    if !tests::fuse::usable() {
        return None;
    }
    let disk = FragileDisk::new()?;
    let cluster = cluster_with_store_on("z2", &disk)?;
    Some((cluster, disk))
}

/// A cluster in which the store of `zone` lies on `disk`.
pub fn cluster_with_store_on(zone: &str, disk: &FragileDisk) -> Option<Cluster> {
    let cluster = Cluster::start()?;
    cluster.demo(&["down"]).expect_ok();
    let (store, place) = (cluster.store(zone), disk.place().join("store"));
    move_directory(&store, &place);
    disk.sync();
    std::os::unix::fs::symlink(&place, &store).expect("a link in its place");
    cluster.start_missing();
    cluster.wait_for_equal_state();
    Some(cluster)
}

fn move_directory(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").args([from, to]).output().expect("cp starts");
    assert!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_dir_all(from).expect("the old one can be removed");
}

/// The daemon dies at the moment of the power loss, or a bit later: then it sees the disk's
/// errors, and must not say anything that they make untrue.
fn lose_power(cluster: &Cluster, disk: &FragileDisk, round: usize) {
    if round.is_multiple_of(2) {
        cluster.kill("z2");
        disk.lose_power();
    } else {
        disk.lose_power();
        cluster.kill("z2");
    }
    disk.power_up();
}

/// The cluster is gone before the disk: its daemon has files open there.
pub fn stop(cluster: Cluster, disk: FragileDisk) {
    drop(cluster);
    drop(disk);
}

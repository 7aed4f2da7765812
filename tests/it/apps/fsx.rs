//! fsx: random reads, writes, truncates and mappings of one file against a model.

use std::process::Command;

use tests::cluster::Cluster;

use super::{succeeded, tool};

const OPERATIONS: &str = "5000";

#[test]
fn fsx_finds_no_difference() {
    let Some(fsx) = tool("fsx") else { return };
    let Some(cluster) = Cluster::start() else { return };
    let artifacts = tempfile::tempdir().expect("a directory");
    for seed in 1..=4 {
        let file = cluster.mount("z1").join(format!("fsx-{seed}"));
        let output = Command::new(&fsx)
            .args(["-q", "-N", OPERATIONS, "-S", &seed.to_string(), "-P"])
            .arg(artifacts.path())
            .arg(&file)
            .output()
            .expect("fsx starts");
        succeeded(&format!("fsx with seed {seed}"), &output);
    }
    cluster.wait_for_equal_state();
    for seed in 1..=4 {
        let name = format!("fsx-{seed}");
        let here = std::fs::read(cluster.mount("z1").join(&name)).expect("readable here");
        let there = std::fs::read(cluster.mount("z2").join(&name)).expect("readable there");
        assert!(here == there, "{name} differs between z1 and z2");
    }
}

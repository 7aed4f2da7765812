//! fsx: random changes of one file, by every call that changes or reads bytes, against a model.
//!
//! FUSION_TEST_FSX_SEEDS sets the number of seeds; 84 of them make a million operations.

use std::path::Path;
use std::process::Command;

use tests::cluster::Cluster;

use super::{succeeded, tool};

const SEEDS: u64 = 4;
/// Of each seed. fsx never takes a mapping away, and is slow with tens of thousands of them: more
/// operations are more seeds.
const OPERATIONS: &str = "12000";

fn seeds() -> u64 {
    let given = std::env::var("FUSION_TEST_FSX_SEEDS").ok();
    given.map_or(SEEDS, |text| text.parse().expect("FUSION_TEST_FSX_SEEDS is a number"))
}

/// Everything that fsx can do and FUSE passes on. Not there: collapse and insert range, which
/// the kernel refuses for every FUSE filesystem.
const CONFIG: &str = "
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 0.3
fdatasync = 0.3
posix_fallocate = 3
punch_hole = 5
sendfile = 5
posix_fadvise = 2
copy_file_range = 5
";

#[test]
fn fsx_finds_no_difference() {
    let Some(fsx) = tool("fsx") else { return };
    let Some(cluster) = Cluster::start() else { return };
    let artifacts = tempfile::tempdir().expect("a directory");
    let config = artifacts.path().join("fsx.toml");
    std::fs::write(&config, CONFIG).expect("a file");
    for seed in 1..=seeds() {
        let file = cluster.mount("z1").join(format!("fsx-{seed}"));
        let output = Command::new(&fsx)
            .args(["-q", "-N", OPERATIONS, "-S", &seed.to_string(), "-f"])
            .arg(&config)
            .arg("-P")
            .arg(artifacts.path())
            .arg(&file)
            .output()
            .expect("fsx starts");
        succeeded(&format!("fsx with seed {seed}"), &output);
    }
    cluster.wait_for_equal_state();
    for seed in 1..=seeds() {
        let name = format!("fsx-{seed}");
        let read = |zone: &str| read(&cluster.mount(zone).join(&name));
        assert!(read("z1") == read("z2"), "{name} differs between z1 and z2");
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("it can be read")
}

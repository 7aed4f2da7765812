//! The VM cluster's scripts, without VMs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wire::emulator::wan;

fn vagrant() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vagrant")
}

#[test]
fn the_tc_commands_are_the_golden_ones() {
    for zone in ["z1", "z2", "z3"] {
        let printed = Command::new(vagrant().join("provision/wan.sh"))
            .args(["--print", zone])
            .arg(vagrant().join("wan.csv"))
            .arg("eth1")
            .output()
            .expect("a shell");
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let golden = fs::read_to_string(vagrant().join(format!("golden/tc-{zone}.txt")))
            .expect("a golden file");
        assert_eq!(String::from_utf8_lossy(&printed.stdout), golden, "{zone}");
    }
}

#[test]
fn the_emulator_reads_the_same_links() {
    let text = fs::read_to_string(vagrant().join("wan.csv")).expect("the links");
    let rows = wan::parse(&text).expect("the emulator's format");
    let pairs: Vec<(&str, &str)> =
        rows.iter().map(|row| (row.from.as_str(), row.to.as_str())).collect();
    assert_eq!(pairs, [("z1", "z2"), ("z1", "z3"), ("z2", "z3")]);
}

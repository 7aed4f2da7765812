//! A tree of a few thousand files, copied into one zone by `cp -a`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tests::cluster::Cluster;
use tests::tree::{self, Tree};

/// Generated files, on every machine.
const GENERATED: usize = 1500;
/// Files of unpacked crates, where cargo has some.
const FROM_CRATES: usize = 2500;

#[test]
fn a_copied_tree_is_equal_in_all_zones() {
    let Some(cluster) = Cluster::start() else { return };
    let source = cluster.root().join("source");
    fs::create_dir(&source).expect("a directory");
    tree::generate(&source, GENERATED).expect("a tree is made");
    copy_crates(&source);
    let expected = tree::read(&source).expect("the source is readable");

    let start = Instant::now();
    let target = cluster.mount("z1").join("tree");
    copy(&source, &target);
    let copied = start.elapsed();
    check_equal(&expected, "z1", &target);
    cluster.wait_for_equal_state();
    // The first reads wait for what has not arrived yet.
    for zone in ["z2", "z3"] {
        check_equal(&expected, zone, &cluster.mount(zone).join("tree"));
    }
    let everywhere = start.elapsed();
    cluster.wait_for_equal_state();
    let bytes: usize = expected.values().map(|thing| thing.content.len()).sum();
    println!(
        "tree_copy: {} names, {} MiB: copied in {:.1} s, read in three zones after {:.1} s",
        expected.len(),
        bytes >> 20,
        copied.as_secs_f64(),
        everywhere.as_secs_f64()
    );
}

fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").args([from, to]).output().expect("cp starts");
    assert!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr));
}

fn check_equal(expected: &Tree, zone: &str, root: &Path) {
    let found = tree::read(root).unwrap_or_else(|error| panic!("{zone}: {error}"));
    let differences = tree::differences(expected, &found, 5);
    assert!(differences.is_empty(), "{zone}:\n{}", differences.join("\n"));
}

/// Copies whole crates from cargo's registry, as far as there are some.
fn copy_crates(target: &Path) {
    let mut left = FROM_CRATES;
    for path in crates() {
        let files = tree::read(&path).map_or(0, |tree| tree.len());
        if (1..=left).contains(&files) {
            left -= files;
            copy(&path, target);
        }
    }
}

/// Unpacked crates, the first in the alphabet first.
fn crates() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let registries = home.and_then(|home| fs::read_dir(home.join("registry/src")).ok());
    let mut crates: Vec<PathBuf> = registries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|registry| fs::read_dir(registry.path()).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    crates.sort();
    // The few hundred first ones are enough, and reading all would take long.
    crates.truncate(200);
    crates
}

//! rsync: everything about a tree, twice, without a difference the second time.

use tests::cluster::Cluster;
use tests::tree;

use super::{hand_over, program, shell};

#[test]
fn rsync_copies_everything_and_then_finds_nothing_to_do() {
    let Some(_) = program("rsync") else { return };
    let Some(cluster) = Cluster::start() else { return };
    let outside = tempfile::tempdir().expect("a directory");
    let source = outside.path().join("source");
    std::fs::create_dir(&source).expect("a directory");
    tree::generate(&source, 300).expect("a tree");
    shell(
        &source,
        "mkdir more && touch more/file && truncate -s 40M sparse && printf x | dd of=sparse bs=1 seek=20M conv=notrunc status=none",
    );
    let copy = |from: &str, to: &str| {
        shell(outside.path(), &format!("rsync -aHXS --numeric-ids {from}/ {to}/"));
        let left = format!(
            "rsync -aHXS --numeric-ids --checksum --dry-run --itemize-changes {from}/ {to}/"
        );
        assert_eq!(shell(outside.path(), &left), "", "{from} to {to}");
    };
    let at = |zone: &str| cluster.mount(zone).join("tree").display().to_string();
    copy(&source.display().to_string(), &at("z1"));
    hand_over(&cluster, "z1", "tree");
    let back = outside.path().join("back").display().to_string();
    copy(&at("z2"), &back);
    copy(&back, &source.display().to_string());
    let blocks = shell(&cluster.mount("z2"), "stat -c %b tree/sparse");
    assert!(blocks.trim().parse::<u64>().expect("a number") < 1000, "holes stay: {blocks}");

    // Changed elsewhere; rsync writes beside the file and renames over it.
    shell(&source, "echo more >> more/file; rm sparse; mkdir new; echo n > new/file");
    shell(
        outside.path(),
        &format!("rsync -aHXS --numeric-ids --delete {}/ {}/", source.display(), at("z3")),
    );
    hand_over(&cluster, "z3", "tree");
    let left = shell(
        outside.path(),
        &format!(
            "rsync -aHXS --numeric-ids --delete --checksum --dry-run --itemize-changes {}/ {}/",
            source.display(),
            at("z1")
        ),
    );
    assert_eq!(left, "");
}

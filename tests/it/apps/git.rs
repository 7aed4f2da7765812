//! git: many small files, renames over lock files, packs through mmap.

use tests::cluster::Cluster;

use super::{shell, source_tree};

#[test]
fn git_clones_commits_collects_and_checks_in_one_zone_and_the_next() {
    let Some(cluster) = Cluster::start() else { return };
    let outside = tempfile::tempdir().expect("a directory");
    source_tree(outside.path());
    shell(outside.path(), "git init -q . && git add -A && git commit -qm first");
    let source = outside.path().display();

    let z1 = cluster.mount("z1");
    shell(&z1, &format!("git clone -q {source} work"));
    let work = z1.join("work");
    for round in 0..3 {
        shell(
            &work,
            &format!(
                "echo round {round} >> part0/deep/er/f1.txt; git mv part1/deep/er/f{round}.txt \
                 part2/moved{round}.txt; git commit -qam 'round {round}'"
            ),
        );
    }
    shell(&work, "git gc -q --prune=now && git fsck --strict");
    assert_eq!(shell(&work, "git status --porcelain"), "");
    let head = shell(&work, "git rev-parse HEAD");
    cluster.wait_for_equal_state();

    // The next zone goes on where this one stopped.
    let elsewhere = cluster.mount("z2").join("work");
    shell(&elsewhere, "git fsck --strict");
    assert_eq!(shell(&elsewhere, "git rev-parse HEAD"), head);
    assert_eq!(shell(&elsewhere, "git status --porcelain"), "");
    shell(&elsewhere, "echo elsewhere > new && git add new && git commit -qm elsewhere");
    let head = shell(&elsewhere, "git rev-parse HEAD");
    cluster.wait_for_equal_state();
    assert_eq!(shell(&cluster.mount("z3").join("work"), "git fsck && git rev-parse HEAD"), head);
}

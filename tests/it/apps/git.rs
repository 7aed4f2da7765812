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

/// A worktree knows its repository by its path, which is another one in each zone of a demo:
/// `repair` is what git has for a tree that was moved.
#[test]
fn git_worktrees_share_a_repository_and_go_on_in_the_next_zone() {
    let Some(cluster) = Cluster::start() else { return };
    let [z1, z2, z3] = ["z1", "z2", "z3"].map(|zone| cluster.mount(zone));
    shell(&z1, "git init -q work && cd work && echo 1 > f && git add f && git commit -qm 1");
    shell(&z1.join("work"), "git worktree add -q -b side ../side");
    shell(&z1.join("side"), "echo 2 >> f && git commit -qam 2");
    shell(&z1.join("work"), "git merge -q side && git worktree add -q --detach ../other");
    cluster.wait_for_equal_state();

    shell(&z2.join("work"), "git worktree repair ../side ../other");
    shell(&z2.join("side"), "echo 3 >> f && git commit -qam 3");
    assert_eq!(shell(&z2.join("side"), "git status --porcelain"), "");
    let listed = shell(&z2.join("work"), "git worktree list");
    assert_eq!(listed.lines().count(), 3, "{listed}");
    shell(&z2.join("work"), "git merge -q side && git worktree remove ../side");
    shell(&z2.join("work"), "rm -r ../other && git worktree prune && git branch -q -d side");
    shell(&z2.join("work"), "git gc -q --prune=now && git fsck --strict");
    cluster.wait_for_equal_state();

    let seen = shell(&z3.join("work"), "git fsck --strict && git worktree list | wc -l && cat f");
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["1", "1", "2", "3"], "{seen}");
    assert!(!z3.join("side").exists() && !z3.join("other").exists());
}

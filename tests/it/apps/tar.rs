//! tar: what goes in comes out, with modes, times, links and holes.

use tests::cluster::Cluster;

use super::{shell, source_tree};

#[test]
fn tar_round_trip_through_two_zones_changes_nothing() {
    let Some(cluster) = Cluster::start() else { return };
    let outside = tempfile::tempdir().expect("a directory");
    let tree = outside.path().join("tree");
    source_tree(&tree);
    shell(
        &tree,
        "ln part0/deep/er/f1.txt hard; ln -s part0/deep soft; mkfifo pipe; mkdir -m 1777 open; \
         truncate -s 3M holes; printf x | dd of=holes bs=1 seek=2000000 conv=notrunc status=none; \
         touch -d '2001-02-03 04:05:06.123456789' part1/deep/er/f2.txt; chmod 4711 hard",
    );
    let list = "find . -printf '%P %y %m %n %s %l\\n' | grep -v '^ ' | sort; \
                find . -type f -printf '%P %T@\\n' | sort; \
                find . -type f | sort | xargs sha256sum";
    let before = shell(&tree, list);

    let z1 = cluster.mount("z1");
    // The older formats of archives have whole seconds only.
    let pack = "tar --format=posix -cSf";
    shell(outside.path(), &format!("{pack} {}/a.tar tree", z1.display()));
    shell(&z1, "tar xpf a.tar");
    // Directories have other sizes and link counts on other filesystems; files don't.
    let only_files = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.contains(" d ")).map(str::to_owned).collect()
    };
    assert_eq!(only_files(&shell(&z1.join("tree"), list)), only_files(&before));
    cluster.wait_for_equal_state();
    let z3 = cluster.mount("z3");
    assert_eq!(only_files(&shell(&z3.join("tree"), list)), only_files(&before));
    shell(&z3, &format!("{pack} {}/b.tar tree", outside.path().display()));
    shell(outside.path(), "mkdir again && tar xpf b.tar -C again");
    let again = shell(&outside.path().join("again/tree"), list);
    assert_eq!(only_files(&again), only_files(&before));
}

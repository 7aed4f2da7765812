//! What editors, loggers and package managers do with files.

use tests::cluster::Cluster;

use super::{hand_over, shell};

#[test]
fn files_replaced_by_rename_are_whole_in_every_zone() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    shell(&z1, "mkdir conf && seq 1000 > conf/settings && chmod 640 conf/settings");
    hand_over(&cluster, "z1", "conf");
    // Each zone in turn replaces the file, as `sed -i` does, while the others read it.
    std::thread::scope(|scope| {
        let readers: Vec<_> = ["z1", "z2", "z3"]
            .map(|zone| {
                let dir = cluster.mount(zone).join("conf");
                scope.spawn(move || {
                    let mut read = 0;
                    while !dir.join("done").exists() {
                        let text = std::fs::read_to_string(dir.join("settings"));
                        let text = text.expect("the name is always there");
                        assert_eq!(text.lines().count(), 1000, "whole");
                        read += 1;
                    }
                    read
                })
            })
            .into();
        for round in 0..30 {
            let zone = ["z1", "z2", "z3"][round % 3];
            shell(
                &cluster.mount(zone).join("conf"),
                &format!("sed -i 's/^{}$/& changed {round}/' settings", round + 1),
            );
            cluster.wait_for_equal_state();
        }
        shell(&cluster.mount("z2").join("conf"), "touch done");
        for reader in readers {
            assert!(reader.join().expect("a reader does not panic") > 0);
        }
    });
    hand_over(&cluster, "z2", "conf");
    for zone in ["z1", "z2", "z3"] {
        let dir = cluster.mount(zone).join("conf");
        assert_eq!(shell(&dir, "grep -c changed settings"), "30\n", "in {zone}");
        assert_eq!(shell(&dir, "stat -c %a settings; ls"), "640\ndone\nsettings\n", "in {zone}");
    }
}

#[test]
fn a_log_is_rotated_under_its_writer() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    // One writer keeps its descriptor over renames until it is told to open the name again,
    // another has its file copied and truncated.
    shell(
        &z1,
        "mkdir log && cd log && exec 5>>moved 6>>cut && \
         for n in $(seq 200); do \
           echo \"line $n\" >&5; echo \"line $n\" >&6; \
           case $n in *50) mv moved moved.$n; exec 5>>moved;; \
                      *25) cp cut cut.$n; : > cut;; esac; \
         done; exec 5>&- 6>&-; gzip moved.50",
    );
    hand_over(&cluster, "z1", "log");
    let expected: String = (1..=200).map(|n| format!("line {n}\n")).collect();
    for zone in ["z1", "z2", "z3"] {
        let dir = cluster.mount(zone).join("log");
        let moved = shell(&dir, "zcat moved.50.gz; cat moved.150 moved");
        assert_eq!(moved, expected, "in {zone}");
        assert_eq!(shell(&dir, "cat cut.25 cut.125 cut"), expected, "in {zone}");
    }
}

#[test]
fn a_deep_tree_of_small_files_comes_and_goes() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    // As node_modules: packages in packages, many files of a few bytes, links to programs.
    shell(
        &z1,
        "mkdir app && cd app && for a in $(seq 12); do for b in $(seq 6); do \
           d=node_modules/p$a/node_modules/q$b; mkdir -p $d/lib; \
           for f in 1 2 3 4 5; do echo \"module $a $b $f\" > $d/lib/$f.js; done; \
           mkdir -p node_modules/.bin; ln -sf ../p$a/node_modules/q$b/lib/1.js \
             node_modules/.bin/p$a-q$b; done; done",
    );
    hand_over(&cluster, "z1", "app");
    let z2 = cluster.mount("z2");
    let files =
        shell(&z2, "find app -name '*.js' -type f | wc -l; cat app/node_modules/.bin/* | wc -l");
    assert_eq!(files, "360\n72\n");
    // Removed in one zone while another walks it: no error but of names that went.
    std::thread::scope(|scope| {
        let walker =
            scope.spawn(|| shell(&cluster.mount("z3"), "find app 2>/dev/null | wc -l || :"));
        shell(&z2, "mv app old && cp -a old app && rm -r old");
        walker.join().expect("the walker does not panic");
    });
    hand_over(&cluster, "z2", "app");
    assert_eq!(shell(&z1, "ls; find app -name '*.js' -type f | wc -l"), "app\n360\n");
    shell(&z1, "rm -r app");
    cluster.wait_for_equal_state();
    assert_eq!(shell(&cluster.mount("z3"), "ls -A"), "");
}

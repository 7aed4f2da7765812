//! A zone that was away for longer than the log is kept.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tests::cluster::Cluster;
use tests::wait::{wait_for_ok, wait_until};

use super::load::{Load, wait_until_kept};

/// Far below what a few seconds of load agree on.
const KEEP_GSN: u64 = 400;

/// Has every zone keep so little of the log.
pub fn keep_little(cluster: &Cluster) {
    let zones: Vec<String> = cluster.zones().map(str::to_owned).collect();
    for zone in &zones {
        let path = cluster.store(zone).join("fusion.toml");
        let mut settings = fs::read_to_string(&path).unwrap_or_default();
        settings.push_str(&format!("\norder_keep_gsn = {KEEP_GSN}\n"));
        fs::write(path, settings).expect("the store's settings can be written");
        cluster.restart(zone);
    }
    for zone in &zones {
        wait_until(&format!("{zone} takes part again"), || {
            cluster.node(zone).is_some_and(|node| node["state"] == "ok")
        });
    }
}

fn state_of(cluster: &Cluster, at: &str, zone: &str) -> Option<String> {
    let status = cluster.status(at)?;
    let nodes = status["nodes"].as_array()?;
    let node = nodes.iter().find(|node| node["node"] == zone)?;
    node["state"].as_str().map(str::to_owned)
}

fn number(cluster: &Cluster, zone: &str, field: &str) -> u64 {
    cluster.node(zone).and_then(|node| node[field].as_u64()).unwrap_or(0)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|it| it.expect("an entry").file_name().to_string_lossy().into()).collect();
    names.sort();
    names
}

#[test]
fn a_zone_away_for_longer_than_the_log_gets_a_checkpoint_under_its_mount() {
    let Some(cluster) = Cluster::start() else { return };
    keep_little(&cluster);
    let (here, there) = (cluster.mount("z1").join("d"), cluster.mount("z3").join("d"));
    fs::create_dir(&here).expect("a directory");
    for name in ["gone", "kept", "moved", "rewritten"] {
        fs::write(here.join(name), format!("{name}, as it was")).expect("a file");
    }
    cluster.wait_for_equal_state();
    cluster.wait_for_path("z3", "d/rewritten");
    // What z3's kernel has in its caches from now on.
    for name in ["gone", "kept", "moved", "rewritten"] {
        let text = fs::read_to_string(there.join(name)).expect("it is there");
        assert_eq!(text, format!("{name}, as it was"));
    }
    assert!(there.join("new").symlink_metadata().is_err());
    assert_eq!(names(&there), ["gone", "kept", "moved", "rewritten"]);
    let mut gone = File::options().read(true).write(true).open(there.join("gone")).expect("open");
    let mut rewritten = File::open(there.join("rewritten")).expect("open");

    let load = Load::start(&cluster, &["z1", "z2"]);
    cluster.cut("z3");
    fs::remove_file(here.join("gone")).expect("unlinked");
    fs::rename(here.join("moved"), here.join("new")).expect("renamed");
    fs::write(here.join("rewritten"), "rewritten, in another zone").expect("written");
    let left_gsn = number(&cluster, "z3", "gsn_applied");
    for zone in ["z1", "z2"] {
        wait_until(&format!("{zone} has dropped what z3 needs"), || {
            number(&cluster, zone, "order_oldest") > left_gsn + 1
        });
        wait_until(&format!("{zone} says so"), || {
            state_of(&cluster, zone, "z3").as_deref() == Some("sidelined")
        });
    }
    // It shows its old state meanwhile, consistent in itself.
    assert_eq!(names(&there), ["gone", "kept", "moved", "rewritten"]);
    let mut most = 0;
    for _ in 0..10 {
        load.wait_for_more("z1", 60);
        let (newest, oldest) =
            (number(&cluster, "z1", "gsn_applied"), number(&cluster, "z1", "order_oldest"));
        most = most.max(newest - oldest);
    }
    println!("behind: z1 kept up to {most} agreements, {} bytes", {
        number(&cluster, "z1", "order_bytes")
    });
    // What is kept, what is dropped at once, and what comes in a second.
    assert!(most < 6 * KEEP_GSN, "{most} agreements are kept for a node that is away");

    cluster.heal();
    let (_, took) = wait_for_ok("z3 has installed a checkpoint", || {
        let log = cluster.log("z3");
        log.contains("checkpoint installed").then_some(()).ok_or(tail(&log))
    });
    println!("behind: installed {} ms after healing", took.as_millis());
    let accounts = load.stop();
    cluster.wait_for_equal_state();
    wait_for_ok("z3's kernel shows the new names", || {
        let found = names(&there);
        let ok = found == ["kept", "new", "rewritten"];
        ok.then_some(()).ok_or(format!("{found:?}"))
    });
    assert!(there.join("gone").symlink_metadata().is_err());
    assert!(there.join("moved").symlink_metadata().is_err());
    assert_eq!(fs::read_to_string(there.join("new")).expect("read"), "moved, as it was");
    wait_for_ok("z3's kernel shows the new bytes", || {
        let text = fs::read_to_string(there.join("rewritten")).map_err(|it| it.to_string())?;
        (text == "rewritten, in another zone").then_some(()).ok_or(text)
    });
    let mut text = String::new();
    rewritten.seek(SeekFrom::Start(0)).expect("seek");
    rewritten.read_to_string(&mut text).expect("a handle of before goes on");
    assert_eq!(text, "rewritten, in another zone");
    // The file that is gone lives on behind its handle.
    let mut bytes = [0; 15];
    gone.read_exact_at(&mut bytes, 0).expect("an orphan can be read");
    assert_eq!(&bytes, b"gone, as it was");
    gone.write_all(b"GONE").expect("an orphan can be written");
    gone.read_exact_at(&mut bytes, 0).expect("and read again");
    assert_eq!(&bytes, b"GONE, as it was");

    fs::write(there.join("from z3"), "it writes again").expect("written");
    fs::read_to_string(cluster.wait_for_path("z1", "d/from z3")).expect("it can be read");
    wait_until_kept(&cluster, &accounts, &["z1", "z2", "z3"]);
    wait_until("nobody is sidelined", || {
        ["z1", "z2"].iter().all(|at| state_of(&cluster, at, "z3").as_deref() == Some("ok"))
    });
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Many agreements behind, but not more than the log is kept: they come from the others' logs.
/// (In several pieces at once or one after the other: the first answer may bring most of them.)
#[test]
fn a_zone_that_was_away_for_a_while_catches_up_by_log() {
    let Some(cluster) = Cluster::start() else { return };
    let load = Load::start(&cluster, &["z1", "z2"]);
    load.wait_for_more("z1", 50);
    cluster.cut("z3");
    let left_gsn = number(&cluster, "z3", "gsn_applied");
    wait_until("z3 is far behind", || number(&cluster, "z1", "gsn_applied") > left_gsn + FAR_GSN);
    let accounts = load.stop();
    cluster.heal();
    let start = std::time::Instant::now();
    let gsn = cluster.wait_for_equal_state();
    println!("behind: {} agreements in {} ms", gsn - left_gsn, start.elapsed().as_millis());
    assert!(!cluster.log("z3").contains("checkpoint installed"), "the log reached back");
    wait_until_kept(&cluster, &accounts, &["z1", "z2", "z3"]);
}

/// More than is on its way at full load, so that the lanes alone don't bring them.
const FAR_GSN: u64 = 2000;

//! Rules of directories: how far fsync goes, and what calls of a cut-off zone do.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use tests::cluster::{Cluster, Wishes};
use tests::random::Random;
use tests::wait::wait_until;

use super::handles::xattr;

const LEN: usize = 8 << 20;
/// What [`limit_waits`] sets.
pub const OP_TIMEOUT: Duration = Duration::from_millis(700);

#[test]
fn what_was_fsynced_for_two_zones_outlives_its_zone() {
    let wishes = Wishes { round_trips_ms: vec![20.0, 30.0, 40.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let z1 = cluster.mount("z1");
    fs::create_dir_all(z1.join("safe/below")).expect("directories");
    set(&z1.join("safe"), "user.fusion.durability", "2zones").expect("it is a rule");
    for (name, content) in [
        ("inline", Random::new(1).bytes(300)),
        ("small", Random::new(2).bytes(50_000)),
        ("large", Random::new(3).bytes(LEN)),
    ] {
        let mut file = File::create_new(z1.join("safe/below").join(name)).expect("a file");
        file.write_all(&content).expect("z1 writes");
        let began = Instant::now();
        file.sync_all().expect("two zones are there");
        println!("rules: {name}, fsynced for two zones in {:.0?}", began.elapsed());
    }
    cluster.kill("z1");
    for (name, content) in [
        ("inline", Random::new(1).bytes(300)),
        ("small", Random::new(2).bytes(50_000)),
        ("large", Random::new(3).bytes(LEN)),
    ] {
        for zone in ["z2", "z3"] {
            let path = cluster.mount(zone).join("safe/below").join(name);
            wait_until(&format!("{zone} reads {name}"), || {
                fs::read(&path).is_ok_and(|read| read == content)
            });
        }
    }
    cluster.start_missing();
    cluster.wait_for_equal_state();
}

#[test]
fn rules_are_inherited_checked_and_not_copied_along() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    fs::create_dir_all(z1.join("a/b")).expect("directories");
    fs::write(z1.join("a/b/f"), b"x").expect("a file");
    let durability = |path: &str| xattr(&z1.join(path), "user.fusion.durability");
    assert_eq!(durability("a/b/f").as_deref(), Some("local"));
    set(&z1.join("a"), "user.fusion.durability", "agreed").expect("it is a rule");
    assert_eq!(durability("a/b/f").as_deref(), Some("agreed"));
    set(&z1.join("a/b"), "user.fusion.durability", "all").expect("it is a rule");
    assert_eq!(durability("a/b/f").as_deref(), Some("all"));
    fs::rename(z1.join("a/b/f"), z1.join("a/f")).expect("it moves");
    assert_eq!(durability("a/f").as_deref(), Some("agreed"), "a file follows its directory");
    rustix::fs::removexattr(z1.join("a/b"), "user.fusion.durability").expect("it was set");
    assert_eq!(durability("a/b").as_deref(), Some("agreed"));
    wait_until("z2 has the rule", || {
        let path = cluster.mount("z2").join("a/f");
        xattr(&path, "user.fusion.durability").is_some_and(|rule| rule == "agreed")
    });
    for bad in ["often", "1zones", "9zones", ""] {
        let refused = set(&z1.join("a"), "user.fusion.durability", bad);
        assert_eq!(refused.map_err(|error| error.raw_os_error()), Err(Some(libc::EINVAL)), "{bad}");
    }
    let refused = set(&z1.join("a"), "user.fusion.partition", "maybe");
    assert_eq!(refused.map_err(|error| error.raw_os_error()), Err(Some(libc::EINVAL)));
    let refused = set(&z1.join("a/f"), "user.fusion.durability", "agreed");
    assert_eq!(refused.map_err(|error| error.raw_os_error()), Err(Some(libc::EPERM)));
    let mut names = [0; 1024];
    let len = rustix::fs::listxattr(z1.join("a"), &mut names).expect("it can be listed");
    assert_eq!(len, 0, "copying programs leave them behind");
}

#[test]
fn calls_of_a_cut_off_zone_end_as_their_directory_says() {
    let Some(cluster) = Cluster::start() else { return };
    limit_waits(&cluster, "z3");
    let z3 = cluster.mount("z3");
    for rule in ["error", "readonly"] {
        fs::create_dir(z3.join(rule)).expect("a directory");
        set(&z3.join(rule), "user.fusion.partition", rule).expect("it is a rule");
        fs::write(z3.join(rule).join("f"), b"old").expect("a file");
    }
    cluster.wait_for_equal_state();
    cluster.cut("z3");

    let began = Instant::now();
    let late = fs::create_dir(z3.join("error/d")).expect_err("no majority can be reached");
    assert_eq!(late.raw_os_error(), Some(libc::ETIMEDOUT));
    assert!(began.elapsed() >= OP_TIMEOUT);

    // The first one may wait until the node knows.
    let refused = fs::create_dir(z3.join("readonly/d")).expect_err("no majority can be reached");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    for refused in [
        fs::create_dir(z3.join("readonly/e")),
        fs::remove_file(z3.join("readonly/f")),
        File::options().write(true).open(z3.join("readonly/f")).map(drop),
    ] {
        assert_eq!(refused.expect_err("read-only").raw_os_error(), Some(libc::EROFS));
    }
    assert_eq!(fs::read(z3.join("readonly/f")).expect("reading goes on"), b"old");

    cluster.heal();
    wait_until("the directory can be changed again", || {
        fs::write(z3.join("readonly/g"), b"new").is_ok()
    });
    cluster.wait_for_equal_state();
}

/// Calls of a zone wait for [`OP_TIMEOUT`] where their directory's rule is `error`.
pub fn limit_waits(cluster: &Cluster, zone: &str) {
    let settings = cluster.store(zone).join("fusion.toml");
    let text = fs::read_to_string(&settings).expect("the demo wrote it");
    let limit = format!("op_timeout_ms = {}\n{text}", OP_TIMEOUT.as_millis());
    fs::write(&settings, limit).expect("writable");
    cluster.restart(zone);
}

pub fn set(path: &Path, name: &str, value: &str) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, name, value.as_bytes(), XattrFlags::empty())?)
}

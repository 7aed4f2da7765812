//! Many processes that do anything to a few names at once, in three zones: no call hangs, no
//! error is one that the call cannot have, and all zones end with the same tree.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, XattrFlags};
use tests::cluster::Cluster;
use tests::random::Random;
use tests::tree;

use super::hand_over;

const ZONES: [&str; 3] = ["z1", "z2", "z3"];
const RACERS_PER_ZONE: u64 = 3;
const LASTS: Duration = Duration::from_secs(12);
/// Few, so that they meet.
const NAMES: u64 = 12;

/// What a name that is not what it was, or not there, may answer.
const EXPECTED: [i32; 13] = [
    libc::ENOENT,
    libc::EEXIST,
    libc::ENOTDIR,
    libc::EISDIR,
    libc::ENOTEMPTY,
    libc::ELOOP,
    libc::EINVAL,
    libc::EPERM,
    libc::EBUSY,
    libc::ENODATA,
    libc::ESTALE,
    libc::EXDEV,
    libc::ENXIO,
];

#[test]
fn racers_in_three_zones_leave_one_tree() {
    let Some(cluster) = Cluster::start() else { return };
    fs::create_dir(cluster.mount("z1").join("race")).expect("a directory");
    cluster.wait_for_equal_state();
    let end = Instant::now() + LASTS;
    let (mut done, mut odd) = (0, BTreeSet::new());
    std::thread::scope(|scope| {
        let mut racers = Vec::new();
        for (number, zone) in (0..).zip(ZONES) {
            let root = cluster.mount(zone).join("race");
            for racer in 0..RACERS_PER_ZONE {
                let (root, seed) = (root.clone(), number * RACERS_PER_ZONE + racer);
                racers.push(scope.spawn(move || race(&root, seed, end)));
            }
        }
        for racer in racers {
            let (calls, errors) = racer.join().expect("a racer does not panic");
            done += calls;
            odd.extend(errors);
        }
    });
    assert!(odd.is_empty(), "errors that no race explains: {odd:#?}");
    println!("racer: {done} calls in {} s", LASTS.as_secs());
    for zone in ZONES {
        hand_over(&cluster, zone, "race");
    }
    let [first, second, third] = ZONES.map(|zone| {
        tree::read(&cluster.mount(zone).join("race")).unwrap_or_else(|e| panic!("{zone}: {e}"))
    });
    for (zone, other) in [("z2", second), ("z3", third)] {
        let differences = tree::differences(&first, &other, 5);
        assert!(differences.is_empty(), "z1 and {zone}:\n{}", differences.join("\n"));
    }
}

fn race(root: &Path, seed: u64, end: Instant) -> (usize, BTreeSet<String>) {
    let mut random = Random::new(seed + 1);
    let mut open: Vec<File> = Vec::new();
    let (mut calls, mut odd) = (0, BTreeSet::new());
    while Instant::now() < end {
        let (what, result) = one(root, &mut random, &mut open);
        calls += 1;
        if let Err(error) = result
            && !error.raw_os_error().is_some_and(|code| EXPECTED.contains(&code))
        {
            odd.insert(format!("{what}: {error}"));
        }
        if open.len() > 8 {
            open.remove(random.below(8) as usize);
        }
    }
    (calls, odd)
}

fn path(root: &Path, random: &mut Random) -> PathBuf {
    let mut path = root.to_owned();
    for _ in 0..1 + random.below(3) {
        path.push(format!("n{}", random.below(NAMES)));
    }
    path
}

fn one(root: &Path, random: &mut Random, open: &mut Vec<File>) -> (&'static str, io::Result<()>) {
    let (a, b) = (path(root, random), path(root, random));
    let last = open.last();
    match random.below(24) {
        0..3 => ("mkdir", fs::create_dir(a)),
        3..6 => {
            let options =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(a);
            ("create", options.map(|file| open.push(file)))
        }
        6 => ("create new", File::create_new(a).map(|file| open.push(file))),
        7 => ("truncate", OpenOptions::new().write(true).truncate(true).open(a).map(drop)),
        8 => ("unlink", fs::remove_file(a)),
        9 => ("rmdir", fs::remove_dir(a)),
        10..12 => ("rename", fs::rename(a, b)),
        12 => {
            let swapped = rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
            ("exchange", swapped.map_err(io::Error::from))
        }
        13 => ("link", fs::hard_link(a, b)),
        14 => ("symlink", symlink(format!("n{}", random.below(NAMES)), a)),
        15 => {
            let mode = 0o600 | random.below(0o177) as u32;
            ("chmod", fs::set_permissions(a, fs::Permissions::from_mode(mode)))
        }
        16 => {
            let value = random.below(100).to_string();
            let set = rustix::fs::setxattr(a, "user.race", value.as_bytes(), XattrFlags::empty());
            ("setxattr", set.map_err(io::Error::from))
        }
        17 => {
            let listed = fs::read_dir(a);
            ("list", listed.and_then(|mut entries| entries.try_for_each(|e| e.map(drop))))
        }
        18 => {
            let mut bytes = Vec::new();
            ("read", File::open(a).and_then(|mut file| file.read_to_end(&mut bytes)).map(drop))
        }
        19 => {
            let append = OpenOptions::new().append(true).open(a);
            ("append", append.and_then(|mut file| file.write_all(b"a line\n")))
        }
        20 => {
            let count = 1 + random.below(20_000) as usize;
            let bytes = random.bytes(count);
            let at = random.below(100_000);
            ("write", last.map_or(Ok(()), |file| file.write_all_at(&bytes, at)))
        }
        21 => ("fsync", last.map_or(Ok(()), File::sync_all)),
        22 => ("ftruncate", last.map_or(Ok(()), |file| file.set_len(random.below(50_000)))),
        _ => {
            let mut bytes = [0; 4096];
            let at = random.below(60_000);
            ("pread", last.map_or(Ok(()), |file| file.read_at(&mut bytes, at).map(drop)))
        }
    }
}

//! A zone that reaches nobody.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::fs::XattrFlags;
use tests::cluster::{Cluster, Wishes};
use tests::wait::{PATIENCE, wait_for_ok};

use super::load::{Load, wait_until_kept};

const ROUND_TRIPS_MS: [f64; 3] = [10.0, 10.0, 10.0];
/// Operations of each zone of the majority before, during and after.
const WORK: u64 = 150;

/// An operation that must be agreed.
type Operation = fn(&Path) -> io::Result<()>;

/// Each in a directory of its own, since the kernel changes a directory by one call at a time.
const OPERATIONS: [(&str, Operation); 10] = [
    ("mkdir", |at| fs::create_dir(at.join("new"))),
    ("rmdir", |at| fs::remove_dir(at.join("directory"))),
    ("create", |at| File::create_new(at.join("created")).map(drop)),
    ("unlink", |at| fs::remove_file(at.join("file"))),
    ("rename", |at| fs::rename(at.join("from"), at.join("to"))),
    ("link", |at| fs::hard_link(at.join("file"), at.join("link"))),
    ("symlink", |at| std::os::unix::fs::symlink("target", at.join("symlink"))),
    ("chmod", |at| fs::set_permissions(at.join("file"), Permissions::from_mode(0o640))),
    ("setxattr", |at| {
        let path = at.join("file");
        Ok(rustix::fs::setxattr(path, "user.mark", b"set", XattrFlags::CREATE)?)
    }),
    ("write", |at| {
        let mut file = File::create_new(at.join("written"))?;
        file.write_all(b"while cut off")?;
        file.sync_all()
    }),
];

#[test]
fn a_zone_cut_off_reads_on_and_writes_when_it_is_back() {
    let wishes = Wishes { round_trips_ms: ROUND_TRIPS_MS.to_vec(), ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    prepare(&cluster.mount("z1"));
    cluster.wait_for_equal_state();
    // Held from now on, as a file that somebody has used is.
    assert_eq!(fs::read(cluster.mount("z3").join("cut/file")).expect("it is there"), BYTES);
    let load = Load::start(&cluster, &["z1", "z2"]);
    let majority = |load: &Load| {
        for zone in ["z1", "z2"] {
            load.wait_for_more(zone, WORK);
        }
        ["z1", "z2"].map(|zone| load.longest(zone).as_millis())
    };
    let before = majority(&load);

    cluster.cut("z3");
    let directory = cluster.mount("z3").join("cut");
    let mut waiting: Vec<Waiting> = OPERATIONS
        .iter()
        .map(|(name, run)| Waiting::start(name, *run, &directory.join(name)))
        .collect();
    wait_for_ok("the operations of z3 are proposed", || {
        let status = cluster.status("z3").ok_or("z3 does not answer")?;
        match status["ring"]["pending"].as_u64() {
            Some(pending) if pending >= OPERATIONS.len() as u64 => Ok(()),
            other => Err(format!("{other:?} of {}", OPERATIONS.len())),
        }
    });
    check_reads_go_on(directory.clone());
    let during = majority(&load);
    check_reads_go_on(directory);
    for operation in &mut waiting {
        let done = operation.done.try_recv();
        assert!(done.is_err(), "{} ended without a majority: {done:?}", operation.name);
    }

    let healed = Instant::now();
    cluster.heal();
    for operation in waiting {
        let result = operation.done.recv_timeout(PATIENCE);
        let result = result.unwrap_or_else(|_| panic!("{} still waits", operation.name));
        // Done twice, each of these would fail: the name is there, or gone.
        result.unwrap_or_else(|error| panic!("{}: {error}", operation.name));
        operation.thread.join().expect("it does not panic");
    }
    let completed = healed.elapsed();
    let after = majority(&load);
    let accounts = load.stop();
    for account in &accounts {
        assert!(account.errors.is_empty(), "the majority notices: {:?}", account.errors);
    }
    cluster.wait_for_equal_state();
    wait_until_kept(&cluster, &accounts, &["z1", "z2", "z3"]);
    for zone in ["z1", "z2", "z3"] {
        let directory = cluster.mount(zone).join("cut");
        wait_for_ok(&format!("{zone} has everything once"), || check_after(&directory));
    }
    println!(
        "cut_off: longest operation of z1, z2 in ms: {before:?} before, {during:?} during, \
         {after:?} after; those of z3 completed {} ms after healing",
        completed.as_millis()
    );
}

const BYTES: &[u8] = &[42; 100_000];

fn prepare(mount: &Path) {
    let directory = mount.join("cut");
    fs::create_dir(&directory).expect("a directory");
    for (name, _) in OPERATIONS {
        fs::create_dir(directory.join(name)).expect("a directory");
    }
    fs::create_dir(directory.join("rmdir/directory")).expect("a directory");
    for path in ["file", "unlink/file", "rename/from", "link/file", "chmod/file", "setxattr/file"] {
        fs::write(directory.join(path), BYTES).expect("a file");
    }
}

/// A call of its own thread, since it waits.
struct Waiting {
    name: &'static str,
    done: Receiver<io::Result<()>>,
    thread: JoinHandle<()>,
}

impl Waiting {
    fn start(name: &'static str, run: Operation, directory: &Path) -> Waiting {
        let (sender, done) = channel();
        let directory = directory.to_owned();
        let thread = std::thread::spawn(move || {
            // The test has failed already if nobody listens.
            let _ = sender.send(run(&directory));
        });
        Waiting { name, done, thread }
    }
}

/// In a thread, so that a read that waits fails the test.
fn check_reads_go_on(directory: PathBuf) {
    let reader = Waiting::start(
        "reads",
        |directory| {
            for _ in 0..100 {
                // Not in a directory that is being changed: there a lookup waits in the kernel.
                assert_eq!(directory.join("file").metadata()?.len(), BYTES.len() as u64);
                assert_eq!(fs::read(directory.join("file"))?, BYTES);
                let missing = directory.join("missing").metadata();
                assert_eq!(
                    missing.map_err(|error| error.kind()).err(),
                    Some(io::ErrorKind::NotFound)
                );
                rustix::fs::statvfs(directory)?;
            }
            Ok(())
        },
        &directory,
    );
    let result = reader.done.recv_timeout(PATIENCE).expect("reads in the zone cut off go on");
    result.expect("reads in the zone cut off succeed");
}

fn check_after(directory: &Path) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let mut paths = Vec::new();
    for (name, _) in OPERATIONS {
        for entry in fs::read_dir(directory.join(name)).map_err(told)? {
            paths.push(format!("{name}/{}", entry.map_err(told)?.file_name().to_string_lossy()));
        }
    }
    paths.sort();
    let expected = [
        "chmod/file",
        "create/created",
        "link/file",
        "link/link",
        "mkdir/new",
        "rename/to",
        "setxattr/file",
        "symlink/symlink",
        "write/written",
    ];
    if paths != expected {
        return Err(format!("{paths:?}"));
    }
    let written = fs::read(directory.join("write/written")).map_err(told)?;
    if written != b"while cut off" {
        return Err(format!("{} bytes were written", written.len()));
    }
    let links = directory.join("link/file").metadata().map_err(told)?.nlink();
    let mode = directory.join("chmod/file").metadata().map_err(told)?.mode() & 0o7777;
    let found = (links, mode);
    if found == (2, 0o640) { Ok(()) } else { Err(format!("links and mode are {found:?}")) }
}

//! The same system calls by several processes of several users on a real mount and on tmpfs,
//! which is the reference: every answer is the same, and so is the tree in the end.
//!
//! `PROPTEST_CASES` scales the number of sequences, and `PROPTEST_RNG_SEED` chooses others.

mod call;
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tests::cluster::{Cluster, Wishes};
use tests::wait::wait_for_ok;

use super::repeatable;
use call::{Call, SLOTS, call};
use process::{Answer, Process};

/// Users of the processes; 0 may do everything.
const USERS: [u32; 3] = [0, 1000, 1001];

/// A part of a sequence: by one process, at one zone.
type Burst = (usize, usize, Vec<Call>);

fn bursts(zones: usize) -> impl Strategy<Value = Vec<Burst>> {
    let burst = (0..USERS.len(), 0..zones, prop::collection::vec(call(), 1..12));
    prop::collection::vec(burst, 1..14)
}

/// A failure is made smaller by so many attempts at most.
const SHRINKS_MAX: u32 = 400;

#[test]
fn a_mount_answers_as_a_local_filesystem() {
    if !may_be_other_users() {
        return;
    }
    let Some(cluster) = Cluster::start_with(&Wishes { zones: 1, ..Wishes::default() }) else {
        return;
    };
    let mounts = [cluster.mount("z1")];
    let result = TestRunner::new(repeatable(60, SHRINKS_MAX))
        .run(&bursts(1), |bursts| run(&mounts, &bursts));
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn two_zones_in_turns_answer_as_one_local_filesystem() {
    if !may_be_other_users() {
        return;
    }
    let Some(cluster) = Cluster::start() else { return };
    let mounts = ["z1", "z2"].map(|zone| cluster.mount(zone));
    let result = TestRunner::new(repeatable(20, SHRINKS_MAX))
        .run(&bursts(2), |bursts| run(&mounts, &bursts));
    result.unwrap_or_else(|failure| panic!("{failure}"));
    cluster.wait_for_equal_state();
}

fn may_be_other_users() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED, nothing was tested: only root can run calls of other users");
    }
    root
}

/// One side: the processes' working directory, and a process of each user in each zone.
struct Side {
    /// The directory as each zone sees it.
    directories: Vec<PathBuf>,
    processes: Vec<Vec<Process>>,
}

impl Side {
    fn new(roots: &[PathBuf]) -> (Side, tempfile::TempDir) {
        let directory = tempfile::tempdir_in(&roots[0]).expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let name = directory.path().file_name().expect("it has a name").to_owned();
        let directories: Vec<_> = roots.iter().map(|root| root.join(&name)).collect();
        for directory in &directories {
            wait_for_ok("the directory is in every zone", || {
                let mode = fs::metadata(directory).map(|it| it.mode() & 0o777);
                if matches!(mode, Ok(0o777)) { Ok(()) } else { Err(format!("{mode:?}")) }
            });
        }
        let start = |directory: &PathBuf| {
            USERS.iter().map(|id| Process::start(directory.clone(), *id)).collect()
        };
        let processes = directories.iter().map(start).collect();
        (Side { directories, processes }, directory)
    }
}

fn run(mounts: &[PathBuf], bursts: &[Burst]) -> Result<(), TestCaseError> {
    let (ours, _directory) = Side::new(mounts);
    let shm = vec![PathBuf::from("/dev/shm"); mounts.len()];
    let (reference, _reference_directory) = Side::new(&shm);
    for (number, (user, zone, calls)) in bursts.iter().enumerate() {
        for call in calls {
            let expected = reference.processes[*zone][*user].run(call);
            let answer = ours.processes[*zone][*user].run(call);
            prop_assert!(
                answer == expected,
                "burst {number}, user {}, zone {zone}: {call:?}\n  gives {}\n  not   {}",
                USERS[*user],
                short(&answer),
                short(&expected)
            );
        }
        if mounts.len() > 1 {
            // What is open for writing in several zones is not one file once it has no name.
            for slot in 0..SLOTS {
                let close = Call::Close { slot };
                ours.processes[*zone][*user].run(&close);
                reference.processes[*zone][*user].run(&close);
            }
        }
        let expected = tree(&reference.directories[0]);
        for directory in &ours.directories {
            // Another zone sees it a moment later, and content when it is sealed.
            wait_for_ok("the tree is the reference's", || {
                let found = tree(directory);
                let differs = |path: &&PathBuf| found.get(*path) != expected.get(*path);
                let paths: Vec<_> = expected.keys().chain(found.keys()).filter(differs).collect();
                match paths.first() {
                    None => Ok(()),
                    Some(path) => Err(format!(
                        "{}: {:?} is not {:?}, after burst {number} of {bursts:?}",
                        path.display(),
                        found.get(*path),
                        expected.get(*path)
                    )),
                }
            });
        }
    }
    Ok(())
}

fn short(answer: &Answer) -> String {
    let mut text = format!("{answer:?}");
    if text.len() > 300 {
        text = format!("{}.. ({} characters)", &text[..300], text.len());
    }
    text
}

/// Everything below a directory: attributes, and the hash of what is in it.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut tree = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(root.join(&directory)) else { continue };
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            tree.insert(path.clone(), describe(&root.join(&path)));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            }
        }
    }
    tree
}

fn describe(path: &Path) -> String {
    let Ok(it) = fs::symlink_metadata(path) else { return "gone".to_owned() };
    let content = match () {
        () if it.is_file() => {
            fs::read(path).map(|bytes| format!("{} {:x}", bytes.len(), sum(&bytes)))
        }
        () if it.is_symlink() => fs::read_link(path).map(|target| target.display().to_string()),
        () => Ok(String::new()),
    };
    let content = content.unwrap_or_else(|error| error.to_string());
    format!("{:o} {} {}:{} {content}", it.mode(), it.nlink(), it.uid(), it.gid())
}

/// FNV-1a: tells contents apart.
fn sum(bytes: &[u8]) -> u64 {
    let fold = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

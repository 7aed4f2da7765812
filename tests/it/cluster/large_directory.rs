//! A directory with many names: filled by several zones at once, listed while it changes, and
//! removed. FUSION_TEST_ENTRIES sets how many; the figures are printed.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tests::cluster::Cluster;
use tests::wait::wait_until;

/// Enough for several replies of readdir, and for a listing to take a while.
const ENTRIES: usize = 3000;
const WRITERS: usize = 16;

fn entries() -> usize {
    let given = std::env::var("FUSION_TEST_ENTRIES").ok();
    given.map_or(ENTRIES, |text| text.parse().expect("FUSION_TEST_ENTRIES is a number"))
}

/// All names, in the order of the listing.
fn list(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it can be listed");
    entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect()
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("large_directory: {what}: {:.2} s", start.elapsed().as_secs_f64());
    result
}

fn fill(directories: &[&Path], prefix: &str, count: usize) {
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let directory = directories[writer % directories.len()];
            scope.spawn(move || {
                for number in (writer..count).step_by(WRITERS) {
                    let path = directory.join(format!("{prefix}{number}"));
                    File::create_new(path).expect("the name is free");
                }
            });
        }
    });
}

#[test]
fn a_large_directory_is_listed_whole_while_it_changes() {
    let Some(cluster) = Cluster::start() else { return };
    let [here, there] = ["z1", "z2"].map(|zone| cluster.mount(zone).join("large"));
    fs::create_dir(&here).expect("a directory");
    cluster.wait_for_path("z2", "large");
    let count = entries();
    timed(&format!("{count} names made in two zones at once"), || {
        fill(&[&here, &there], "stays", count);
    });
    cluster.wait_for_equal_state();
    let stays: BTreeSet<String> = (0..count).map(|number| format!("stays{number}")).collect();
    for directory in [&here, &there] {
        // The kernel forgets what it has cached a moment after the last command.
        wait_until("all names are listed", || list(directory).len() == count);
        let listed = timed("listed", || list(directory));
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), stays);
    }
    timed("every attribute read", || {
        let found = Command::new("find").arg(&there).args(["-type", "f", "-size", "0"]).output();
        let found = found.expect("find runs").stdout;
        assert_eq!(found.iter().filter(|byte| **byte == b'\n').count(), count);
    });

    // Names come and go in z1; z2 and z1 list all others, each once.
    let changing = AtomicBool::new(true);
    let listings = std::thread::scope(|scope| {
        let list_on = |directory| {
            let (changing, stays) = (&changing, &stays);
            move || {
                let mut listings = 0;
                // At least once more after the last change.
                let mut more = true;
                while more {
                    more = changing.load(Ordering::Relaxed);
                    let listed = list(directory);
                    let once: BTreeSet<_> = listed.iter().cloned().collect();
                    assert_eq!(once.len(), listed.len(), "a name was listed twice");
                    assert!(
                        stays.is_subset(&once),
                        "a name was lost: {:?}",
                        stays.difference(&once).next()
                    );
                    listings += 1;
                }
                listings
            }
        };
        let listers = [scope.spawn(list_on(&there)), scope.spawn(list_on(&here))];
        for round in 0..3 {
            fill(&[&here], &format!("goes{round}-"), count / 30);
            for number in 0..count / 30 {
                fs::remove_file(here.join(format!("goes{round}-{number}"))).expect("it is there");
            }
        }
        changing.store(false, Ordering::Relaxed);
        listers.map(|lister| lister.join().expect("no panic")).iter().sum::<usize>()
    });
    println!("large_directory: {listings} listings while it changed");
    assert!(listings >= 2);
    positions_stay(&cluster, &here, &there);
    timed("removed in z2", || fs::remove_dir_all(&there).expect("it can be removed"));
    wait_until("it is gone in z1", || !here.exists());
    cluster.wait_for_equal_state();
}

/// telldir and seekdir go on at the same place after names before and behind it went.
fn positions_stay(cluster: &Cluster, here: &Path, there: &Path) {
    let path = CString::new(here.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the stream is open until closedir, and only this thread uses it; names are
    // copied before the next readdir.
    unsafe {
        let stream = libc::opendir(path.as_ptr());
        assert!(!stream.is_null());
        let next = || -> Option<String> {
            let entry = libc::readdir(stream);
            let name = (!entry.is_null()).then(|| CStr::from_ptr((*entry).d_name.as_ptr()));
            name.map(|name| name.to_str().expect("UTF-8").to_owned())
        };
        let before: Vec<String> = (0..500).map(|_| next().expect("there are more")).collect();
        let position = libc::telldir(stream);
        let behind: Vec<String> = std::iter::from_fn(next).collect();
        for name in [&before[100], &before[400], &behind[0], &behind[7]] {
            fs::remove_file(there.join(name)).expect("it is there");
            wait_until("it is gone here", || !here.join(name).exists());
        }
        cluster.wait_for_equal_state();
        libc::seekdir(stream, position);
        let again: Vec<String> = std::iter::from_fn(next).collect();
        let gone = [&behind[0], &behind[7]];
        let expected: Vec<&String> = behind.iter().filter(|name| !gone.contains(name)).collect();
        // The C library may have read the first of them before they went.
        let again: Vec<&String> = again.iter().filter(|name| !gone.contains(name)).collect();
        assert_eq!(again, expected);
        libc::closedir(stream);
    }
}

#[test]
fn a_working_directory_removed_elsewhere_behaves_as_on_linux() {
    let Some(cluster) = Cluster::start() else { return };
    let here = cluster.mount("z1").join("d");
    fs::create_dir(&here).expect("a directory");
    let there = cluster.wait_for_path("z2", "d");
    let directory = File::open(&here).expect("it can be opened");
    let mut shell = Command::new("sh");
    shell.args(["-c", "read line; ls -A; echo listed; mkdir x 2>&1; /bin/pwd 2>&1; true"]);
    shell.env("LC_ALL", "C").current_dir(&here);
    shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut shell = shell.spawn().expect("sh starts");
    fs::remove_dir(there).expect("it is empty");
    wait_until("it is gone here", || !here.exists());
    std::io::Write::write_all(&mut shell.stdin.take().expect("a pipe"), b"go\n").expect("it reads");
    let said = shell.wait_with_output().expect("it ends").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "listed", "{said}");
    assert!(lines[1].contains("No such file or directory"), "{said}");
    // getcwd(2) fails, and so does looking for the name in the directory above.
    assert!(lines[2].starts_with("/bin/pwd: "), "{said}");
    // The same through a descriptor.
    let made = rustix::fs::mkdirat(&directory, "x", rustix::fs::Mode::RWXU);
    assert_eq!(made, Err(rustix::io::Errno::NOENT));
    let links = std::os::unix::fs::MetadataExt::nlink(&directory.metadata().expect("stat works"));
    assert_eq!(links, 0);
    let entries = rustix::fs::Dir::read_from(&directory).expect("it can be read");
    assert_eq!(entries.count(), 0);
    let again = fs::create_dir(&here);
    again.expect("the name is free again");
    assert_eq!(fs::read_dir(here).expect("it can be listed").count(), 0);
}

//! A thousand calls on the mount and on the local filesystem: an application could tell the
//! two apart only where the answers differ.

use std::collections::BTreeMap;

use tests::calls::transcript;
use tests::cluster::Cluster;

/// Answers that may differ, by how their lines begin, and why.
const DIFFERENT: [(&str, &str); 4] = [
    ("content: to the greatest size", "files end at 16 TiB on ext4, later here, as on XFS"),
    ("content: it has its blocks", "allocation does not show in st_blocks yet"),
    ("mapping: what was stored behind the old end", "as FUSE has it; nobody may rely on it"),
    ("special: epoll of a file", "any file of FUSE can be polled, and is always ready"),
];

#[test]
fn calls_are_answered_as_by_the_local_filesystem() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, nothing was tested: becoming other users needs root");
        return;
    }
    let Some(cluster) = Cluster::start() else { return };
    let local = tempfile::tempdir_in("/var/tmp").expect("a directory");
    super::open_to_all(local.path());
    super::open_to_all(cluster.root());
    let mounted = cluster.mount("z1").join("calls");
    std::fs::create_dir(&mounted).expect("a directory");
    let expected = answers(transcript(local.path()));
    let found = answers(transcript(&mounted));
    let silent = String::from("nothing");
    let wrong: Vec<String> = expected
        .iter()
        .map(|(call, answer)| (call, answer, found.get(call).unwrap_or(&silent)))
        .filter(|(_, expected, found)| expected != found)
        .filter(|(call, ..)| !DIFFERENT.iter().any(|(start, _)| call.0.starts_with(start)))
        .map(|((call, _), expected, found)| format!("{call}: {found}, and locally {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
    println!("calls: {} calls, {} with the same answer", expected.len(), {
        expected.iter().filter(|(call, answer)| found.get(call) == Some(answer)).count()
    });
    cluster.wait_for_equal_state();
}

/// By call, and by how often the same was called before.
fn answers(lines: Vec<String>) -> BTreeMap<(String, usize), String> {
    let mut answers = BTreeMap::new();
    for line in lines {
        // A family, a call, and its answer, which is the first part without a colon inside.
        let mut parts = line.splitn(3, ": ");
        let (family, what) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let call = format!("{family}: {what}");
        let mut turn = 0;
        while answers.contains_key(&(call.clone(), turn)) {
            turn += 1;
        }
        answers.insert((call, turn), parts.next().unwrap_or("").to_owned());
    }
    answers
}

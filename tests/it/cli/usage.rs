//! Verbs without a daemon: usage, errors and their exit codes.

use tests::program::fusion;

const NO_SOCKET: [&str; 2] = ["--socket", "/nonexistent/admin.sock"];

#[test]
fn a_wrong_call_ends_with_2_and_says_how() {
    let run = fusion(["stauts"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("status"), "names the verb that was meant: {}", run.stderr);
    assert_eq!(fusion(["log", "show", "--limit", "many"]).code, 2);
    assert_eq!(fusion([] as [&str; 0]).code, 2);
}

#[test]
fn without_a_daemon_verbs_end_with_4_and_say_what_to_do() {
    for verb in [&["status"][..], &["log", "show"], &["token", "list"], &["conflicts"]] {
        let run = fusion([&NO_SOCKET, verb].concat());
        assert_eq!(run.code, 4, "{verb:?}: {}", run.stderr);
        assert!(run.stderr.contains("fusion serve"), "{verb:?}: {}", run.stderr);
    }
}

#[test]
fn an_error_is_json_with_json() {
    let run = fusion([&NO_SOCKET, &["status", "--json"][..]].concat());
    assert_eq!(run.code, 4);
    assert_eq!(run.json()["error"]["kind"], "no-daemon");
}

#[test]
fn a_path_outside_of_a_mount_is_a_usage_error() {
    let run = fusion(["where", "/etc/hostname"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("not in a FusionFS mount"), "{}", run.stderr);
    assert_eq!(fusion(["umount", "/"]).code, 2);
}

#[test]
fn a_store_that_is_not_there_is_named() {
    let run = fusion(["serve", "--store", "/nonexistent/store"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("/nonexistent/store") && run.stderr.contains("fusion init"),
        "{}",
        run.stderr
    );
}

#[test]
fn every_shell_gets_a_completion() {
    for shell in ["bash", "zsh", "fish"] {
        let run = fusion(["completion", shell]).expect_ok();
        assert!(run.stdout.contains("umount"), "{shell}");
    }
}

#[test]
fn the_doctor_answers_in_json() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let store = root.path().to_str().expect("temporary paths are UTF-8");
    let run = fusion(["doctor", "--json", "--store", store]);
    let findings = run.json();
    let subjects: Vec<&str> = findings
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|finding| finding["subject"].as_str())
        .collect();
    for subject in ["/dev/fuse", "fusermount3", "/etc/fuse.conf"] {
        assert!(subjects.contains(&subject), "{subjects:?}");
    }
}

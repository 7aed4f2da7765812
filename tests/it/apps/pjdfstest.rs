//! pjdfstest: what POSIX says about names, modes, owners and times, as root.

use std::process::Command;

use tests::cluster::{Cluster, Wishes};
use tests::program;

use super::{succeeded, tool};

/// Everything that ext4 has; users that every Debian has.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}
file_flags = []

[settings]
naptime = 0.01
allow_remount = REMOUNT

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"#;

#[test]
fn pjdfstest_passes_on_one_node_of_three_zones() {
    passes(&Wishes::default());
}

#[test]
fn pjdfstest_passes_on_a_single_zone() {
    passes(&Wishes { zones: 1, ..Wishes::default() });
}

/// The tests that remount read-only run alone: beside others, whose files are open for writing,
/// the kernel refuses to remount (EBUSY), on any filesystem.
const RUNS: [(&str, &[&str]); 2] = [("false", &[]), ("true", &["erofs"])];

fn passes(wishes: &Wishes) {
    let Some(pjdfstest) = tool("pjdfstest") else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, nothing was tested: pjdfstest changes owners and needs root");
        return;
    }
    let Some(cluster) = Cluster::start_with(wishes) else { return };
    let configuration = cluster.root().join("pjdfstest.toml");
    let dir = cluster.mount("z1").join("pjdfstest");
    let other = cluster.root().join("other-filesystem");
    for path in [&dir, &other] {
        std::fs::create_dir(path).expect("a directory");
    }
    // Its other users must get there.
    for path in [cluster.root(), dir.as_path(), other.as_path()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("a mode");
    }
    // mount(8) remounts through libfuse's helper, which looks for `fusion` where programs are
    // installed: it is there for pjdfstest alone.
    let installed = "mount -t tmpfs tmpfs /usr/local/bin && ln -s \"$1\" /usr/local/bin/fusion && \
                     shift && exec \"$@\"";
    for (remount, patterns) in RUNS {
        let text = CONFIGURATION.replace("REMOUNT", remount);
        std::fs::write(&configuration, text).expect("a file");
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc", installed, "sh"])
            .arg(program::path())
            .arg(&pjdfstest)
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(&dir)
            .arg("-s")
            .arg(&other)
            .args(patterns)
            .output()
            .expect("pjdfstest starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let failed: Vec<&str> = text.lines().filter(|line| line.contains("FAILED")).collect();
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        let text = succeeded("pjdfstest", &output);
        let summary = text.lines().rev().find(|line| line.contains("Summary"));
        println!("{}", summary.unwrap_or_default());
    }
}

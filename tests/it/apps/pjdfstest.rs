//! pjdfstest: what POSIX says about names, modes, owners and times, as root.

use std::process::Command;

use tests::cluster::Cluster;

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
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"#;

#[test]
fn pjdfstest_passes() {
    let Some(pjdfstest) = tool("pjdfstest") else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, nothing was tested: pjdfstest changes owners and needs root");
        return;
    }
    let Some(cluster) = Cluster::start() else { return };
    let configuration = cluster.root().join("pjdfstest.toml");
    std::fs::write(&configuration, CONFIGURATION).expect("a file");
    let dir = cluster.mount("z1").join("pjdfstest");
    std::fs::create_dir(&dir).expect("a directory");
    // Its other users must get there.
    for path in [cluster.root(), dir.as_path()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("a mode");
    }
    let output = Command::new(&pjdfstest)
        .arg("-c")
        .arg(&configuration)
        .arg("-p")
        .arg(&dir)
        .output()
        .expect("pjdfstest starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<&str> = text.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let text = succeeded("pjdfstest", &output);
    println!("{}", text.lines().rev().find(|line| line.contains("Summary")).unwrap_or_default());
}

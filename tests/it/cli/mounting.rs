//! Mounting and unmounting beside the daemon's own mount, and by mount(8)'s helper.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tests::cluster::{Cluster, Wishes};
use tests::program;

fn one_zone() -> Option<Cluster> {
    Cluster::start_with(&Wishes { zones: 1, ..Wishes::default() })
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

fn is_mounted(directory: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a mount table");
    table.lines().any(|line| line.split(' ').nth(4) == Some(text(directory)))
}

/// The helper, called as mount(8) calls it.
fn mount_helper(cluster: &Cluster, arguments: &[&str]) -> Output {
    let helper = cluster.root().join("mount.fusion");
    if !helper.exists() {
        std::os::unix::fs::symlink(program::path(), &helper).expect("a link");
    }
    Command::new(helper).args(arguments).output().expect("the helper starts")
}

#[test]
fn a_daemon_has_one_mount_which_can_move() {
    let Some(cluster) = one_zone() else { return };
    let (first, second) = (cluster.mount("z1"), cluster.root().join("second"));
    fs::create_dir(&second).expect("a directory");
    fs::write(first.join("file"), "there").expect("a file");
    let store = cluster.store("z1");
    let mount = || program::fusion(["mount", "--store", text(&store), text(&second)]);
    let refused = mount();
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    assert!(refused.stderr.contains("mount --bind"), "{}", refused.stderr);

    program::fusion(["umount", text(&first)]).expect_ok();
    assert!(!is_mounted(&first));
    mount().expect_ok();
    assert_eq!(fs::read_to_string(second.join("file")).expect("the same tree"), "there");
    assert!(mount().expect_ok().stdout.contains("mounted already"));
    program::fusion(["umount", text(&second)]).expect_ok();
}

#[test]
fn a_busy_mount_is_refused_with_the_names_of_its_users() {
    let Some(cluster) = one_zone() else { return };
    let mount = cluster.mount("z1");
    let open = fs::File::create(mount.join("open")).expect("a file");
    let run = program::fusion(["umount", text(&mount)]);
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(run.stderr.contains(&std::process::id().to_string()), "{}", run.stderr);
    program::fusion(["umount", "--lazy", text(&mount)]).expect_ok();
    assert!(!is_mounted(&mount));
    drop(open);
}

#[test]
fn the_mount_helper_starts_a_daemon_once() {
    let Some(cluster) = one_zone() else { return };
    let store = cluster.store("z1");
    cluster.demo(&["down"]).expect_ok();
    let place = cluster.root().join("by-fstab");
    fs::create_dir(&place).expect("a directory");
    let options = format!("rw,_netdev,nofail,x-systemd.automount,store={}", text(&store));
    let arguments = ["tree", text(&place), "-o", &options];
    for attempt in ["first", "again, as `mount -a` does"] {
        let output = mount_helper(&cluster, &arguments);
        assert!(output.status.success(), "{attempt}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(is_mounted(&place), "{attempt}");
    }
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a mount table");
    let line = table.lines().find(|line| line.contains(text(&place))).expect("our line");
    assert!(line.contains(" - fuse.fusion tree "), "{line}");
    fs::write(place.join("file"), "written").expect("usable as soon as the helper returns");

    let socket = store.join("admin.sock");
    let daemon = fs::read_dir("/proc").expect("processes").flatten().find_map(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        let ours = arguments.split(|byte| *byte == 0).any(|word| word == text(&store).as_bytes());
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        (ours && pid != std::process::id() as i32).then_some(pid)
    });
    let pid =
        rustix::process::Pid::from_raw(daemon.expect("the daemon runs")).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it can be ended");
    tests::wait::wait_until("the daemon ends and unmounts", || {
        !socket.exists() && !is_mounted(&place)
    });
}

#[test]
fn the_mount_helper_speaks_mount_8_s_exit_codes() {
    let Some(cluster) = one_zone() else { return };
    let code = |arguments: &[&str]| mount_helper(&cluster, arguments).status.code();
    assert_eq!(code(&["only-a-name"]), Some(1));
    let place = text(cluster.root()).to_owned();
    assert_eq!(code(&["tree", &place, "-o", "store=/nonexistent/store"]), Some(32));
    assert_eq!(code(&["tree", &place, "-f", "-o", "store=/nonexistent/store"]), Some(0));
}

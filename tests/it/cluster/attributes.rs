//! What a file is, beyond name and content, is the same in every zone.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use engine::acl::Acl;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, StatxFlags, XattrFlags, getxattr, linkat, setxattr, statx,
};
use tests::cluster::Cluster;
use tests::wait::wait_until;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let len = getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

/// Times and owner to the last digit, ACLs and extended attributes.
fn everything(path: &Path) -> String {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted).expect("it is there");
    let times: Vec<_> = [stat.stx_btime, stat.stx_mtime, stat.stx_ctime]
        .iter()
        .map(|time| (time.tv_sec, time.tv_nsec))
        .collect();
    let attributes: Vec<_> =
        [ACCESS, DEFAULT, "user.a", "trusted.b"].iter().map(|name| attribute(path, name)).collect();
    format!(
        "{:o} {} {} {} {times:?} {attributes:?}",
        stat.stx_mode, stat.stx_uid, stat.stx_gid, stat.stx_size
    )
}

#[test]
fn acls_birth_times_and_attributes_are_equal_in_every_zone() {
    let Some(cluster) = Cluster::start() else { return };
    let root = rustix::process::geteuid().is_root();
    let directory = cluster.mount("z1").join("d");
    fs::create_dir(&directory).expect("a directory");
    let (users, groups) = (vec![(1000, 6)], vec![(50, 4)]);
    let acl = Acl { owner: 7, group: 5, other: 0, mask: Some(7), users, groups };
    for name in [ACCESS, DEFAULT] {
        setxattr(&directory, name, &acl.to_xattr(), XattrFlags::empty()).expect("an ACL");
    }
    fs::write(directory.join("f"), "text").expect("a file");
    setxattr(directory.join("f"), "user.a", b"1", XattrFlags::empty()).expect("an attribute");
    if root {
        let file = directory.join("f");
        setxattr(&file, "trusted.b", b"2", XattrFlags::empty()).expect("an attribute");
    }
    fs::rename(directory.join("f"), directory.join("g")).expect("a rename");
    cluster.wait_for_equal_state();
    for path in ["d", "d/g"] {
        let expected = everything(&cluster.mount("z1").join(path));
        for zone in ["z2", "z3"] {
            let path = cluster.wait_for_path(zone, path);
            wait_until("the attributes are equal", || everything(&path) == expected);
        }
    }
    let inherited = attribute(&cluster.mount("z3").join("d/g"), ACCESS).expect("it inherited");
    let inherited = Acl::from_xattr(&inherited).expect("an ACL").expect("with entries");
    assert_eq!((inherited.users, inherited.groups), (acl.users, acl.groups));
    // What is made in another zone inherits the same.
    fs::write(cluster.mount("z2").join("d/h"), "").expect("a file");
    let path = cluster.wait_for_path("z1", "d/h");
    assert!(attribute(&path, ACCESS).is_some());
}

fn unnamed(directory: &Path) -> File {
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    File::from(rustix::fs::open(directory, flags, Mode::from_raw_mode(0o644)).expect("a file"))
}

/// The name and all of the content come together.
#[test]
fn a_file_that_is_named_late_is_whole_in_every_zone() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    let text = "0123456789abcdef".repeat(20_000);
    let mut file = unnamed(&z1);
    file.write_all(text.as_bytes()).expect("a write");
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, from, CWD, z1.join("f"), AtFlags::SYMLINK_FOLLOW).expect("a link");
    for zone in ["z2", "z3"] {
        let path = cluster.wait_for_path(zone, "f");
        assert!(fs::read(path).expect("a file") == text.as_bytes(), "{zone} has all of it");
    }
    file.set_permissions(Permissions::from_mode(0o600)).expect("a mode");
    file.write_all(b"more").expect("a write");
    drop(file);
    cluster.wait_for_equal_state();
    wait_until("what came later follows", || {
        fs::metadata(cluster.mount("z3").join("f")).expect("a file").len() == text.len() as u64 + 4
    });
}

/// Neither a crash nor a close leaves anything behind.
#[test]
fn files_without_a_name_go_with_their_daemon() {
    let Some(cluster) = Cluster::start() else { return };
    let inodes = |zone: &str| {
        rustix::fs::statvfs(cluster.mount(zone))
            .map(|stat| stat.f_files - stat.f_ffree)
            .unwrap_or(0)
    };
    let before = inodes("z2");
    let mut files: Vec<File> = (0..3).map(|_| unnamed(&cluster.mount("z1"))).collect();
    for file in &mut files {
        file.write_all(&[7; 100_000]).expect("a write");
        file.sync_all().expect("a sync");
    }
    wait_until("they are agreed", || inodes("z2") == before + 3);
    drop(files.pop());
    wait_until("one is dropped", || inodes("z2") == before + 2);
    cluster.kill("z1");
    cluster.start_missing();
    wait_until("the others are reaped", || inodes("z2") == before);
    drop(files);
    cluster.wait_for_equal_state();
}

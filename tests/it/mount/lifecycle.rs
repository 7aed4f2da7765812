//! mount, unmount, and what a daemon that died leaves behind.

use std::fs;
use std::os::unix::fs::MetadataExt;

use fusefs::kernel::{KIND, MountError, MountOptions, kind_at, unmount};

use super::{Rig, errno};

#[test]
fn the_mount_has_its_type_and_source_and_goes_cleanly() {
    let options = MountOptions::parse("source=photos,nosuid").unwrap();
    let Some(mut rig) = Rig::with(&options) else { return };
    assert_eq!(kind_at(&rig.path).as_deref(), Some(KIND));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(rig.path.to_str().unwrap())).unwrap();
    assert!(line.starts_with("photos ") && line.contains("nosuid"), "{line}");
    fs::write(rig.at("f"), "x").unwrap();
    let mounted = rig.mounted.take().unwrap();
    mounted.unmount(false).unwrap();
    mounted.join().unwrap();
    assert_eq!(kind_at(&rig.path), None);
    assert!(fs::metadata(rig.at("f")).is_err());
}

#[test]
fn a_mount_in_use_is_not_unmounted_unless_lazily() {
    let Some(mut rig) = Rig::new() else { return };
    let file = fs::File::create(rig.at("f")).unwrap();
    let mounted = rig.mounted.take().unwrap();
    assert!(matches!(mounted.unmount(false), Err(MountError::Busy(_))));
    mounted.unmount(true).unwrap();
    assert_eq!(kind_at(&rig.path), None);
    assert_eq!(file.metadata().unwrap().len(), 0, "what is open goes on");
    drop(file);
    mounted.join().unwrap();
}

#[test]
fn read_only_is_read_only() {
    let options = MountOptions { read_only: true, ..MountOptions::default() };
    let Some(rig) = Rig::with(&options) else { return };
    assert_eq!(errno(fs::write(rig.at("f"), "x")), libc::EROFS);
}

#[test]
fn a_second_mount_on_the_same_directory_is_refused() {
    let Some(rig) = Rig::new() else { return };
    let again = fusefs::kernel::Kernel::new(rig.fs.clone());
    let refused = again.mount(&rig.path, &MountOptions::default());
    assert!(matches!(refused.err(), Some(MountError::Mounted { .. })));
}

#[test]
fn a_missing_directory_and_a_file_are_refused_with_advice() {
    let Some(rig) = Rig::new() else { return };
    let kernel = fusefs::kernel::Kernel::new(rig.fs.clone());
    let directory = tempfile::tempdir().unwrap();
    let options = MountOptions::default();
    let missing = kernel.mount(&directory.path().join("none"), &options).err().unwrap();
    assert!(missing.to_string().contains("mkdir"), "{missing}");
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = kernel.mount(&file, &options).err();
    assert!(matches!(refused, Some(MountError::NotDirectory(_))));
}

/// A mount whose daemon is gone answers everything with ENOTCONN; the next mount takes its
/// place.
#[test]
fn a_dead_mount_is_replaced() {
    let Some(mut rig) = Rig::new() else { return };
    if !super::root_only("abort a mount") {
        return;
    }
    let mounted = rig.mounted.take().unwrap();
    // What the kernel does when the daemon's last descriptor closes.
    let minor = rustix::fs::minor(fs::metadata(&rig.path).unwrap().dev());
    let control = format!("/sys/fs/fuse/connections/{minor}/abort");
    if let Err(e) = fs::write(&control, "1") {
        eprintln!("SKIPPED, nothing was tested: {control}: {e}");
        mounted.unmount(true).unwrap();
        return;
    }
    let _ = mounted.join();
    assert_eq!(rustix::fs::statfs(&rig.path).err(), Some(rustix::io::Errno::NOTCONN));
    let kernel = fusefs::kernel::Kernel::new(rig.fs.clone());
    let mounted = kernel.mount(&rig.path, &MountOptions::default()).unwrap();
    fs::write(rig.at("f"), "x").unwrap();
    unmount(&rig.path, false).unwrap();
    mounted.join().unwrap();
    assert_eq!(kind_at(&rig.path), None);
}

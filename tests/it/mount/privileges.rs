//! What changes of content take away: set-id bits and capabilities.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, getxattr, setxattr};
use rustix::io::Errno;

use super::user::as_user;
use super::{Rig, root_only};

/// `cap_net_raw+ep`, as the kernel stores it (linux/capability.h, revision 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_change_by_somebody_without_privileges_takes_the_set_id_bits() {
    let Some(rig) = Rig::new() else { return };
    if !root_only("be somebody else") {
        return;
    }
    let path = rig.at("f");
    let changes: [(&str, fn(&File)); 4] = [
        ("write", |file| file.write_all_at(b"changed", 1).unwrap()),
        ("truncate", |file| file.set_len(3).unwrap()),
        ("extend", |file| file.set_len(300).unwrap()),
        ("fallocate", |file| fallocate(file, FallocateFlags::empty(), 0, 5000).unwrap()),
    ];
    for (name, change) in changes {
        for (before, after) in [(0o6777, 0o777), (0o2767, 0o2767), (0o2777, 0o777)] {
            fs::write(&path, "text of some length").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            as_user(1000, 1000, &[], || {
                change(&OpenOptions::new().write(true).open(&path).unwrap());
            });
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(format!("{mode:o}"), format!("{after:o}"), "{name} of {before:o}");
        }
    }
    fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
    as_user(1000, 1000, &[], || {
        drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap());
    });
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "open with O_TRUNC");
}

#[test]
fn root_keeps_the_set_id_bits_and_nobody_the_capabilities() {
    let Some(rig) = Rig::new() else { return };
    if !root_only("give capabilities") {
        return;
    }
    let path = rig.at("f");
    let changes: [(&str, fn(&std::path::Path)); 4] = [
        ("write", |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(b"changed", 1).unwrap();
        }),
        ("truncate", |path| {
            OpenOptions::new().write(true).open(path).unwrap().set_len(2).unwrap();
        }),
        ("open with O_TRUNC", |path| drop(File::create(path).unwrap())),
        ("chown", |path| chown(path, Some(0), None).unwrap()),
    ];
    for (name, change) in changes {
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
        setxattr(&path, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
        setxattr(&path, "user.kept", b"1", XattrFlags::empty()).unwrap();
        change(&path);
        let left = getxattr(&path, "security.capability", &mut [0_u8; 64][..]);
        assert_eq!(left, Err(Errno::NODATA), "{name}");
        assert_eq!(getxattr(&path, "user.kept", &mut [0_u8; 64][..]), Ok(1), "{name}");
        let kept = if name == "chown" { 0o755 } else { 0o6755 };
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, kept, "{name}");
    }
}

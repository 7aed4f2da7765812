//! POSIX ACLs: enforced by the kernel, inherited by the engine, and told to both.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use engine::acl::{Acl, AclKind};
use engine::command::Op;
use rustix::fs::{Mode, XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;
use rustix::process::umask;

use super::user::as_user;
use super::{Rig, errno, root_only};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Owner all, nobody else anything, but user 1000 `perm`.
fn for_1000(perm: u8) -> Acl {
    Acl {
        owner: 7,
        group: 0,
        other: 0,
        mask: Some(perm),
        users: vec![(1000, perm)],
        groups: Vec::new(),
    }
}

fn set(path: &Path, name: &str, acl: &Acl) -> Result<(), Errno> {
    setxattr(path, name, &acl.to_xattr(), XattrFlags::empty())
}

fn get(path: &Path, name: &str) -> Result<Acl, Errno> {
    let mut value = vec![0; 4096];
    let len = getxattr(path, name, &mut value[..])?;
    Ok(Acl::from_xattr(&value[..len]).expect("a list").expect("not an empty one"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_list_decides_who_may() {
    let Some(rig) = Rig::new() else { return };
    if !root_only("be somebody else") {
        return;
    }
    let path = rig.at("f");
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let read = |uid| as_user(uid, uid, &[], || errno(File::open(&path)));
    assert_eq!(read(1000), libc::EACCES);
    set(&path, ACCESS, &for_1000(4)).unwrap();
    assert_eq!((read(1000), read(1001)), (0, libc::EACCES));
    let write = as_user(1000, 1000, &[], || errno(File::options().write(true).open(&path)));
    assert_eq!(write, libc::EACCES);
    assert_eq!(get(&path, ACCESS).unwrap(), for_1000(4));
    assert_eq!(mode(&path), 0o740);
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(read(1000), libc::EACCES);
    assert_eq!(get(&path, ACCESS).unwrap().mask, Some(0));
    fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
    assert_eq!(read(1000), 0);
    removexattr(&path, ACCESS).unwrap();
    assert_eq!(read(1000), libc::EACCES);
    assert_eq!(get(&path, ACCESS), Err(Errno::NODATA));
}

#[test]
fn a_list_set_elsewhere_is_obeyed_here() {
    let Some(rig) = Rig::new() else { return };
    if !root_only("be somebody else") {
        return;
    }
    let path = rig.at("f");
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let read = || as_user(1000, 1000, &[], || errno(File::open(&path)));
    // The kernel remembers that there is no list.
    assert_eq!(read(), libc::EACCES);
    let (ino, kind) = (rig.ino("f").unwrap(), AclKind::Access);
    rig.ring.elsewhere(Op::SetAcl { ino, kind, acl: Some(for_1000(4)), kill_sgid: false });
    super::eventually("the list is obeyed", || read() == 0);
    rig.ring.elsewhere(Op::SetAcl { ino, kind, acl: Some(for_1000(0)), kill_sgid: false });
    super::eventually("and the next one", || read() == libc::EACCES);
}

#[test]
fn what_is_made_inherits_and_else_obeys_the_umask() {
    let Some(rig) = Rig::new() else { return };
    if !root_only("be somebody else") {
        return;
    }
    let directory = rig.at("d");
    fs::create_dir(&directory).unwrap();
    chown(&directory, Some(1000), Some(1000)).unwrap();
    let default = Acl { group: 5, ..for_1000(6) };
    as_user(1000, 1000, &[], || {
        umask(Mode::from_raw_mode(0o077));
        File::create(directory.join("before")).unwrap();
        fs::create_dir(directory.join("before.d")).unwrap();
        assert_eq!(mode(&directory.join("before")), 0o600);
        assert_eq!(mode(&directory.join("before.d")), 0o700);
        rustix::fs::mkfifoat(rustix::fs::CWD, directory.join("pipe"), Mode::from_raw_mode(0o666))
            .unwrap();
        assert_eq!(mode(&directory.join("pipe")), 0o600);

        set(&directory, DEFAULT, &default).unwrap();
        File::create(directory.join("after")).unwrap();
        assert_eq!(mode(&directory.join("after")), 0o660);
        assert_eq!(
            get(&directory.join("after"), ACCESS).unwrap(),
            Acl { owner: 6, ..default.clone() }
        );
        fs::create_dir(directory.join("after.d")).unwrap();
        assert_eq!(mode(&directory.join("after.d")), 0o760);
        assert_eq!(get(&directory.join("after.d"), DEFAULT).unwrap(), default);
        let mut narrow = File::options();
        narrow.write(true).create_new(true).mode(0o600).open(directory.join("n")).unwrap();
        assert_eq!(mode(&directory.join("n")), 0o600);
        assert_eq!(get(&directory.join("n"), ACCESS).unwrap().mask, Some(0));
    });
    assert_eq!(set(&directory.join("after"), DEFAULT, &default), Err(Errno::ACCESS));
}

#[test]
fn only_the_group_keeps_the_set_group_id_bit() {
    let Some(rig) = Rig::new() else { return };
    if !root_only("be somebody else") {
        return;
    }
    let path = rig.at("f");
    fs::write(&path, "").unwrap();
    chown(&path, Some(1000), Some(50)).unwrap();
    let list = |groups: &[u32]| {
        fs::set_permissions(&path, Permissions::from_mode(0o2750)).unwrap();
        as_user(1000, 1000, groups, || set(&path, ACCESS, &for_1000(5))).unwrap();
        mode(&path)
    };
    // Groups beyond the first are known to the kernel alone.
    assert_eq!(list(&[7, 50]), 0o2750);
    assert_eq!(list(&[7]), 0o750);
    assert_eq!(as_user(1001, 50, &[], || set(&path, ACCESS, &for_1000(7))), Err(Errno::PERM));
}

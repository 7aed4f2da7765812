//! Extended attributes.

use std::fs;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, listxattr, lsetxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::Rig;
use super::user::as_user;

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 65536];
    let len = getxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

#[test]
fn values_are_set_listed_read_and_removed() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.at("f");
    fs::write(&path, "").unwrap();
    setxattr(&path, "user.a", b"1", XattrFlags::CREATE).unwrap();
    setxattr(&path, "user.b", &[7; 60_000], XattrFlags::empty()).unwrap();
    let again = setxattr(&path, "user.a", b"2", XattrFlags::CREATE);
    assert_eq!(again, Err(Errno::EXIST));
    let absent = setxattr(&path, "user.c", b"", XattrFlags::REPLACE);
    assert_eq!(absent, Err(Errno::NODATA));
    assert_eq!(get(&path, "user.a").unwrap(), b"1");
    assert_eq!(get(&path, "user.b").unwrap(), [7; 60_000]);
    assert_eq!(getxattr(&path, "user.b", &mut [0_u8; 10][..]), Err(Errno::RANGE));
    let mut list = [0; 100];
    let len = listxattr(&path, &mut list[..]).unwrap();
    assert_eq!(&list[..len], b"user.a\0user.b\0");
    removexattr(&path, "user.a").unwrap();
    assert_eq!(get(&path, "user.a"), Err(Errno::NODATA));
    assert_eq!(removexattr(&path, "user.a"), Err(Errno::NODATA));
}

#[test]
fn the_filesystem_tells_about_itself() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.at("f");
    fs::write(&path, "").unwrap();
    assert_eq!(get(&path, "user.fusion.zones").unwrap(), b"z1 z2");
    assert_eq!(get(&path, "user.fusion.state").unwrap(), b"held");
    let gsn: u64 =
        String::from_utf8(get(&path, "user.fusion.gsn").unwrap()).unwrap().parse().unwrap();
    assert!(gsn > 0);
    assert_eq!(get(&path, "user.fusion.nonsense"), Err(Errno::NODATA));
    let set = setxattr(&path, "user.fusion.gsn", b"1", XattrFlags::empty());
    assert_eq!(set, Err(Errno::PERM));
    assert_eq!(listxattr(&path, &mut [0_u8; 100][..]), Ok(0));
    assert_eq!(get(&path, "system.posix_acl_access"), Err(Errno::NODATA));
    let set = setxattr(&path, "system.other", b"1", XattrFlags::empty());
    assert_eq!(set, Err(Errno::OPNOTSUPP));
}

/// attr(7): `trusted.` is for whoever may administrate, `user.` for files and directories, and
/// what is too long is told apart.
#[test]
fn namespaces_and_limits_are_linux_s() {
    let Some(rig) = Rig::new() else { return };
    let path = rig.at("f");
    fs::write(&path, "").unwrap();
    if super::root_only("set trusted attributes") {
        setxattr(&path, "trusted.a", b"1", XattrFlags::empty()).unwrap();
        setxattr(&path, "security.a", b"2", XattrFlags::empty()).unwrap();
        assert_eq!(get(&path, "trusted.a").unwrap(), b"1");
        let set =
            as_user(1000, 1000, &[], || setxattr(&path, "trusted.b", b"1", XattrFlags::empty()));
        assert_eq!(set, Err(Errno::PERM));
    }
    let long = format!("user.{}", "n".repeat(251));
    assert_eq!(setxattr(&path, &*long, b"", XattrFlags::empty()), Err(Errno::RANGE));
    setxattr(&path, &long[..255], b"", XattrFlags::empty()).unwrap();
    let large = vec![0; 65_537];
    assert_eq!(setxattr(&path, "user.l", &large, XattrFlags::empty()), Err(Errno::TOOBIG));
    setxattr(&path, "user.l", &large[1..], XattrFlags::empty()).unwrap();
    std::os::unix::fs::symlink("f", rig.at("l")).unwrap();
    let set = lsetxattr(rig.at("l"), "user.a", b"1", XattrFlags::empty());
    assert_eq!(set, Err(Errno::PERM));
}

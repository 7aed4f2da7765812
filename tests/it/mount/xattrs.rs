//! Extended attributes.

use std::fs;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::Rig;

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
fn the_filesystem_tells_about_itself_and_acls_are_refused() {
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
    assert_eq!(get(&path, "system.posix_acl_access"), Err(Errno::OPNOTSUPP));
    let acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0,
        255, 255, 255, 255,
    ];
    let set = setxattr(&path, "system.posix_acl_access", &acl, XattrFlags::empty());
    assert_eq!(set, Err(Errno::OPNOTSUPP));
}

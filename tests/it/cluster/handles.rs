//! Open files, while other zones rename, chmod, overwrite and unlink them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use tests::cluster::Cluster;
use tests::random::Random;
use tests::wait::wait_until;

const LARGE_BYTES: usize = 48 << 20;

#[test]
fn a_handle_goes_on_whatever_other_zones_do_with_the_file() {
    let Some(cluster) = Cluster::start() else { return };
    let (z1, z2) = (cluster.mount("z1"), cluster.mount("z2"));
    fs::write(z1.join("f"), b"first").expect("z1 writes");
    let path = cluster.wait_for_path("z2", "f");
    let handle = File::options().read(true).write(true).open(&path).expect("z2 opens");
    wait_until("z2 reads it", || fs::read(&path).is_ok_and(|read| read == b"first"));

    fs::rename(z1.join("f"), z1.join("g")).expect("z1 renames");
    fs::set_permissions(z1.join("g"), fs::Permissions::from_mode(0o400)).expect("z1 chmods");
    cluster.wait_for_path("z2", "g");
    wait_until("the mode shows through the handle", || {
        handle.metadata().is_ok_and(|metadata| metadata.mode() & 0o777 == 0o400)
    });
    assert_eq!(read(&handle, 5), b"first");

    fs::write(z1.join("g"), b"second, longer").expect("z1 overwrites");
    wait_until("the handle shows the new version", || read(&handle, 14) == b"second, longer");
    handle.write_all_at(b"SECOND", 0).expect("z2 writes through its handle");
    handle.sync_all().expect("z2 syncs");
    wait_until("z1 reads what z2 wrote", || {
        fs::read(z1.join("g")).is_ok_and(|read| read == b"SECOND, longer")
    });

    fs::remove_file(z1.join("g")).expect("z1 unlinks");
    wait_until("the name is gone in z2", || fs::symlink_metadata(z2.join("g")).is_err());
    assert_eq!(read(&handle, 14), b"SECOND, longer");
    handle.write_all_at(b"third", 0).expect("a file without names can be written");
    handle.set_len(5).expect("and cut");
    handle.sync_all().expect("and synced");
    assert_eq!(read(&handle, 14), b"third");
    assert_eq!(handle.metadata().expect("it has attributes").nlink(), 0);
    cluster.wait_for_equal_state();
}

/// The bytes are fetched for the handle, though no name leads to them any more.
#[test]
fn a_file_unlinked_elsewhere_before_its_bytes_came_can_be_read_and_written() {
    let Some(cluster) = Cluster::start() else { return };
    let (z1, z2) = (cluster.mount("z1"), cluster.mount("z2"));
    let content = Random::new(11).bytes(LARGE_BYTES);
    File::create_new(z1.join("f")).expect("z1 creates");
    let path = cluster.wait_for_path("z2", "f");
    let reader = File::open(&path).expect("z2 opens");
    // From here on z2 hears nothing, until the file has come and gone.
    cluster.cut("z2");
    let mut file = File::create(z1.join("f")).expect("z1 opens");
    file.write_all(&content).expect("z1 writes");
    drop(file);
    wait_until("z1 has published it", || {
        xattr(&z1.join("f"), "user.fusion.state").is_some_and(|state| state == "held")
    });
    fs::remove_file(z1.join("f")).expect("z1 unlinks");
    cluster.heal();
    wait_until("the name is gone in z2", || fs::symlink_metadata(z2.join("f")).is_err());
    wait_until("the handle shows the last version", || {
        reader.metadata().is_ok_and(|metadata| metadata.len() == LARGE_BYTES as u64)
    });
    assert!(read(&reader, LARGE_BYTES) == content, "the last version, whole");
    drop(reader);
    cluster.wait_for_equal_state();
}

fn read(file: &File, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], filled as u64).expect("it can be read") {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    bytes
}

pub fn xattr(path: &std::path::Path, name: &str) -> Option<String> {
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(path, name, &mut value).ok()?;
    Some(String::from_utf8_lossy(&value[..len]).into_owned())
}

//! A node whose disk is full.

use std::fs::{self, File};
use std::io::Write;

use tests::random::Random;
use tests::wait::wait_until;

use super::fragile_disk::FragileDisk;
use super::power_loss::cluster_with_store_on;

/// The store keeps 1 GiB of it for its log.
const DISK_BYTES: u64 = 2 << 30;
/// Taken away from the store, so that there is little to fill.
const BALLAST_BYTES: u64 = 700 << 20;
const PIECE_BYTES: usize = 1 << 20;

#[test]
fn a_full_disk_says_so_and_all_goes_on_when_there_is_room() {
    if !tests::fuse::usable() {
        return;
    }
    let Some(disk) = FragileDisk::with_size(DISK_BYTES) else { return };
    let ballast = disk.place().join("ballast");
    let file = File::create_new(&ballast).expect("a file");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST_BYTES)
        .expect("there is room");
    drop(file);
    let Some(cluster) = cluster_with_store_on("z2", &disk) else { return };
    let (z1, z2) = (cluster.mount("z1"), cluster.mount("z2"));
    fs::write(z2.join("before"), b"before").expect("there is room");

    let piece = Random::new(5).bytes(PIECE_BYTES);
    let mut large = File::create_new(z2.join("large")).expect("a file");
    let mut written = 0;
    let error = loop {
        match large.write(&piece) {
            Ok(count) => {
                assert_eq!(count, PIECE_BYTES, "whole pieces are written, or none of one");
                written += 1;
            }
            Err(error) => break error,
        }
        assert!(written * PIECE_BYTES < DISK_BYTES as usize, "more was written than there is");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    println!("full_disk: full after {written} MiB");
    let refused = rustix::fs::fallocate(&large, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 1 << 30);
    assert_eq!(refused, Err(rustix::io::Errno::NOSPC));
    // What was taken is kept; names and attributes need the reserve only.
    large.sync_all().expect("what was accepted is durable");
    fs::create_dir(z2.join("d")).expect("names can be made");
    fs::rename(z2.join("before"), z2.join("d/after")).expect("and moved");
    assert_eq!(fs::read(z2.join("d/after")).expect("and read"), b"before");
    drop(large);
    wait_until("z1 has what was accepted", || {
        fs::read(z1.join("large")).is_ok_and(|read| read == piece.repeat(written))
    });
    // It cannot come to z2 now, and comes later.
    let content = Random::new(6).bytes(8 << 20);
    fs::write(z1.join("other"), &content).expect("z1 has room");

    fs::remove_file(&ballast).expect("it is there");
    wait_until("z2 has what z1 wrote meanwhile", || {
        fs::read(z2.join("other")).is_ok_and(|read| read == content)
    });
    fs::write(z2.join("more"), &content).expect("there is room again");
    wait_until("z1 has it", || fs::read(z1.join("more")).is_ok_and(|read| read == content));
    cluster.wait_for_equal_state();
    super::power_loss::stop(cluster, disk);
}

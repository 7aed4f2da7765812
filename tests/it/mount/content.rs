//! open, read, write, append, mmap, lseek, fallocate, copy_file_range, fsync.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use engine::command::{Kind, Op};

use super::fake_ring::THERE;
use super::{Rig, read};

#[test]
fn large_and_scattered_writes_read_back() {
    let Some(rig) = Rig::new() else { return };
    let bytes: Vec<u8> =
        (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(rig.at("f"), &bytes).unwrap();
    assert!(fs::read(rig.at("f")).unwrap() == bytes);
    let file = OpenOptions::new().read(true).write(true).open(rig.at("f")).unwrap();
    file.write_all_at(b"middle", 2_500_001).unwrap();
    let mut six = [0; 6];
    file.read_exact_at(&mut six, 2_500_001).unwrap();
    assert_eq!(&six, b"middle");
    assert_eq!(file.metadata().unwrap().len(), 5_000_000);
    file.sync_all().unwrap();
    file.sync_data().unwrap();
}

#[test]
fn appends_from_two_handles_do_not_overlap() {
    let Some(rig) = Rig::new() else { return };
    let open = || OpenOptions::new().append(true).create(true).open(rig.at("f")).unwrap();
    let (mut a, mut b) = (open(), open());
    for _ in 0..100 {
        a.write_all(b"a").unwrap();
        b.write_all(b"b").unwrap();
    }
    assert_eq!(read(&rig.at("f")), "ab".repeat(100));
}

#[test]
fn open_with_truncate_empties_the_file() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("f"), "long text").unwrap();
    assert_eq!(read(&rig.at("f")), "long text");
    fs::write(rig.at("f"), "x").unwrap();
    assert_eq!(read(&rig.at("f")), "x");
}

#[test]
fn a_shared_mapping_is_seen_by_read_and_survives_close() {
    let Some(rig) = Rig::new() else { return };
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(rig.at("f")).unwrap();
    file.set_len(8192).unwrap();
    use std::os::fd::AsRawFd;
    // Safety: a fresh mapping of 8192 bytes of an open file of that size.
    unsafe {
        let flags = libc::PROT_READ | libc::PROT_WRITE;
        let map =
            libc::mmap(std::ptr::null_mut(), 8192, flags, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(map, libc::MAP_FAILED);
        map.cast::<u8>().add(5000).write(b'm');
        drop(file);
        map.cast::<u8>().add(5001).write(b'n');
        assert_eq!(&fs::read(rig.at("f")).unwrap()[5000..5002], b"mn");
        assert_eq!(libc::msync(map, 8192, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(map, 8192), 0);
    }
    assert_eq!(&fs::read(rig.at("f")).unwrap()[5000..5002], b"mn");
}

#[test]
fn holes_are_found_and_space_is_reserved() {
    let Some(rig) = Rig::new() else { return };
    let mut file = File::create_new(rig.at("f")).unwrap();
    file.write_all_at(b"data", 1 << 20).unwrap();
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap(), 1 << 20);
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 0);
    let beyond = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(2 << 20));
    assert_eq!(beyond, Err(rustix::io::Errno::NXIO));
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), (1 << 20) + 4);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 2 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);
}

#[test]
fn copy_file_range_copies() {
    let Some(rig) = Rig::new() else { return };
    fs::write(rig.at("a"), "0123456789").unwrap();
    let (a, b) = (File::open(rig.at("a")).unwrap(), File::create_new(rig.at("b")).unwrap());
    let (mut from, mut to) = (2, 0);
    let copied = rustix::fs::copy_file_range(&a, Some(&mut from), &b, Some(&mut to), 5).unwrap();
    assert_eq!((copied, read(&rig.at("b")).as_str()), (5, "23456"));
}

#[test]
fn opening_for_writing_recalls_the_token_from_its_holder() {
    let Some(rig) = Rig::new() else { return };
    let ino = rig.make_elsewhere("f", Kind::File);
    rig.publish_elsewhere(ino, "theirs");
    rig.ring.elsewhere(Op::TakeToken { ino, node: THERE });
    let mut file = OpenOptions::new().append(true).open(rig.at("f")).unwrap();
    file.write_all(b" and ours").unwrap();
    drop(file);
    assert_eq!(read(&rig.at("f")), "theirs and ours");
}

#[test]
fn a_write_after_the_token_went_takes_it_back_and_appends_behind_the_other_s_bytes() {
    let Some(rig) = Rig::new() else { return };
    let ino = rig.make_elsewhere("f", Kind::File);
    let mut file = OpenOptions::new().append(true).open(rig.at("f")).unwrap();
    for round in ["1", "2", "3"] {
        let before = read(&rig.at("f"));
        rig.run_here(Op::ReleaseToken { ino, node: super::fake_ring::HERE });
        rig.publish_elsewhere(ino, &format!("{before}there{round} "));
        file.write_all(format!("here{round} ").as_bytes()).unwrap();
        let both = format!("{before}there{round} here{round} ");
        super::eventually("both are seen", || read(&rig.at("f")) == both);
        rig.publish_here(ino);
    }
    let mut all = String::new();
    File::open(rig.at("f")).unwrap().read_to_string(&mut all).unwrap();
    assert_eq!(all, "there1 here1 there2 here2 there3 here3 ");
}

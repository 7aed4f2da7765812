//! One file, changed in two zones in turns by everything that changes bytes, against a model.
//!
//! Whoever has the turn opens the file, compares all of it with the model and changes it. A turn
//! ends by making the version agreed (its directory says so) and naming the agreement, for which
//! the other waits; or by giving up a lock, for which both zones contend all the time.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{FallocateFlags, FlockOperation, XattrFlags};
use tests::cluster::{Cluster, Wishes};
use tests::random::Random;
use tests::wait::wait_until;

use super::handles::xattr;

const TURNS: usize = 60;
/// In each zone.
const LOCKED_TURNS: usize = 60;
const CHANGES_MAX: u64 = 12;
const LEN_MAX: u64 = 400 << 10;
const PIECE_MAX: u64 = 64 << 10;
const PAGE: u64 = 4096;

#[test]
fn zones_that_take_turns_see_each_other_s_bytes() {
    let wishes = Wishes { round_trips_ms: vec![4.0, 8.0, 8.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let mut random = Random::announced("turns");
    let directory = cluster.mount("z1").join("d");
    fs::create_dir(&directory).expect("a directory");
    let agreed = XattrFlags::empty();
    rustix::fs::setxattr(&directory, "user.fusion.durability", b"agreed", agreed).expect("a rule");
    File::create_new(directory.join("f")).expect("a file");
    cluster.wait_for_path("z2", "d/f");
    let mut model = Vec::new();
    let mut gsn = 0;
    for turn in 0..TURNS {
        let zone = ["z1", "z2"][(random.below(5) as usize + turn) % 2];
        let path = cluster.mount(zone).join("d/f");
        wait_until("the last turn shows", || own_gsn(&path) >= gsn);
        let mut said = Vec::new();
        take_turn(&path, &mut model, &mut random, &mut said);
        gsn = own_gsn(&path);
        let read = fs::read(&path).expect("it can be read");
        assert!(read == model, "turn {turn} in {zone}: {}", difference(&read, &model, &said));
    }
    cluster.wait_for_equal_state();
    for zone in ["z1", "z2", "z3"] {
        let path = cluster.mount(zone).join("d/f");
        wait_until("the last turn shows", || own_gsn(&path) >= gsn);
        let read = fs::read(&path).expect("it can be read");
        assert!(read == model, "at the end in {zone}: {}", difference(&read, &model, &[]));
    }
}

/// Who has the lock sees all that was changed under it before, anywhere, without an fsync.
#[test]
fn zones_that_take_the_lock_see_each_other_s_bytes() {
    let wishes = Wishes { round_trips_ms: vec![4.0, 8.0, 8.0], ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let mut random = Random::announced("turns by lock");
    File::create_new(cluster.mount("z1").join("f")).expect("a file");
    cluster.wait_for_path("z2", "f");
    // The file's lock is what protects it: that it is free says that the lock excludes.
    let model = Mutex::new(Vec::new());
    let turns = |zone: &str, mut random: Random| {
        let path = cluster.mount(zone).join("f");
        for turn in 0..LOCKED_TURNS {
            let file = File::options().read(true).write(true).open(&path).expect("it opens");
            lock_whole(&file);
            let mut model = model.try_lock().expect("one zone has the lock at a time");
            let read = fs::read(&path).expect("it can be read");
            assert!(read == *model, "turn {turn} in {zone}: {}", difference(&read, &model, &[]));
            let mut said = Vec::new();
            for _ in 0..random.below(CHANGES_MAX) {
                change(&file, &mut model, &mut random, &mut said);
            }
            let read = fs::read(&path).expect("it can be read");
            assert!(read == *model, "turn {turn} in {zone}: {}", difference(&read, &model, &said));
            drop(model);
        }
    };
    std::thread::scope(|scope| {
        for zone in ["z1", "z2"] {
            let (turns, random) = (&turns, Random::new(random.number()));
            scope.spawn(move || turns(zone, random));
        }
    });
    cluster.wait_for_equal_state();
    let model = model.into_inner().expect("nobody has failed");
    for zone in ["z1", "z2"] {
        let file = File::open(cluster.mount(zone).join("f")).expect("it opens");
        rustix::fs::flock(&file, FlockOperation::LockShared).expect("it can be locked");
        let read = fs::read(cluster.mount(zone).join("f")).expect("it can be read");
        assert!(read == model, "at the end in {zone}: {}", difference(&read, &model, &[]));
    }
}

/// A lock of this open file, as another zone's thread of this process must count as another.
fn lock_whole(file: &File) {
    // SAFETY: all zeros is a value of this type.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open, and the lock lives until the call returns.
    let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &lock) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}

fn own_gsn(path: &Path) -> u64 {
    xattr(path, "user.fusion.gsn").and_then(|gsn| gsn.parse().ok()).unwrap_or(0)
}

fn take_turn(path: &Path, model: &mut Vec<u8>, random: &mut Random, said: &mut Vec<String>) {
    let file = File::options().read(true).write(true).open(path).expect("it opens");
    let read = fs::read(path).expect("it can be read");
    assert!(read == *model, "on arrival: {}", difference(&read, model, said));
    for _ in 0..=random.below(CHANGES_MAX) {
        change(&file, model, random, said);
    }
    file.sync_all().expect("the version is agreed");
}

fn change(file: &File, model: &mut Vec<u8>, random: &mut Random, said: &mut Vec<String>) {
    let len = model.len() as u64;
    let offset = random.below(LEN_MAX);
    let count = 1 + random.below(PIECE_MAX);
    match random.below(8) {
        0 | 1 => {
            said.push(format!("write {count} at {offset}"));
            let bytes = random.bytes(count as usize);
            file.write_all_at(&bytes, offset).expect("it is written");
            put(model, offset, &bytes);
        }
        2 => {
            said.push(format!("truncate {offset}"));
            file.set_len(offset).expect("it is cut or extended");
            model.resize(offset as usize, 0);
        }
        3 => {
            said.push(format!("punch {count} at {offset}"));
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, mode, offset, count).expect("a hole");
            zero(model, offset, count);
        }
        4 => {
            said.push(format!("zero {count} at {offset}"));
            rustix::fs::fallocate(file, FallocateFlags::ZERO_RANGE, offset, count).expect("zeros");
            model.resize(model.len().max((offset + count) as usize), 0);
            zero(model, offset, count);
        }
        5 => {
            said.push(format!("allocate {count} at {offset}"));
            rustix::fs::fallocate(file, FallocateFlags::empty(), offset, count).expect("room");
            model.resize(model.len().max((offset + count) as usize), 0);
        }
        6 if len > 0 => {
            let offset = random.below(len);
            let count = count.min(len - offset);
            said.push(format!("map and store {count} at {offset}"));
            let bytes = random.bytes(count as usize);
            store_mapped(file, offset, &bytes);
            put(model, offset, &bytes);
        }
        7 if len > 2 => {
            // Two halves of the file do not overlap.
            let half = len / 2;
            let (from, to) = (random.below(half), half + random.below(half));
            let count = count.min(half - from);
            said.push(format!("copy {count} from {from} to {to}"));
            copy(file, from, to, count);
            let bytes = model[from as usize..(from + count) as usize].to_vec();
            put(model, to, &bytes);
        }
        _ => {}
    }
}

fn put(model: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    model.resize(model.len().max(end), 0);
    model[start..end].copy_from_slice(bytes);
}

fn zero(model: &mut [u8], offset: u64, count: u64) {
    let end = model.len().min((offset + count) as usize);
    if let Some(bytes) = model.get_mut(offset as usize..end) {
        bytes.fill(0);
    }
}

fn copy(file: &File, from: u64, to: u64, count: u64) {
    let (mut from, mut to, mut left) = (from, to, count as usize);
    while left > 0 {
        let copied = rustix::fs::copy_file_range(file, Some(&mut from), file, Some(&mut to), left);
        left -= copied.expect("it is copied");
    }
}

fn store_mapped(file: &File, offset: u64, bytes: &[u8]) {
    let start = offset / PAGE * PAGE;
    let inside = (offset - start) as usize;
    let len = inside + bytes.len();
    // SAFETY: a new shared mapping of an open file; the range lies within the file, and nobody
    // else cuts it while it is mapped.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_raw_fd();
        let address = libc::mmap(
            std::ptr::null_mut(),
            len,
            protection,
            libc::MAP_SHARED,
            fd,
            start as libc::off_t,
        );
        assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        std::ptr::copy_nonoverlapping(
            bytes.as_ptr(),
            address.cast::<u8>().add(inside),
            bytes.len(),
        );
        assert_eq!(libc::msync(address, len, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(address, len), 0);
    }
}

fn difference(read: &[u8], model: &[u8], said: &[String]) -> String {
    let at = read.iter().zip(model).position(|(read, model)| read != model);
    format!(
        "{} bytes instead of {}, the first difference at {at:?}, after {said:#?}",
        read.len(),
        model.len()
    )
}

//! Calls on a file's content whose meaning lies between the kernel and the daemon.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command};

use tests::cluster::Cluster;
use tests::random::Random;
use tests::wait::{wait_for, wait_until};

const PAGE: usize = 4096;
const LARGE_BYTES: usize = 40 << 20;
const APPENDERS: usize = 6;
const RECORDS: usize = 150;

#[test]
fn content_behaves_as_on_a_local_filesystem() {
    let Some(cluster) = Cluster::start() else { return };
    let directory = cluster.mount("z1").join("d");
    fs::create_dir(&directory).expect("a directory");
    large_and_empty_calls(&directory);
    mappings(&directory);
    direct(&directory);
    sent_and_copied(&directory);
    without_names(&directory);
    a_running_program(&directory);
    appended_by_many(&directory);
    sparse_and_too_large(&directory);
    cluster.wait_for_equal_state();
    for entry in fs::read_dir(&directory).expect("it can be listed").flatten() {
        let metadata = entry.metadata().expect("it is there");
        if metadata.len() > 1 << 30 {
            continue;
        }
        let here = fs::read(entry.path()).expect("it can be read");
        let there = cluster.mount("z2").join("d").join(entry.file_name());
        wait_until(&format!("{:?} is the same in z2", entry.file_name()), || {
            fs::read(&there).is_ok_and(|there| there == here)
        });
    }
}

#[test]
fn what_o_dsync_wrote_survives_the_daemon() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    let mut open = Vec::new();
    for (name, flags) in [
        ("sync", libc::O_SYNC),
        ("dsync", libc::O_DSYNC),
        ("direct", libc::O_DSYNC | libc::O_DIRECT),
    ] {
        let mut options = File::options();
        let options = options.write(true).create_new(true).custom_flags(flags);
        let mut file = options.open(z1.join(name)).expect("a file");
        file.write_all(b"durable").expect("it is written");
        open.push(file);
    }
    // They stay open, so that no close has them sealed.
    cluster.kill("z1");
    drop(open);
    cluster.start_missing();
    for name in ["sync", "dsync", "direct"] {
        assert_eq!(fs::read(z1.join(name)).expect("it is there"), b"durable", "{name}");
    }
}

fn large_and_empty_calls(directory: &Path) {
    let content = Random::new(1).bytes(LARGE_BYTES);
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).open(directory.join("large"));
    let file = file.as_mut().expect("a file");
    assert_eq!(file.write(&content).expect("one call"), LARGE_BYTES);
    assert_eq!(file.write(b"").expect("nothing"), 0);
    let mut read = vec![0; LARGE_BYTES + 10];
    assert_eq!(file.read_at(&mut read, 0).expect("one call"), LARGE_BYTES);
    assert!(read[..LARGE_BYTES] == content);
    assert_eq!(file.read_at(&mut read, LARGE_BYTES as u64).expect("at the end"), 0);
    assert_eq!(file.read_at(&mut read, 1 << 40).expect("far behind it"), 0);
    assert_eq!(file.metadata().expect("it is there").len(), LARGE_BYTES as u64);
}

fn mappings(directory: &Path) {
    let path = directory.join("mapped");
    fs::write(&path, vec![b'a'; 2 * PAGE]).expect("a file");
    let open = || File::options().read(true).write(true).open(&path).expect("it opens");
    // A private mapping keeps what is stored in it to itself; one that outlives its descriptor
    // does not.
    let (private, shared) = (map(&open(), libc::MAP_PRIVATE), map(&open(), libc::MAP_SHARED));
    // SAFETY: both mappings are as long as the file, and nobody else uses them.
    unsafe {
        private.write(b'p');
        shared.add(1).write(b's');
        assert_eq!(libc::munmap(shared.cast(), 2 * PAGE), 0);
        assert_eq!(libc::munmap(private.cast(), 2 * PAGE), 0);
    }
    wait_until("the store shows", || fs::read(&path).is_ok_and(|read| read[..3] == *b"asa"));
    // write(2) and a mapping show the same bytes at once.
    let file = open();
    let shared = map(&file, libc::MAP_SHARED);
    file.write_all_at(b"W", 5).expect("it is written");
    // SAFETY: as above.
    unsafe {
        assert_eq!(shared.add(5).read(), b'W');
        shared.add(6).write(b'M');
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, 6).expect("it can be read");
    assert_eq!(byte, *b"M");
    // Behind the end there is no memory.
    file.set_len(PAGE as u64).expect("it is cut");
    // SAFETY: the child only touches the mapping and ends.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            let byte = shared.add(PAGE).read_volatile();
            libc::_exit(i32::from(byte));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert_eq!(libc::munmap(shared.cast(), 2 * PAGE), 0);
        status
    };
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "{status}");
}

/// Two pages of a file.
fn map(file: &File, flags: libc::c_int) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of an open file.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), 2 * PAGE, protection, flags, file.as_raw_fd(), 0)
    };
    assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    address.cast()
}

fn direct(directory: &Path) {
    let path = directory.join("direct");
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT);
    let file = options.open(&path).expect("O_DIRECT is there");
    let content = Random::new(2).bytes(3 * PAGE);
    file.write_all_at(&content, 0).expect("whole pages");
    file.write_all_at(b"unaligned", 7).expect("FUSE has no alignment");
    let mut expected = content;
    expected[7..16].copy_from_slice(b"unaligned");
    let mut read = vec![0; 3 * PAGE];
    file.read_exact_at(&mut read, 0).expect("it can be read");
    assert!(read == expected);
    assert!(fs::read(&path).expect("through the page cache") == expected);
}

fn sent_and_copied(directory: &Path) {
    let content = Random::new(3).bytes(300_000);
    fs::write(directory.join("source"), &content).expect("a file");
    let source = File::open(directory.join("source")).expect("it opens");
    let sent = File::create_new(directory.join("sent")).expect("a file");
    let mut offset = 0;
    while (offset as usize) < content.len() {
        let left = content.len() - offset as usize;
        // SAFETY: both descriptors are open, and the offset is ours.
        let count =
            unsafe { libc::sendfile(sent.as_raw_fd(), source.as_raw_fd(), &mut offset, left) };
        assert!(count > 0, "sendfile: {}", std::io::Error::last_os_error());
    }
    assert!(fs::read(directory.join("sent")).expect("it can be read") == content);
    // Through a pipe, as splice(2).
    let piped = Command::new("sh")
        .args(["-euc", "cat source | cat > piped; cp --reflink=auto source copied; ! cp --reflink=always source cloned"])
        .current_dir(directory)
        .stderr(std::process::Stdio::null())
        .status()
        .expect("sh starts");
    assert!(piped.success(), "and FICLONE is refused");
    let _ = fs::remove_file(directory.join("cloned"));
    for name in ["piped", "copied"] {
        assert!(fs::read(directory.join(name)).expect("it can be read") == content, "{name}");
    }
}

fn without_names(directory: &Path) {
    let path = directory.join("unlinked");
    let mut options = File::options();
    let mut file = options.read(true).write(true).create_new(true).open(&path).expect("a file");
    fs::remove_file(&path).expect("it is there");
    file.write_all(&[b'x'; 10_000]).expect("it can be written");
    file.set_len(4).expect("and cut");
    file.set_len(6).expect("and extended");
    file.sync_all().expect("and synced");
    file.seek(SeekFrom::Start(0)).expect("it is a file");
    let mut read = Vec::new();
    file.read_to_end(&mut read).expect("and read");
    assert_eq!(read, b"xxxx\0\0");
    let metadata = file.metadata().expect("and looked at");
    assert_eq!((metadata.len(), metadata.nlink()), (6, 0));
}

fn a_running_program(directory: &Path) {
    let program = directory.join("sleep");
    fs::copy("/bin/sleep", &program).expect("it is copied");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it can be run");
    // A process that another test is just starting may still have the copy's descriptor.
    let started = wait_for("it runs", || Command::new(&program).arg("1000").spawn().ok());
    let mut running = Running(started.0);
    let refused = File::options().write(true).open(&program).expect_err("it runs");
    assert_eq!(refused.kind(), ErrorKind::ExecutableFileBusy);
    running.stop();
    let writer = File::options().write(true).open(&program).expect("it has ended");
    let refused = Command::new(&program).arg("0").spawn().expect_err("it is being written");
    assert_eq!(refused.kind(), ErrorKind::ExecutableFileBusy);
    drop(writer);
}

/// Ended when dropped.
struct Running(Child);

impl Running {
    fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn appended_by_many(directory: &Path) {
    let script = format!(
        "i=0; while [ $i -lt {RECORDS} ]; do echo \"record $0 $i\" >> appended; i=$((i+1)); done"
    );
    let appenders: Vec<Child> = (0..APPENDERS)
        .map(|number| {
            Command::new("sh")
                .args(["-euc", &script, &number.to_string()])
                .current_dir(directory)
                .spawn()
                .expect("sh starts")
        })
        .collect();
    for mut appender in appenders {
        assert!(appender.wait().expect("it ends").success());
    }
    let text = fs::read_to_string(directory.join("appended")).expect("it can be read");
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), APPENDERS * RECORDS, "no record is lost or torn");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), APPENDERS * RECORDS);
    assert!(lines.iter().all(|line| line.starts_with("record ")));
}

fn sparse_and_too_large(directory: &Path) {
    let path = directory.join("sparse");
    let file = File::create_new(&path).expect("a file");
    file.write_all_at(b"x", 1 << 40).expect("a byte behind a terabyte");
    assert!(file.metadata().expect("it is there").blocks() <= 8, "it takes no room");
    let found = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).expect("there is data");
    assert_eq!(found, 1 << 40);
    for refused in [file.write_at(b"x", 16 << 40).map(drop), file.set_len(16 << 40)] {
        assert_eq!(refused.expect_err("too large").raw_os_error(), Some(libc::EFBIG));
    }
    file.set_len(15 << 40).expect("it may be as long");
    file.sync_all().expect("it is synced");
}

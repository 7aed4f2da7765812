//! File handles (name_to_handle_at(2), open_by_handle_at(2)), as NFS servers and backup programs
//! use them: they outlive the kernel's memory of the inode, and are the same in all zones.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tests::cluster::Cluster;
use tests::wait::wait_until;

#[test]
fn a_file_handle_of_one_zone_opens_the_file_in_another_whatever_its_name() {
    let Some(cluster) = Cluster::start() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, nothing was tested: only root can open file handles");
        return;
    }
    let (z1, z2) = (cluster.mount("z1"), cluster.mount("z2"));
    fs::create_dir_all(z1.join("a/b")).expect("z1 makes directories");
    fs::write(z1.join("a/b/f"), "bytes").expect("z1 writes");
    let file = Handle::of(&z1.join("a/b/f")).expect("a file has a handle");
    let directory = Handle::of(&z1.join("a/b")).expect("a directory has a handle");
    cluster.wait_for_equal_state();

    // Nobody has looked either of them up here: the kernel must ask.
    let path = |handle: &Handle| handle.open(&z2).and_then(|opened| path_of(&opened));
    assert_eq!(path(&directory).expect("z2 opens the directory"), z2.join("a/b"));
    let read = || {
        let mut text = String::new();
        file.open(&z2)?.read_to_string(&mut text).map(|_| text)
    };
    assert_eq!(read().expect("z2 opens the file"), "bytes");

    fs::rename(z1.join("a"), z1.join("c")).expect("z1 renames");
    fs::write(z1.join("c/b/f"), "newer").expect("z1 overwrites");
    wait_until("z2 has the rename", || z2.join("c").exists());
    assert_eq!(path(&directory).expect("it is the same directory"), z2.join("c/b"));
    wait_until("the handle leads to the newer bytes", || read().is_ok_and(|text| text == "newer"));

    cluster.restart("z2");
    assert_eq!(read().expect("the handle outlives the mount"), "newer");
    assert_eq!(path(&directory).expect("also the directory's"), z2.join("c/b"));

    fs::remove_dir_all(z1.join("c")).expect("z1 removes all");
    cluster.wait_for_equal_state();
    let stale = |handle: &Handle| {
        let error = handle.open(&z2).err();
        error.and_then(|error| error.raw_os_error()) == Some(libc::ESTALE)
    };
    wait_until("both handles are stale", || stale(&file) && stale(&directory));
}

/// `struct file_handle`, with room for what any filesystem puts into it.
#[repr(C)]
#[derive(Clone)]
struct Handle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; BYTES_MAX],
}

impl Handle {
    fn of(path: &Path) -> io::Result<Handle> {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let mut handle =
            Handle { handle_bytes: BYTES_MAX as u32, handle_type: 0, f_handle: [0; BYTES_MAX] };
        let mut mount = 0i32;
        // SAFETY: the handle has the bytes that it says it has; the others live as long.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(handle) }
    }

    /// In the filesystem that is mounted there.
    fn open(&self, mount: &Path) -> io::Result<File> {
        let mount = File::open(mount)?;
        let mut handle = self.clone();
        // SAFETY: as above.
        let result = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw mut handle,
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        let fd = i32::try_from(result).expect("descriptors are small numbers");
        // SAFETY: the kernel has just made it.
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { File::from_raw_fd(fd) }) }
    }
}

/// Where the kernel knows it.
fn path_of(file: &File) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// MAX_HANDLE_SZ
const BYTES_MAX: usize = 128;

//! A disk that loses power: a filesystem of its own, which can be stopped without writing
//! what it holds in memory.
//!
//! ext4's shutdown (`EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`, as xfstests uses it) forbids every
//! further write from one moment on. What is mounted again then is what had reached the disk,
//! journal replay included: the real thing, for all of the store's files at once.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An empty ext4 in a file, mounted; unmounted and removed when dropped.
pub struct FragileDisk {
    directory: TempDir,
}

const SIZE_BYTES: u64 = 4 << 30;
/// `_IOR('X', 125, __u32)` of Linux's fs/ext4/ext4.h.
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d;
/// Neither the journal nor any page is written any more.
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

impl FragileDisk {
    /// `None`, loudly, where this user or machine cannot mount one.
    pub fn new() -> Option<FragileDisk> {
        FragileDisk::with_size(SIZE_BYTES)
    }

    /// As [`Self::new`], of so many bytes.
    pub fn with_size(bytes: u64) -> Option<FragileDisk> {
        let directory = tempfile::Builder::new().prefix("fusion-disk-").tempdir();
        let disk = FragileDisk { directory: directory.expect("a temporary directory") };
        std::fs::create_dir(disk.place()).expect("a directory");
        let image = File::create_new(disk.image()).expect("an image");
        image.set_len(bytes).expect("a sparse file");
        let made = run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &disk.image()]);
        match made.and_then(|()| disk.mount()) {
            Ok(()) => Some(disk),
            Err(error) => {
                eprintln!("SKIPPED, nothing was tested: no filesystem that loses power: {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn place(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image(), &self.place()])
    }

    /// Writes everything to the disk.
    pub fn sync(&self) {
        let root = File::open(self.place()).expect("it is mounted");
        rustix::fs::syncfs(&root).expect("it is written");
    }

    /// From now on nothing reaches the disk, and whoever tries gets an error.
    pub fn lose_power(&self) {
        let root = File::open(self.place()).expect("it is mounted");
        let flags: u32 = EXT4_GOING_FLAGS_NOLOGFLUSH;
        // SAFETY: the descriptor is open, and the kernel only reads the flags.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        assert_eq!(result, 0, "ext4 stops: {}", std::io::Error::last_os_error());
    }

    /// Mounts again what is on the disk. Nobody may have a file of it open.
    pub fn power_up(&self) {
        run("umount", &[&self.place()]).expect("nobody uses it");
        self.mount().expect("what is left is a filesystem");
    }
}

impl Drop for FragileDisk {
    fn drop(&mut self) {
        // Not mounted if that was not possible.
        let _ = run("umount", &[Path::new("--lazy"), &self.place()]);
    }
}

pub fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

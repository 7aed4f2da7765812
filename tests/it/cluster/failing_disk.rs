//! A node whose disk takes writes and then fails to keep them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tests::cluster::Cluster;
use tests::random::Random;
use tests::wait::wait_until;

use super::fragile_disk::run;

/// A filesystem that believes to have more room than there is below it: its writes succeed in
/// memory, and fail when they should reach the disk.
struct FailingDisk {
    directory: TempDir,
    at: PathBuf,
}

const CLAIMED_BYTES: u64 = 512 << 20;
const REAL_BYTES: &str = "size=16m";
const WRITTEN_BYTES: usize = 48 << 20;

impl FailingDisk {
    /// Mounts it at `at`; `None`, loudly, where that is not possible.
    fn new(at: &Path) -> Option<FailingDisk> {
        let directory = tempfile::Builder::new().prefix("fusion-disk-").tempdir();
        let disk =
            FailingDisk { directory: directory.expect("a temporary directory"), at: at.into() };
        let below = disk.directory.path();
        let image = below.join("image");
        let made = call("mount", &["-t", "tmpfs", "-o", REAL_BYTES, "none"], &[below])
            .and_then(|()| {
                let file = File::create_new(&image).map_err(|error| error.to_string())?;
                file.set_len(CLAIMED_BYTES).map_err(|error| error.to_string())
            })
            .and_then(|()| call("mkfs.ext4", &["-q", "-F", "-O", "^has_journal"], &[&image]))
            .and_then(|()| call("mount", &["-o", "loop"], &[&image, at]));
        match made {
            Ok(()) => Some(disk),
            Err(error) => {
                eprintln!("SKIPPED, nothing was tested: no filesystem that fails: {error}");
                None
            }
        }
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Not mounted if that was not possible.
        for place in [self.at.as_path(), self.directory.path()] {
            let _ = call("umount", &["--lazy"], &[place]);
        }
    }
}

fn call(program: &str, options: &[&str], places: &[&Path]) -> Result<(), String> {
    let options = options.iter().map(Path::new);
    run(program, &options.chain(places.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn what_the_disk_did_not_keep_is_never_believed() {
    let Some(cluster) = Cluster::start() else { return };
    // The fsync below is the first to meet the disk, not a seal by age.
    let settings = cluster.store("z2").join("fusion.toml");
    let text = fs::read_to_string(&settings).expect("the demo wrote it");
    fs::write(&settings, format!("seal_age_ms = 3600000\n{text}")).expect("writable");
    cluster.restart("z2");
    let (z1, z2) = (cluster.mount("z1"), cluster.mount("z2"));
    fs::write(z2.join("f"), b"first").expect("a small file");
    wait_until("z1 has it", || fs::read(z1.join("f")).is_ok_and(|read| read == b"first"));
    cluster.wait_for_equal_state();
    // Only what is being written lies on it; the log and the tables have a good disk.
    let stages = cluster.store("z2").join("stage");
    let Some(disk) = FailingDisk::new(&stages) else { return };

    let mut file = File::options().write(true).truncate(true).open(z2.join("f")).expect("it opens");
    let error = Random::new(9)
        .bytes(WRITTEN_BYTES)
        .chunks(1 << 20)
        .try_for_each(|piece| file.write_all(piece))
        .and_then(|()| file.sync_all())
        .expect_err("the disk has no room for it");
    // A loop device says what the filesystem below it said; other disks say EIO.
    let told = [Some(libc::EIO), Some(libc::ENOSPC)];
    assert!(told.contains(&error.raw_os_error()), "{error}");
    file.sync_all().expect("an error is told once");
    drop(file);

    for place in [&z1, &z2] {
        assert_eq!(fs::read(place.join("f")).expect("it can be read"), b"first");
    }
    fs::write(z2.join("f"), b"third").expect("the file can be written again");
    wait_until("z1 has that", || fs::read(z1.join("f")).is_ok_and(|read| read == b"third"));
    assert!(cluster.fusion("z2", &["conflicts"]).stdout.contains("no conflicts"));
    cluster.wait_for_equal_state();
    // It lies in the directory that the cluster removes.
    drop(disk);
}

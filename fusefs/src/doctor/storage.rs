//! Whether the store's filesystem keeps promises, and how fast.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Finding, Verdict};

/// Syncs that are timed; the median counts, so that one slow one does not.
const SYNCS: usize = 15;
/// An agreement waits for a majority's sync: above this, distance is not what costs most.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// Disk full stops ingest; below this a store is near it.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// RocksDB, containers and sockets.
const DESCRIPTORS_MIN: u64 = 4096;

pub fn examine(store: &Path) -> Vec<Finding> {
    let place = existing_ancestor(store);
    let mut findings =
        vec![sync_time(&place), free_space(&place), filesystem(&place), descriptors()];
    if !store.exists() {
        findings.push(Finding::wrong(
            Verdict::Doubtful,
            format!("store {}", store.display()),
            "there is none yet",
            "fusion init --store DIR --zone ZONE, or fusion join TOKEN --store DIR",
        ));
    }
    findings
}

/// The directory itself, or the nearest one above it that is there.
fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn sync_time(place: &Path) -> Finding {
    let subject = format!("fsync at {}", place.display());
    match median_sync(place) {
        Ok(time) => {
            let detail = format!("{:.2} ms", time.as_secs_f64() * 1e3);
            if time <= SYNC_SLOW {
                Finding::good(subject, detail)
            } else {
                let fix = "put the store on an SSD or NVMe disk: every agreement waits for a sync";
                Finding::wrong(Verdict::Doubtful, subject, detail, fix)
            }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::wrong(
            Verdict::Doubtful,
            subject,
            "cannot be measured: this user may not write there",
            "run the doctor as the daemon's user",
        ),
        Err(error) => Finding::wrong(
            Verdict::Bad,
            subject,
            format!("failed: {error}"),
            "choose another filesystem for the store",
        ),
    }
}

fn median_sync(place: &Path) -> io::Result<Duration> {
    let path = place.join(format!(".fusion-doctor-{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).open(&path)?;
    let mut measure = || -> io::Result<Duration> {
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            file.write_all(&[0x5a; 4096])?;
            let start = Instant::now();
            file.sync_data()?;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(times[SYNCS / 2])
    };
    let outcome = measure();
    std::fs::remove_file(&path)?;
    outcome
}

fn free_space(place: &Path) -> Finding {
    let subject = format!("space at {}", place.display());
    match rustix::fs::statvfs(place) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let detail = format!("{} MiB free", free >> 20);
            if free >= FREE_BYTES_MIN {
                Finding::good(subject, detail)
            } else {
                Finding::wrong(Verdict::Doubtful, subject, detail, "make room, or move the store")
            }
        }
        Err(error) => Finding::wrong(
            Verdict::Bad,
            subject,
            format!("cannot be asked: {error}"),
            "choose another filesystem for the store",
        ),
    }
}

/// From linux/magic.h: filesystems that forget at a power loss, or that are remote.
const TMPFS: u32 = 0x0102_1994;
const OVERLAY: u32 = 0x794c_7630;
const NFS: u32 = 0x6969;
const FUSE: u32 = 0x6573_5546;

fn filesystem(place: &Path) -> Finding {
    let subject = format!("filesystem of {}", place.display());
    let Ok(stat) = rustix::fs::statfs(place) else {
        return Finding::wrong(Verdict::Doubtful, subject, "unknown", "choose a local filesystem");
    };
    // The field's width and sign differ between architectures; the magic has 32 bits.
    match stat.f_type as u32 {
        TMPFS => Finding::wrong(
            Verdict::Doubtful,
            subject,
            "tmpfs: gone at the next boot",
            "keep the store on XFS, ext4 or btrfs",
        ),
        NFS | FUSE => Finding::wrong(
            Verdict::Bad,
            subject,
            "not local",
            "keep the store on a local XFS, ext4 or btrfs",
        ),
        OVERLAY => Finding::wrong(
            Verdict::Doubtful,
            subject,
            "overlay: a container's own layer, gone with the container",
            "keep the store on a volume of the host",
        ),
        _ => Finding::good(subject, "local"),
    }
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < DESCRIPTORS_MIN => Finding::wrong(
            Verdict::Doubtful,
            "descriptors",
            format!("at most {limit} per process"),
            "raise the hard limit: LimitNOFILE=65536 in the unit, or /etc/security/limits.conf",
        ),
        limit => {
            let limit = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
            Finding::good("descriptors", format!("{limit} per process"))
        }
    }
}

//! A large file, read in other zones while it is still on its way.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::random::Random;
use tests::wait::wait_for;

const BLOCK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

#[test]
fn a_large_file_is_right_while_it_arrives() {
    let Some(cluster) = Cluster::start() else { return };
    let length = if std::env::var_os("FUSION_TEST_LARGE").is_some_and(|value| value == "1") {
        2 << 30
    } else {
        512 << 20
    };
    let pattern = Pattern::new();
    let write_natively = || {
        let path = cluster.root().join("native");
        let written = write(&path, length, &pattern).expect("a native file");
        fs::remove_file(path).expect("it was there");
        written
    };
    let before = write_natively();

    let early = AtomicU64::new(0);
    let start = Instant::now();
    let (written, sequential, random) = std::thread::scope(|scope| {
        let (pattern, early, cluster) = (&pattern, &early, &cluster);
        let z2 = cluster.mount("z2").join("large");
        let z3 = cluster.mount("z3").join("large");
        let sequential =
            scope.spawn(move || read_all(&z2, length, pattern, early, cluster).expect("z2 reads"));
        let random = scope.spawn(move || read_randomly(&z3, length, pattern).expect("z3 reads"));
        let written =
            write(&cluster.mount("z1").join("large"), length, pattern).expect("z1 writes");
        let sequential = sequential.join().expect("the reader of z2 does not panic");
        let random = random.join().expect("the reader of z3 does not panic");
        (written, sequential, random)
    });
    let everywhere = start.elapsed();
    cluster.wait_for_equal_state();
    // The better one of two, since other work on the machine slows down any.
    let after = write_natively();
    let native = Written {
        closed: before.closed.min(after.closed),
        synced: before.synced.min(after.synced),
    };

    let speed = |time: Duration| (length >> 20) as f64 / time.as_secs_f64();
    println!(
        "arriving: {} MiB written at {:.0} MiB/s to close, {:.0} MiB/s with fsync; native \
         {:.0} and {:.0} MiB/s; ratio {:.2} and {:.2}",
        length >> 20,
        speed(written.closed),
        speed(written.synced),
        speed(native.closed),
        speed(native.synced),
        native.closed.as_secs_f64() / written.closed.as_secs_f64(),
        native.synced.as_secs_f64() / written.synced.as_secs_f64(),
    );
    println!(
        "arriving: z2 read it {sequential} times from start to end, {} MiB of that before all \
         of it had arrived; z3 read {random} pieces; right everywhere after {:.1} s",
        early.load(Ordering::Relaxed) >> 20,
        everywhere.as_secs_f64()
    );
}

/// Bytes that follow from their place alone, and do not repeat.
struct Pattern {
    noise: Vec<u8>,
}

impl Pattern {
    fn new() -> Pattern {
        Pattern { noise: Random::new(7).bytes(BLOCK_BYTES) }
    }

    /// The block `number`: the noise, with each page's place at its start.
    fn block(&self, number: u64) -> Vec<u8> {
        let mut block = self.noise.clone();
        for (page, bytes) in block.chunks_mut(PAGE_BYTES).enumerate() {
            let place = number * (BLOCK_BYTES / PAGE_BYTES) as u64 + page as u64;
            bytes[..8].copy_from_slice(&place.to_le_bytes());
        }
        block
    }

    /// # Panics
    /// At the first page that is not what was written at `offset`, a block's start.
    fn check(&self, offset: u64, found: &[u8]) {
        let expected = self.block(offset / BLOCK_BYTES as u64);
        if found == &expected[..found.len()] {
            return;
        }
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        let wrong = wrong.unwrap_or_default() / PAGE_BYTES * PAGE_BYTES;
        let [found, expected] = [found, &expected].map(|bytes| bytes[wrong..][..16].to_vec());
        panic!("at {}: {found:02x?} instead of {expected:02x?}", offset + wrong as u64);
    }
}

struct Written {
    closed: Duration,
    synced: Duration,
}

fn write(path: &Path, length: u64, pattern: &Pattern) -> io::Result<Written> {
    let start = Instant::now();
    let mut file = File::create_new(path)?;
    for number in 0..length / BLOCK_BYTES as u64 {
        file.write_all(&pattern.block(number))?;
    }
    drop(file);
    let closed = start.elapsed();
    File::open(path)?.sync_all()?;
    Ok(Written { closed, synced: start.elapsed() })
}

/// Reads it from start to end, again and again, until all `length` bytes were there and the
/// node holds them; returns how often.
fn read_all(
    path: &PathBuf,
    length: u64,
    pattern: &Pattern,
    early: &AtomicU64,
    cluster: &Cluster,
) -> io::Result<u64> {
    let (mut file, _) = wait_for("the file shows in z2", || File::open(path).ok());
    let (mut sizes, mut rounds) = (0, 0);
    loop {
        let size = file.metadata()?.len();
        assert!(sizes <= size, "it shrank from {sizes} to {size} bytes");
        sizes = size;
        let arriving = is_arriving(cluster, length);
        let mut block = vec![0; BLOCK_BYTES];
        let mut offset = 0;
        while offset < size {
            let count = read_block(&file, &mut block, offset)?;
            // A newer version may be longer, never shorter.
            assert!(offset + count as u64 >= size.min(offset + BLOCK_BYTES as u64), "short data");
            pattern.check(offset, &block[..count]);
            offset += count as u64;
        }
        rounds += u64::from(offset > 0);
        if arriving {
            early.fetch_add(offset, Ordering::Relaxed);
        } else if size == length {
            return Ok(rounds);
        }
        file = File::open(path)?;
    }
}

/// Whether z2 lacks bytes, or does not know of all of them.
fn is_arriving(cluster: &Cluster, length: u64) -> bool {
    let known = cluster.mount("z2").join("large").metadata().map_or(0, |metadata| metadata.len());
    known < length || cluster.node("z2").is_none_or(|node| node["lag"]["bytes"] != 0)
}

/// Reads blocks anywhere until all of it is known; returns how many.
fn read_randomly(path: &Path, length: u64, pattern: &Pattern) -> io::Result<u64> {
    let (file, _) = wait_for("the file shows in z3", || File::open(path).ok());
    let mut random = Random::new(3);
    let mut block = vec![0; BLOCK_BYTES];
    let mut pieces = 0;
    wait_for("z3 knows all of the file", || {
        let size = file.metadata().expect("an open file has attributes").len();
        for _ in 0..if size == length { 64 } else { size.min(1) } {
            let offset = random.below(size) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
            let count = read_block(&file, &mut block, offset).expect("z3 reads");
            assert!(count > 0, "nothing at {offset} of {size}");
            pattern.check(offset, &block[..count]);
            pieces += 1;
        }
        (size == length).then_some(())
    });
    Ok(pieces)
}

/// Fills `block` as far as the file goes.
fn read_block(file: &File, block: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

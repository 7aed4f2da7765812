//! What the mount costs, beside the local disk in the same run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use tests::cluster::Wishes;

use crate::{SMALL_BYTES, median, started};

const ROUNDS: usize = 3;
const FILES: usize = 500;
const LARGE_BYTES: usize = 256 << 20;
const BLOCK_BYTES: usize = 1 << 20;
const RANDOM_OPS: usize = 4000;

/// Operations per second (or MiB/s) without distance, beside the disk under the store.
pub fn run() -> anyhow::Result<()> {
    let cluster = started(&Wishes::default())?;
    let native = cluster.root().join("native");
    println!("three zones on this machine, no distance; medians of {ROUNDS} rounds");
    println!("{:<28} {:>12} {:>12} {:>8}", "", "local disk", "fusion", "ratio");
    let benches: [(&str, &str, fn(&Path) -> io::Result<f64>); 11] = [
        ("create", "/s", create),
        ("mkdir", "/s", mkdir),
        ("stat, cached", "/s", stat),
        ("unlink", "/s", unlink),
        ("create, write 4 KiB, close", "/s", small_write),
        ("create by 32 processes", "/s", create_parallel),
        ("sequential write", "MiB/s", sequential_write),
        ("sequential read, cold", "MiB/s", sequential_read),
        ("sequential read, warm", "MiB/s", sequential_read_warm),
        ("random read 4 KiB", "/s", random_read),
        ("random write 4 KiB", "/s", random_write),
    ];
    for (name, unit, bench) in benches {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        // In turn, so that a busy moment of the machine meets both.
        for round in 0..ROUNDS {
            theirs.push(in_fresh_dir(&native, round, bench).context("on the local disk")?);
            ours.push(in_fresh_dir(&cluster.mount("z1"), round, bench).context("on the mount")?);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "{:<28} {theirs:>12.0} {ours:>12.0} {:>8.2}",
            format!("{name} {unit}"),
            ours / theirs
        );
    }
    Ok(())
}

fn in_fresh_dir(base: &Path, round: usize, bench: fn(&Path) -> io::Result<f64>) -> io::Result<f64> {
    let dir = base.join(format!("bench-{round}"));
    fs::create_dir_all(&dir)?;
    let result = bench(&dir);
    fs::remove_dir_all(&dir)?;
    result
}

/// Runs `op` for each of `count` numbers and gives the rate.
fn rate(count: usize, mut op: impl FnMut(usize) -> io::Result<()>) -> io::Result<f64> {
    let begin = Instant::now();
    for number in 0..count {
        op(number)?;
    }
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

fn file(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("f{number}"))
}

fn create(dir: &Path) -> io::Result<f64> {
    rate(FILES, |number| File::create(file(dir, number)).map(drop))
}

fn mkdir(dir: &Path) -> io::Result<f64> {
    rate(FILES, |number| fs::create_dir(file(dir, number)))
}

fn stat(dir: &Path) -> io::Result<f64> {
    create(dir)?;
    for number in 0..FILES {
        fs::metadata(file(dir, number))?;
    }
    rate(FILES * 100, |number| fs::metadata(file(dir, number % FILES)).map(drop))
}

fn unlink(dir: &Path) -> io::Result<f64> {
    create(dir)?;
    rate(FILES, |number| fs::remove_file(file(dir, number)))
}

fn small_write(dir: &Path) -> io::Result<f64> {
    let bytes = vec![7; SMALL_BYTES];
    rate(FILES, |number| fs::write(file(dir, number), &bytes))
}

fn create_parallel(dir: &Path) -> io::Result<f64> {
    const WRITERS: usize = 32;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    (0..FILES / 4).try_for_each(|number| {
                        File::create(dir.join(format!("w{writer}-{number}"))).map(drop)
                    })
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })?;
    Ok((WRITERS * (FILES / 4)) as f64 / begin.elapsed().as_secs_f64())
}

fn sequential_write(dir: &Path) -> io::Result<f64> {
    let block = noise(BLOCK_BYTES);
    let begin = Instant::now();
    let mut out = File::create(dir.join("large"))?;
    for _ in 0..LARGE_BYTES / BLOCK_BYTES {
        out.write_all(&block)?;
    }
    out.sync_all()?;
    drop(out);
    Ok(mib_per_second(begin))
}

fn sequential_read(dir: &Path) -> io::Result<f64> {
    let path = large(dir)?;
    // Root only; without it the figure is a warm one.
    let _ = fs::write("/proc/sys/vm/drop_caches", "1");
    read_through(&path)
}

fn sequential_read_warm(dir: &Path) -> io::Result<f64> {
    let path = large(dir)?;
    read_through(&path)?;
    read_through(&path)
}

fn read_through(path: &Path) -> io::Result<f64> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut input = File::open(path)?;
    let begin = Instant::now();
    while input.read(&mut block)? > 0 {}
    Ok(mib_per_second(begin))
}

fn random_read(dir: &Path) -> io::Result<f64> {
    let input = File::open(large(dir)?)?;
    let mut block = vec![0; SMALL_BYTES];
    let mut places = Places(1);
    rate(RANDOM_OPS, |_| input.read_exact_at(&mut block, places.next_offset()))
}

fn random_write(dir: &Path) -> io::Result<f64> {
    let output = OpenOptions::new().write(true).open(large(dir)?)?;
    let block = noise(SMALL_BYTES);
    let mut places = Places(2);
    rate(RANDOM_OPS, |_| output.write_all_at(&block, places.next_offset()))
}

fn large(dir: &Path) -> io::Result<PathBuf> {
    sequential_write(dir)?;
    Ok(dir.join("large"))
}

fn mib_per_second(begin: Instant) -> f64 {
    LARGE_BYTES as f64 / f64::from(1 << 20) / begin.elapsed().as_secs_f64()
}

/// Offsets of blocks, the same in every run.
struct Places(u64);

impl Places {
    fn next_offset(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % (LARGE_BYTES / SMALL_BYTES) as u64 * SMALL_BYTES as u64
    }
}

/// Bytes that don't compress.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88172645463325252u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

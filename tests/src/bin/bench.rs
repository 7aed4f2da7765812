//! `./x bench`: what the mount costs, beside the local disk in the same run, and what distance
//! costs, beside the round trip to the nearest majority.
//!
//! Figures of one run on one machine: medians of several rounds, and ratios. Nothing here is
//! asserted; a busy machine moves all columns alike.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use tests::cluster::{Cluster, Wishes};

const ROUNDS: usize = 3;
const FILES: usize = 500;
const SMALL_BYTES: usize = 4 << 10;
const LARGE_BYTES: usize = 256 << 20;
const BLOCK_BYTES: usize = 1 << 20;
const RANDOM_OPS: usize = 4000;
/// Lone operations for each zone.
const LONE_OPS: usize = 50;
/// Round trips z1-z2, z1-z3, z2-z3 in ms, and for each zone that to its nearest majority.
const RTT_MS: [f64; 3] = [20.0, 80.0, 90.0];
const BOUNDS_MS: [f64; 3] = [20.0, 20.0, 80.0];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let only = std::env::args().nth(1);
    let wants = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wants("local") {
        local()?;
    }
    if wants("wan") {
        wan()?;
    }
    Ok(())
}

/// Operations per second (or MiB/s) without distance, beside the disk under the store.
fn local() -> anyhow::Result<()> {
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

/// A lone coordinated operation from each zone, beside the round trip to its nearest majority.
fn wan() -> anyhow::Result<()> {
    let cluster = started(&Wishes { round_trips_ms: RTT_MS.to_vec(), ..Wishes::default() })?;
    let zones: Vec<&str> = cluster.zones().collect();
    println!("\nround trips {RTT_MS:?} ms (z1-z2, z1-z3, z2-z3): a lone mkdir");
    println!("{:<6} {:>9} {:>9} {:>9} {:>8}", "zone", "bound ms", "p50 ms", "p99 ms", "ratio");
    for (at, bound) in BOUNDS_MS.into_iter().enumerate() {
        let dir = cluster.mount(zones[at]).join(format!("lone-{at}"));
        fs::create_dir(&dir)?;
        let mut times = Vec::with_capacity(LONE_OPS);
        for op in 0..LONE_OPS {
            let begin = Instant::now();
            fs::create_dir(dir.join(op.to_string()))?;
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let (p50, p99) = (times[LONE_OPS / 2], times[LONE_OPS * 99 / 100]);
        println!("{:<6} {bound:>9.1} {p50:>9.1} {p99:>9.1} {:>8.2}", zones[at], p50 / bound);
    }
    println!("\nall zones at once, one writer each: mkdir");
    println!("{:<6} {:>9} {:>9} {:>9} {:>8}", "zone", "bound ms", "p50 ms", "p99 ms", "ratio");
    let writers: Vec<_> = (0..BOUNDS_MS.len())
        .map(|at| {
            let dir = cluster.mount(zones[at]).join(format!("mixed-{at}"));
            std::thread::spawn(move || -> io::Result<Vec<f64>> {
                fs::create_dir(&dir)?;
                let mut times = Vec::with_capacity(LONE_OPS);
                for op in 0..LONE_OPS {
                    let begin = Instant::now();
                    fs::create_dir(dir.join(op.to_string()))?;
                    times.push(begin.elapsed().as_secs_f64() * 1000.0);
                }
                times.sort_by(f64::total_cmp);
                Ok(times)
            })
        })
        .collect();
    for (at, writer) in writers.into_iter().enumerate() {
        let times = writer.join().expect("a writer does not panic")?;
        let (p50, p99) = (times[LONE_OPS / 2], times[LONE_OPS * 99 / 100]);
        let bound = BOUNDS_MS[at];
        println!("{:<6} {bound:>9.1} {p50:>9.1} {p99:>9.1} {:>8.2}", zones[at], p50 / bound);
    }
    println!("\na file of 4 KiB written in {}, until it is read elsewhere", zones[0]);
    for at in 1..BOUNDS_MS.len() {
        let mut times = Vec::new();
        for op in 0..10 {
            let name = format!("seen-{at}-{op}");
            let (from, to) =
                (cluster.mount(zones[0]).join(&name), cluster.mount(zones[at]).join(&name));
            let bytes = vec![op as u8 + 1; SMALL_BYTES];
            fs::write(&from, &bytes)?;
            let begin = Instant::now();
            while fs::read(&to).ok().as_deref() != Some(&bytes) {
                anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "{name} never came");
                std::thread::yield_now();
            }
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        println!("{:<6} {:>9.1} ms after close", zones[at], median(times));
    }
    Ok(())
}

fn started(wishes: &Wishes) -> anyhow::Result<Cluster> {
    Cluster::start_with(wishes).context("this machine has no usable /dev/fuse")
}

fn in_fresh_dir(base: &Path, round: usize, bench: fn(&Path) -> io::Result<f64>) -> io::Result<f64> {
    let dir = base.join(format!("bench-{round}"));
    fs::create_dir_all(&dir)?;
    let result = bench(&dir);
    fs::remove_dir_all(&dir)?;
    result
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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

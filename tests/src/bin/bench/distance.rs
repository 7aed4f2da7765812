//! What distance costs: each zone's operations beside the round trip to its nearest majority,
//! alone, under load from all zones, and when a zone dies, restarts or leaves in order.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use tests::cluster::{Cluster, Wishes};
use tests::wait::wait_until;

use crate::matrix::{MATRICES, Matrix};
use crate::{SMALL_BYTES, median, started};

/// Lone operations for each zone.
const LONE_OPS: usize = 50;
/// Writers of each zone under load from all of them.
const WRITERS: usize = 8;
const LOAD_TIME: Duration = Duration::from_secs(10);
/// Long before and after a death, so that its pause is one among ordinary operations.
const AROUND_DEATH: Duration = Duration::from_secs(5);

/// Measures the matrices of these names; all of them, if none is named.
pub fn run(names: &[String]) -> anyhow::Result<()> {
    for name in names {
        let known: Vec<&str> = MATRICES.iter().map(|matrix| matrix.name).collect();
        anyhow::ensure!(known.contains(&name.as_str()), "'{name}' is none of {known:?}");
    }
    let chosen = |matrix: &&Matrix| names.is_empty() || names.iter().any(|n| n == matrix.name);
    MATRICES.iter().filter(chosen).try_for_each(measure)
}

fn measure(matrix: &Matrix) -> anyhow::Result<()> {
    let wishes = Wishes {
        zones: matrix.zones.len(),
        round_trips_ms: matrix.round_trips_ms.to_vec(),
        ..Wishes::default()
    };
    let cluster = started(&wishes)?;
    println!(
        "\n{}: {} (round trips {:?} ms)",
        matrix.name,
        matrix.zones.join(", "),
        matrix.round_trips_ms
    );
    let everybody = |_: usize| true;
    lone(&cluster, matrix, everybody).context("a lone operation")?;
    loaded(&cluster, matrix).context("load from all zones")?;
    arriving(&cluster, matrix).context("a file's content elsewhere")?;
    // The zone that is in most majorities is missed most.
    let dying = (0..matrix.zones.len())
        .min_by(|a, b| matrix.bound_ms(*a, everybody).total_cmp(&matrix.bound_ms(*b, everybody)))
        .expect("a matrix has zones");
    idle_death(&cluster, matrix, dying).context("the death of an idle zone")?;
    writing_death(&cluster, matrix, dying).context("the death of a writing zone")?;
    restart(&cluster, matrix, dying).context("a restart in order")
}

/// Zones of the cluster are z1, z2, ..
fn zone(number: usize) -> String {
    format!("z{}", number + 1)
}

/// Who has an active lane, as this zone sees it.
fn lanes(cluster: &Cluster, number: usize) -> Option<Vec<String>> {
    let status = cluster.status(&zone(number))?;
    let lanes = status["ring"]["lanes"].as_array()?;
    lanes.iter().map(|lane| Some(lane["node"].as_str()?.to_owned())).collect()
}

fn others(matrix: &Matrix, without: usize) -> impl Iterator<Item = usize> {
    (0..matrix.zones.len()).filter(move |zone| *zone != without)
}

fn lone(
    cluster: &Cluster,
    matrix: &Matrix,
    living: impl Fn(usize) -> bool + Copy,
) -> anyhow::Result<()> {
    heading("a lone mkdir");
    for number in (0..matrix.zones.len()).filter(|number| living(*number)) {
        let dir = fresh_directory(cluster, number, "lone")?;
        let times = lone_times(cluster, number, &dir)?;
        row(matrix, number, matrix.bound_ms(number, living), times);
    }
    Ok(())
}

/// Milliseconds of operations while no other zone has a lane.
fn lone_times(cluster: &Cluster, number: usize, dir: &Path) -> io::Result<Vec<f64>> {
    let warm = dir.join("warm");
    let alone = || {
        fs::create_dir(&warm).and_then(|()| fs::remove_dir(&warm)).is_ok()
            && lanes(cluster, number).is_some_and(|nodes| nodes == [zone(number)])
    };
    for round in 0.. {
        // A lane closes when it is idle for ten seconds; the next is of this zone alone.
        wait_until("the other lanes are closed", alone);
        let paths = (0..LONE_OPS).map(|op| dir.join(format!("{round}-{op}")));
        let times = paths.map(|path| mkdir_ms(&path)).collect::<io::Result<_>>()?;
        // A daemon that has just started may have had something to say meanwhile.
        if alone() {
            return Ok(times);
        }
    }
    unreachable!("numbers do not end")
}

fn loaded(cluster: &Cluster, matrix: &Matrix) -> anyhow::Result<()> {
    heading(&format!("mkdir, {WRITERS} writers in every zone"));
    let load = Load::start(cluster, 0..matrix.zones.len(), WRITERS)?;
    std::thread::sleep(LOAD_TIME);
    for (number, times) in load.end()? {
        let count = times.len();
        row(matrix, number, matrix.bound_ms(number, |_| true), times);
        println!("{:<16} {:>9.0} /s", "", count as f64 / LOAD_TIME.as_secs_f64());
    }
    Ok(())
}

fn arriving(cluster: &Cluster, matrix: &Matrix) -> anyhow::Result<()> {
    println!("a file of 4 KiB written in {}, until it is read elsewhere", matrix.zones[0]);
    for at in 1..matrix.zones.len() {
        let mut times = Vec::new();
        for op in 0..10u8 {
            let name = format!("seen-{at}-{op}");
            let (from, to) =
                (cluster.mount("z1").join(&name), cluster.mount(&zone(at)).join(&name));
            let bytes = vec![op + 1; SMALL_BYTES];
            fs::write(&from, &bytes)?;
            let begin = Instant::now();
            while fs::read(&to).ok().as_deref() != Some(&bytes) {
                anyhow::ensure!(begin.elapsed() < Duration::from_secs(30), "{name} never came");
                std::thread::yield_now();
            }
            times.push(begin.elapsed().as_secs_f64() * 1000.0);
        }
        println!("{:<16} {:>9.1} ms after close", matrix.zones[at], median(times));
    }
    Ok(())
}

/// One writer in each other zone; the dying zone has not written for a while.
fn idle_death(cluster: &Cluster, matrix: &Matrix, dying: usize) -> anyhow::Result<()> {
    let load = Load::start(cluster, others(matrix, dying), 1)?;
    wait_until("the dying zone has no lane", || {
        lanes(cluster, (dying + 1) % matrix.zones.len())
            .is_some_and(|nodes| !nodes.contains(&zone(dying)))
    });
    let what = format!("{} is idle and dies: the others' operations", matrix.zones[dying]);
    around(cluster, matrix, dying, load, &what)
}

fn writing_death(cluster: &Cluster, matrix: &Matrix, dying: usize) -> anyhow::Result<()> {
    let load = Load::start(cluster, others(matrix, dying), 1)?;
    let own = Load::start(cluster, std::iter::once(dying), 1)?;
    std::thread::sleep(AROUND_DEATH);
    // Its daemon is about to be killed: its writers fail by themselves.
    drop(own);
    let what = format!("{} is writing and dies: the others' operations", matrix.zones[dying]);
    around(cluster, matrix, dying, load, &what)
}

fn around(
    cluster: &Cluster,
    matrix: &Matrix,
    dying: usize,
    load: Load,
    what: &str,
) -> anyhow::Result<()> {
    std::thread::sleep(AROUND_DEATH);
    let before = load.take();
    cluster.kill(&zone(dying));
    std::thread::sleep(AROUND_DEATH);
    let after = load.end()?;
    println!("{what} (bounds: with it, without it)");
    println!(
        "{:<16} {:>9} {:>9} {:>10} {:>9} {:>9}",
        "zone", "bounds ms", "", "p50 before", "p50 after", "longest"
    );
    for ((number, before), (_, after)) in before.into_iter().zip(after) {
        let longest = after.iter().copied().fold(0.0, f64::max);
        println!(
            "{:<16} {:>9.1} {:>9.1} {:>10.1} {:>9.1} {longest:>9.1}",
            matrix.zones[number],
            matrix.bound_ms(number, |_| true),
            matrix.bound_ms(number, |other| other != dying),
            median(before),
            median(after)
        );
    }
    cluster.start_missing();
    cluster.wait_for_equal_state();
    Ok(())
}

fn restart(cluster: &Cluster, matrix: &Matrix, leaving: usize) -> anyhow::Result<()> {
    let load = Load::start(cluster, others(matrix, leaving), 1)?;
    let own = Load::start(cluster, std::iter::once(leaving), 1)?;
    std::thread::sleep(AROUND_DEATH);
    own.end()?;
    let before = load.take();
    cluster.restart(&zone(leaving));
    let during = load.end()?;
    println!("{} restarts in order: the others' operations", matrix.zones[leaving]);
    println!("{:<16} {:>10} {:>9} {:>9}", "zone", "p50 before", "p50", "longest");
    for ((number, before), (_, during)) in before.into_iter().zip(during) {
        let longest = during.iter().copied().fold(0.0, f64::max);
        println!(
            "{:<16} {:>10.1} {:>9.1} {longest:>9.1}",
            matrix.zones[number],
            median(before),
            median(during)
        );
    }
    Ok(())
}

/// Writers that make directories one after the other until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// For each zone, milliseconds of each operation.
    times: Vec<(usize, Arc<Mutex<Vec<f64>>>)>,
}

impl Load {
    fn start(
        cluster: &Cluster,
        zones: impl Iterator<Item = usize>,
        writers: usize,
    ) -> io::Result<Load> {
        let mut load = Load { stop: Arc::default(), threads: Vec::new(), times: Vec::new() };
        for zone in zones {
            let times = Arc::new(Mutex::new(Vec::new()));
            for _ in 0..writers {
                let dir = fresh_directory(cluster, zone, "load")?;
                let (stop, times) = (load.stop.clone(), times.clone());
                load.threads.push(std::thread::spawn(move || {
                    for op in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let ms = mkdir_ms(&dir.join(op.to_string()))?;
                        times.lock().expect("writers do not panic").push(ms);
                    }
                    Ok(())
                }));
            }
            load.times.push((zone, times));
        }
        Ok(load)
    }

    /// The times since the start or the last call, by zone.
    fn take(&self) -> Vec<(usize, Vec<f64>)> {
        let taken = |times: &Mutex<Vec<f64>>| {
            std::mem::take(&mut *times.lock().expect("writers do not panic"))
        };
        self.times.iter().map(|(zone, times)| (*zone, taken(times))).collect()
    }

    fn end(mut self) -> anyhow::Result<Vec<(usize, Vec<f64>)>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        Ok(self.take())
    }
}

fn mkdir_ms(path: &Path) -> io::Result<f64> {
    let begin = Instant::now();
    fs::create_dir(path)?;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

/// A directory that no other measurement uses.
fn fresh_directory(cluster: &Cluster, number: usize, name: &str) -> io::Result<PathBuf> {
    for count in 0.. {
        let dir = cluster.mount(&zone(number)).join(format!("{name}-{number}-{count}"));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("numbers do not end")
}

fn heading(what: &str) {
    println!("{what}");
    println!("{:<16} {:>9} {:>9} {:>9} {:>8}", "zone", "bound ms", "p50 ms", "p99 ms", "ratio");
}

fn row(matrix: &Matrix, zone: usize, bound_ms: f64, mut times: Vec<f64>) {
    if times.is_empty() {
        return println!("{:<16} {bound_ms:>9.1} no operation came through", matrix.zones[zone]);
    }
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!(
        "{:<16} {bound_ms:>9.1} {p50:>9.1} {p99:>9.1} {:>8.2}",
        matrix.zones[zone],
        p50 / bound_ms
    );
}

//! How many commands the ring agrees on, how many share an agreement, and what flushes each costs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tests::cluster::{Cluster, Wishes};
use tests::metrics::{of_stage, samples, scrape};

use crate::{median, started};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(5);
/// Writers of each zone that writes, and the zones.
const LOADS: [(usize, usize); 6] = [(1, 1), (1, 8), (1, 32), (3, 1), (3, 8), (3, 32)];
const FLUSHES: usize = 500;

/// Three voters on this machine, no distance: directories made by one zone's writers, then by
/// those of all zones.
pub fn run() -> anyhow::Result<()> {
    let cluster = started(&Wishes::default())?;
    let disk = flushes_per_second(cluster.root())?;
    println!("three voters on one disk, which flushes 4 KiB {disk:.0} times a second alone");
    println!("medians of {ROUNDS} rounds of {} s; flushes are of one node", ROUND.as_secs());
    println!(
        "{:>6} {:>8} {:>12} {:>12} {:>14} {:>10} {:>16}",
        "zones",
        "writers",
        "commands/s",
        "agreements/s",
        "per agreement",
        "flushes/s",
        "flushes/command"
    );
    for (zones, writers) in LOADS {
        let rounds = (0..ROUNDS)
            .map(|round| measure(&cluster, zones, writers, round))
            .collect::<io::Result<Vec<_>>>()?;
        let median_of = |what: fn(&Round) -> f64| median(rounds.iter().map(what).collect());
        println!(
            "{zones:>6} {writers:>8} {:>12.0} {:>12.0} {:>14.2} {:>10.0} {:>16.2}",
            median_of(|round| round.commands / round.seconds),
            median_of(|round| round.agreements / round.seconds),
            median_of(|round| round.commands / round.agreements),
            median_of(|round| round.flushes / round.seconds),
            median_of(|round| round.flushes / round.commands),
        );
    }
    Ok(())
}

struct Round {
    seconds: f64,
    commands: f64,
    agreements: f64,
    /// Mean of the nodes.
    flushes: f64,
}

fn measure(cluster: &Cluster, zones: usize, writers: usize, round: usize) -> io::Result<Round> {
    let names: Vec<String> = cluster.zones().map(str::to_owned).collect();
    let mut directories = Vec::new();
    for zone in &names[..zones] {
        for writer in 0..writers {
            let name = format!("{zones}-{writers}-{round}-{zone}-{writer}");
            let directory = cluster.mount(zone).join(name);
            fs::create_dir(&directory)?;
            directories.push(directory);
        }
    }
    let (gsn, flushes) = (gsn(cluster), flushes(cluster, &names));
    let begin = Instant::now();
    let commands = write_for(ROUND, &directories)?;
    Ok(Round {
        seconds: begin.elapsed().as_secs_f64(),
        commands: commands as f64,
        agreements: self::gsn(cluster) - gsn,
        flushes: self::flushes(cluster, &names) - flushes,
    })
}

/// One writer for each directory makes directories in it. Returns how many were made.
fn write_for(time: Duration, directories: &[PathBuf]) -> io::Result<u64> {
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = directories
            .iter()
            .map(|directory| {
                scope.spawn(|| {
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        fs::create_dir(directory.join(number.to_string()))?;
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().try_for_each(|it| it.join().expect("a writer does not panic"))
    })
    .map(|()| made.into_inner())
}

fn gsn(cluster: &Cluster) -> f64 {
    samples(&scrape(&cluster.store("z1")))["fusion_gsn_applied{volume=\"root\"}"]
}

/// Flushes of the log so far, the mean of the nodes.
fn flushes(cluster: &Cluster, zones: &[String]) -> f64 {
    let count = |zone: &String| {
        let samples = samples(&scrape(&cluster.store(zone)));
        of_stage(&samples, "fusion_stage_service_seconds_count", "persisted")
    };
    zones.iter().map(count).sum::<f64>() / zones.len() as f64
}

/// What the disk can do: a log of its own, as the store writes one.
fn flushes_per_second(root: &Path) -> io::Result<f64> {
    let file = File::create(root.join("flushed"))?;
    let block = [7; 4096];
    let begin = Instant::now();
    for number in 0..FLUSHES {
        file.write_all_at(&block, (number * block.len()) as u64)?;
        file.sync_data()?;
    }
    Ok(FLUSHES as f64 / begin.elapsed().as_secs_f64())
}

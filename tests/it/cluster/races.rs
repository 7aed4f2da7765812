//! The same name wanted in three zones at the same moment.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags};
use tests::cluster::{Cluster, Wishes};
use tests::wait::wait_until;

const ROUNDS: usize = 1000;
const ZONES: [&str; 3] = ["z1", "z2", "z3"];
/// Near enough for a thousand rounds, far enough that all three are on their way at once.
const ROUND_TRIPS_MS: [f64; 3] = [3.0, 5.0, 6.0];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Race {
    /// `open(O_CREAT|O_EXCL)` of one name.
    Create,
    Mkdir,
    /// An own file each, linked to one name.
    Link,
    /// An own file each, renamed to one name that must not exist.
    RenameTo,
    /// One file, renamed to an own name each.
    RenameFrom,
}

const RACES: [Race; 5] = [Race::Create, Race::Mkdir, Race::Link, Race::RenameTo, Race::RenameFrom];

impl Race {
    /// What a loser is told.
    fn lost(self) -> ErrorKind {
        match self {
            Race::RenameFrom => ErrorKind::NotFound,
            _ => ErrorKind::AlreadyExists,
        }
    }

    /// Runs for the name of round `round`, from `zone`; the winner leaves its zone's name.
    fn run(self, directory: &Path, round: usize, zone: &str) -> io::Result<()> {
        let name = directory.join(round.to_string());
        match self {
            Race::Create => File::create_new(name)?.write_all(zone.as_bytes()),
            Race::Mkdir => {
                fs::create_dir(&name)?;
                fs::create_dir(name.join(zone))
            }
            Race::Link => fs::hard_link(source(directory, round, zone), name),
            Race::RenameTo => {
                let from = source(directory, round, zone);
                Ok(rustix::fs::renameat_with(CWD, from, CWD, name, RenameFlags::NOREPLACE)?)
            }
            Race::RenameFrom => fs::rename(name, source(directory, round, zone)),
        }
    }

    /// The zones that have won round `round`, as the tree at `directory` has it.
    fn winners(self, directory: &Path, round: usize) -> io::Result<Vec<usize>> {
        let name = directory.join(round.to_string());
        let of_ino = |ino: u64, zone: &str| {
            let source = source(directory, round, zone).metadata();
            source.is_ok_and(|source| source.ino() == ino)
        };
        let test: Box<dyn Fn(&str) -> bool> = match self {
            Race::Create => {
                let content = fs::read_to_string(name)?;
                Box::new(move |zone| content == zone)
            }
            Race::Mkdir => Box::new(move |zone| name.join(zone).is_dir()),
            Race::Link => {
                let ino = name.metadata()?.ino();
                Box::new(move |zone| of_ino(ino, zone))
            }
            // The winner's own file is the one that is gone.
            Race::RenameTo => Box::new(|zone| !source(directory, round, zone).exists()),
            Race::RenameFrom => {
                if name.exists() {
                    return Ok(Vec::new());
                }
                Box::new(|zone| source(directory, round, zone).exists())
            }
        };
        Ok((0..ZONES.len()).filter(|at| test(ZONES[*at])).collect())
    }
}

fn source(directory: &Path, round: usize, zone: &str) -> PathBuf {
    directory.join(format!("{round}-{zone}"))
}

fn race_of(round: usize) -> Race {
    RACES[round % RACES.len()]
}

#[test]
fn one_name_raced_for_in_three_zones_has_one_winner() {
    let wishes = Wishes { round_trips_ms: ROUND_TRIPS_MS.to_vec(), ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let directories: Vec<PathBuf> =
        ZONES.iter().map(|zone| cluster.mount(zone).join("races")).collect();
    fs::create_dir(&directories[0]).expect("a directory");
    cluster.wait_for_path("z2", "races");
    cluster.wait_for_path("z3", "races");
    make_sources(&cluster, &directories);

    let start = Instant::now();
    let barrier = Barrier::new(ZONES.len());
    let results: Vec<Vec<io::Result<()>>> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..ZONES.len())
            .map(|at| {
                let (barrier, directory) = (&barrier, &directories[at]);
                let run = move |round| {
                    barrier.wait();
                    race_of(round).run(directory, round, ZONES[at])
                };
                scope.spawn(move || (0..ROUNDS).map(run).collect())
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().expect("a racer does not panic")).collect()
    });
    let took = start.elapsed();

    let mut won = [[0; ZONES.len()]; RACES.len()];
    let told: Vec<usize> = (0..ROUNDS)
        .map(|round| {
            let race = race_of(round);
            let winners: Vec<usize> =
                (0..ZONES.len()).filter(|at| results[*at][round].is_ok()).collect();
            let told: Vec<_> = results.iter().map(|results| &results[round]).collect();
            assert_eq!(winners.len(), 1, "round {round}, {race:?}: {told:?}");
            for loser in told.iter().filter_map(|result| result.as_ref().err()) {
                assert_eq!(loser.kind(), race.lost(), "round {round}, {race:?}: {told:?}");
            }
            won[round % RACES.len()][winners[0]] += 1;
            winners[0]
        })
        .collect();

    cluster.wait_for_equal_state();
    for (zone, directory) in ZONES.iter().zip(&directories) {
        for (round, winner) in told.iter().enumerate() {
            let race = race_of(round);
            let agrees = || race.winners(directory, round).is_ok_and(|found| found == [*winner]);
            // Who made a file is in its bytes, which come after its name.
            if race == Race::Create {
                wait_until(&format!("{zone} has the winner's bytes of round {round}"), agrees);
            }
            let found = race.winners(directory, round);
            assert!(agrees(), "{zone}, round {round}, {race:?}: {winner} won, found {found:?}");
        }
    }
    println!("races: {ROUNDS} rounds in {:.1} s; wins of z1, z2, z3:", took.as_secs_f64());
    for (race, won) in RACES.iter().zip(won) {
        println!("races: {race:?} {won:?}");
    }
}

/// Makes the files that are linked and renamed, and waits until all zones have them.
fn make_sources(cluster: &Cluster, directories: &[PathBuf]) {
    let directory = &directories[0];
    for round in 0..ROUNDS {
        match race_of(round) {
            Race::Create | Race::Mkdir => {}
            Race::Link | Race::RenameTo => {
                for zone in ZONES {
                    File::create_new(source(directory, round, zone)).expect("a file");
                }
            }
            Race::RenameFrom => {
                File::create_new(directory.join(round.to_string())).expect("a file");
            }
        }
    }
    cluster.wait_for_equal_state();
}

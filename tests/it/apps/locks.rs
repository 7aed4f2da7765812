//! Locks made of names, as old programs take them, with a holder in each of three zones.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use tests::cluster::Cluster;

use super::hand_over;

const ROUNDS: usize = 25;
const ZONES: [&str; 3] = ["z1", "z2", "z3"];

/// One way to take a lock: true when it was taken.
type Take = fn(&Path, &str) -> io::Result<bool>;
type Free = fn(&Path) -> io::Result<()>;

const PROTOCOLS: [(&str, Take, Free); 4] = [
    ("open with O_EXCL", by_creation, |lock| fs::remove_file(lock)),
    ("mkdir", |lock, _| unless_there(fs::create_dir(lock)), |lock| fs::remove_dir(lock)),
    ("symlink", |lock, who| unless_there(symlink(who, lock)), |lock| fs::remove_file(lock)),
    ("link and its count", by_link, |lock| fs::remove_file(lock)),
];

fn by_creation(lock: &Path, who: &str) -> io::Result<bool> {
    match File::create_new(lock) {
        Ok(mut file) => file.write_all(who.as_bytes()).map(|()| true),
        Err(error) => unless_there(Err(error)),
    }
}

/// As liblockfile and procmail: whether link(2) worked is read from the count of links.
fn by_link(lock: &Path, who: &str) -> io::Result<bool> {
    let own = lock.with_file_name(format!("own-{who}"));
    File::create(&own)?;
    let _ = fs::hard_link(&own, lock);
    let taken = own.metadata()?.nlink() == 2;
    fs::remove_file(own)?;
    Ok(taken)
}

fn unless_there(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the lock guards: a name that is there only while somebody holds the lock, and a number
/// that each holder reads and writes in place.
fn work(dir: &Path, protocol: usize) -> io::Result<()> {
    let inside = dir.join(format!("inside-{protocol}"));
    fs::create_dir(&inside)?;
    let counter = dir.join(format!("counter-{protocol}"));
    let count = fs::read_to_string(&counter)?;
    let count: usize = count.trim().parse().map_err(|_| io::Error::other(format!("{count:?}")))?;
    fs::write(counter, format!("{}\n", count + 1))?;
    fs::remove_dir(inside)
}

#[test]
fn locks_made_of_names_exclude_across_zones() {
    let Some(cluster) = Cluster::start() else { return };
    let dirs = ZONES.map(|zone| cluster.mount(zone).join("locks"));
    fs::create_dir(&dirs[0]).expect("a directory");
    for protocol in 0..PROTOCOLS.len() {
        fs::write(dirs[0].join(format!("counter-{protocol}")), "0\n").expect("a file");
    }
    hand_over(&cluster, "z1", "locks");
    for (number, (name, take, free)) in PROTOCOLS.iter().enumerate() {
        std::thread::scope(|scope| {
            let holders: Vec<_> = ZONES
                .iter()
                .zip(&dirs)
                .map(|(zone, dir)| {
                    scope.spawn(move || -> io::Result<()> {
                        let lock = dir.join(format!("lock-{number}"));
                        for round in 0..ROUNDS {
                            while !take(&lock, zone)? {
                                std::thread::yield_now();
                            }
                            let worked = work(dir, number);
                            worked.map_err(|error| {
                                let told = format!("{zone}, round {round}: {error}");
                                io::Error::new(error.kind(), told)
                            })?;
                            free(&lock)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            for holder in holders {
                let ended = holder.join().expect("a holder does not panic");
                ended.unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        });
        for zone in ZONES {
            hand_over(&cluster, zone, "locks");
        }
        for (zone, dir) in ZONES.iter().zip(&dirs) {
            let counted = fs::read_to_string(dir.join(format!("counter-{number}")));
            let counted = counted.expect("readable");
            assert_eq!(counted, format!("{}\n", ROUNDS * ZONES.len()), "{name}, in {zone}");
        }
    }
}

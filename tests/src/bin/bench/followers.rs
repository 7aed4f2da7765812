//! What followers of the agreed order cost those who write.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::Context;
use tests::cluster::{Cluster, Wishes};
use tests::program::command;

use crate::{median, started};

const ROUNDS: usize = 9;
const WRITERS: usize = 32;
const FILES_EACH: usize = 40;
const FOLLOWERS: usize = 4;

/// Creates per second by many writers in one zone of three, without and with followers of that
/// zone's daemon, in turn.
pub fn run() -> anyhow::Result<()> {
    let cluster = started(&Wishes::default())?;
    let base = cluster.mount("z1");
    create(&base.join("warm"))?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        without.push(create(&base.join(format!("without-{round}")))?);
        let followers: Vec<Follower> =
            (0..FOLLOWERS).map(|_| Follower::start(&cluster)).collect::<Result<_, _>>()?;
        with.push(create(&base.join(format!("with-{round}")))?);
        drop(followers);
    }
    println!("creates per second by {WRITERS} writers in one zone, medians of {ROUNDS} rounds");
    println!("each round without: {without:.0?}");
    println!("each round with:    {with:.0?}");
    let (without, with) = (median(without), median(with));
    println!("without followers {without:>8.0} /s");
    println!("with {FOLLOWERS} followers {with:>8.0} /s, {:.3} of that", with / without);
    Ok(())
}

fn create(dir: &Path) -> io::Result<f64> {
    fs::create_dir(dir)?;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                // The kernel makes one name after the other in a directory.
                let own = dir.join(format!("w{writer}"));
                scope.spawn(move || {
                    fs::create_dir(&own)?;
                    (1..FILES_EACH)
                        .try_for_each(|number| fs::create_dir(own.join(number.to_string())))
                })
            })
            .collect();
        writers.into_iter().try_for_each(|it| it.join().expect("a writer does not panic"))
    })?;
    Ok((WRITERS * FILES_EACH) as f64 / begin.elapsed().as_secs_f64())
}

/// One that takes everything as fast as it comes.
struct Follower(Child);

impl Follower {
    fn start(cluster: &Cluster) -> anyhow::Result<Follower> {
        let socket = cluster.store("z1").join("admin.sock");
        let follower = command(["log", "follow", "--all", "--json", "--socket"])
            .arg(socket)
            .stdout(Stdio::null())
            .spawn()
            .context("a follower")?;
        Ok(Follower(follower))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

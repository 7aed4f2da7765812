//! Daemons killed with -9 at random, under load from all zones.

use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::random::Random;

use super::load::{Load, wait_until_kept};

const ZONES: [&str; 3] = ["z1", "z2", "z3"];
/// Without FUSION_TEST_MINUTES.
const DEFAULT_MINUTES: f64 = 1.25;
/// Operations that the others must get done while one is dead.
const MEANWHILE: u64 = 30;

#[test]
fn any_daemon_killed_under_load_catches_up_and_nothing_is_lost() {
    let Some(cluster) = Cluster::start() else { return };
    let mut random = Random::announced("kill");
    let load = Load::start(&cluster, &ZONES);
    let end = Instant::now() + minutes();
    let mut kills = 0;
    let mut pauses = Vec::new();
    while Instant::now() < end {
        let killed = ZONES[random.below(3) as usize];
        let others: Vec<&str> = ZONES.into_iter().filter(|zone| *zone != killed).collect();
        // At another moment of the work each time.
        load.wait_for_more(killed, 1 + random.below(100));
        for zone in &others {
            load.longest(zone);
        }
        cluster.kill(killed);
        kills += 1;
        for zone in &others {
            load.wait_for_more(zone, MEANWHILE);
        }
        let dead = others.iter().map(|zone| load.longest(zone)).max().unwrap_or_default();
        let start = Instant::now();
        cluster.start_missing();
        let usable = start.elapsed();
        load.wait_for_more(killed, 1);
        for zone in &others {
            load.wait_for_more(zone, 1);
        }
        let back = others.iter().map(|zone| load.longest(zone)).max().unwrap_or_default();
        let [dead_ms, back_ms, usable_ms] = [dead, back, usable].map(|time| time.as_millis());
        println!(
            "kill {kills}: {killed}; longest operation of the others: {dead_ms} ms while it was \
             dead, {back_ms} ms while it came back; usable again in {usable_ms} ms"
        );
        pauses.push(dead);
    }
    let accounts = load.stop();
    for account in &accounts {
        println!("kill: {} acknowledged; failed: {:?}", account.acknowledged, account.errors);
    }
    cluster.wait_for_equal_state();
    wait_until_kept(&cluster, &accounts, &ZONES);
    cluster.wait_for_equal_state();
    pauses.sort();
    let [half, most] = [pauses[pauses.len() / 2], pauses[pauses.len() - 1]];
    println!("kill: {kills} kills; longest pause of the others: p50 {half:?}, max {most:?}");
}

fn minutes() -> Duration {
    let given = std::env::var("FUSION_TEST_MINUTES").ok();
    let given = given.map(|text| text.parse().expect("FUSION_TEST_MINUTES is a number"));
    Duration::from_secs_f64(given.unwrap_or(DEFAULT_MINUTES) * 60.0)
}

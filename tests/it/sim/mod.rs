//! The simulated ring: whole rings on one thread, from one seed each. `./x sim` runs any
//! number of seeds; these are a sample that every run of the tests passes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::ids::NodeId;
use engine::simulator::{Options, Report, latencies_us, run, run_deviations};

#[test]
fn rings_with_faults_keep_every_invariant() {
    let report = run(0..300, Options::default());
    assert!(report.failures.is_empty(), "{report}");
    assert!(report.totals.crashes > 100, "faults did not happen: {report}");
}

/// Seeds that nobody has run before, for FUSION_SIM_SECONDS (120 if not given).
#[test]
fn fresh_seeds_keep_every_invariant() {
    let given = std::env::var("FUSION_SIM_SECONDS").ok();
    let seconds = given.map_or(120, |text| text.parse().expect("FUSION_SIM_SECONDS is a number"));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let first = since.as_secs() * 1000;
    let begin = Instant::now();
    let mut total = Report::default();
    let mut next = first;
    while begin.elapsed() < Duration::from_secs(seconds) {
        // One of them with every deviation, then some with many faults each.
        total.add(run_deviations(next, Options::default()));
        total.add(run(next..next + 200, Options::default()));
        next += 200;
        assert!(total.failures.is_empty(), "seeds from {first} on: {total}");
    }
    println!("seeds {first} to {next} (exclusive): {total}");
}

#[test]
fn a_lone_command_costs_one_round_trip_to_the_nearest_majority() {
    // The links of `fusion demo --rtt 20,80,90`.
    let rtts_us = [[0, 20_000, 80_000], [20_000, 0, 90_000], [80_000, 90_000, 0]];
    let rtts_us = rtts_us.map(|row| row.to_vec());
    for (node, bound_us) in [(1, 20_000), (2, 20_000), (3, 80_000)] {
        let took_us = latencies_us(1, &rtts_us, &[NodeId(node)])[0];
        assert!(took_us <= bound_us + 5_000, "node {node}: {took_us} us, bound {bound_us} us");
    }
}

//! dbench: what a file server's clients do, from a recorded load of an office suite.

use tests::cluster::Cluster;

use super::{program, shell};

const CLIENTS: usize = 4;
const SECONDS: usize = 10;

#[test]
fn dbench_runs_through_and_leaves_nothing() {
    let Some(_) = program("dbench") else { return };
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    let said = shell(
        &z1,
        &format!("mkdir dbench && dbench --directory=dbench --timelimit={SECONDS} {CLIENTS}"),
    );
    let throughput = said.lines().find(|line| line.starts_with("Throughput"));
    println!("{}", throughput.expect("dbench says how fast it was"));
    assert_eq!(shell(&z1, "find dbench -type f | wc -l"), "0\n", "clients clean up");
    cluster.wait_for_equal_state();
}

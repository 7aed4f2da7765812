//! PostgreSQL: pages through its own cache, a log that must be in order, kill -9 and recovery;
//! then the same cluster of databases goes on in the next zone.

use std::path::{Path, PathBuf};

use tests::cluster::Cluster;

use super::{hand_over, open_to_all, program, shell};

/// Every account has what its tellers, branches and history say.
const SUMS: &str = "select (select sum(abalance) from pgbench_accounts) = \
                           (select sum(tbalance) from pgbench_tellers) and \
                           (select sum(abalance) from pgbench_accounts) = \
                           (select sum(bbalance) from pgbench_branches) and \
                           (select sum(abalance) from pgbench_accounts) = \
                           (select sum(delta) from pgbench_history), \
                           (select count(*) from pgbench_history)";

#[test]
fn postgres_recovers_from_kill_and_goes_on_in_the_next_zone() {
    let Some(bin) = programs() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, nothing was tested: becoming the user postgres needs root");
        return;
    }
    let Some(cluster) = Cluster::start() else { return };
    open_to_all(cluster.root());
    let sockets = tempfile::tempdir().expect("a directory");
    open_to_all(sockets.path());
    shell(sockets.path(), "chown postgres .");
    let z1 = Server { bin, data: cluster.mount("z1").join("pg"), sockets: sockets.path() };
    shell(&cluster.mount("z1"), "mkdir -m 700 pg && chown postgres pg");
    z1.run("initdb -D $data --data-checksums --auth=trust --username=postgres");
    z1.start();
    z1.run("pgbench --quiet --initialize --scale=1 postgres");
    z1.run("pgbench --no-vacuum --client=4 --transactions=100 postgres");
    assert_eq!(z1.query(SUMS), "t|400");

    z1.kill();
    z1.start();
    assert_eq!(z1.query(SUMS), "t|400", "after kill -9 and recovery");
    z1.run("pgbench --no-vacuum --client=2 --transactions=50 postgres");
    z1.run("vacuumdb --quiet --full --analyze postgres");
    z1.stop();
    z1.run("pg_checksums --check -D $data");
    hand_over(&cluster, "z1", "pg");

    let z2 = Server { data: cluster.mount("z2").join("pg"), ..z1 };
    z2.run("pg_checksums --check -D $data");
    z2.start();
    assert_eq!(z2.query(SUMS), "t|500", "in the next zone");
    z2.run("pgbench --no-vacuum --client=4 --transactions=50 postgres");
    assert_eq!(z2.query(SUMS), "t|700", "in the next zone, after more");
    z2.stop();
    hand_over(&cluster, "z2", "pg");
    let z3 = Server { data: cluster.mount("z3").join("pg"), ..z2 };
    z3.run("pg_checksums --check -D $data");
}

/// Debian's newest server.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin")).max();
    match newest.filter(|bin| bin.join("initdb").exists()) {
        Some(bin) => Some(bin),
        None => program("initdb").and(None),
    }
}

struct Server<'a> {
    bin: PathBuf,
    data: PathBuf,
    /// A socket's path is at most 107 bytes: not below the mount.
    sockets: &'a Path,
}

impl Server<'_> {
    #[track_caller]
    fn run(&self, command: &str) -> String {
        let (bin, data, sockets) =
            (self.bin.display(), self.data.display(), self.sockets.display());
        shell(
            self.sockets,
            &format!(
                "exec runuser -u postgres -- env PATH=\"{bin}:$PATH\" PGHOST={sockets} \
                 PGUSER=postgres data={data} sh -euc '{command}'"
            ),
        )
    }

    #[track_caller]
    fn start(&self) {
        let log = self.sockets.join("log");
        self.run(&format!(
            "pg_ctl start --silent --wait --timeout=120 -D $data -l {} \
             -o \"-c listen_addresses= -c unix_socket_directories=$PGHOST\" || {{ cat {0}; exit 1; }}",
            log.display()
        ));
    }

    #[track_caller]
    fn query(&self, sql: &str) -> String {
        self.run(&format!("psql --no-psqlrc --tuples-only --no-align --command=\"{sql}\""))
            .trim()
            .to_owned()
    }

    #[track_caller]
    fn stop(&self) {
        self.run("pg_ctl stop --silent --wait --timeout=120 --mode=fast -D $data");
    }

    /// kill -9 of the server with all its processes.
    #[track_caller]
    fn kill(&self) {
        self.run(
            "server=$(head -1 $data/postmaster.pid); children=$(pgrep -P $server); \
             kill -9 $server $children; \
             for pid in $server $children; do while kill -0 $pid 2>/dev/null; do :; done; done",
        );
    }
}

//! SQLite: with a rollback journal, locks, fsyncs and an unlink for each transaction; with a
//! write-ahead log, memory that the processes of one node share through a mapped file.

use std::io::{BufRead, BufReader, Write};

use tests::cluster::Cluster;

use super::{hand_over, shell};

#[test]
fn sqlite_with_a_rollback_journal_keeps_its_database_whole() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    shell(
        &z1,
        "sqlite3 t.db 'pragma journal_mode=delete; create table t(a integer primary key, b text)'",
    );
    // Four writers that wait for each other's locks.
    shell(
        &z1,
        "for writer in 1 2 3 4; do \
           (for turn in 1 2 3 4 5 6 7 8 9 10; do \
              sqlite3 -cmd '.timeout 60000' t.db \
                'begin immediate; insert into t(b) values(hex(randomblob(400))); \
                 insert into t(b) values(hex(randomblob(4000))); commit' || exit 1; \
            done) & eval \"p$writer=$!\"; \
         done; wait $p1 && wait $p2 && wait $p3 && wait $p4",
    );
    let check = "sqlite3 t.db 'pragma integrity_check; select count(*) from t'";
    assert_eq!(shell(&z1, check), "ok\n80\n");
    cluster.wait_for_equal_state();
    for zone in ["z2", "z3"] {
        assert_eq!(shell(&cluster.mount(zone), check), "ok\n80\n", "in {zone}");
    }
}

/// Writers in all zones at once, and no transaction is lost.
#[test]
fn sqlite_takes_writers_of_three_zones_at_once() {
    const TURNS: usize = 6;
    let Some(cluster) = Cluster::start() else { return };
    let create = "sqlite3 t.db 'pragma journal_mode=delete; \
                  create table t(zone text, turn integer, primary key(zone, turn))'";
    shell(&cluster.mount("z1"), create);
    let zones = ["z1", "z2", "z3"];
    for zone in zones {
        cluster.wait_for_path(zone, "t.db");
    }
    std::thread::scope(|scope| {
        for zone in zones {
            let directory = cluster.mount(zone);
            scope.spawn(move || {
                for turn in 0..TURNS {
                    let insert = format!(
                        "sqlite3 -cmd '.timeout 120000' t.db \"begin immediate; \
                         insert into t values('{zone}', {turn}); commit\""
                    );
                    shell(&directory, &insert);
                }
            });
        }
    });
    let check = "sqlite3 -cmd '.timeout 120000' t.db \
                 'pragma integrity_check; select count(*) from t'";
    for zone in zones {
        let expected = format!("ok\n{}\n", zones.len() * TURNS);
        assert_eq!(shell(&cluster.mount(zone), check), expected, "in {zone}");
    }
}

/// WAL mode keeps its index in memory that the processes of one node share: on one node it
/// works, and another node is refused meanwhile.
#[test]
fn sqlite_s_wal_mode_works_on_one_node_at_a_time() {
    let Some(cluster) = Cluster::start() else { return };
    let (z1, z2) = (cluster.mount("z1"), cluster.mount("z2"));
    let create = "sqlite3 w.db 'pragma journal_mode=wal; create table t(a integer)'";
    assert_eq!(shell(&z1, create), "wal\n");
    shell(
        &z1,
        "for writer in 1 2 3; do \
           (for turn in 1 2 3 4 5; do \
              sqlite3 -cmd '.timeout 60000' w.db 'insert into t values(1)' || exit 1; \
            done) & eval \"p$writer=$!\"; \
         done; wait $p1 && wait $p2 && wait $p3",
    );
    cluster.wait_for_path("z2", "w.db");
    let mut holder = std::process::Command::new("sqlite3")
        .arg("w.db")
        .current_dir(&z1)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sqlite3 starts");
    let mut told = holder.stdin.take().expect("it is piped");
    let mut lines = BufReader::new(holder.stdout.take().expect("it is piped")).lines();
    writeln!(told, "select count(*) from t;").expect("sqlite3 listens");
    assert_eq!(lines.next().expect("an answer").expect("a line"), "15");
    let count = "sqlite3 w.db 'select count(*) from t' 2>&1 || true";
    let refused = shell(&z2, count);
    // "locking protocol" or "database is locked".
    assert!(refused.contains("lock"), "{refused}");
    drop(told);
    holder.wait().expect("its status");
    let count = "sqlite3 -cmd '.timeout 60000' w.db 'select count(*) from t'";
    assert_eq!(shell(&z2, count), "15\n");
    assert_eq!(shell(&z2, "sqlite3 w.db 'pragma integrity_check'"), "ok\n");
}

#[test]
fn sqlite_with_a_write_ahead_log_is_shared_on_a_node_and_handed_over() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    shell(
        &z1,
        "mkdir db && cd db && sqlite3 t.db 'pragma journal_mode=wal; \
         create table t(a integer primary key, b text)'",
    );
    // Three writers, and readers that see what is whole only.
    shell(
        &z1.join("db"),
        "for writer in 1 2 3; do \
           (for turn in 1 2 3 4 5 6 7 8 9 10; do \
              sqlite3 -cmd '.timeout 60000' t.db \
                'begin immediate; insert into t(b) values(hex(randomblob(400))); \
                 insert into t(b) values(hex(randomblob(4000))); commit' || exit 1; \
            done) & eval \"p$writer=$!\"; \
         done; \
         for turn in $(seq 20); do \
           n=$(sqlite3 -cmd '.timeout 60000' t.db 'select count(*) from t'); \
           test $((n % 2)) = 0 || exit 1; \
         done; wait $p1 && wait $p2 && wait $p3",
    );
    let check =
        "sqlite3 t.db 'pragma integrity_check; select count(*) from t; pragma journal_mode'";
    assert_eq!(shell(&z1.join("db"), check), "ok\n60\nwal\n");
    hand_over(&cluster, "z1", "db");
    let z2 = cluster.mount("z2").join("db");
    assert_eq!(shell(&z2, check), "ok\n60\nwal\n");
    shell(&z2, "sqlite3 t.db 'insert into t(b) values(1)'");
    hand_over(&cluster, "z2", "db");
    assert_eq!(shell(&cluster.mount("z3").join("db"), check), "ok\n61\nwal\n");
}

/// The reader of another zone gets the bytes of each transaction with the change of names that
/// ends it: the journal's unlink.
#[test]
fn sqlite_passes_a_database_around_the_zones() {
    let Some(cluster) = Cluster::start() else { return };
    let z1 = cluster.mount("z1");
    shell(&z1, "mkdir db && sqlite3 db/t.db 'create table t(a integer primary key, zone text)'");
    hand_over(&cluster, "z1", "db");
    for turn in 0..12 {
        let zone = ["z1", "z2", "z3"][turn % 3];
        let dir = cluster.mount(zone).join("db");
        let insert = format!("insert into t(zone) values('{zone}'); select count(*) from t");
        let count = shell(&dir, &format!("sqlite3 -cmd '.timeout 60000' t.db \"{insert}\""));
        assert_eq!(count, format!("{}\n", turn + 1), "in {zone}");
    }
    hand_over(&cluster, "z3", "db");
    for zone in ["z1", "z2", "z3"] {
        let check =
            "sqlite3 t.db 'pragma integrity_check; select zone, count(*) from t group by 1'";
        let found = shell(&cluster.mount(zone).join("db"), check);
        assert_eq!(found, "ok\nz1|4\nz2|4\nz3|4\n", "in {zone}");
    }
}

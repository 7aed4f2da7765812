//! SQLite with a rollback journal: locks, fsyncs and an unlink for each transaction.

use tests::cluster::Cluster;

use super::shell;

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

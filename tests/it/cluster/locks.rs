//! Locks between zones.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tests::cluster::Cluster;
use tests::locker::Locker;
use tests::wait::wait_until;

use super::rules::{OP_TIMEOUT, limit_waits, set};

const ZONES: [&str; 3] = ["z1", "z2", "z3"];
/// What must not happen has so long to happen.
pub const A_WHILE: Duration = Duration::from_millis(500);

pub fn locker(cluster: &Cluster, zone: &str, path: &str) -> Locker {
    Locker::start(env!("CARGO_BIN_EXE_locker"), &cluster.mount(zone).join(path))
}

/// A file that all zones have, and a process with it open in each.
pub fn lockers(cluster: &Cluster, path: &str) -> [Locker; 3] {
    fs::write(cluster.mount("z1").join(path), "").expect("a file");
    ZONES.map(|zone| {
        cluster.wait_for_path(zone, path);
        locker(cluster, zone, path)
    })
}

#[test]
fn locks_exclude_and_wait_across_zones() {
    let Some(cluster) = Cluster::start() else { return };
    let [mut one, mut two, mut three] = lockers(&cluster, "f");
    for (lock, unlock) in
        [("posix x 0 10", "posix u 0 0"), ("ofd x 0 10", "ofd u 0 0"), ("flock x", "flock u")]
    {
        assert_eq!(one.ask(lock), "ok");
        assert_eq!(two.ask(lock), "EAGAIN");
        two.begin(&format!("{lock} wait"));
        assert_eq!(two.answer_within(A_WHILE), None);
        assert_eq!(one.ask(unlock), "ok");
        assert_eq!(two.answer(), "ok");
        assert_eq!(three.ask(&lock.replace(" x", " s")), "EAGAIN");
        assert_eq!(two.ask(&lock.replace(" x", " s")), "ok");
        assert_eq!(three.ask(&lock.replace(" x", " s")), "ok");
        assert_eq!(two.ask(unlock), "ok");
        assert_eq!(three.ask(unlock), "ok");
    }
    // Ranges: each has its own, and a process of another node has no number here.
    assert_eq!(one.ask("posix x 0 10"), "ok");
    assert_eq!(two.ask("posix x 10 10"), "ok");
    assert_eq!(three.ask("get x 5 100"), "x 0 10 0");
    assert_eq!(one.ask("posix x 15 1"), "EAGAIN");
    // The end of a process gives up what it had.
    one.kill();
    wait_until("the range is free", || three.ask("posix x 0 10") == "ok");
}

#[test]
fn a_deadlock_across_zones_is_refused_and_a_signal_ends_a_wait() {
    let Some(cluster) = Cluster::start() else { return };
    let [mut one, mut two, mut three] = lockers(&cluster, "f");
    assert_eq!(one.ask("posix x 0 1"), "ok");
    assert_eq!(two.ask("posix x 1 1"), "ok");
    assert_eq!(three.ask("posix x 2 1"), "ok");
    one.begin("posix x 1 1 wait");
    assert_eq!(one.answer_within(A_WHILE), None);
    two.begin("posix x 2 1 wait");
    assert_eq!(two.answer_within(A_WHILE), None);
    assert_eq!(three.ask("posix x 0 1 wait"), "EDEADLK");
    assert_eq!(three.ask("posix u 2 1"), "ok");
    assert_eq!(two.answer(), "ok");
    // A signal ends a wait in another zone's queue.
    one.signal();
    assert_eq!(one.answer(), "EINTR");
    assert_eq!(two.ask("posix u 0 0"), "ok");
    assert_eq!(three.ask("posix x 1 2"), "ok");
}

/// A counter in a file, raised under its lock: each sees what the one before wrote, by read and
/// by stat. The lock is sometimes the file's own, sometimes another file's.
#[test]
fn whoever_has_the_lock_sees_what_the_last_holder_wrote() {
    const ROUNDS: usize = 12;
    let Some(cluster) = Cluster::start() else { return };
    for lock_name in ["counter", "counter.lock"] {
        for name in ["counter", lock_name] {
            fs::write(cluster.mount("z1").join(name), "").expect("a file");
        }
        for zone in ZONES {
            cluster.wait_for_path(zone, lock_name);
            cluster.wait_for_path(zone, "counter");
        }
        cluster.wait_for_equal_state();
        std::thread::scope(|scope| {
            for zone in ZONES {
                let directory = cluster.mount(zone);
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let path = directory.join("counter");
                        let lock = fs::File::options()
                            .read(true)
                            .write(true)
                            .open(directory.join(lock_name))
                            .expect("the lock's file");
                        flock(&lock, FlockOperation::LockExclusive).expect("the lock");
                        let before = fs::read_to_string(&path).expect("the counter");
                        let size = fs::metadata(&path).expect("the counter").len();
                        assert_eq!(before.len() as u64, size, "in {zone}");
                        let mut file =
                            fs::File::options().append(true).open(&path).expect("the counter");
                        file.write_all(format!("{}\n", before.lines().count()).as_bytes())
                            .expect("a line");
                        drop(file);
                        flock(&lock, FlockOperation::Unlock).expect("the unlock");
                    }
                });
            }
        });
        let expected: String = (0..ZONES.len() * ROUNDS).map(|line| format!("{line}\n")).collect();
        for zone in ZONES {
            let path = cluster.mount(zone).join("counter");
            wait_until("every zone has every line", || {
                fs::read_to_string(&path).is_ok_and(|text| text == expected)
            });
        }
    }
}

#[test]
fn appends_of_three_zones_to_one_file_lose_no_record() {
    const RECORDS: usize = 40;
    let Some(cluster) = Cluster::start() else { return };
    fs::write(cluster.mount("z1").join("log"), "").expect("a file");
    for zone in ZONES {
        cluster.wait_for_path(zone, "log");
    }
    std::thread::scope(|scope| {
        for zone in ZONES {
            let path = cluster.mount(zone).join("log");
            scope.spawn(move || {
                let mut log = fs::File::options().append(true).open(path).expect("the log");
                for record in 0..RECORDS {
                    log.write_all(format!("{zone} {record}\n").as_bytes()).expect("a record");
                }
            });
        }
    });
    for zone in ZONES {
        let path = cluster.mount(zone).join("log");
        wait_until("every record is in every zone, in its writer's order", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            ZONES.iter().all(|writer| {
                let own: Vec<&str> = text.lines().filter(|line| line.starts_with(writer)).collect();
                let expected: Vec<String> =
                    (0..RECORDS).map(|record| format!("{writer} {record}")).collect();
                own == expected
            })
        });
    }
}

/// A node that is killed keeps its locks until it starts again, and what its processes had
/// synced is there for the next holder.
#[test]
fn the_locks_of_a_killed_node_are_free_when_it_is_back() {
    let Some(cluster) = Cluster::start() else { return };
    let [mut one, mut two, mut three] = lockers(&cluster, "f");
    let [mut kept, ..] = lockers(&cluster, "kept by z1");
    assert_eq!(one.ask("posix x 0 0"), "ok");
    assert_eq!(kept.ask("posix x 0 0"), "ok");
    assert_eq!(two.ask("posix x 0 0"), "EAGAIN");
    two.begin("posix x 0 0 wait");
    assert_eq!(two.answer_within(A_WHILE), None);
    cluster.kill("z1");
    drop((one, kept));
    assert_eq!(three.ask("posix x 0 0"), "EAGAIN");
    assert_eq!(two.answer_within(A_WHILE), None);
    cluster.start_missing();
    assert_eq!(two.answer(), "ok");
    let mut other = locker(&cluster, "z2", "kept by z1");
    other.begin("posix x 0 0 wait");
    assert_eq!(other.answer(), "ok");
}

/// A zone that is cut off goes on with what it keeps, and nobody else gets that meanwhile.
#[test]
fn a_cut_off_keeper_keeps_its_locks_until_it_is_back() {
    let Some(cluster) = Cluster::start() else { return };
    let [mut one, mut two, mut three] = lockers(&cluster, "f");
    assert_eq!(three.ask("posix x 0 0"), "ok");
    cluster.cut("z3");
    assert_eq!(three.ask("posix u 0 0"), "ok");
    assert_eq!(three.ask("posix x 0 0"), "ok");
    assert_eq!(one.ask("posix x 0 0"), "ENOLCK");
    two.begin("posix x 0 0 wait");
    assert_eq!(two.answer_within(A_WHILE), None);
    cluster.heal();
    assert_eq!(two.answer_within(A_WHILE), None, "it is held still");
    assert_eq!(three.ask("posix u 0 0"), "ok");
    assert_eq!(two.answer(), "ok");
}

/// What a lock call answers in a zone that is cut off, for a file that other zones use as well.
#[test]
fn lock_calls_of_a_cut_off_zone_end_as_their_directory_says() {
    let Some(cluster) = Cluster::start() else { return };
    limit_waits(&cluster, "z3");
    let mut files = Vec::new();
    for rule in ["wait", "error", "readonly"] {
        let directory = cluster.mount("z1").join(rule);
        fs::create_dir(&directory).expect("a directory");
        set(&directory, "user.fusion.partition", rule).expect("it is a rule");
        let [mut one, _, mut three] = lockers(&cluster, &format!("{rule}/f"));
        assert_eq!(one.ask("posix x 0 1"), "ok");
        assert_eq!(three.ask("posix x 1 1"), "ok");
        let mut waiting = locker(&cluster, "z3", &format!("{rule}/f"));
        waiting.begin("posix x 0 1 wait");
        assert_eq!(waiting.answer_within(A_WHILE), None);
        files.push((rule, one, three, waiting));
    }
    let mut closing = locker(&cluster, "z3", "wait/f");
    assert_eq!(closing.ask("posix x 2 1"), "ok");
    cluster.wait_for_equal_state();
    let cut = Instant::now();
    cluster.cut("z3");

    for (rule, _, three, waiting) in files.iter_mut().rev() {
        let calls = ["posix x 9 1", "posix x 9 1 wait", "ofd x 9 1", "flock x", "get x 0 1"];
        if *rule == "wait" {
            assert_eq!(waiting.answer_within(A_WHILE), None);
            for call in calls {
                three.begin(call);
                assert_eq!(three.answer_within(A_WHILE), None, "{call}");
                three.signal();
                assert_eq!(three.answer(), "EINTR", "{call}");
            }
            continue;
        }
        // Also what waited already.
        assert_eq!(waiting.answer(), "ENOLCK", "{rule}");
        assert!(*rule == "readonly" || cut.elapsed() >= OP_TIMEOUT);
        for call in calls {
            let began = Instant::now();
            assert_eq!(three.ask(call), "ENOLCK", "{call}, {rule}");
            assert!(*rule == "readonly" || began.elapsed() >= OP_TIMEOUT, "{call}");
        }
    }
    // A process can end, and close; what it had is given up when that can be agreed.
    let (_, mut one, three, waiting) = files.remove(0);
    three.kill();
    assert_eq!(closing.ask("close"), "ok");
    for lock in ["posix x 1 1", "posix x 2 1"] {
        assert_eq!(one.ask(lock), "EAGAIN");
    }

    cluster.heal();
    wait_until("the lock of who ended is free", || one.ask("posix x 1 1") == "ok");
    wait_until("the lock of who closed is free", || one.ask("posix x 2 1") == "ok");
    files.push(("wait", one, locker(&cluster, "z3", "wait/f"), waiting));
    for (rule, one, three, waiting) in &mut files {
        // Nothing is left of what was given up, and what still waits gets its turn.
        wait_until("no lock is left", || one.ask("posix x 9 1") == "ok");
        wait_until("no flock is left", || one.ask("flock x") == "ok");
        assert_eq!(one.ask("posix u 0 0"), "ok");
        if *rule == "wait" {
            assert_eq!(waiting.answer(), "ok");
        } else {
            assert_eq!(three.ask("posix x 0 1 wait"), "ok");
        }
    }
}

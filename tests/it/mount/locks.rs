//! fcntl(2), open file description locks and flock(2) through the kernel: between processes
//! of this node, and with another node.

use std::time::Duration;

use engine::command::{LockWait, LockWant, Op};
use engine::ids::Ino;
use engine::locks::{ByteRange, LockKind, LockMode};
use engine::outcome::{Outcome, Refusal};
use fusefs::ops::ports::Ring;
use tests::locker::Locker;

use super::fake_ring::{HERE, THERE};
use super::{Rig, eventually};

/// As long as something that would happen needs at most; what must not happen has so long.
const A_WHILE: Duration = Duration::from_millis(300);

fn locker(rig: &Rig, name: &str) -> Locker {
    Locker::start(env!("CARGO_BIN_EXE_locker"), &rig.at(name))
}

/// An owner of the other node asks for bytes `start ..= end`.
fn ask_elsewhere(rig: &Rig, ino: Ino, mode: LockMode, start: u64, end: u64, wait: bool) -> Outcome {
    let (kind, range) = (LockKind::Record, ByteRange { start, end });
    let want = LockWant { owner: 77, kind, mode, range, pid: 1, solo: false };
    let wait = wait.then_some(LockWait { ticket: 1, detects: true });
    rig.ring.run(THERE, Op::Lock { ino, want, wait })
}

fn unlock_elsewhere(rig: &Rig, ino: Ino) {
    let (kind, range) = (LockKind::Record, ByteRange::WHOLE);
    rig.ring.elsewhere(Op::Unlock { ino, owner: 77, kind, range });
}

/// The other node uses the file's locks, so that this node does not keep them.
fn use_elsewhere(rig: &Rig, ino: Ino) {
    assert_eq!(ask_elsewhere(rig, ino, LockMode::Exclusive, 0, 0, false), Outcome::Done);
    unlock_elsewhere(rig, ino);
}

/// Runs `test` with the file's locks kept on this node, and with them in the agreed tables.
fn in_both_places(test: impl Fn(&Rig, &str)) {
    let Some(rig) = Rig::new() else { return };
    std::fs::write(rig.at("kept"), "").unwrap();
    test(&rig, "kept");
    let keeper = rig.ring.view().locks(rig.ino("kept").unwrap()).unwrap().keeper;
    assert_eq!(keeper.map(|keeper| keeper.node), Some(HERE));
    std::fs::write(rig.at("agreed"), "").unwrap();
    let ino = rig.ino("agreed").unwrap();
    use_elsewhere(&rig, ino);
    test(&rig, "agreed");
    assert_eq!(rig.ring.view().locks(ino).unwrap().keeper, None);
}

#[test]
fn processes_exclude_each_other_by_ranges() {
    in_both_places(|rig, file| {
        let (mut one, mut two) = (locker(rig, file), locker(rig, file));
        assert_eq!(one.ask("posix x 0 10"), "ok");
        assert_eq!(two.ask("posix s 9 1"), "EAGAIN");
        assert_eq!(two.ask("posix x 10 0"), "ok");
        assert_eq!(one.ask("get s 5 100"), format!("x 10 0 {}", two.pid()));
        assert_eq!(two.ask("get x 0 0"), format!("x 0 10 {}", one.pid()));
        // Splits: the middle is free for others, the rest is not.
        assert_eq!(one.ask("posix u 4 2"), "ok");
        assert_eq!(two.ask("posix x 4 2"), "ok");
        assert_eq!(two.ask("posix x 3 1"), "EAGAIN");
        assert_eq!(one.ask("posix s 0 4"), "ok");
        assert_eq!(two.ask("posix s 0 4"), "ok");
        assert_eq!(two.ask("posix x 0 1"), "EAGAIN");
    });
}

#[test]
fn a_wait_ends_when_the_lock_is_given_up_and_the_earliest_goes_first() {
    in_both_places(|rig, file| {
        let mut one = locker(rig, file);
        assert_eq!(one.ask("posix x 0 0"), "ok");
        let mut waiting: Vec<Locker> = (0..2)
            .map(|_| {
                let mut next = locker(rig, file);
                next.begin("posix x 0 0 wait");
                assert_eq!(next.answer_within(A_WHILE), None);
                next
            })
            .collect();
        assert_eq!(one.ask("posix u 0 0"), "ok");
        assert_eq!(waiting[0].answer(), "ok");
        assert_eq!(waiting[1].answer_within(A_WHILE), None);
        // The end of a process is the end of its locks.
        waiting.remove(0).kill();
        assert_eq!(waiting[0].answer(), "ok");
    });
}

#[test]
fn any_close_of_the_file_gives_up_a_process_s_posix_locks_but_not_others() {
    in_both_places(|rig, file| {
        let (mut one, mut two) = (locker(rig, file), locker(rig, file));
        assert_eq!(one.ask("posix x 0 1"), "ok");
        assert_eq!(one.ask("ofd x 5 1"), "ok");
        assert_eq!(one.ask("flock x"), "ok");
        assert_eq!(one.ask("reopen"), "ok");
        assert_eq!(two.ask("posix x 0 1"), "ok");
        assert_eq!(two.ask("posix x 5 1"), "EAGAIN");
        assert_eq!(two.ask("flock s"), "EAGAIN");
        // The end of the open file gives up the rest, a moment after the close.
        assert_eq!(one.ask("close"), "ok");
        eventually("the lock of the open file is free", || two.ask("posix x 5 1") == "ok");
        eventually("the flock is free", || two.ask("flock x") == "ok");
    });
}

#[test]
fn locks_of_an_open_file_are_not_those_of_its_process() {
    in_both_places(|rig, file| {
        let mut one = locker(rig, file);
        assert_eq!(one.ask("ofd x 0 1"), "ok");
        assert_eq!(one.ask("posix x 0 1"), "EAGAIN");
        let found = one.ask("get x 0 1");
        assert!(found.starts_with("x 0 1 "), "{found}");
        assert_eq!(one.ask("ofd-get x 0 1"), "free");
        assert_eq!(one.ask("ofd u 0 0"), "ok");
        assert_eq!(one.ask("posix x 0 1"), "ok");
    });
}

#[test]
fn flock_and_record_locks_never_meet_and_an_upgrade_gives_up_first() {
    in_both_places(|rig, file| {
        let (mut one, mut two) = (locker(rig, file), locker(rig, file));
        assert_eq!(one.ask("posix x 0 0"), "ok");
        assert_eq!(two.ask("flock s"), "ok");
        assert_eq!(one.ask("flock s"), "ok");
        assert_eq!(one.ask("flock x"), "EAGAIN");
        // As on Linux, the shared lock is lost with that.
        assert_eq!(two.ask("flock x"), "ok");
    });
}

#[test]
fn a_deadlock_is_refused_and_a_cycle_of_open_files_is_not() {
    in_both_places(|rig, file| {
        let (mut one, mut two) = (locker(rig, file), locker(rig, file));
        assert_eq!(one.ask("posix x 0 1"), "ok");
        assert_eq!(two.ask("posix x 1 1"), "ok");
        one.begin("posix x 1 1 wait");
        assert_eq!(one.answer_within(A_WHILE), None);
        assert_eq!(two.ask("posix x 0 1 wait"), "EDEADLK");
        assert_eq!(two.ask("posix u 1 1"), "ok");
        assert_eq!(one.answer(), "ok");
        assert_eq!(one.ask("posix u 0 0"), "ok");

        assert_eq!(one.ask("ofd x 0 1"), "ok");
        assert_eq!(two.ask("ofd x 1 1"), "ok");
        one.begin("ofd x 1 1 wait");
        two.begin("ofd x 0 1 wait");
        assert_eq!(one.answer_within(A_WHILE), None);
        assert_eq!(two.answer_within(A_WHILE), None);
        two.kill();
        assert_eq!(one.answer(), "ok");
    });
}

#[test]
fn a_signal_ends_a_wait_and_leaves_no_waiter() {
    in_both_places(|rig, file| {
        let (mut one, mut two) = (locker(rig, file), locker(rig, file));
        assert_eq!(one.ask("posix s 0 10"), "ok");
        assert_eq!(two.ask("posix s 0 5"), "ok");
        for (begin, end) in [("posix x 0 10 wait", "posix u 0 10"), ("flock x wait", "flock u")] {
            assert_eq!(one.ask("flock s"), "ok");
            two.begin(begin);
            assert_eq!(two.answer_within(A_WHILE), None);
            two.signal();
            assert_eq!(two.answer(), "EINTR");
            assert_eq!(one.ask(end), "ok");
            // Nobody got it in place of the one that gave up, who has what it had before.
            if begin.starts_with("posix") {
                eventually("nobody has it", || one.ask("posix x 5 5") == "ok");
                assert_eq!(one.ask("posix x 0 5"), "EAGAIN");
                assert_eq!(one.ask("posix s 0 5"), "ok");
            } else {
                eventually("nobody has it", || one.ask("flock x") == "ok");
            }
        }
    });
}

#[test]
fn a_file_that_loses_its_name_keeps_its_locks() {
    in_both_places(|rig, file| {
        let link = format!("{file}2");
        std::fs::hard_link(rig.at(file), rig.at(&link)).unwrap();
        let (mut one, mut two) = (locker(rig, &link), locker(rig, &link));
        // Another file takes the place, so that the checks at the end find one.
        assert_eq!(one.ask("posix x 0 1"), "ok");
        two.begin("posix x 0 1 wait");
        assert_eq!(two.answer_within(A_WHILE), None);
        std::fs::remove_file(rig.at(&link)).unwrap();
        assert_eq!(one.ask("posix x 5 1"), "ok");
        one.kill();
        assert_eq!(two.answer(), "ok");
    });
    let Some(rig) = Rig::new() else { return };
    for (file, is_agreed) in [("gone", false), ("gone too", true)] {
        let (mut one, mut two) = (locker(&rig, file), locker(&rig, file));
        if is_agreed {
            use_elsewhere(&rig, rig.ino(file).unwrap());
        }
        assert_eq!(one.ask("posix x 0 1"), "ok");
        two.begin("posix x 0 1 wait");
        assert_eq!(two.answer_within(A_WHILE), None);
        rig.unlink_elsewhere(file);
        eventually("the name is gone", || !rig.at(file).exists());
        assert_eq!(one.ask("posix x 5 1"), "ok");
        one.kill();
        assert_eq!(two.answer(), "ok");
        // Never locked before.
        let (mut one, mut two) = (locker(&rig, "fresh"), locker(&rig, "fresh"));
        std::fs::remove_file(rig.at("fresh")).unwrap();
        assert_eq!(one.ask("flock x"), "ok");
        assert_eq!(two.ask("flock x"), "EAGAIN");
    }
}

#[test]
fn what_is_kept_here_is_handed_over_with_its_waiters() {
    let Some(rig) = Rig::new() else { return };
    let (mut one, mut two) = (locker(&rig, "f"), locker(&rig, "f"));
    let ino = rig.ino("f").unwrap();
    assert_eq!(one.ask("posix x 0 10"), "ok");
    two.begin("posix x 5 10 wait");
    assert_eq!(two.answer_within(A_WHILE), None);
    let refused = ask_elsewhere(&rig, ino, LockMode::Shared, 0, 0, false);
    assert_eq!(refused, Outcome::Refused(Refusal::LocksKept(HERE)));
    let (sender, shared) = std::sync::mpsc::channel();
    rig.fs.share_locks(ino, Box::new(move || sender.send(()).unwrap()));
    shared.recv().unwrap();
    let refused = ask_elsewhere(&rig, ino, LockMode::Shared, 0, 0, false);
    assert_eq!(refused, Outcome::Refused(Refusal::Locked));
    let waits = ask_elsewhere(&rig, ino, LockMode::Exclusive, 0, 20, true);
    assert_eq!(waits, Outcome::Waiting);
    assert_eq!(one.ask("posix u 0 10"), "ok");
    assert_eq!(two.answer(), "ok");
    assert_eq!(one.ask("get x 0 30"), format!("x 5 10 {}", two.pid()));
    assert_eq!(two.ask("posix u 0 0"), "ok");
    // Now the other node has it, and a process of another node has no number here.
    assert_eq!(one.ask("get x 0 30"), "x 0 21 0");
    unlock_elsewhere(&rig, ino);
    assert_eq!(one.ask("posix x 0 0"), "ok");
}

#[test]
fn a_lock_of_another_node_s_file_waits_for_its_keeper() {
    let Some(rig) = Rig::new() else { return };
    let mut one = locker(&rig, "f");
    let ino = rig.ino("f").unwrap();
    rig.ring.elsewhere(Op::KeepLocks { ino });
    rig.ring.is_silent.store(true, std::sync::atomic::Ordering::SeqCst);
    one.begin("posix x 0 0 wait");
    assert_eq!(one.answer_within(A_WHILE), None);
    one.signal();
    assert_eq!(one.answer(), "EINTR");
    one.begin("posix x 0 0 wait");
    assert_eq!(one.answer_within(A_WHILE), None);
    rig.ring.is_silent.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(one.answer(), "ok");
}

/// What was written on this node is agreed before another node can have the lock.
#[test]
fn a_lock_is_given_up_after_what_was_written_under_it() {
    let Some(rig) = Rig::new() else { return };
    let mut one = locker(&rig, "f");
    let ino = rig.ino("f").unwrap();
    for round in 0..10 {
        use_elsewhere(&rig, ino);
        assert_eq!(one.ask("posix x 0 0"), "ok");
        assert_eq!(one.ask(&format!("put {}", "x".repeat(round))), "ok");
        assert_eq!(ask_elsewhere(&rig, ino, LockMode::Shared, 0, 0, true), Outcome::Waiting);
        assert_eq!(one.ask("posix u 0 0"), "ok");
        let inode = rig.ring.view().inode(ino).unwrap().unwrap();
        assert_eq!(inode.size, round as u64);
        unlock_elsewhere(&rig, ino);
    }
}

/// The kernel has forgotten what is old when a lock call returns.
#[test]
fn who_gets_a_lock_sees_what_the_one_before_wrote() {
    let Some(rig) = Rig::new() else { return };
    let mut one = locker(&rig, "f");
    let ino = rig.ino("f").unwrap();
    rig.run_here(Op::ReleaseToken { ino, node: HERE });
    use_elsewhere(&rig, ino);
    for round in 1..50 {
        assert_eq!(one.ask("read"), if round == 1 { String::new() } else { "y".repeat(round - 1) });
        assert_eq!(ask_elsewhere(&rig, ino, LockMode::Exclusive, 0, 0, false), Outcome::Done);
        one.begin("posix s 0 0 wait");
        rig.publish_elsewhere(ino, &"y".repeat(round));
        unlock_elsewhere(&rig, ino);
        assert_eq!(one.answer(), "ok");
        assert_eq!(one.ask("size"), round.to_string());
        assert_eq!(one.ask("read"), "y".repeat(round));
        assert_eq!(one.ask("posix u 0 0"), "ok");
    }
}

/// SQLite's shared memory is one node's.
#[test]
fn a_shared_memory_file_is_locked_by_one_node_only() {
    let Some(rig) = Rig::new() else { return };
    let (mut one, mut two) = (locker(&rig, "t.db-shm"), locker(&rig, "t.db-shm"));
    let ino = rig.ino("t.db-shm").unwrap();
    use_elsewhere(&rig, ino);
    assert_eq!(one.ask("posix s 128 1"), "ok");
    assert_eq!(two.ask("posix s 128 1"), "ok");
    let refused = ask_elsewhere(&rig, ino, LockMode::Shared, 128, 128, false);
    assert_eq!(refused, Outcome::Refused(Refusal::Locked));
    drop((one, two));
    eventually("it is free", || {
        ask_elsewhere(&rig, ino, LockMode::Shared, 128, 128, false) == Outcome::Done
    });
    unlock_elsewhere(&rig, ino);
    let (kind, mode, range) =
        (LockKind::Record, LockMode::Shared, ByteRange { start: 128, end: 128 });
    let want = LockWant { owner: 77, kind, mode, range, pid: 1, solo: true };
    rig.ring.elsewhere(Op::Lock { ino, want, wait: None });
    let mut one = locker(&rig, "t.db-shm");
    // So that SQLite takes the database for locked.
    assert_eq!(one.ask("get x 128 1"), "x 128 1 0");
    assert_eq!(one.ask("posix s 128 1"), "EAGAIN");
}

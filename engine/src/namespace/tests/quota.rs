//! Quotas: what counts, what is refused, and that counts stay right over all of it.

use super::*;

#[test]
fn inodes_count_for_all_quotas_above_and_stop_at_the_limit() {
    check(
        "as 0 0
         mkdir /a; quota /a none 4; count /a; use /a 0 1 0
         mkdir /a/b; quota /a/b none 2; count /a/b; use /a/b 0 1 0; use /a 0 2 0
         create /a/b/f; use /a/b 0 2 0; use /a 0 3 0
         create /a/b/g = QuotaExceeded; mkdir /a/b/h = QuotaExceeded
         symlink /a/s to; create /a/x = QuotaExceeded; use /a 0 4 0
         open /a/b/f
         unlink /a/b/f; create /a/x; use /a 0 4 0; use /a/b 0 1 0
         create /a/b/f = QuotaExceeded; create /f",
    );
}

#[test]
fn what_was_there_is_counted_by_the_walk_and_given_back_at_the_end() {
    check(
        "as 0 0
         mkdir /o; quota /o 1000 100; count /o
         mkdir /o/a; mkdir /o/a/b; create /o/a/b/f; create /o/a/g; create /o/h
         write /o/a/b/f 30; write /o/a/g 50; write /o/h 7; use /o 87 6 0
         quota /o/a 100 none; create /o/a/late; use /o/a 0 0 0
         count /o/a; use /o/a 80 5 0; use /o 87 7 0
         create /o/a/b/new; use /o/a 80 6 0
         quota /o/a none; create /o/a/b/more; count /o/a; no-quota /o/a; use /o 87 9 0
         quota /o none; count /o; no-quota /o; create /o/a/b/last",
    );
}

#[test]
fn a_quota_set_above_another_one_takes_it_in() {
    check(
        "as 0 0
         mkdir /a; mkdir /a/b; create /a/b/f; write /a/b/f 10
         quota /a/b 100 none; count /a/b; use /a/b 10 2 0; reserve /a/b 5 5; use /a/b 10 2 5
         quota /a 50 none; count /a; use /a 10 3 5; use /a/b 10 2 5
         reserve /a/b 36 36 = QuotaExceeded; reserve /a/b 35 35; use /a 10 3 40
         quota /a none; count /a; no-quota /a; use /a/b 10 2 40; reserve /a/b 50 50",
    );
}

#[test]
fn names_do_not_cross_a_border_between_quotas() {
    check(
        "as 0 0
         mkdir /a; quota /a none none; count /a; mkdir /b; create /f; create /a/f; mkdir /a/d
         mv /f /a/g = CrossesQuota; mv /a/f /g = CrossesQuota; swap /f /a/f = CrossesQuota
         link /f /a/g = CrossesQuota; link /a/f /g = CrossesQuota
         mv /a/d /b/d = CrossesQuota; mv /b /a/b = CrossesQuota
         mv /a /b/a; mv /b/a/f /b/a/d/f; link /b/a/d/f /b/a/f; use /b/a 0 3 0
         mkdir /q; quota /q none none; count /q; mv /q /b/a/q = CrossesQuota; mv /q /b/q
         rmdir /b/q; mv /f /g",
    );
}

#[test]
fn a_directory_that_goes_takes_its_quota_along() {
    check(
        "as 0 0
         mkdir /o; quota /o none 10; count /o; mkdir /o/a; quota /o/a 100 none; count /o/a
         reserve /o/a 10 10; use /o 0 2 10
         mkdir /o/e; mv /o/e /o/a; use /o 0 2 0; rmdir /o/a; use /o 0 1 0",
    );
}

#[test]
fn reservations_and_bytes_together_stay_within_the_limit() {
    check(
        "as 0 0
         mkdir /a; quota /a 100 none; count /a; create /a/f
         node 1; reserve /a 10 12; use /a 0 2 12
         node 2; reserve /a 60 60; use /a 0 2 72; reserve /a 29 29 = QuotaExceeded
         node 1; write /a/f 5; use /a 5 2 67; write /a/f 20; use /a 20 2 60
         truncate /a/f 1; use /a 1 2 60; truncate /a/f 999; use /a 1 2 60
         node 2; return /a 50; use /a 1 2 10; return /a 50; use /a 1 2 0; return /a 1
         node 1; write /a/f 300; use /a 300 2 0; reserve /a 1 1 = QuotaExceeded; reserve /a 0 9
         unlink /a/f; use /a 0 1 0",
    );
}

/// Whoever asked later must know that this was no answer to it.
#[test]
fn an_answer_is_one_to_the_requests_that_its_node_knew() {
    let mut ring = check("as 0 0; mkdir /a; quota /a 100 none; count /a; reserve /a 50 50");
    let quota = ring.ino("/a");
    let mut give_back = |bytes, answers| {
        ring.succeed(Op::ReturnQuota { quota, bytes, answers });
        let rows = ring.view().reservations().expect("they are sound");
        let [(_, node, row)] = rows[..] else { panic!("one node has some: {rows:?}") };
        let touched = ring.touched.clone();
        let given_back =
            Touched::Reserved { quota, node, bytes: row.bytes, granted: 0, returned: bytes };
        assert!(touched.contains(&given_back), "{touched:?}");
        (row.bytes, row.answered, ring.gsn)
    };
    assert_eq!(give_back(10, Some(Gsn(3))).1, Gsn(3));
    assert_eq!(give_back(10, Some(Gsn(2))).1, Gsn(3), "what was answered stays answered");
    let (bytes, answered, now) = give_back(10, Some(Gsn(u64::MAX)));
    assert_eq!((bytes, answered), (20, now), "nobody knows what is not agreed");
    let (_, answered, now) = give_back(0, None);
    assert_eq!(answered, now);
    invariants(&ring.tables);
}

#[test]
fn a_node_that_asks_for_much_gets_a_part_of_a_large_quota_and_all_of_a_small_one() {
    check(
        "as 0 0
         mkdir /a; quota /a 80000000 none; count /a; reserve /a 1 99000000; use /a 0 1 10000000
         mkdir /b; quota /b 500 none; count /b; reserve /b 1 99000000; use /b 0 1 500
         mkdir /c; quota /c none 9; count /c; reserve /c 7 99; use /c 0 1 7",
    );
}

#[test]
fn only_root_sets_quotas_and_only_on_directories() {
    check(
        "create /f; mkdir /d; quota /d 1 1 = NotPermitted; quota /d none = NotPermitted
         as 0 0; quota /f 1 1 = NotDirectory; quota /d none = NotFound
         reserve /d 1 1 = NotFound",
    );
}

#[test]
fn a_walk_that_was_overtaken_finishes_nothing() {
    let mut ring = check("as 0 0; mkdir /a; create /a/f; quota /a 10 10; let a /a");
    let quota = ring.ino("/a");
    let began = ring.view().quota(quota).expect("is sound").expect("there is one").began;
    ring.statement("quota /a none");
    ring.succeed(Op::FinishQuota { quota, began });
    let row = ring.view().quota(quota).expect("is sound").expect("it still ends");
    assert_eq!(row.state, QuotaState::Ending);
    ring.statement("quota /a 20 20");
    ring.statement("count /a");
    ring.statement("use /a 0 2 0");
    invariants(&ring.tables);
}

#[test]
fn a_file_with_names_on_both_sides_counts_once() {
    check(
        "as 0 0
         mkdir /a; create /a/f; link /a/f /g; write /g 9
         quota /a none none; count /a; use /a 9 2 0
         unlink /a/f; use /a 9 2 0; mv /g /h
         rmdir /a; write /h 20; link /h /i; unlink /h; unlink /i",
    );
}

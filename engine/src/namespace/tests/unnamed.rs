//! Files without a name, and whiteouts.

use super::*;

#[test]
fn a_link_names_it_for_good() {
    check(
        "as 5 6; mkdir /d 2777; chown /d - 9; setfacl-d /d 7,7,7,m7,u7:6; umask 77
         tmpfile /d t 640; stat @t nlink 0; stat @t uid 5; stat @t gid 9; stat @t mode 640
         ls /d; stat @t writer 1; setx @t user.a 1; write @t 100; stat @t size 100
         link @t /d/f; same /d/f @t; stat /d/f nlink 1; ls /d f; drop @t; reap; ls /d f
         link /d/f /d/g; unlink /d/f; unlink /d/g; gone @t; link @t /d/f = NotFound",
    );
}

#[test]
fn its_node_drops_it_and_nobody_else() {
    check(
        "tmpfile / t 600; setx @t user.a 1; node 2; drop @t = NotPermitted; reap; stat @t nlink 0
         node 1; reap; stat @t nlink 0; drop @t; gone @t; drop @t; link @t /f = NotFound",
    );
}

#[test]
fn it_needs_a_directory() {
    check(
        "create /f; tmpfile /f t 600 = NotDirectory; mkdir /d; let d /d; rmdir /d; tmpfile @d t 600 = NotFound",
    );
}

#[test]
fn a_later_start_removes_what_earlier_ones_left() {
    let mut ring = check("node 2; tmpfile / a 600; tmpfile / b 600; tmpfile / c 600");
    let reap = |ring: &mut Ring, seq: u64| {
        ring.gsn = ring.gsn.next();
        let id = OpId { origin: NodeId(2), boot: 2, seq };
        let (time, cred) = (Timestamp::new(0, 0), Cred::SYSTEM);
        let command = Command { id, time, cred, op: Op::ReapUnnamed { limit: 2 } };
        assert_eq!(ring.deliver(&command).outcome, Some(Outcome::Done));
        invariants(&ring.tables);
        ring.view().unnamed(NodeId(2)).expect("is sound").len()
    };
    assert_eq!(reap(&mut ring, 1), 1);
    assert_eq!(reap(&mut ring, 2), 0);
    assert_eq!(ring.view().usage().expect("is sound").inodes, 1);
}

#[test]
fn a_whiteout_stays_where_a_name_was() {
    check(
        "as 5 6; create /f; create /g; let f /f; whiteout-new /f /g = Exists; whiteout /f /g
         same /g @f; stat /f mode 0; stat /f uid 5; stat /f nlink 1; ls / g f
         mkdir /d; whiteout /d /e; stat /e nlink 2; stat /d mode 0; stat / nlink 3
         link /g /h; whiteout /g /h; same /g /h; whiteout /none /x = NotFound",
    );
}

//! What a silent node has is freed without it.

use super::locks::lock_check;
use super::*;
use crate::locks::LockOwner;

#[test]
fn a_silent_node_s_token_is_freed_and_what_it_wrote_is_out_of_date() {
    let mut ring = check("create /f; take /f; node 2; take /f = TokenHeld(n1)");
    let late = ring.publish("/f", 10, ring.inode("/f").version);
    ring.statement("expire 1 /f");
    let ino = ring.ino("/f");
    let version = ring.inode("/f").version;
    assert!(ring.touched.contains(&Touched::Content { ino, version }), "{:?}", ring.touched);
    ring.statement("stat /f writer none");
    // Nobody else has written: the version alone stands against it.
    ring.node = NodeId(1);
    assert_eq!(ring.run(late), Outcome::Refused(Refusal::Superseded(version)));
    ring.statement("take /f");
    invariants(&ring.tables);
}

#[test]
fn who_has_no_token_keeps_the_version() {
    check(
        "create /f; release /f; let f /f; node 2; stat /f version 0; expire 1 /f; stat /f version 0",
    );
}

#[test]
fn a_node_that_was_heard_of_meanwhile_keeps_what_it_has() {
    let mut ring = check("create /f; take /f; node 2");
    let late = ring.expire(NodeId(1), ring.ino("/f"));
    ring.node = NodeId(1);
    ring.succeed(Op::Noop);
    ring.node = NodeId(2);
    assert_eq!(ring.run(late), Outcome::Refused(Refusal::HeardOf(NodeId(1))));
    check("create /f; take /f; expire 1 /f = Invalid; node 2; take /f = TokenHeld(n1)");
}

#[test]
fn a_silent_node_s_locks_are_the_next_one_s() {
    let script = lock_check(
        "1.1 x /f 0-9; 1.2 x! /f 5 = Waiting; 2.1 x! /f 3 = Waiting; 3.1 s /f 5 = Locked
         3.1 expire /f > 2; 3.1 s /f 5; 2.1 u /f; 1.1 u /f",
    );
    assert_eq!(script.row("/f").locks.held().len(), 1);
    lock_check("1.1 keep /f; 2.1 x /f = LocksKept(n1); 2.1 expire /f; 2.1 x /f; 1.1 x /f = Locked");
    // Another file's stay.
    lock_check("1.1 x /f; 1.1 x /g; 2.1 expire /f; 2.1 x /f; 2.1 x /g = Locked");
}

#[test]
fn a_node_hears_which_of_its_requests_wait_no_longer() {
    let mut script = lock_check("2.1 x /f; 1.2 x! /f = Waiting; 3.1 expire /f");
    script.run("2.1 u /f; 1.2 x! /f");
    let mut script = lock_check("2.1 x /f; 1.2 x! /f = Waiting");
    script.ring.node = NodeId(3);
    let ino = script.ring.ino("/f");
    let op = script.ring.expire(NodeId(1), ino);
    script.ring.succeed(op);
    let owner = LockOwner { node: NodeId(1), boot: 1, id: 2 };
    let told = Touched::Expired { ino, node: NodeId(1), boot: 1, waited: vec![(owner, 1)] };
    assert!(script.ring.touched.contains(&told), "{:?}", script.ring.touched);
}

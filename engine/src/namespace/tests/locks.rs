//! Locks in the agreed tables.
//!
//! A statement is `NODE.OWNER VERB PATH [RANGE]`: `s` (shared), `x` (exclusive), `u` (unlock) of
//! record locks, `fs`, `fx`, `fu` of flock; with `!` behind the verb the request waits, under a
//! ticket that counts up from 1. `= Outcome` follows unless it is `Done`, and `> TICKET ..`
//! when others are granted. `NODE.SILENT expire PATH` frees what a silent node has.

use super::*;
use crate::command::{LockWait, LockWant};
use crate::locks::{ByteRange, FileLocks, Lock, LockKind, LockMode, LockOwner, Waiter};

pub(super) struct Script {
    pub(super) ring: Ring,
    ticket: u64,
}

pub(super) fn lock_check(script: &str) -> Script {
    let mut ring = Ring::new();
    for path in ["/f", "/g", "/h"] {
        ring.statement(&format!("create {path}"));
    }
    let mut checked = Script { ring, ticket: 0 };
    checked.run(script);
    checked
}

impl Script {
    pub(super) fn run(&mut self, script: &str) {
        for statement in script.split([';', '\n']).map(str::trim).filter(|s| !s.is_empty()) {
            self.statement(statement);
            invariants(&self.ring.tables);
        }
    }

    fn statement(&mut self, statement: &str) {
        let (statement, granted) = statement.split_once('>').unwrap_or((statement, ""));
        let (statement, expected) = statement.split_once('=').unwrap_or((statement, "Done"));
        let words: Vec<&str> = statement.split_whitespace().collect();
        let (node, owner) = words[0].split_once('.').expect("NODE.OWNER");
        self.ring.node = NodeId(parse(node));
        let ino = self.ring.ino(words[2]);
        let range = words.get(3).map_or(ByteRange::WHOLE, |range| {
            let (start, end) = range.split_once('-').unwrap_or((range, range));
            ByteRange { start: parse(start), end: parse(end) }
        });
        let op = self.op(words[1], parse(owner), ino, range);
        let outcome = self.ring.run(op);
        let outcome = match outcome {
            Outcome::Refused(refusal) => format!("{refusal:?}"),
            other => format!("{other:?}"),
        };
        assert_eq!(outcome, expected.trim(), "{statement}");
        let tickets = self.ring.touched.iter().filter_map(|touched| match touched {
            Touched::LockGranted { ticket, .. } => Some(ticket.to_string()),
            Touched::LockDenied { ticket, .. } => Some(format!("-{ticket}")),
            _ => None,
        });
        let tickets: Vec<String> = tickets.collect();
        assert_eq!(tickets.join(" "), granted.trim(), "{statement}");
    }

    fn op(&mut self, verb: &str, owner: u64, ino: Ino, range: ByteRange) -> Op {
        let (verb, waits) = verb.strip_suffix('!').map_or((verb, false), |verb| (verb, true));
        let (kind, verb) = match verb.strip_prefix('f') {
            Some(verb) => (LockKind::Flock, verb),
            None => (LockKind::Record, verb),
        };
        let mode = match verb {
            "s" => LockMode::Shared,
            "x" => LockMode::Exclusive,
            "u" => return Op::Unlock { ino, owner, kind, range },
            "keep" => return Op::KeepLocks { ino },
            "drop" => return Op::DropLocks { node: self.ring.node, boot: owner },
            // The owner is the silent node.
            "expire" => {
                let silent = NodeId(u16::try_from(owner).expect("a node"));
                return self.ring.expire(silent, ino);
            }
            "cancel" => return Op::CancelLock { ino, ticket: owner },
            other => panic!("no verb {other}"),
        };
        let wait = waits.then(|| {
            self.ticket += 1;
            LockWait { ticket: self.ticket, detects: kind == LockKind::Record }
        });
        let want = LockWant { owner, kind, mode, range, pid: 7, solo: false };
        Op::Lock { ino, want, wait }
    }

    pub(super) fn row(&self, path: &str) -> LockRow {
        self.ring.view().locks(self.ring.ino(path)).expect("is sound")
    }

    fn share(&mut self, path: &str, locks: FileLocks, asked: bool) -> Outcome {
        let op = Op::ShareLocks { ino: self.ring.ino(path), locks, asked };
        let outcome = self.ring.run(op);
        invariants(&self.ring.tables);
        outcome
    }
}

fn own(node: u16, id: u64) -> LockOwner {
    LockOwner { node: NodeId(node), boot: 1, id }
}

fn exclusive(node: u16, id: u64, start: u64, end: u64) -> Lock {
    let range = ByteRange { start, end };
    let (kind, mode) = (LockKind::Record, LockMode::Exclusive);
    Lock { range, owner: own(node, id), kind, mode, pid: 7, solo: false }
}

#[test]
fn nodes_exclude_each_other_and_wait_their_turn() {
    lock_check(
        "1.5 x /f 0-9; 2.5 x /f 9 = Locked; 2.5 x /f 10-12; 2.5 x! /f 5-6 = Waiting
         3.1 x! /f 0-3 = Waiting; 1.5 u /f 4-9 > 1; 1.5 u /f 0-3 > 2; 1.5 s /f 0 = Locked",
    );
}

#[test]
fn an_upgrade_keeps_what_it_has_until_it_gets_more() {
    lock_check("1.1 s /f 0-9; 2.1 s /f 5; 1.1 x /f 0-9 = Locked; 2.1 x /f 0 = Locked");
    lock_check("1.1 s /f 0-9; 2.1 s /f 5; 1.1 x! /f 0-9 = Waiting; 2.1 u /f 5 > 1");
}

#[test]
fn two_flock_upgrades_do_not_wait_for_each_other() {
    lock_check(
        "1.1 fs /f; 2.1 fs /f; 1.1 fx! /f = Waiting; 2.1 fx! /f = Waiting > 1; 1.1 fu /f > 2
         1.2 fs /f = Locked; 1.1 fs /f = Locked",
    );
    let script = lock_check("1.1 fs /f; 2.1 fs /f; 1.1 fx /f = Busy");
    assert_eq!(script.row("/f").locks.held().len(), 1, "what was shared is given up");
}

#[test]
fn deadlocks_are_found_across_files_and_nodes() {
    lock_check(
        "1.1 x /f; 2.1 x /g; 3.1 x /h; 1.1 x! /g = Waiting; 2.1 x! /h = Waiting
         3.1 x! /f = Deadlock; 3.1 u /h > 2; 2.1 u /g > 1",
    );
    lock_check("1.1 s /f 0; 2.1 s /f 0; 1.1 x! /f 0 = Waiting; 2.1 x! /f 0 = Deadlock");
}

#[test]
fn flock_waits_are_no_deadlock() {
    lock_check("1.1 fx /f; 2.1 fx /g; 1.1 fx! /g = Waiting; 2.1 fx! /f = Waiting");
}

#[test]
fn a_wait_can_be_taken_back_once_and_by_its_node_only() {
    lock_check(
        "1.1 x /f; 2.1 x! /f = Waiting; 1.1 cancel /f = NotFound; 2.1 cancel /f
         2.1 cancel /f = NotFound; 1.1 u /f; 3.1 x /f",
    );
}

#[test]
fn a_new_start_gives_up_what_the_old_one_had() {
    let mut script = lock_check("1.1 x /f; 1.2 x! /f = Waiting; 2.1 x! /f = Waiting; 1.1 keep /g");
    script.run("1.1 drop /f; 2.1 drop /f; 1.2 drop /f > 2; 2.3 x /g; 3.1 x /f = Locked");
    script.ring.node = NodeId(3);
    let foreign = Op::DropLocks { node: NodeId(2), boot: 9 };
    assert_eq!(script.ring.run(foreign), Outcome::Refused(Refusal::NotPermitted));
}

#[test]
fn a_keeper_excludes_everybody_until_it_shares() {
    let mut script =
        lock_check("1.1 keep /f; 2.1 x /f = LocksKept(n1); 2.1 keep /f = LocksKept(n1)");
    script.ring.node = NodeId(2);
    let mut locks = FileLocks::default();
    assert!(locks.request(exclusive(1, 1, 0, 9), &mut Vec::new()));
    locks.wait(Waiter { ticket: 70, lock: exclusive(1, 2, 5, 5), detects: true });
    let refused = script.share("/f", locks.clone(), true);
    assert_eq!(refused, Outcome::Refused(Refusal::NotPermitted));
    script.ring.node = NodeId(1);
    assert_eq!(script.share("/f", locks, true), Outcome::Done);
    script.run("2.1 x /f 9 = Locked; 2.1 x /f 10; 1.1 u /f 0-9 > 70; 1.2 u /f; 2.1 u /f");
    // Node 1 used it a moment ago.
    script.run("1.1 x /f; 1.1 u /f; 2.1 keep /f = Locked");
    script.ring.gsn = Gsn(script.ring.gsn.0 + 10);
    script.run("2.1 keep /f; 1.1 x /f = LocksKept(n2)");
    script.ring.node = NodeId(2);
    assert_eq!(script.share("/f", FileLocks::default(), false), Outcome::Done);
    assert_eq!(script.row("/f"), LockRow::default());
}

#[test]
fn what_a_keeper_shares_must_be_its_own() {
    let mut script = lock_check("1.1 keep /f");
    script.ring.node = NodeId(1);
    let mut locks = FileLocks::default();
    assert!(locks.request(exclusive(2, 1, 0, 9), &mut Vec::new()));
    assert_eq!(script.share("/f", locks, true), Outcome::Refused(Refusal::Invalid));
}

#[test]
fn a_deadlock_that_sharing_shows_is_denied() {
    let mut script = lock_check("1.1 keep /f; 2.1 x /g; 1.1 x! /g = Waiting");
    // On node 1, owner 2 waits for owner 1 in /f; owner 2 holds /h, for which 2.1 waits.
    script.run("1.2 x /h; 2.1 x! /h = Waiting");
    script.ring.node = NodeId(1);
    let mut locks = FileLocks::default();
    assert!(locks.request(exclusive(1, 1, 0, 0), &mut Vec::new()));
    locks.wait(Waiter { ticket: 70, lock: exclusive(1, 2, 0, 0), detects: true });
    assert_eq!(script.share("/f", locks, true), Outcome::Done);
    let denied = Touched::LockDenied { ino: script.ring.ino("/f"), owner: own(1, 2), ticket: 70 };
    assert!(script.ring.touched.contains(&denied));
}

#[test]
fn the_locks_of_a_file_that_goes_are_told_and_leave_nothing_behind() {
    let mut script = lock_check("1.1 x /f; 2.1 x! /f = Waiting");
    let (ino, locks) = (script.ring.ino("/f"), script.row("/f").locks);
    script.ring.statement("unlink /f");
    let told = script.ring.touched.contains(&Touched::LocksGone { ino, locks });
    assert!(told, "{:?}", script.ring.touched);
    invariants(&script.ring.tables);
    assert!(script.ring.tables.0.keys().all(|key| !matches!(key[0], b'L' | b'G')));
}

#[test]
fn only_files_have_locks_and_only_so_many() {
    let mut script = lock_check("1.1 x / = Invalid; 1.1 keep / = Invalid");
    for at in 0..crate::locks::LOCKS_MAX as u64 {
        let range = ByteRange { start: 2 * at, end: 2 * at };
        let op = script.op("x", 1, script.ring.ino("/f"), range);
        script.ring.succeed(op);
    }
    script.run("1.1 x /f 1000000 = TooManyLocks; 1.1 u /f 0; 1.1 x /f 1000000");
}

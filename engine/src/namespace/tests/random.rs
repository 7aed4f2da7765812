//! Random commands: the invariants hold, and replicas that get the same order by other ways
//! reach the same state. `tests/it/model` compares with a POSIX model, too.

use proptest::prelude::*;

use super::*;
use crate::command::{LockWait, LockWant};
use crate::locks::{ByteRange, FileLocks, LockKind, LockMode};

/// Few names and inodes, so that operations meet.
fn op() -> impl Strategy<Value = (u16, u8, u8, u8, u8)> {
    (1..=3u16, 0..27u8, 0..8u8, 0..8u8, 0..4u8)
}

/// Turns numbers into an operation on something that exists or existed.
fn operation(ring: &mut Ring, known: &mut Vec<Ino>, numbers: (u16, u8, u8, u8, u8)) -> Op {
    let (node, what, one, other, letter) = numbers;
    ring.node = NodeId(node);
    let ino = known[usize::from(one) % known.len()];
    let parent = known[usize::from(other) % known.len()];
    let name = Name::parse(&[b'a' + letter]).expect("letters are names");
    let other_name = Name::parse(&[b'a' + (letter + one) % 4]).expect("letters are names");
    let rename = |how| Op::Rename {
        from_parent: ino,
        from_name: name.clone(),
        to_parent: parent,
        to_name: other_name.clone(),
        how,
        victim: (one % 2 == 0).then_some(known[usize::from(letter) % known.len()]),
        source: (one % 3 == 0).then_some(known[usize::from(other) % known.len()]),
    };
    let set = |set| Op::SetAttr { ino, set };
    match what {
        0..=4 => {
            let new = Ino::of(ring.node, ring.next_counter);
            ring.next_counter += 1;
            known.push(new);
            let kind = if what < 3 { Kind::Directory } else { Kind::File };
            Op::Make {
                parent,
                name,
                ino: new,
                kind,
                mode: 0o2755,
                exclusive: one % 2 == 0,
                umask: 0,
            }
        }
        5 => Op::Link { ino, parent, name },
        6 => Op::Unlink { parent, name },
        7 => Op::Rmdir { parent, name, victim: None },
        8 | 9 => rename(RenameHow::Replace),
        10 => rename(RenameHow::Exchange),
        11 => set(SetAttr { size: Some(u64::from(other) * 100), ..SetAttr::default() }),
        12 => Op::SetXattr {
            ino,
            name: vec![b'x', letter + b'a'],
            value: vec![other],
            how: XattrHow::Set,
        },
        13 => Op::RemoveXattr { ino, name: vec![b'x', letter + b'a'] },
        16..=18 => {
            let kind = if letter == 3 { LockKind::Flock } else { LockKind::Record };
            let mode = if one % 2 == 0 { LockMode::Shared } else { LockMode::Exclusive };
            let start = u64::from(other);
            let range = match kind {
                LockKind::Flock => ByteRange::WHOLE,
                LockKind::Record => ByteRange { start, end: start + u64::from(one) },
            };
            let want =
                LockWant { owner: u64::from(letter), kind, mode, range, pid: 1, solo: one == 7 };
            let ticket = ring.gsn.0;
            let wait = (what > 16).then_some(LockWait { ticket, detects: what > 17 });
            Op::Lock { ino, want, wait }
        }
        19 => {
            let kind = if letter == 3 { LockKind::Flock } else { LockKind::Record };
            let range = ByteRange { start: u64::from(other), end: u64::MAX };
            Op::Unlock { ino, owner: u64::from(letter), kind, range }
        }
        20 if one < 4 => Op::KeepLocks { ino },
        20 => Op::ShareLocks { ino, locks: FileLocks::default(), asked: letter > 1 },
        21 if one < 7 => {
            Op::CancelLock { ino, ticket: ring.gsn.0.saturating_sub(u64::from(other)) }
        }
        21 if one < 14 => ring.expire(NodeId(u16::from(letter) + 1), ino),
        21 => Op::DropLocks { node: ring.node, boot: 2 },
        14 => Op::ReleaseToken { ino, node: ring.node },
        22 | 23 => {
            let limits = QuotaLimits { bytes: Some(u64::from(letter) * 200), inodes: Some(6) };
            Op::SetQuota { directory: ino, limits: (letter > 0).then_some(limits) }
        }
        24 => Op::MarkQuota { quota: ino, directory: parent, after: 0, through: 5 },
        25 => {
            let began = ring.view().quota(ino).expect("is sound").map(|quota| quota.began);
            Op::FinishQuota { quota: ino, began: began.unwrap_or_default() }
        }
        26 if letter % 2 == 0 => Op::ReserveQuota { quota: ino, needed: 9, wanted: 90 },
        26 => Op::ReturnQuota {
            quota: ino,
            bytes: u64::from(other) * 5,
            answers: (other % 3 > 0).then_some(Gsn(u64::from(other))),
        },
        27 | 28 => {
            let kind = if what == 27 { AclKind::Access } else { AclKind::Default };
            let named = Acl { users: vec![(7, other)], ..acl("7,5,0,m5").expect("it is a list") };
            let acl = [acl("7,5,0"), Some(named), None][usize::from(letter) % 3].clone();
            Op::SetAcl { ino, kind, acl, kill_sgid: other == 0 }
        }
        29 => {
            let new = Ino::of(ring.node, ring.next_counter);
            ring.next_counter += 1;
            known.push(new);
            Op::MakeUnnamed { parent, ino: new, mode: 0o644, umask: 0o22 }
        }
        30 => Op::DropUnnamed { ino },
        31 => {
            let new = Ino::of(ring.node, ring.next_counter);
            ring.next_counter += 1;
            known.push(new);
            let (from_parent, from_name, to_parent) = (ino, name, parent);
            let (to_name, replace) = (other_name, letter % 2 == 0);
            Op::Whiteout {
                from_parent,
                from_name,
                to_parent,
                to_name,
                replace,
                ino: new,
                source: None,
            }
        }
        _ => {
            let base = ring.view().inode(ino).expect("is sound").map_or(Version(0), |i| i.version);
            let len = u64::from(other) * 60;
            let body = Body::Sealed { id: BodyId([letter; 32]), len };
            let mtime = Timestamp::new(i64::from(other), 0);
            Op::Publish {
                ino,
                base,
                body,
                size: len,
                mtime,
                holder: ring.node,
                stored_len: len,
                ctime: mtime,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_replicas_agree(
        numbers in prop::collection::vec(op(), 1..60),
        batch in 1..7usize,
        resent in any::<u64>(),
    ) {
        let mut ring = Ring::new();
        let start = ring.tables.clone();
        let mut known = vec![Ino::ROOT];
        let mut order = Vec::new();
        for numbers in numbers {
            let op = operation(&mut ring, &mut known, numbers);
            let command = ring.command(op);
            let before = ring.tables.clone();
            let applied = ring.deliver(&command);
            invariants(&ring.tables);
            if matches!(applied.outcome, Some(Outcome::Refused(_))) {
                prop_assert!(applied.touched.is_empty());
                let same = |table: u8| before.0.iter().filter(move |(key, _)| key[0] == table)
                    .eq(ring.tables.0.iter().filter(move |(key, _)| key[0] == table));
                prop_assert!(b"INCXMLGQBU".iter().all(|&table| same(table)));
            }
            order.push((ring.gsn, command));
        }

        // The same order in batches, with duplicates and gaps in between.
        let mut replica = start;
        for (index, part) in order.chunks(batch).enumerate() {
            let mut overlay = Overlay::new(&replica);
            for (gsn, command) in part {
                if resent >> (index % 64) & 1 == 1 {
                    let again = &order[usize::try_from(resent % order.len() as u64)
                        .expect("it is an index")];
                    let early = again.1.id.seq
                        > View(&overlay).origin(again.1.id.origin).expect("is sound")
                            .map_or(0, |origin| origin.last_seq) + 1;
                    let known = View(&overlay).outcome_of(again.1.id).expect("is sound").is_some();
                    if early || known {
                        let hash = View(&overlay).state_hash().expect("is sound");
                        let applied = apply(&mut overlay, *gsn, &again.1).expect("is sound");
                        prop_assert!(!applied.fresh);
                        prop_assert_eq!(applied.outcome.is_some(), known);
                        prop_assert_eq!(View(&overlay).state_hash().expect("is sound"), hash);
                    }
                }
                apply(&mut overlay, *gsn, command).expect("the tables are sound");
            }
            let changes = overlay.into_changes();
            replica.absorb(changes);
        }
        prop_assert_eq!(&replica, &ring.tables);
    }
}

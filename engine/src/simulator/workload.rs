//! Commands that collide: few names, all in the root.

use crate::command::{
    Command, Cred, Kind, LockWait, LockWant, Member, MemberRole, Name, Op, RenameHow, SetAttr,
    XattrHow,
};
use crate::consensus::random::Random;
use crate::ids::{Gsn, Ino, NodeId, OpId, ZoneId};
use crate::locks::{ByteRange, FileLocks, LockKind, LockMode};
use crate::namespace::{Changes, MemoryTables, Overlay, VolumeParams, apply, genesis};
use crate::time::Timestamp;

/// A command of `origin` that may or may not succeed.
pub(super) fn command(random: &mut Random, id: OpId, ino_counter: &mut u64) -> Command {
    let ino = Ino::of(id.origin, *ino_counter);
    let any_ino = Ino::of(
        NodeId(1 + random.below(3) as u16),
        FIRST_INO + random.below(*ino_counter - FIRST_INO + 1),
    );
    let parent = Ino::ROOT;
    let op = match random.below(13) {
        0..=3 => {
            *ino_counter += 1;
            let kind = if random.percent(70) { Kind::File } else { Kind::Directory };
            let exclusive = random.percent(50);
            Op::Make { parent, name: name(random), ino, kind, mode: 0o644, exclusive, umask: 0 }
        }
        4 => Op::Unlink { parent, name: name(random) },
        5 => Op::Rmdir { parent, name: name(random), victim: None },
        6 => Op::Rename {
            from_parent: parent,
            from_name: name(random),
            to_parent: parent,
            to_name: name(random),
            how: RenameHow::Replace,
            victim: None,
            source: None,
        },
        7 => {
            let set = SetAttr { size: Some(random.below(1000)), ..SetAttr::default() };
            Op::SetAttr { ino: any_ino, set }
        }
        8 => {
            let value = vec![b'v'; random.below(40) as usize];
            Op::SetXattr { ino: parent, name: b"user.x".to_vec(), value, how: XattrHow::Set }
        }
        9..=11 => lock_op(random, any_ino, id),
        _ => Op::Noop,
    };
    let time = Timestamp::new(1_700_000_000 + id.seq as i64, 0);
    Command { id, time, cred: Cred { uid: 1000, gid: 1000 }, op }
}

/// Locks of few owners: they wait, meet, are kept and dropped.
fn lock_op(random: &mut Random, ino: Ino, id: OpId) -> Op {
    let (owner, kind) = (random.below(3), LockKind::Record);
    let start = random.below(4);
    let range = ByteRange { start, end: start + random.below(4) };
    match random.below(8) {
        0..=3 => {
            let mode = if random.percent(50) { LockMode::Shared } else { LockMode::Exclusive };
            let want = LockWant { owner, kind, mode, range, pid: 1, solo: false };
            let wait = random.percent(50).then_some(LockWait { ticket: id.seq, detects: true });
            Op::Lock { ino, want, wait }
        }
        4 | 5 => Op::Unlock { ino, owner, kind, range },
        6 => Op::KeepLocks { ino },
        _ if random.percent(50) => Op::ShareLocks { ino, locks: FileLocks::default(), asked: true },
        _ if random.percent(50) => {
            let node = NodeId(1 + random.below(5) as u16);
            Op::Expire { ino, node, boot: id.boot, seq: id.seq.saturating_sub(random.below(3)) }
        }
        _ => Op::DropLocks { node: id.origin, boot: id.boot },
    }
}

fn name(random: &mut Random) -> Name {
    Name::parse(&[b'a' + random.below(8) as u8]).expect("a letter is a name")
}

/// A volume whose members are `members`, before the first agreement.
pub(super) fn tables(members: impl Iterator<Item = NodeId>) -> MemoryTables {
    let mut tables = MemoryTables::default();
    tables.absorb(genesis(&VolumeParams {
        key: [7; 32],
        time: Timestamp::new(1_700_000_000, 0),
        uid: 0,
        gid: 0,
        mode: 0o755,
    }));
    let mut seq = 0;
    for node in members {
        let token = (seq > 0).then_some(u64::from(node.0));
        if let Some(id) = token {
            let expires = Timestamp::new(1_800_000_000, 0);
            let zone = zone_name(node);
            seq += 1;
            let role = MemberRole::Voter;
            let op = Op::CreateJoinToken { id, secret_hash: [0; 32], zone, expires, role };
            tables.absorb(setup(&tables, seq, op));
        }
        seq += 1;
        let node = Member {
            id: node,
            name: format!("n{node}"),
            zone: ZoneId(node.0),
            zone_name: zone_name(node),
            address: format!("n{node}:1"),
            key_hash: [node.0 as u8; 32],
            role: MemberRole::Voter,
            draining: false,
        };
        tables.absorb(setup(&tables, seq, Op::AdmitNode { node, token }));
    }
    tables
}

fn zone_name(node: NodeId) -> String {
    format!("z{node}")
}

/// The first node's commands of a boot before all others.
fn setup(tables: &MemoryTables, seq: u64, op: Op) -> Changes {
    let id = OpId { origin: NodeId(1), boot: 0, seq };
    let command = Command { id, time: Timestamp::new(1_700_000_000, 0), cred: Cred::SYSTEM, op };
    let mut overlay = Overlay::new(tables);
    let applied = apply(&mut overlay, Gsn(0), &command).expect("tables in memory can be read");
    assert!(applied.fresh, "{command:?} was skipped");
    assert!(
        !matches!(applied.outcome, Some(crate::outcome::Outcome::Refused(_))),
        "{command:?} was refused: {:?}",
        applied.outcome
    );
    overlay.into_changes()
}

/// What a snapshot must not be: the tables without how far each origin's commands are applied.
#[cfg(test)]
pub(super) fn without_origins(mut tables: MemoryTables) -> MemoryTables {
    tables.0.retain(|key, _| !key.starts_with(crate::namespace::keys::ORIGINS));
    tables
}

/// The first counter that a node may use.
pub(super) const FIRST_INO: u64 = 16;

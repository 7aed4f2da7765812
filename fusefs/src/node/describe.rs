//! Agreements as people read them.

use engine::acl::AclKind;
use engine::command::{Command, Kill, Kind, Member, Op, RenameHow};
use engine::consensus::entry::EntryKind;
use engine::consensus::record::OrderRecord;
use engine::locks::{ByteRange, LockKind, LockMode};

use super::report::node_name;
use crate::admin::report::{LogCommand, LogEntry};

/// One agreement for `fusion log`.
pub fn agreement(record: &OrderRecord, members: &[Member]) -> LogEntry {
    let name = |node| node_name(members, node);
    let mut commands_read = Vec::new();
    let (kind, note) = match &record.entry.kind {
        EntryKind::Commands { commands, activate } => {
            commands_read = commands.iter().map(|each| command(each, members)).collect();
            let note = activate.map(|node| format!("a lane for {}", name(node)));
            ("commands", note.unwrap_or_default())
        }
        EntryKind::Tick => ("tick", String::new()),
        EntryKind::End { activate } => {
            let next = activate.map(|node| format!(", a new one for {}", name(node)));
            ("end", format!("the lane ends{}", next.unwrap_or_default()))
        }
        EntryKind::Reconfigure(config) => {
            let voters: Vec<String> = config.voters.keys().map(|node| name(*node)).collect();
            ("reconfigure", format!("epoch {}: voters {}", config.epoch, voters.join(" ")))
        }
    };
    LogEntry {
        gsn: record.gsn.0,
        time: record.entry.ts.0 as f64 / 1e6,
        lane: name(record.lane.node),
        kind: kind.to_owned(),
        commands: commands_read,
        note,
    }
}

fn command(command: &Command, members: &[Member]) -> LogCommand {
    let (op, detail) = operation(&command.op, members);
    LogCommand {
        node: node_name(members, command.id.origin),
        boot: command.id.boot,
        seq: command.id.seq,
        op: op.to_owned(),
        detail,
    }
}

/// Name and arguments. An inode is `i` and its number.
fn operation(op: &Op, members: &[Member]) -> (&'static str, String) {
    match op {
        Op::Noop => ("noop", String::new()),
        Op::Make { parent, name, ino, kind, mode, .. } => {
            let op = match kind {
                Kind::File => "create",
                Kind::Directory => "mkdir",
                Kind::Symlink(_) => "symlink",
                Kind::Fifo | Kind::Socket | Kind::CharDevice(_) | Kind::BlockDevice(_) => "mknod",
            };
            let target = match kind {
                Kind::Symlink(target) => format!(" -> {}", String::from_utf8_lossy(target)),
                _ => String::new(),
            };
            (op, format!("i{parent}/{name} = i{ino} mode {mode:04o}{target}"))
        }
        Op::Link { ino, parent, name } => ("link", format!("i{ino} as i{parent}/{name}")),
        Op::Unlink { parent, name } => ("unlink", format!("i{parent}/{name}")),
        Op::Rmdir { parent, name, .. } => ("rmdir", format!("i{parent}/{name}")),
        Op::Rename { from_parent, from_name, to_parent, to_name, how, .. } => {
            let how = match how {
                RenameHow::Replace => "",
                RenameHow::NoReplace => " (no replace)",
                RenameHow::Exchange => " (exchange)",
            };
            ("rename", format!("i{from_parent}/{from_name} -> i{to_parent}/{to_name}{how}"))
        }
        Op::SetAttr { ino, set } => {
            let mut parts = vec![format!("i{ino}")];
            parts.extend(set.mode.map(|mode| format!("mode {mode:04o}")));
            parts.extend(set.uid.map(|uid| format!("uid {uid}")));
            parts.extend(set.gid.map(|gid| format!("gid {gid}")));
            parts.extend(set.size.map(|size| format!("size {size}")));
            parts.extend(set.atime.map(|_| "atime".to_owned()));
            parts.extend(set.mtime.map(|_| "mtime".to_owned()));
            parts.extend(set.kill.map(|kill| match kill {
                Kill::Capability => "less capability".to_owned(),
                Kill::SetId => "less set-id".to_owned(),
            }));
            ("setattr", parts.join(" "))
        }
        Op::SetXattr { ino, name, value, .. } => (
            "setxattr",
            format!("i{ino} {} ({} bytes)", String::from_utf8_lossy(name), value.len()),
        ),
        Op::RemoveXattr { ino, name } => {
            ("removexattr", format!("i{ino} {}", String::from_utf8_lossy(name)))
        }
        Op::Publish { ino, base, size, holder, .. } => (
            "publish",
            format!("i{ino} {size} bytes over version {base} by {}", node_name(members, *holder)),
        ),
        Op::TakeToken { ino, node } => {
            ("take-token", format!("i{ino} for {}", node_name(members, *node)))
        }
        Op::ReleaseToken { ino, node } => {
            ("release-token", format!("i{ino} by {}", node_name(members, *node)))
        }
        Op::CreateJoinToken { id, zone, .. } => {
            ("create-join-token", format!("{id:016x} for zone {zone}"))
        }
        Op::RevokeJoinToken { id } => ("revoke-join-token", format!("{id:016x}")),
        Op::AdmitNode { node, .. } => {
            ("admit-node", format!("{} in zone {} at {}", node.name, node.zone_name, node.address))
        }
        Op::HeldUpto { node, gsn } => {
            ("held-upto", format!("{} holds bodies up to {gsn}", node_name(members, *node)))
        }
        Op::CreateVolume { name, members: nodes, .. } => {
            let names: Vec<String> = nodes.iter().map(|node| node_name(members, *node)).collect();
            ("create-volume", format!("{name} on {}", names.join(" ")))
        }
        Op::SetAcl { ino, kind, acl, .. } => {
            let kind = match kind {
                AclKind::Access => "access",
                AclKind::Default => "default",
            };
            let what = if acl.is_some() { "" } else { " taken away" };
            ("setacl", format!("i{ino} {kind}{what}"))
        }
        Op::Whiteout { from_parent, from_name, to_parent, to_name, ino, .. } => (
            "rename",
            format!("i{from_parent}/{from_name} -> i{to_parent}/{to_name} (whiteout i{ino})"),
        ),
        Op::MakeUnnamed { parent, ino, mode, .. } => {
            ("tmpfile", format!("i{ino} by i{parent} mode {mode:04o}"))
        }
        Op::DropUnnamed { ino } => ("drop-tmpfile", format!("i{ino}")),
        Op::ReapUnnamed { .. } => ("reap-tmpfiles", String::new()),
        Op::MoveNode { node, address } => {
            ("move-node", format!("{} to {address}", node_name(members, *node)))
        }
        Op::Lock { ino, want, wait } => {
            let mode = match want.mode {
                LockMode::Shared => "shared",
                LockMode::Exclusive => "exclusive",
            };
            let wait = if wait.is_some() { ", may wait" } else { "" };
            let kind = lock_kind(want.kind);
            ("lock", format!("i{ino} {kind} {} {mode}{wait}", byte_range(want.range)))
        }
        Op::Unlock { ino, kind, range, .. } => {
            ("unlock", format!("i{ino} {} {}", lock_kind(*kind), byte_range(*range)))
        }
        Op::CancelLock { ino, .. } => ("cancel-lock", format!("i{ino}")),
        Op::KeepLocks { ino } => ("keep-locks", format!("i{ino}")),
        Op::ShareLocks { ino, locks, .. } => {
            let (held, waiting) = (locks.held().len(), locks.waiting().len());
            ("share-locks", format!("i{ino} {held} held, {waiting} waiting"))
        }
        Op::DropLocks { node, boot } => {
            ("drop-locks", format!("of {} before its start {boot}", node_name(members, *node)))
        }
        Op::SetQuota { directory, limits: None } => ("end-quota", format!("i{directory}")),
        Op::SetQuota { directory, limits: Some(limits) } => {
            let mut parts = vec![format!("i{directory}")];
            parts.extend(limits.bytes.map(|bytes| format!("{bytes} bytes")));
            parts.extend(limits.inodes.map(|inodes| format!("{inodes} inodes")));
            ("set-quota", parts.join(" "))
        }
        Op::MarkQuota { quota, directory, after, through } => {
            ("mark-quota", format!("i{quota}: i{directory} cookies {after} to {through}"))
        }
        Op::FinishQuota { quota, began } => ("finish-quota", format!("i{quota} of GSN {began}")),
        Op::ReserveQuota { quota, needed, wanted } => {
            ("reserve-quota", format!("i{quota} {needed} to {wanted} bytes"))
        }
        Op::ReturnQuota { quota, bytes } => ("return-quota", format!("i{quota} {bytes} bytes")),
        Op::ReclaimQuota { quota } => ("reclaim-quota", format!("i{quota}")),
    }
}

fn lock_kind(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Record => "record",
        LockKind::Flock => "flock",
    }
}

fn byte_range(range: ByteRange) -> String {
    if range.end >= i64::MAX as u64 {
        return format!("{}-", range.start);
    }
    format!("{}-{}", range.start, range.end)
}

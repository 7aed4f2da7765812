//! Agreements as people read them.

use engine::acl::AclKind;
use engine::command::{Command, Kill, Kind, Name, Op, RenameHow};
use engine::consensus::entry::EntryKind;
use engine::ids::{Ino, NodeId};
use engine::locks::{ByteRange, LockKind, LockMode};
use engine::outcome::Verdict;
use store::AppliedRecord;

use super::report::Names;
use crate::admin::report::{LogCommand, LogEntry, LogSubject};
use crate::kernel::errno;

/// One agreement for `fusion log`.
pub fn agreement(applied: &AppliedRecord, names: &Names) -> LogEntry {
    let record = &applied.record;
    let name = |node| names.of(node);
    let mut commands_read = Vec::new();
    let (kind, note) = match &record.entry.kind {
        EntryKind::Commands { commands, activate } => {
            commands_read = (0..)
                .zip(commands)
                .map(|(place, each)| command(each, applied.verdict(place), names))
                .collect();
            let note = activate.map(|node| format!("a lane for {}", name(node)));
            ("commands", note.unwrap_or_default())
        }
        EntryKind::Tick => ("tick", String::new()),
        EntryKind::End { activate } => {
            let next = activate.map(|node| format!(", a new one for {}", name(node)));
            ("end", format!("the lane ends{}", next.unwrap_or_default()))
        }
        EntryKind::Reconfigure(config) => {
            let voter = |(node, weight): (&NodeId, &u32)| match weight {
                1 => name(*node),
                weight => format!("{} (weight {weight})", name(*node)),
            };
            let voters: Vec<String> = config.voters.iter().map(voter).collect();
            let mut note = format!("epoch {}: voters {}", config.epoch, voters.join(" "));
            if !config.removed.is_empty() {
                let removed: Vec<String> = config.removed.iter().map(|node| name(*node)).collect();
                note.push_str(&format!("; removed {}", removed.join(" ")));
            }
            ("reconfigure", note)
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

fn command(command: &Command, verdict: Option<Verdict>, names: &Names) -> LogCommand {
    let (op, detail) = operation(&command.op, names);
    LogCommand {
        node: names.of(command.id.origin),
        zone: names.zone_of(command.id.origin),
        boot: command.id.boot,
        seq: command.id.seq,
        uid: command.cred.uid,
        gid: command.cred.gid,
        time: command.time.seconds as f64 + f64::from(command.time.nanos) / 1e9,
        op: op.to_owned(),
        subject: subject(&command.op),
        detail,
        outcome: outcome(verdict).to_owned(),
        reason: match verdict {
            Some(Verdict::Refused(refusal)) => Some(refusal.to_string()),
            _ => None,
        },
    }
}

fn outcome(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        None => "unknown",
        Some(Verdict::Done) => "ok",
        Some(Verdict::Refused(refusal)) => errno::name(&refusal),
        Some(Verdict::Waiting) => "waiting",
        Some(Verdict::Busy) => "busy",
        Some(Verdict::Repeated) => "repeated",
        Some(Verdict::Skipped) => "skipped",
    }
}

/// A name or another text of a user so that it stays on its line and can be told from others:
/// with `\\`, `\n` and `\xNN` for what is no visible UTF-8.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ if character.is_control() => text.extend(character.escape_default()),
                _ => text.push(character),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

fn subject(op: &Op) -> LogSubject {
    let of = |ino: Ino| LogSubject { ino: Some(ino.0), ..LogSubject::default() };
    let at = |parent: Ino, name: &Name| LogSubject {
        parent: Some(parent.0),
        name: Some(shown(name.as_bytes())),
        ..LogSubject::default()
    };
    match op {
        Op::Make { parent, name, ino, .. } | Op::Link { ino, parent, name } => {
            LogSubject { ino: Some(ino.0), ..at(*parent, name) }
        }
        Op::Unlink { parent, name } | Op::Rmdir { parent, name, .. } => at(*parent, name),
        Op::Rename { from_parent, from_name, to_parent, to_name, .. }
        | Op::Whiteout { from_parent, from_name, to_parent, to_name, .. } => LogSubject {
            to_parent: Some(to_parent.0),
            to_name: Some(shown(to_name.as_bytes())),
            ..at(*from_parent, from_name)
        },
        Op::MakeUnnamed { parent, ino, .. } => LogSubject { parent: Some(parent.0), ..of(*ino) },
        Op::SetAttr { ino, .. }
        | Op::SetXattr { ino, .. }
        | Op::RemoveXattr { ino, .. }
        | Op::Publish { ino, .. }
        | Op::TakeToken { ino, .. }
        | Op::ReleaseToken { ino, .. }
        | Op::Lock { ino, .. }
        | Op::Unlock { ino, .. }
        | Op::CancelLock { ino, .. }
        | Op::KeepLocks { ino }
        | Op::ShareLocks { ino, .. }
        | Op::SetAcl { ino, .. }
        | Op::Expire { ino, .. }
        | Op::DropUnnamed { ino } => of(*ino),
        Op::SetQuota { directory: ino, .. }
        | Op::MarkQuota { directory: ino, .. }
        | Op::FinishQuota { quota: ino, .. }
        | Op::ReserveQuota { quota: ino, .. }
        | Op::ReturnQuota { quota: ino, .. }
        | Op::ReclaimQuota { quota: ino } => of(*ino),
        Op::Noop
        | Op::CreateJoinToken { .. }
        | Op::RevokeJoinToken { .. }
        | Op::AdmitNode { .. }
        | Op::HeldUpto { .. }
        | Op::MoveNode { .. }
        | Op::CreateVolume { .. }
        | Op::DropLocks { .. }
        | Op::SetMember { .. }
        | Op::ReapUnnamed { .. } => LogSubject::default(),
    }
}

/// Name and arguments. An inode is `i` and its number.
fn operation(op: &Op, names: &Names) -> (&'static str, String) {
    let file = |name: &Name| shown(name.as_bytes());
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
                Kind::Symlink(target) => format!(" -> {}", shown(target)),
                _ => String::new(),
            };
            (op, format!("i{parent}/{} = i{ino} mode {mode:04o}{target}", file(name)))
        }
        Op::Link { ino, parent, name } => ("link", format!("i{ino} as i{parent}/{}", file(name))),
        Op::Unlink { parent, name } => ("unlink", format!("i{parent}/{}", file(name))),
        Op::Rmdir { parent, name, .. } => ("rmdir", format!("i{parent}/{}", file(name))),
        Op::Rename { from_parent, from_name, to_parent, to_name, how, .. } => {
            let how = match how {
                RenameHow::Replace => "",
                RenameHow::NoReplace => " (no replace)",
                RenameHow::Exchange => " (exchange)",
            };
            let (from, to) = (file(from_name), file(to_name));
            ("rename", format!("i{from_parent}/{from} -> i{to_parent}/{to}{how}"))
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
        Op::SetXattr { ino, name, value, .. } => {
            ("setxattr", format!("i{ino} {} ({} bytes)", shown(name), value.len()))
        }
        Op::RemoveXattr { ino, name } => ("removexattr", format!("i{ino} {}", shown(name))),
        Op::Publish { ino, base, size, holder, .. } => {
            ("publish", format!("i{ino} {size} bytes over version {base} by {}", names.of(*holder)))
        }
        Op::TakeToken { ino, node } => ("take-token", format!("i{ino} for {}", names.of(*node))),
        Op::ReleaseToken { ino, node } => {
            ("release-token", format!("i{ino} by {}", names.of(*node)))
        }
        Op::CreateJoinToken { id, zone, role, .. } => {
            ("create-join-token", format!("{id:016x} for a {} in zone {zone}", role.word()))
        }
        Op::RevokeJoinToken { id } => ("revoke-join-token", format!("{id:016x}")),
        Op::AdmitNode { node, .. } => {
            ("admit-node", format!("{} in zone {} at {}", node.name, node.zone_name, node.address))
        }
        Op::HeldUpto { node, gsn } => {
            ("held-upto", format!("{} holds bodies up to {gsn}", names.of(*node)))
        }
        Op::CreateVolume { name, members: nodes, .. } => {
            let nodes: Vec<String> = nodes.iter().map(|node| names.of(*node)).collect();
            ("create-volume", format!("{name} on {}", nodes.join(" ")))
        }
        Op::SetAcl { ino, kind, acl, .. } => {
            let kind = match kind {
                AclKind::Access => "access",
                AclKind::Default => "default",
            };
            let what = if acl.is_some() { "" } else { " taken away" };
            ("setacl", format!("i{ino} {kind}{what}"))
        }
        Op::Whiteout { from_parent, from_name, to_parent, to_name, ino, .. } => {
            let (from, to) = (file(from_name), file(to_name));
            ("rename", format!("i{from_parent}/{from} -> i{to_parent}/{to} (whiteout i{ino})"))
        }
        Op::MakeUnnamed { parent, ino, mode, .. } => {
            ("tmpfile", format!("i{ino} by i{parent} mode {mode:04o}"))
        }
        Op::DropUnnamed { ino } => ("drop-tmpfile", format!("i{ino}")),
        Op::ReapUnnamed { .. } => ("reap-tmpfiles", String::new()),
        Op::SetMember { node, role, draining } => {
            let mut parts = vec![names.of(*node)];
            parts.extend(role.map(|role| format!("is a {}", role.word())));
            parts.extend(draining.map(|draining| match draining {
                true => "drains".to_owned(),
                false => "drains no more".to_owned(),
            }));
            ("set-member", parts.join(" "))
        }
        Op::MoveNode { node, address } => {
            ("move-node", format!("{} to {address}", names.of(*node)))
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
        Op::Expire { ino, node, .. } => {
            ("expire", format!("i{ino} of {}, which is silent", names.of(*node)))
        }
        Op::DropLocks { node, boot } => {
            ("drop-locks", format!("of {} before its start {boot}", names.of(*node)))
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
        Op::ReturnQuota { quota, bytes, .. } => ("return-quota", format!("i{quota} {bytes} bytes")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_breaks_its_line_or_looks_like_another() {
        assert_eq!(shown("Grüße 1".as_bytes()), "Grüße 1");
        assert_eq!(shown(b"a\nb\x1b[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(shown(b"\xff\xfe.x"), "\\xff\\xfe.x");
        assert_eq!(shown(b"\\xff"), "\\\\xff");
    }
}

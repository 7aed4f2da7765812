//! About how many bytes a command or an entry takes: for limits on batches and messages.

use super::entry::{Entry, EntryKind};
use crate::command::{Body, Command, Kind, Op};

impl Command {
    pub(super) fn size_hint(&self) -> usize {
        let variable = match &self.op {
            Op::SetXattr { name, value, .. } => name.len() + value.len(),
            Op::RemoveXattr { name, .. } => name.len(),
            Op::Publish { body: Body::Inline(bytes), .. } => bytes.len(),
            Op::Make { name, kind: Kind::Symlink(target), .. } => {
                name.as_bytes().len() + target.len()
            }
            Op::Make { name, .. } | Op::Link { name, .. } => name.as_bytes().len(),
            Op::Unlink { name, .. } | Op::Rmdir { name, .. } => name.as_bytes().len(),
            Op::Rename { from_name, to_name, .. } => {
                from_name.as_bytes().len() + to_name.as_bytes().len()
            }
            Op::AdmitNode { node, .. } => {
                node.name.len() + node.zone_name.len() + node.address.len()
            }
            Op::MoveNode { address, .. } => address.len(),
            Op::ShareLocks { locks, .. } => {
                (locks.held().len() + locks.waiting().len()) * LOCK_BYTES
            }
            Op::SetAcl { acl: Some(acl), .. } => 8 * (acl.users.len() + acl.groups.len()),
            Op::Whiteout { from_name, to_name, .. } => {
                from_name.as_bytes().len() + to_name.as_bytes().len()
            }
            Op::CreateJoinToken { zone, .. } => zone.len(),
            _ => 0,
        };
        FIXED + variable
    }
}

impl Entry {
    /// About its bytes.
    pub fn size_hint(&self) -> usize {
        match &self.kind {
            EntryKind::Commands { commands, .. } => {
                FIXED + commands.iter().map(Command::size_hint).sum::<usize>()
            }
            _ => FIXED,
        }
    }
}

/// Two offsets, an owner and a process.
const LOCK_BYTES: usize = 56;
/// Ids, times and numbers of one command.
const FIXED: usize = 96;

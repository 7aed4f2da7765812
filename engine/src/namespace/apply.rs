//! Applies one agreed command.

use super::dedup::{self, Origin};
use super::inode::Inode;
use super::state::State;
use super::tables::{Overlay, Tables, TablesError};
use crate::command::{Command, Name, Op};
use crate::ids::{Gsn, Ino, NodeId, Version};
use crate::locks::{FileLocks, LockOwner};
use crate::outcome::{Outcome, Refusal, Verdict};

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// `None` when the command was skipped and has no outcome: it leaves a gap in its origin's
    /// sequence, comes from an earlier boot or a removed node, or is a duplicate so old that its
    /// outcome is not kept any more.
    pub outcome: Option<Outcome>,
    /// False when the command changed nothing because it was applied before or skipped.
    pub fresh: bool,
    /// What may be cached somewhere and has changed. Empty unless `fresh`.
    pub touched: Vec<Touched>,
}

impl Applied {
    pub fn verdict(&self) -> Verdict {
        match self.outcome {
            None => Verdict::Skipped,
            Some(_) if !self.fresh => Verdict::Repeated,
            Some(Outcome::Refused(refusal)) => Verdict::Refused(refusal),
            Some(Outcome::Waiting) => Verdict::Waiting,
            Some(Outcome::Busy) => Verdict::Busy,
            Some(Outcome::Done | Outcome::Made { .. } | Outcome::Published(_)) => Verdict::Done,
        }
    }
}

/// Something that applying a command changed: what the kernel may have cached, or what a part
/// of the daemon follows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a command touches a handful of things")]
pub enum Touched {
    /// The name appeared, disappeared, or leads to another inode.
    Entry { parent: Ino, name: Name },
    /// Attributes or extended attributes changed.
    Attr { ino: Ino },
    /// Size or bytes changed; `version` is the new one.
    Content { ino: Ino, version: Version },
    /// The last link went; `last` is how it was then, with no links.
    Gone { ino: Ino, last: Inode },
    /// The extended attributes of an inode that goes, as programs see them. [`Touched::Gone`]
    /// follows.
    XattrsGone { ino: Ino, xattrs: Vec<(Vec<u8>, Vec<u8>)> },
    /// The right to write the body changed hands.
    Token { ino: Ino, holder: Option<NodeId> },
    /// A member came, moved, changed its role, or went.
    Members,
    /// A child volume came.
    Volumes,
    /// A node reported how far it holds its bodies.
    Held { node: NodeId },
    /// A request that waited has its lock.
    LockGranted { ino: Ino, owner: LockOwner, ticket: u64 },
    /// A request that waited would do so for ever.
    LockDenied { ino: Ino, owner: LockOwner, ticket: u64 },
    /// The file left the tables while it was locked; `locks` is how. [`Touched::Gone`] follows.
    LocksGone { ino: Ino, locks: FileLocks },
    /// What a start of a node had of a file was freed without it, because its lease had ended;
    /// `waited` are its requests for locks that waited, by owner and ticket.
    /// [`Touched::Content`] follows if it had the write token.
    Expired { ino: Ino, node: NodeId, boot: u64, waited: Vec<(LockOwner, u64)> },
    /// An inode counts for another quota (`Ino(0)` = none), or for other bytes.
    Counted { ino: Ino, quota: Ino, bytes: u64 },
    /// A quota came, changed its limits, state or place, or went.
    Quota { directory: Ino },
    /// A node has so many bytes of a quota set aside: `granted` more than before, or fewer, and
    /// less what its command gave back (`returned`, of which it may not have had all).
    Reserved { quota: Ino, node: NodeId, bytes: u64, granted: u64, returned: u64 },
    /// A node needs what others have reserved of a quota and not used.
    Reclaimed { quota: Ino, by: NodeId },
}

/// Applies the command agreed at `gsn`, after those of smaller GSNs and after the commands
/// before it in the same agreement.
///
/// Every node runs this with the same arguments and must reach the same state, so a refused
/// operation is an [`Outcome::Refused`], never an `Err`. Times come from the command, never
/// from a clock. A refusal changes nothing but the origin's sequence.
///
/// Commands of nodes that were removed are skipped. Commands of nodes that are not members yet are refused with [`Refusal::NotPermitted`], though
/// they take their place in the sequence; the one exception is the first node of a volume,
/// which admits itself while there are no members.
///
/// # Errors
/// [`TablesError`] if the tables cannot be read or decoded. The command changed nothing then.
pub fn apply<T: Tables>(
    tables: &mut Overlay<T>,
    gsn: Gsn,
    command: &Command,
) -> Result<Applied, TablesError> {
    let mut state = State::load(tables, gsn)?;
    if super::departed::is_departed(&mut state, command.id.origin)? {
        return Ok(Applied { outcome: None, fresh: false, touched: Vec::new() });
    }
    match dedup::admit(&mut state, command.id)? {
        dedup::Admission::Skip(outcome) => {
            Ok(Applied { outcome, fresh: false, touched: Vec::new() })
        }
        dedup::Admission::Apply => {
            let outcome = run(&mut state, command)?;
            dedup::remember(&mut state, command.id, &outcome)?;
            Ok(Applied { outcome: Some(outcome), fresh: true, touched: state.finish() })
        }
    }
}

fn run<T: Tables>(state: &mut State<'_, T>, command: &Command) -> Result<Outcome, TablesError> {
    match run_op(state, command) {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Refused(refusal)) => {
            state.revert();
            Ok(Outcome::Refused(refusal))
        }
        Err(Stop::Broken(error)) => Err(error),
    }
}

fn run_op<T: Tables>(state: &mut State<'_, T>, command: &Command) -> Result<Outcome, Stop> {
    if command.time.nanos >= 1_000_000_000 {
        return Err(Refusal::Invalid.into());
    }
    super::member::check_origin(state, command)?;
    match &command.op {
        Op::Noop => Ok(Outcome::Done),
        Op::Make { .. } => super::make::make(state, command),
        Op::Link { ino, parent, name } => super::link::link(state, command, *ino, *parent, name),
        Op::Unlink { parent, name } => super::unlink::unlink(state, command, *parent, name),
        Op::Rmdir { .. } => super::unlink::rmdir(state, command),
        Op::Rename { .. } => super::rename::rename(state, command),
        Op::SetAttr { ino, set } => super::setattr::set_attr(state, command, *ino, set),
        Op::SetXattr { ino, name, value, how } => {
            super::xattr::set(state, command, *ino, name, value, *how)
        }
        Op::RemoveXattr { ino, name } => super::xattr::remove(state, command, *ino, name),
        Op::Publish { .. } => super::publish::publish(state, command),
        Op::TakeToken { ino, node } => super::token::take(state, command, *ino, *node),
        Op::ReleaseToken { ino, node } => super::token::release(state, command, *ino, *node),
        Op::CreateJoinToken { .. } => super::join_token::create(state, command),
        Op::RevokeJoinToken { id } => super::join_token::revoke(state, *id),
        Op::AdmitNode { node, token } => super::member::admit(state, command, node, *token),
        Op::HeldUpto { node, gsn } => super::member::held_upto(state, command, *node, *gsn),
        Op::CreateVolume { .. } => super::volume::create(state, command),
        Op::MoveNode { node, address } => super::member::move_node(state, *node, address),
        Op::Lock { ino, want, wait } => super::lock::lock(state, command, *ino, *want, *wait),
        Op::Unlock { ino, owner, kind, range } => {
            super::lock::unlock(state, command, *ino, (*owner, *kind), *range)
        }
        Op::CancelLock { ino, ticket } => super::lock::cancel(state, command, *ino, *ticket),
        Op::KeepLocks { ino } => super::lock::keep(state, command, *ino),
        Op::ShareLocks { ino, locks, asked } => {
            super::lock::share(state, command, *ino, locks, *asked)
        }
        Op::DropLocks { node, boot } => super::lock::drop_starts(state, command, *node, *boot),
        Op::SetQuota { directory, limits } => {
            super::quota::set(state, command, *directory, *limits)
        }
        Op::MarkQuota { quota, directory, after, through } => {
            super::quota::mark(state, *quota, *directory, *after, *through)
        }
        Op::FinishQuota { quota, began } => super::quota::finish(state, *quota, *began),
        Op::ReserveQuota { quota, needed, wanted } => {
            super::quota::reserve(state, command, *quota, *needed, *wanted)
        }
        Op::ReturnQuota { quota, bytes, answers } => {
            super::quota::give_back(state, command, *quota, *bytes, *answers)
        }
        Op::ReclaimQuota { quota } => {
            state.touch(Touched::Reclaimed { quota: *quota, by: command.id.origin });
            Ok(Outcome::Done)
        }
        Op::SetAcl { ino, kind, acl, kill_sgid } => {
            super::acl::set(state, command, *ino, *kind, acl.as_ref(), *kill_sgid)
        }
        Op::Whiteout { .. } => super::rename::whiteout(state, command),
        Op::MakeUnnamed { .. } => super::unnamed::make(state, command),
        Op::DropUnnamed { ino } => super::unnamed::drop(state, command, *ino),
        Op::ReapUnnamed { limit } => super::unnamed::reap(state, command, *limit),
        Op::SetMember { node, role, draining } => {
            super::member::set_member(state, *node, *role, *draining)
        }
        Op::Expire { ino, node, boot, seq } => super::lease::expire(
            state,
            command,
            *ino,
            *node,
            Origin { boot: *boot, last_seq: *seq },
        ),
    }
}

/// Why an operation does not go on: lets the operations use `?` for both.
pub(super) enum Stop {
    Refused(Refusal),
    Broken(TablesError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<TablesError> for Stop {
    fn from(error: TablesError) -> Stop {
        Stop::Broken(error)
    }
}

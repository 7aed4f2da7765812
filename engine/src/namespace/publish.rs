//! publish: a new version of a body becomes the file's.

use super::FILE_SIZE_MAX;
use super::apply::Stop;
use super::member::is_member;
use super::quota;
use super::setattr::touch_content;
use super::state::State;
use super::tables::Tables;
use super::token;
use crate::command::{Body, Command, Kind, Op};
use crate::ids::{Gsn, Version};
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

/// Takes the body, size and times over; ctime never goes back, nor beyond the command's time.
///
/// `Superseded` if `base` is not the current version: somebody published or truncated in
/// between, and the proposer must look again. `TokenHeld` if another node has the token;
/// without any holder, `base` alone decides. No quota refuses a version: its node reserved
/// the room before it acknowledged the bytes.
pub(super) fn publish<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::Publish { ino, base, body, size, mtime, holder, stored_len, ctime } = &command.op
    else {
        return Err(Refusal::Invalid.into());
    };
    let inode = state.inode(*ino)?;
    match inode.kind {
        Kind::File => {}
        Kind::Directory => return Err(Refusal::IsDirectory.into()),
        _ => return Err(Refusal::Invalid.into()),
    }
    token::check_free_for(state, &inode, command.id.origin)?;
    if *base != inode.version {
        return Err(Refusal::Superseded(inode.version).into());
    }
    if *size > FILE_SIZE_MAX {
        return Err(Refusal::FileTooLarge.into());
    }
    let is_time = |time: &Timestamp| time.nanos < 1_000_000_000;
    if !is_time(mtime) || !is_time(ctime) || !is_member(state, *holder)? {
        return Err(Refusal::Invalid.into());
    }
    let body_len = checked_len(body)?;

    let version = next_version(inode.version, state.gsn);
    let grows = body_len.min(*size).min(*stored_len).saturating_sub(inode.charge());
    quota::spend(state, inode.quota, command.id.origin, grows)?;
    state.change_inode(*ino, |inode| {
        inode.size = *size;
        inode.valid_len = body_len.min(*size);
        inode.stored_len = inode.valid_len.min(*stored_len);
        // Nothing of the body is visible: keep no reference to it.
        let (body, holder) = match inode.valid_len {
            0 => (Body::Empty, None),
            _ => (body.clone(), Some(*holder)),
        };
        inode.body = body;
        inode.holder = holder;
        inode.version = version;
        inode.mtime = *mtime;
        inode.ctime = inode.ctime.max(command.time.min(*ctime));
    })?;
    touch_content(state, *ino)?;
    Ok(Outcome::Published(version))
}

/// The version that a change of content at `gsn` makes: `gsn`, or one more than the current
/// version if that is not smaller. Commands of one agreement share its GSN, and each must get
/// a version of its own: two bodies under one version would be taken for one.
pub(super) fn next_version(current: Version, gsn: Gsn) -> Version {
    Version(gsn.0.max(current.0.saturating_add(1)))
}

fn checked_len(body: &Body) -> Result<u64, Refusal> {
    match body {
        Body::Empty => Ok(0),
        Body::Inline(bytes) if bytes.len() <= Body::INLINE_MAX_BYTES => Ok(bytes.len() as u64),
        Body::Inline(_) => Err(Refusal::Invalid),
        Body::Sealed { len, .. } if *len <= FILE_SIZE_MAX => Ok(*len),
        Body::Sealed { .. } => Err(Refusal::FileTooLarge),
    }
}

//! Members: who belongs to the volume, in which zone, and how far each holds its bodies.

use super::apply::{Stop, Touched};
use super::codec::{Reader, from_cbor, record, to_cbor};
use super::state::State;
use super::tables::{Tables, TablesError};
use super::view::View;
use super::{join_token, keys};
use crate::command::{Command, Member, MemberRole, Op};
use crate::ids::{Gsn, NodeId};
use crate::outcome::{Outcome, Refusal};

/// Longest name of a node or a zone, in bytes: what a DNS label may have.
const LABEL_LEN_MAX: usize = 63;
/// Longest address, in bytes: a DNS name (253), a colon and a port.
const ADDRESS_LEN_MAX: usize = 259;

/// Refuses commands of strangers: `NotPermitted` unless the origin is a member, or admits
/// itself while there are no members. `Draining` if it drains and the command would change the
/// tree: what it has is to become less.
pub(super) fn check_origin<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<(), Stop> {
    if let Some(value) = state.get(keys::member(command.id.origin))? {
        let member: Member = from_cbor(value, "members")?;
        return match member.draining && changes_tree(&command.op) {
            true => Err(Refusal::Draining.into()),
            false => Ok(()),
        };
    }
    let itself = match &command.op {
        Op::AdmitNode { node, token: None } => node.id == command.id.origin,
        _ => false,
    };
    let first = itself && members(state)?.is_empty();
    if first { Ok(()) } else { Err(Refusal::NotPermitted.into()) }
}

/// Makes `node` a member.
///
/// `BadJoinToken` without a good token, unless it is the first member. `IdInUse` if the id
/// was somebody's, or zone id and zone name don't belong together as the other members have
/// them: the proposer takes the next id and tries again. `Exists` if the name or the key is
/// another member's. `Invalid` for unfit names or addresses, and for a first member that is no
/// voter.
pub(super) fn admit<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    node: &Member,
    token: Option<u64>,
) -> Result<Outcome, Stop> {
    check_label(&node.name)?;
    check_label(&node.zone_name)?;
    check_address(&node.address)?;
    let members = members(state)?;
    let fit = !node.draining && (!members.is_empty() || node.role == MemberRole::Voter);
    if node.id == NodeId(0) || !fit {
        return Err(Refusal::Invalid.into());
    }
    match (members.is_empty(), token) {
        (true, None) => {}
        (_, Some(id)) => join_token::spend(state, id, node, command.time)?,
        (false, None) => return Err(Refusal::BadJoinToken.into()),
    }
    // A node that proposed before was a member once. Ids are not given to a second machine:
    // its op ids would be taken for the first one's. The first member numbers itself.
    let was_somebodys = state.get(keys::origin(node.id))?.is_some()
        || state.get(keys::departed(node.id))?.is_some();
    if !members.is_empty() && was_somebodys {
        return Err(Refusal::IdInUse.into());
    }
    for other in &members {
        if other.id == node.id {
            return Err(Refusal::IdInUse.into());
        }
        if other.name == node.name || other.key_hash == node.key_hash {
            return Err(Refusal::Exists.into());
        }
        if (other.zone == node.zone) != (other.zone_name == node.zone_name) {
            return Err(Refusal::IdInUse.into());
        }
    }
    state.put(keys::member(node.id), to_cbor(node))?;
    state.touch(Touched::Members);
    Ok(Outcome::Done)
}

/// `NotFound` if the node is no member, `Invalid` for an unfit address. Any member may say
/// where another one is: a node that moved cannot always reach the ring to say it itself.
pub(super) fn move_node<T: Tables>(
    state: &mut State<'_, T>,
    node: NodeId,
    address: &str,
) -> Result<Outcome, Stop> {
    check_address(address)?;
    let Some(value) = state.get(keys::member(node))? else {
        return Err(Refusal::NotFound.into());
    };
    let mut member: Member = from_cbor(value, "members")?;
    if member.address != address {
        member.address = address.to_owned();
        state.put(keys::member(node), to_cbor(&member))?;
        state.touch(Touched::Members);
    }
    Ok(Outcome::Done)
}

/// Changes what a member is for, or whether it drains. `NotFound` if it is no member, `Invalid`
/// for making a witness of a node that was none, or the reverse: a witness has no bodies to
/// become anything else with. Any member may ask: the operator speaks through it.
pub(super) fn set_member<T: Tables>(
    state: &mut State<'_, T>,
    node: NodeId,
    role: Option<MemberRole>,
    draining: Option<bool>,
) -> Result<Outcome, Stop> {
    let Some(value) = state.get(keys::member(node))? else {
        return Err(Refusal::NotFound.into());
    };
    let before: Member = from_cbor(value, "members")?;
    let role = role.unwrap_or(before.role);
    if (role == MemberRole::Witness) != (before.role == MemberRole::Witness) {
        return Err(Refusal::Invalid.into());
    }
    let member = Member { role, draining: draining.unwrap_or(before.draining), ..before.clone() };
    if member != before {
        state.put(keys::member(node), to_cbor(&member))?;
        state.touch(Touched::Members);
    }
    Ok(Outcome::Done)
}

/// Moves the node's watermark; one that is behind what it said before changes nothing.
/// `NotPermitted` for another node's, `Invalid` for a GSN that is not agreed yet.
pub(super) fn held_upto<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    node: NodeId,
    gsn: Gsn,
) -> Result<Outcome, Stop> {
    if node != command.id.origin {
        return Err(Refusal::NotPermitted.into());
    }
    if gsn > state.gsn {
        return Err(Refusal::Invalid.into());
    }
    let key = keys::held(node);
    let before = state.get(key.clone())?.map(decode_held).transpose()?.unwrap_or_default();
    if gsn > before {
        let mut value = record(8);
        value.extend_from_slice(&gsn.0.to_be_bytes());
        state.put(key, value)?;
        state.touch(Touched::Held { node });
    }
    Ok(Outcome::Done)
}

pub(super) fn decode_held(value: &[u8]) -> Result<Gsn, TablesError> {
    let mut reader = Reader::new(value, "held")?;
    let gsn = Gsn(reader.u64()?);
    reader.end()?;
    Ok(gsn)
}

pub(super) fn is_member<T: Tables>(
    state: &mut State<'_, T>,
    node: NodeId,
) -> Result<bool, TablesError> {
    Ok(state.get(keys::member(node))?.is_some())
}

/// Names of nodes and zones are shown in tables and used in file names: printable, without
/// spaces and slashes, 1 to [`LABEL_LEN_MAX`] bytes.
pub(super) fn check_label(label: &str) -> Result<(), Refusal> {
    let fit = label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'));
    let len_fits = (1..=LABEL_LEN_MAX).contains(&label.len());
    if fit && len_fits && !label.starts_with('.') { Ok(()) } else { Err(Refusal::Invalid) }
}

fn check_address(address: &str) -> Result<(), Refusal> {
    let len_fits = (1..=ADDRESS_LEN_MAX).contains(&address.len());
    if len_fits && address.chars().all(|c| c.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(Refusal::Invalid)
    }
}

/// What a mount asks for, as opposed to what finishes or reports earlier work.
fn changes_tree(op: &Op) -> bool {
    matches!(
        op,
        Op::Make { .. }
            | Op::Link { .. }
            | Op::Unlink { .. }
            | Op::Rmdir { .. }
            | Op::Rename { .. }
            | Op::SetAttr { .. }
            | Op::SetXattr { .. }
            | Op::RemoveXattr { .. }
            | Op::TakeToken { .. }
            | Op::SetAcl { .. }
            | Op::Whiteout { .. }
            | Op::MakeUnnamed { .. }
    )
}

/// The members before this command.
fn members<T: Tables>(state: &State<'_, T>) -> Result<Vec<Member>, TablesError> {
    View(state.before()).members()
}

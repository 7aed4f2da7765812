//! Members: who belongs to the volume, in which zone, and how far each holds its bodies.

use super::apply::{Stop, Touched};
use super::codec::{Reader, from_cbor, record, to_cbor};
use super::state::State;
use super::tables::{Tables, TablesError};
use super::view::View;
use super::{join_token, keys};
use crate::command::{Command, Member, Op};
use crate::ids::{Gsn, NodeId};
use crate::outcome::{Outcome, Refusal};

/// Longest name of a node or a zone, in bytes: what a DNS label may have.
const LABEL_LEN_MAX: usize = 63;
/// Longest address, in bytes: a DNS name (253), a colon and a port.
const ADDRESS_LEN_MAX: usize = 259;

/// Refuses commands of strangers: `NotPermitted` unless the origin is a member, or admits
/// itself while there are no members.
pub(super) fn check_origin<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<(), Stop> {
    if is_member(state, command.id.origin)? {
        return Ok(());
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
/// another member's. `Invalid` for unfit names or addresses.
pub(super) fn admit<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
    node: &Member,
    token: Option<u64>,
) -> Result<Outcome, Stop> {
    check_label(&node.name)?;
    check_label(&node.zone_name)?;
    check_address(&node.address)?;
    if node.id == NodeId(0) {
        return Err(Refusal::Invalid.into());
    }
    let members = members(state)?;
    match (members.is_empty(), token) {
        (true, None) => {}
        (_, Some(id)) => join_token::spend(state, id, &node.zone_name, command.time)?,
        (false, None) => return Err(Refusal::BadJoinToken.into()),
    }
    // A node that proposed before was a member once. Ids are not given to a second machine:
    // its op ids would be taken for the first one's. The first member numbers itself.
    if !members.is_empty() && state.get(keys::origin(node.id))?.is_some() {
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

/// The members before this command.
fn members<T: Tables>(state: &State<'_, T>) -> Result<Vec<Member>, TablesError> {
    View(state.before()).members()
}

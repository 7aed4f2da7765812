//! Rights to join: made by `fusion token create`, used up by the node that joins.

use minicbor::{Decode, Encode};

use super::apply::Stop;
use super::codec::to_cbor;
use super::keys;
use super::state::State;
use super::tables::Tables;
use crate::command::{Command, Member, MemberRole, Op};
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

/// A right to join one zone once. The secret is not here: an admitting node compares its hash
/// before it proposes the admission.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct JoinToken {
    /// BLAKE3 of the secret.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub secret_hash: [u8; 32],
    /// The name of the zone that the new node will be in.
    #[n(1)]
    pub zone: String,
    /// Compared with the time of the admitting command.
    #[n(2)]
    pub expires: Timestamp,
    /// What the new node will be.
    #[n(3)]
    #[cbor(default)]
    pub role: MemberRole,
}

/// `IdInUse` if the id is taken, `Invalid` if the zone's name is unfit.
pub(super) fn create<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::CreateJoinToken { id, secret_hash, zone, expires, role } = &command.op else {
        return Err(Refusal::Invalid.into());
    };
    super::member::check_label(zone)?;
    if expires.nanos >= 1_000_000_000 {
        return Err(Refusal::Invalid.into());
    }
    if state.get(keys::join_token(*id))?.is_some() {
        return Err(Refusal::IdInUse.into());
    }
    let token =
        JoinToken { secret_hash: *secret_hash, zone: zone.clone(), expires: *expires, role: *role };
    state.put(keys::join_token(*id), to_cbor(&token))?;
    Ok(Outcome::Done)
}

/// `BadJoinToken` if there is none: it was used, revoked before, or never made.
pub(super) fn revoke<T: Tables>(state: &mut State<'_, T>, id: u64) -> Result<Outcome, Stop> {
    if state.get(keys::join_token(id))?.is_none() {
        return Err(Refusal::BadJoinToken.into());
    }
    state.delete(keys::join_token(id))?;
    Ok(Outcome::Done)
}

/// Uses up the token: `BadJoinToken` unless it exists, is not expired at the command's time,
/// and is for that zone and role.
pub(super) fn spend<T: Tables>(
    state: &mut State<'_, T>,
    id: u64,
    node: &Member,
    time: Timestamp,
) -> Result<(), Stop> {
    let Some(value) = state.get(keys::join_token(id))? else {
        return Err(Refusal::BadJoinToken.into());
    };
    let token: JoinToken = super::codec::from_cbor(value, "join tokens")?;
    if token.expires < time || token.zone != node.zone_name || token.role != node.role {
        return Err(Refusal::BadJoinToken.into());
    }
    state.delete(keys::join_token(id))?;
    Ok(())
}

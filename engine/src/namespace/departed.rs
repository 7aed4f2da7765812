//! Nodes that were removed: what is left of them, and what is not.

use std::collections::BTreeSet;

use minicbor::{Decode, Encode};

use super::apply::Touched;
use super::codec::{from_cbor, to_cbor};
use super::keys;
use super::state::State;
use super::tables::{Overlay, Tables, TablesError};
use crate::command::Member;
use crate::ids::{Gsn, NodeId};

/// What the tables remember of a removed node, for ever: its id is not given to another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Departed {
    /// The agreement that removed it.
    #[n(0)]
    pub gsn: Gsn,
    #[n(1)]
    pub name: String,
    #[n(2)]
    pub zone_name: String,
    /// With the key it would be recognized also under another id.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub key_hash: [u8; 32],
}

/// Takes out of the tables whoever of `removed` is still in them, at the agreement that made
/// `removed` part of the ring's membership.
///
/// Everything that a member owns goes with its row: its locks, its quota reservations and its
/// files without a name are given up, its write tokens are free because their holder is no
/// member, and its sequence, its outcomes and its watermark are deleted. Its later commands are
/// skipped.
///
/// # Errors
/// [`TablesError`] if the tables cannot be read or decoded.
pub fn retire<T: Tables>(
    tables: &mut Overlay<T>,
    gsn: Gsn,
    removed: &BTreeSet<NodeId>,
) -> Result<Vec<Touched>, TablesError> {
    let mut state = State::load(tables, gsn)?;
    for &node in removed {
        let Some(value) = state.get(keys::member(node))? else { continue };
        let Member { name, zone_name, key_hash, .. } = from_cbor(value, "members")?;
        let departed = Departed { gsn, name, zone_name, key_hash };
        state.put(keys::departed(node), to_cbor(&departed))?;
        let mut owned = vec![keys::member(node), keys::held(node), keys::origin(node)];
        state.before().scan(&keys::outcomes(node), &[], &mut |key, _| {
            owned.push(key.to_vec());
            true
        })?;
        owned.into_iter().try_for_each(|key| state.delete(key))?;
        state.touch(Touched::Members);
        super::lock::forget_node(&mut state, node)?;
        super::quota::forget_node(&mut state, node)?;
        super::unnamed::forget_node(&mut state, node)?;
    }
    Ok(state.finish())
}

pub(super) fn is_departed<T: Tables>(
    state: &mut State<'_, T>,
    node: NodeId,
) -> Result<bool, TablesError> {
    Ok(state.get(keys::departed(node))?.is_some())
}

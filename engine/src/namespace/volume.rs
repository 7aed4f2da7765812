//! Child volumes: which there are, and which members of the cluster take part in each. Kept
//! by the root volume; each child has tables, a ring and an order of its own.

use minicbor::{Decode, Encode};

use super::apply::{Stop, Touched};
use super::codec::to_cbor;
use super::keys;
use super::state::State;
use super::tables::{Tables, TablesError};
use super::view::View;
use crate::command::{Command, Op};
use crate::ids::{NodeId, VolumeId};
use crate::outcome::{Outcome, Refusal};
use crate::time::Timestamp;

/// A child volume, as the root volume knows it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct VolumeRecord {
    #[n(0)]
    pub name: String,
    /// Who takes part, ascending. The first tables are made by the `creator`; the others get
    /// them with their first checkpoint, so that the volume's key is known to no other node.
    #[n(1)]
    pub members: Vec<NodeId>,
    #[n(2)]
    pub creator: NodeId,
    /// Owner of the root directory.
    #[n(3)]
    pub uid: u32,
    #[n(4)]
    pub gid: u32,
    #[n(5)]
    pub created: Timestamp,
}

/// Volumes of one cluster at most: each costs every member threads and an idle heartbeat.
const VOLUMES_MAX: usize = 256;

/// `Invalid` for an unfit name, no members, or a creator that is none of them; `NotFound` if
/// a node is no member of the cluster; `Exists` if the name is taken, `IdInUse` if the id is;
/// `NoSpace` beyond [`VOLUMES_MAX`].
pub(super) fn create<T: Tables>(
    state: &mut State<'_, T>,
    command: &Command,
) -> Result<Outcome, Stop> {
    let Op::CreateVolume { id, name, members, creator } = &command.op else {
        return Err(Refusal::Invalid.into());
    };
    super::member::check_label(name)?;
    let ascending = members.windows(2).all(|pair| pair[0] < pair[1]);
    if *id <= VolumeId::ROOT || !ascending || !members.contains(creator) {
        return Err(Refusal::Invalid.into());
    }
    for member in members {
        if !super::member::is_member(state, *member)? {
            return Err(Refusal::NotFound.into());
        }
    }
    let volumes = volumes(state)?;
    if volumes.iter().any(|(other, _)| other == id) {
        return Err(Refusal::IdInUse.into());
    }
    if volumes.iter().any(|(_, other)| other.name == *name) {
        return Err(Refusal::Exists.into());
    }
    if volumes.len() >= VOLUMES_MAX {
        return Err(Refusal::NoSpace.into());
    }
    let record = VolumeRecord {
        name: name.clone(),
        members: members.clone(),
        creator: *creator,
        uid: command.cred.uid,
        gid: command.cred.gid,
        created: command.time,
    };
    state.put(keys::volume(*id), to_cbor(&record))?;
    state.touch(Touched::Volumes);
    Ok(Outcome::Done)
}

/// The volumes before this command.
fn volumes<T: Tables>(state: &State<'_, T>) -> Result<Vec<(VolumeId, VolumeRecord)>, TablesError> {
    View(state.before()).volumes()
}

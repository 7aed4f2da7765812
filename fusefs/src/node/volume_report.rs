//! Volumes, for people: making one, and how this node does in each.

use engine::command::{Member, Op};
use engine::ids::{NodeId, VolumeId};
use engine::outcome::{Outcome, Refusal};

use super::report::{node_name, state};
use super::setup::failed;
use super::volume::{ROOT_NAME, Volume, Volumes};
use crate::admin::control::ControlError;
use crate::admin::report::{VolumeHere, VolumeReport};

/// Two nodes that make volumes at once pick the same id: the loser tries again.
const ID_ATTEMPTS: usize = 16;

/// Has a volume of these nodes agreed; no names: of all.
///
/// # Errors
/// `Usage` for a name that does not fit or a node that is none, `Refused` if the name is
/// taken.
pub async fn create(
    root: &Volume,
    name: String,
    nodes: Vec<String>,
) -> Result<VolumeReport, ControlError> {
    if !wire::identity::is_valid_name(&name) {
        return Err(ControlError::usage(format!("'{name}' cannot name a volume"))
            .hint("use 1 to 63 of a-z, 0-9, '-', '_' and '.'"));
    }
    if name == ROOT_NAME {
        return Err(ControlError::refused("the volume 'root' exists from the beginning"));
    }
    for _ in 0..ID_ATTEMPTS {
        let view = root.ring.view();
        let cluster = view.members().map_err(failed)?;
        let members = chosen(&cluster, &nodes)?;
        // Those who make it may be cut off; its creator makes the tables when it is back.
        let me = root.ring.me();
        let creator = if members.contains(&me) { me } else { members[0] };
        let highest = view.volumes().map_err(failed)?.last().map_or(VolumeId::ROOT, |(id, _)| *id);
        let id = VolumeId(highest.0 + 1);
        let op = Op::CreateVolume { id, name: name.clone(), members: members.clone(), creator };
        match root.proposals.propose_and_wait(op).await.map_err(failed)? {
            Outcome::Refused(Refusal::IdInUse) => {}
            Outcome::Refused(Refusal::Exists) => {
                return Err(ControlError::refused(format!("there is a volume '{name}' already"))
                    .hint("`fusion volume list` shows them"));
            }
            Outcome::Refused(refusal) => return Err(ControlError::refused(refusal.to_string())),
            _ => {
                let nodes = members.iter().map(|node| node_name(&cluster, *node)).collect();
                return Ok(VolumeReport { id: id.0, name, nodes, here: None });
            }
        }
    }
    Err(ControlError::failed("too many volumes are being made at once").hint("try again"))
}

/// The nodes that are meant by `names`, ascending.
fn chosen(cluster: &[Member], names: &[String]) -> Result<Vec<NodeId>, ControlError> {
    if names.is_empty() {
        return Ok(cluster.iter().map(|member| member.id).collect());
    }
    let mut nodes = Vec::new();
    for name in names {
        let member = cluster.iter().find(|member| member.name == *name).ok_or_else(|| {
            ControlError::usage(format!("no node is named '{name}'"))
                .hint("`fusion status` lists the nodes")
        })?;
        nodes.push(member.id);
    }
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}

/// The root volume, and every child volume of the cluster.
pub fn list(root: &Volume, volumes: &Volumes) -> Result<Vec<VolumeReport>, ControlError> {
    let view = root.ring.view();
    let cluster = view.members().map_err(failed)?;
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| node_name(&cluster, *node)).collect();
    let mut reports = vec![VolumeReport {
        id: VolumeId::ROOT.0,
        name: ROOT_NAME.to_owned(),
        nodes: cluster.iter().map(|member| member.name.clone()).collect(),
        here: Some(here(root, &cluster)),
    }];
    for (id, record) in view.volumes().map_err(failed)? {
        reports.push(VolumeReport {
            id: id.0,
            name: record.name,
            nodes: names(&record.members),
            here: volumes.get(id).map(|volume| here(&volume, &cluster)),
        });
    }
    Ok(reports)
}

fn here(volume: &Volume, cluster: &[Member]) -> VolumeHere {
    let (gsn, hash) = volume.pulse.newest_hash();
    let header = volume.pulse.header();
    let agreed = volume.pulse.agreed();
    VolumeHere {
        epoch: header.config.epoch.0,
        voters: header.config.voters.keys().map(|node| node_name(cluster, *node)).collect(),
        state: state(&volume.pulse, agreed.0 - gsn.0),
        gsn_applied: gsn.0,
        gsn_agreed: agreed.0,
        state_hash: hash.to_hex(),
        mounts: volume.mounts.list(),
    }
}

//! Waiting for a place in the order: on this node, on the nodes of a zone, on all.

use std::sync::Arc;
use std::time::Duration;

use engine::command::Member;
use engine::ids::{Gsn, NodeId};
use tokio::task::JoinSet;
use wire::{Ask, Request, Response, Wire};

use super::setup::failed;
use super::volume::Volume;
use crate::admin::control::{ControlError, WaitQuery};
use crate::admin::report::{Reached, ReachedNode};

/// A question that waits on the other node is answered after so long at most, so that one
/// side notices when the other has gone.
const ASK_WAIT: Duration = Duration::from_secs(5);
/// A node that could not be asked is asked again after so long.
const ASK_AGAIN: Duration = Duration::from_millis(200);

impl Volume {
    /// Waits until this node has applied `gsn`, and with `bodies` holds every body that it
    /// should up to there. False when the volume stops first.
    pub async fn reach(&self, gsn: Gsn, bodies: bool) -> bool {
        let mut applied = self.pulse.watch_applied();
        if applied.wait_for(|applied| *applied >= gsn).await.is_err() {
            return false;
        }
        if bodies {
            self.bodies.hold_upto(gsn).await;
        }
        true
    }
}

/// Waits for what `query` names; as long as the caller stays.
///
/// # Errors
/// `Usage` for a zone without nodes or a GSN that is not agreed yet.
pub async fn wait(
    volume: &Arc<Volume>,
    wire: &Arc<Wire>,
    query: WaitQuery,
) -> Result<Reached, ControlError> {
    let gsn = Gsn(query.gsn);
    let members = volume.ring.view().members().map_err(failed)?;
    let me = volume.ring.me();
    let meant = |member: &Member| match (&query.zone, query.all) {
        (Some(zone), _) => member.zone_name == *zone,
        (None, true) => true,
        (None, false) => member.id == me,
    };
    let meant: Vec<Member> = members.into_iter().filter(meant).collect();
    if meant.is_empty() {
        let zone = query.zone.unwrap_or_default();
        return Err(ControlError::usage(format!("no node is in a zone '{zone}'"))
            .hint("`fusion status` lists the zones"));
    }
    let mut asked = JoinSet::new();
    for member in &meant {
        let (volume, wire, node) = (volume.clone(), wire.clone(), member.id);
        asked.spawn(async move {
            if node == me {
                return volume.reach(gsn, query.bodies).await;
            }
            ask_until_reached(&volume, &wire, node, gsn, query.bodies).await;
            true
        });
    }
    while let Some(reached) = asked.join_next().await {
        if !reached.map_err(failed)? {
            return Err(ControlError::failed("this node stopped"));
        }
    }
    let nodes = meant
        .into_iter()
        .map(|member| ReachedNode { node: member.name, zone: member.zone_name })
        .collect();
    Ok(Reached { gsn: gsn.0, bodies: query.bodies, nodes })
}

async fn ask_until_reached(volume: &Volume, wire: &Wire, node: NodeId, gsn: Gsn, bodies: bool) {
    loop {
        let wait_ms = u32::try_from(ASK_WAIT.as_millis()).expect("seconds");
        let ask = Ask::Reached { gsn, bodies, wait_ms };
        let request = Request::new(volume.id, volume.pulse.applied(), ask);
        match tokio::time::timeout(2 * ASK_WAIT, wire.call(node, request)).await {
            Ok(Ok(Response::At(reached))) if reached >= gsn => return,
            // It waited with us; it has not come there yet.
            Ok(Ok(Response::At(_))) => {}
            // Not there, or too busy: the connection comes back by itself.
            _ => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

/// Answers [`Ask::Reached`]: `gsn` or more when it is reached, less when it was not in time.
pub async fn answer(volume: &Volume, gsn: Gsn, bodies: bool, wait_ms: u32) -> Response {
    let wait = Duration::from_millis(wait_ms.into()).min(ASK_WAIT);
    match tokio::time::timeout(wait, volume.reach(gsn, bodies)).await {
        Ok(true) => Response::At(gsn),
        _ => Response::At(volume.pulse.applied().min(Gsn(gsn.0.saturating_sub(1)))),
    }
}

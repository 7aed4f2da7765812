//! What fsync(2) waits for beyond this node's disk: that the version is agreed, and that other
//! nodes have its bytes.
//!
//! Holders are asked directly ([`Ask::Hold`]) and answer when they have the bytes, so that the
//! wait is the transfer and about a round trip, not the seconds until a watermark tells.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::{Body, Member};
use engine::ids::{Gsn, Ino, NodeId, Version, ZoneId};
use engine::namespace::Inode;
use tokio::task::JoinSet;
use wire::{Ask, Class, Response};

use super::BodyService;
use super::error::tables;
use super::fetch::Remote;
use super::layer::LayerId;
use super::state::State;
use super::table::OpenBody;
use crate::ops::ports::{BodyError, Demand, Done, ProposeError};
use crate::ops::rules::{Durability, Partition};

/// How often a wait looks for a signal and at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A holder that did not answer, or not yet, is asked again: when a peer comes up, or after this.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// One question waits no longer, so that a holder does not keep the questions of askers that
/// have gone.
const HOLD_MAX: Duration = Duration::from_secs(20);

impl BodyService {
    /// Waits until what was written to the file before the call is as durable as demanded. The
    /// caller has made it durable here.
    ///
    /// # Errors
    /// When it cannot become so (the version was refused, too few zones), when a signal came,
    /// or after `op_timeout` where the directory's rule says so.
    pub(super) async fn secure(
        self: &Arc<Self>,
        ino: Ino,
        demand: Demand,
    ) -> Result<(), BodyError> {
        if demand.durability == Durability::Local {
            return Ok(());
        }
        let body = self.table.find_or_add(ino);
        let published = self.while_waiting(&demand, self.publish_all(&body)).await;
        self.table.forget_if_idle(body);
        published??;
        if demand.durability == Durability::Agreed {
            return Ok(());
        }
        let inode = self.ring.view().inode(ino).map_err(tables)?;
        // Without names there is nothing for others to hold.
        let Some(inode) = inode else { return Ok(()) };
        self.while_waiting(&demand, self.confirm(ino, inode, demand.durability)).await?
    }

    /// As [`crate::ops::ports::Bodies::publish_file`].
    pub(super) fn publish_body(self: &Arc<Self>, ino: Ino, done: Done<(), BodyError>) {
        let service = Arc::clone(self);
        self.runtime.spawn(async move {
            let body = service.table.find_or_add(ino);
            let named = body.state(&*service.ring, &service.stages, None);
            let named = named.map(|mut state| state.unnamed = false);
            let result = match named {
                Ok(()) => service.publish_all(&body).await,
                Err(error) => Err(error),
            };
            service.table.forget_if_idle(body);
            done(result);
        });
    }

    /// Seals and publishes what was written until now.
    async fn publish_all(&self, body: &OpenBody) -> Result<(), BodyError> {
        let layers = |state: &State| -> Vec<LayerId> {
            let sealing = state.sealing.as_ref().map(|sealing| sealing.frozen.layer.id());
            let top = state.top.as_ref().map(|top| top.layer.id());
            sealing.into_iter().chain(top).collect()
        };
        let written = layers(&*body.state(&*self.ring, &self.stages, None)?);
        let (Some(&first), Some(&last)) = (written.first(), written.last()) else { return Ok(()) };
        loop {
            // Registered before the look, so that no news is missed.
            let settled = body.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            {
                let state = body.state(&*self.ring, &self.stages, None)?;
                if !state.is_published() {
                    return Ok(());
                }
                if state.given_up.is_some_and(|layer| layer >= first) {
                    let refused = "another version came first; see `fusion conflicts`";
                    return Err(BodyError::Storage(refused.into()));
                }
                if !layers(&state).iter().any(|layer| *layer <= last) {
                    return Ok(());
                }
            }
            self.queue.add(body.ino, Instant::now());
            settled.await;
        }
    }

    /// Waits until enough other nodes say that they have a version.
    async fn confirm(
        self: &Arc<Self>,
        ino: Ino,
        inode: Inode,
        durability: Durability,
    ) -> Result<(), BodyError> {
        let members = self.takers()?;
        let wanted = Wanted::new(durability, self.ring.me(), &members)?;
        let mut confirmed = BTreeSet::new();
        for (node, upto) in self.ring.view().held().map_err(tables)? {
            if upto.0 >= inode.version.0 {
                confirmed.insert(node);
            }
        }
        let mut asking = JoinSet::new();
        for &(node, _) in &wanted.candidates {
            if !confirmed.contains(&node) {
                let (service, ask) = (Arc::clone(self), hold(ino, &inode));
                asking.spawn(async move { service.ask_to_hold(node, ask).await });
            }
        }
        while !wanted.is_met_by(&confirmed) {
            match asking.join_next().await {
                Some(Ok(node)) => drop(confirmed.insert(node)),
                Some(Err(error)) => return Err(BodyError::Storage(error.to_string())),
                None => return Err(BodyError::Storage("the members changed meanwhile".into())),
            }
        }
        Ok(())
    }

    /// Asks until the node says that it has it.
    async fn ask_to_hold(self: Arc<Self>, node: NodeId, ask: Ask) -> NodeId {
        loop {
            // Registered before the question, so that no peer's coming is missed.
            let peers = self.peers_changed.notified();
            tokio::pin!(peers);
            peers.as_mut().enable();
            let answer = self.ask(node, ask.clone(), Class::OnDemand).await;
            if matches!(answer, Some(Response::At(_))) {
                return node;
            }
            let _ = tokio::time::timeout(ASK_AGAIN, peers).await;
        }
    }

    /// The other side: waits until this node has applied `agreed` and holds the body, and says
    /// how far it has applied. `None` if that takes too long.
    pub(super) async fn hold(
        self: &Arc<Self>,
        ino: Ino,
        agreed: Gsn,
        remote: Option<Remote>,
    ) -> Result<Option<Gsn>, BodyError> {
        let held = tokio::time::timeout(HOLD_MAX, async {
            let mut applied = self.applied.subscribe();
            // The sender lives as long as the service.
            let _ = applied.wait_for(|applied| *applied >= agreed).await;
            if let Some(remote) = remote {
                self.fetch_now(ino, remote).await?;
            }
            // Bytes that travel in the command are held when the tables are.
            let store = self.store.clone();
            let synced = tokio::task::spawn_blocking(move || store.sync()).await;
            let synced = synced.map_err(|error| BodyError::Storage(error.to_string()))?;
            synced.map_err(super::error::stored)?;
            Ok(self.ring.applied_gsn())
        });
        held.await.ok().transpose()
    }

    /// Fetches a body ahead of the background's, unless that is at it already.
    async fn fetch_now(self: &Arc<Self>, ino: Ino, remote: Remote) -> Result<(), BodyError> {
        loop {
            let arrived = self.body_arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.holds(remote.id) {
                return Ok(());
            }
            let want = self.wants.lock().list.take_this(ino, remote.id);
            match want {
                Some(want) => {
                    let fetched = self.fetch_whole(remote).await;
                    self.fetched(&want, fetched);
                }
                None => drop(tokio::time::timeout(ASK_AGAIN, arrived).await),
            }
        }
    }

    /// Runs a wait that a signal ends, and time where the rule says so. What it waits for goes
    /// on.
    async fn while_waiting<T>(
        &self,
        demand: &Demand,
        wait: impl Future<Output = T>,
    ) -> Result<T, BodyError> {
        let began = Instant::now();
        tokio::pin!(wait);
        loop {
            match tokio::time::timeout(LOOK_EVERY, wait.as_mut()).await {
                Ok(done) => return Ok(done),
                Err(_) if demand.caller.is_interrupted() => {
                    return Err(ProposeError::Interrupted.into());
                }
                Err(_) => {}
            }
            let waited = began.elapsed();
            if demand.partition != Partition::Wait && waited >= self.settings.op_timeout {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                return Err(ProposeError::NoQuorum { waited_ms }.into());
            }
        }
    }
}

fn hold(ino: Ino, inode: &Inode) -> Ask {
    let (body, len) = match inode.body {
        Body::Sealed { id, len } => (Some(id), len),
        Body::Empty | Body::Inline(_) => (None, 0),
    };
    Ask::Hold { ino, version: inode.version, body, len }
}

/// As a question tells of a body.
pub(super) fn remote(
    id: engine::ids::BodyId,
    len: u64,
    version: Version,
    holder: NodeId,
) -> Remote {
    Remote { id, len, version, holder: Some(holder) }
}

/// Who has to confirm.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    candidates: Vec<(NodeId, ZoneId)>,
    /// Different zones among those that confirm; or, for `Zone`, one node.
    count: usize,
}

impl Wanted {
    /// # Errors
    /// When the cluster cannot do it, whoever is up: waiting would not help.
    fn new(durability: Durability, me: NodeId, members: &[Member]) -> Result<Wanted, BodyError> {
        let zone = members.iter().find(|member| member.id == me).map(|member| member.zone);
        let others = |wanted: &dyn Fn(ZoneId) -> bool| -> Vec<(NodeId, ZoneId)> {
            let others = members.iter().filter(|member| member.id != me && wanted(member.zone));
            others.map(|member| (member.id, member.zone)).collect()
        };
        let elsewhere = others(&|other| Some(other) != zone);
        let zones = elsewhere.iter().map(|(_, zone)| zone).collect::<BTreeSet<_>>().len();
        let (candidates, count) = match durability {
            Durability::Local | Durability::Agreed => (Vec::new(), 0),
            Durability::Zone => {
                let here = others(&|other| Some(other) == zone);
                (if here.is_empty() { elsewhere } else { here }, 1)
            }
            Durability::Zones(count) => (elsewhere, usize::from(count) - 1),
            Durability::All => (elsewhere, zones),
        };
        let possible = candidates.iter().map(|(_, zone)| zone).collect::<BTreeSet<_>>().len();
        if possible < count {
            let few = format!("durability={durability} needs more zones or nodes than there are");
            return Err(BodyError::Storage(few));
        }
        Ok(Wanted { candidates, count })
    }

    fn is_met_by(&self, confirmed: &BTreeSet<NodeId>) -> bool {
        let zones = self.candidates.iter().filter(|(node, _)| confirmed.contains(node));
        zones.map(|(_, zone)| zone).collect::<BTreeSet<_>>().len() >= self.count
    }
}

#[cfg(test)]
mod tests {
    use engine::command::MemberRole;

    use super::*;

    /// Nodes 1 and 2 in zone 1, node 3 in zone 2, node 4 in zone 3.
    fn members() -> Vec<Member> {
        let member = |(id, zone): (u16, u16)| Member {
            id: NodeId(id),
            name: String::new(),
            zone: ZoneId(zone),
            zone_name: String::new(),
            address: String::new(),
            key_hash: [0; 32],
            role: MemberRole::Voter,
            draining: false,
        };
        [(1, 1), (2, 1), (3, 2), (4, 3)].map(member).to_vec()
    }

    fn is_met(durability: Durability, me: u16, confirmed: &[u16]) -> bool {
        let wanted = Wanted::new(durability, NodeId(me), &members()).expect("it is possible");
        wanted.is_met_by(&confirmed.iter().map(|node| NodeId(*node)).collect())
    }

    #[test]
    fn a_second_node_of_the_zone_counts_and_elsewhere_any_where_there_is_none() {
        assert!(is_met(Durability::Zone, 1, &[2]));
        assert!(!is_met(Durability::Zone, 1, &[3, 4]));
        assert!(is_met(Durability::Zone, 3, &[1]));
    }

    #[test]
    fn zones_count_once_and_the_own_one_is_there_already() {
        assert!(!is_met(Durability::Zones(2), 1, &[2]));
        assert!(is_met(Durability::Zones(2), 1, &[3]));
        assert!(!is_met(Durability::Zones(3), 3, &[1, 2]));
        assert!(is_met(Durability::Zones(3), 3, &[1, 4]));
        assert!(!is_met(Durability::All, 3, &[1, 2]));
        assert!(is_met(Durability::All, 3, &[2, 4]));
        assert!(is_met(Durability::Agreed, 3, &[]));
    }

    #[test]
    fn what_no_member_can_give_is_refused_at_once() {
        let members = members();
        assert!(Wanted::new(Durability::Zones(4), NodeId(1), &members).is_err());
        assert!(Wanted::new(Durability::Zone, NodeId(1), &members[..1]).is_err());
        assert!(Wanted::new(Durability::All, NodeId(1), &members[..1]).is_ok());
    }
}

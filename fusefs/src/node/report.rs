//! The node's account of itself and of its cluster, for people.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::command::{Member, MemberRole};
use engine::ids::{NodeId, VolumeId};
use engine::namespace::{TablesError, View};
use store::{SnapshotTables, Store};
use wire::Wire;

use super::gossip::Gossip;
use super::pulse::{CatchUp, Cure, Pulse};
use super::setup::cluster_text;
use super::votes::tolerance;
use crate::admin::report::{
    CatchUpReport, DepartedReport, Lag, LaneReport, LinkReport, NodeReport, NodeState, RingReport,
    Role, Status,
};
use crate::body::BodyService;
use crate::ops::ports::{self, Ring};

/// Makes this node's own line for a volume, also while peers cannot be reached.
pub struct Reporter {
    pub ring: Arc<dyn Ring>,
    pub pulse: Arc<Pulse>,
    pub bodies: Arc<BodyService>,
    /// To name the members also when the node does not believe its tables any more.
    pub store: Store,
    pub volume: VolumeId,
}

/// Farther behind the newest agreement than this, a node counts as catching up.
const CATCHING_UP_GSN: u64 = 1000;

impl Reporter {
    pub fn own(&self) -> Result<Option<NodeReport>, TablesError> {
        let view = self.view()?;
        let Some(member) = view.member(self.ring.me())? else { return Ok(None) };
        let (gsn, hash) = self.pulse.newest_hash();
        let agreed = self.pulse.agreed();
        let progress = self.bodies.progress();
        let retained = self.pulse.retained();
        let catch_up = self.pulse.catch_up().map(|catch_up| match catch_up {
            CatchUp::Log { upto, .. } => CatchUpReport::Log { done: gsn.0, upto: upto.0 },
            CatchUp::Checkpoint { peer, gsn, bytes, total_bytes } => {
                let from = view.member(peer).ok().flatten();
                let from = from.map_or_else(|| peer.to_string(), |member| member.name);
                CatchUpReport::Checkpoint { from, gsn: gsn.0, bytes, about_bytes: total_bytes }
            }
        });
        let role = self.role(&member);
        Ok(Some(NodeReport {
            node: member.name,
            id: member.id.0,
            zone: member.zone_name,
            address: member.address,
            role,
            state: state(&self.pulse, agreed.0 - gsn.0),
            gsn_applied: gsn.0,
            gsn_agreed: agreed.0,
            state_hash: hash.to_hex(),
            watermark: progress.held_upto.0,
            lag: Lag {
                seconds: progress.oldest_missing.as_secs_f64(),
                bytes: progress.missing_bytes,
                files: progress.missing_files,
            },
            catch_up,
            order_oldest: retained.oldest.0,
            order_bytes: retained.bytes,
            age_seconds: Some(0.0),
            weight: self.weight(member.id),
            draining: member.draining,
            unpublished_files: self.bodies.load().staged_files as u64,
        }))
    }

    fn view(&self) -> Result<View<SnapshotTables>, TablesError> {
        Ok(View::new(self.store.snapshot(self.volume)?))
    }

    fn role(&self, member: &Member) -> Role {
        match (member.role, self.weight(member.id)) {
            (MemberRole::Witness, _) => Role::Witness,
            (_, 1..) => Role::Voter,
            (MemberRole::Voter, 0) => Role::Standby,
            (MemberRole::Observer, 0) => Role::Observer,
        }
    }

    fn weight(&self, node: NodeId) -> u32 {
        self.pulse.header().config.voters.get(&node).copied().unwrap_or(0)
    }

    /// The whole cluster as this node sees it.
    pub fn status(
        &self,
        cluster: &[u8; 16],
        gossip: &Gossip,
        wire: &Wire,
    ) -> Result<Status, TablesError> {
        let view = self.view()?;
        let members = view.members()?;
        let me = self.ring.me();
        let mut nodes = Vec::with_capacity(members.len());
        for member in &members {
            if member.id == me {
                nodes.extend(self.own()?);
            } else {
                nodes.push(self.peer(member, gossip));
            }
        }
        let own = nodes.iter().find(|node| node.id == me.0);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: cluster_text(cluster),
            node: own.map_or_else(|| me.to_string(), |node| node.node.clone()),
            state: own.map_or(NodeState::Starting, |node| node.state),
            ring: self.ring_report(&members)?,
            links: links(&members, me, wire),
            mounts: Vec::new(),
            warnings: self.warnings(&nodes),
            nodes,
        })
    }

    /// What `member` said last, or what is known of it without its word.
    fn peer(&self, member: &Member, gossip: &Gossip) -> NodeReport {
        let silent = self.pulse.ring().is_none_or(|ring| {
            ring.peers
                .iter()
                .find(|peer| peer.node == member.id)
                .is_none_or(|peer| peer.suspected || peer.silent_us.is_none())
        });
        let mut report = match gossip.heard(member.id) {
            Some((age, report)) => NodeReport { age_seconds: Some(age.as_secs_f64()), ..report },
            None => NodeReport {
                node: member.name.clone(),
                id: member.id.0,
                zone: member.zone_name.clone(),
                address: member.address.clone(),
                role: Role::Observer,
                state: NodeState::Unreachable,
                gsn_applied: 0,
                gsn_agreed: 0,
                state_hash: String::new(),
                watermark: self
                    .view()
                    .and_then(|view| view.held_upto(member.id))
                    .map_or(0, |gsn| gsn.0),
                lag: Lag::default(),
                catch_up: None,
                order_oldest: 0,
                order_bytes: 0,
                age_seconds: None,
                weight: 0,
                draining: false,
                unpublished_files: 0,
            },
        };
        // Agreed, so this node knows as well as that one.
        report.role = self.role(member);
        report.weight = self.weight(member.id);
        report.draining = member.draining;
        if silent {
            let sidelined = self.pulse.retained().sidelined.contains(&member.id);
            report.state = if sidelined { NodeState::Sidelined } else { NodeState::Unreachable };
            report.catch_up = None;
        }
        report
    }

    fn ring_report(&self, members: &[Member]) -> Result<RingReport, TablesError> {
        let header = self.pulse.header();
        let status = self.pulse.ring();
        let suspected = |node: NodeId| {
            status.as_ref().is_some_and(|ring| {
                ring.peers.iter().any(|peer| peer.node == node && peer.suspected)
            })
        };
        let (any, alone) = tolerance(members, &header.config.voters);
        let removed = self.view()?.departed()?.into_iter().map(|(id, gone)| DepartedReport {
            node: gone.name,
            id: id.0,
            zone: gone.zone_name,
            gsn: gone.gsn.0,
        });
        Ok(RingReport {
            epoch: header.config.epoch.0,
            voters: header.config.voters.keys().map(|node| node_name(members, *node)).collect(),
            quorum: status.as_ref().is_some_and(|ring| ring.quorum),
            quorum_rtt_ms: status.as_ref().and_then(|ring| ring.quorum_rtt_us).map(us_to_ms),
            lanes: header
                .active
                .iter()
                .map(|(lane, active)| LaneReport {
                    node: node_name(members, lane.node),
                    epoch: lane.epoch.0,
                    term: lane.term.0,
                    next: active.next.0,
                    suspected: suspected(lane.node),
                })
                .collect(),
            pending: status.as_ref().map_or(0, |ring| ring.pending as u64),
            zones_may_fail: u32::try_from(any).unwrap_or(u32::MAX),
            zones_dispensable: alone,
            removed: removed.collect(),
        })
    }

    fn warnings(&self, nodes: &[NodeReport]) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(failure) = self.pulse.failure() {
            let reason = failure.reason;
            warnings.push(match failure.cure {
                Cure::Diverged => format!(
                    "this node has stopped: {reason}. Report it as a bug; restart the daemon to \
                     take the majority's state"
                ),
                _ => format!("this node has stopped: {reason}"),
            });
        }
        let ring = self.pulse.ring();
        if ring.as_ref().is_some_and(|ring| ring.mute) {
            warnings.push(
                "this node lost its log and does not vote; it asks the others for a new epoch"
                    .into(),
            );
        }
        for node in nodes.iter().filter(|node| node.state == NodeState::Sidelined) {
            warnings.push(format!(
                "node {} is away for longer than the log is kept: it comes back by a checkpoint",
                node.node
            ));
        }
        if self.pulse.ring().is_some_and(|ring| !ring.quorum) {
            warnings.push(
                "this node cannot reach a majority: reads go on, changes wait until it can; \
                 check the links below"
                    .into(),
            );
        }
        for node in nodes.iter().filter(|node| node.state == NodeState::Unreachable) {
            warnings.push(format!(
                "node {} has not been heard of: look at its log, or at the link to {}",
                node.node, node.address
            ));
        }
        for node in nodes.iter().filter(|node| node.age_seconds.is_some()) {
            let differs = self
                .pulse
                .hash_at(engine::ids::Gsn(node.gsn_applied))
                .is_some_and(|hash| hash.to_hex() != node.state_hash);
            if differs {
                warnings.push(format!(
                    "node {} has another state than this node at GSN {}: keep both stores and \
                     report this as a bug",
                    node.node, node.gsn_applied
                ));
            }
        }
        let conflicts = self.bodies.conflicts().len();
        if conflicts > 0 {
            warnings.push(format!(
                "{conflicts} written versions could not be published: `fusion conflicts` lists \
                 where their bytes are kept"
            ));
        }
        warnings
    }
}

/// How a volume does here, so many agreements behind the newest.
pub fn state(pulse: &Pulse, behind_gsn: u64) -> NodeState {
    if pulse.failure().is_some() {
        return NodeState::Failed;
    }
    match pulse.ring() {
        None => NodeState::Starting,
        Some(ring) if !ring.quorum => NodeState::CutOff,
        Some(_) if behind_gsn > CATCHING_UP_GSN || pulse.catch_up().is_some() => {
            NodeState::CatchingUp
        }
        Some(_) => NodeState::Ok,
    }
}

/// The names of all nodes that were ever members: the order is older than the membership.
pub struct Names(BTreeMap<NodeId, Name>);

struct Name {
    node: String,
    zone: String,
}

impl Names {
    pub fn read(view: &ports::View) -> Result<Names, TablesError> {
        let departed = view
            .departed()?
            .into_iter()
            .map(|(node, gone)| (node, Name { node: gone.name, zone: gone.zone_name }));
        let members = view
            .members()?
            .into_iter()
            .map(|member| (member.id, Name { node: member.name, zone: member.zone_name }));
        Ok(Names(departed.chain(members).collect()))
    }

    /// The node's name, or its number if it never was a member.
    pub fn of(&self, node: NodeId) -> String {
        self.0.get(&node).map_or_else(|| node.to_string(), |name| name.node.clone())
    }

    /// The zone of the node, empty if it never was a member.
    pub fn zone_of(&self, node: NodeId) -> String {
        self.0.get(&node).map_or_else(String::new, |name| name.zone.clone())
    }
}

/// The name of a node, or its number once it is no member any more.
pub fn node_name(members: &[Member], node: NodeId) -> String {
    members
        .iter()
        .find(|member| member.id == node)
        .map_or_else(|| node.to_string(), |member| member.name.clone())
}

fn links(members: &[Member], me: NodeId, wire: &Wire) -> Vec<LinkReport> {
    let stats = wire.stats();
    members
        .iter()
        .filter(|member| member.id != me)
        .map(|member| {
            let peer = stats.peers.iter().find(|peer| peer.node == member.id);
            LinkReport {
                peer: member.name.clone(),
                zone: member.zone_name.clone(),
                address: peer.map_or_else(|| member.address.clone(), |peer| peer.address.clone()),
                connected: peer.is_some_and(|peer| peer.connected),
                rtt_ms: peer.map(|peer| peer.rtt_us).filter(|us| *us > 0).map(us_to_ms),
                bytes_sent: peer.map_or(0, |peer| peer.ring_sent_bytes + peer.bulk_sent_bytes),
                bytes_received: peer
                    .map_or(0, |peer| peer.ring_received_bytes + peer.bulk_received_bytes),
            }
        })
        .collect()
}

fn us_to_ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

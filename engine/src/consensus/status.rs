//! What an operator may want to know of a replica.

use std::collections::BTreeSet;

use super::record::ActiveLane;
use super::replica::Replica;
use crate::ids::{Epoch, Gsn, Idx, LaneId, NodeId, Ts};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingStatus {
    pub me: NodeId,
    pub boot: u64,
    pub epoch: Epoch,
    /// The last agreement executed here.
    pub gsn: Gsn,
    /// False for an observer.
    pub voter: bool,
    /// The own lane takes proposals; otherwise commands are forwarded.
    pub proposing: bool,
    /// Every voter but this node, and observers heard of.
    pub peers: Vec<PeerStatus>,
    /// Active lanes.
    pub lanes: Vec<LaneStatus>,
    /// Round trip to the nearest majority, µs; `None` before enough peers have answered.
    pub quorum_rtt_us: Option<u64>,
    /// How far own timestamps lead the group's clock, µs.
    pub lead_us: u64,
    /// The group's clock less the own clock, µs.
    pub clock_offset_us: i64,
    /// A majority was heard of within the suspicion time.
    pub quorum: bool,
    /// A majority has the present membership durably: another change may follow.
    pub settled: bool,
    /// Own commands that are not executed yet.
    pub pending: usize,
    /// Newest agreement that any peer reported.
    pub gsn_of_peers: Gsn,
    /// Lanes that this node is closing in place of their owner.
    pub takeovers: Vec<LaneId>,
    /// A voter that must not vote in this epoch, since it lost its log.
    pub mute: bool,
    /// Messages that no correct peer sends.
    pub nonsense: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub node: NodeId,
    /// 0 for an observer.
    pub weight: u32,
    /// µs since anything came from it; `None` if nothing did.
    pub silent_us: Option<u64>,
    /// Median round trip, µs.
    pub rtt_us: Option<u64>,
    /// The last agreement that it reported as executed.
    pub gsn: Gsn,
    pub suspected: bool,
    /// It differs from this node and the majority.
    pub diverged: bool,
    /// It lost its log and does not vote.
    pub mute: bool,
    /// It would vote in the next epoch.
    pub wants_epoch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    pub lane: LaneId,
    /// The next entry to execute.
    pub next: Idx,
    /// Entries known here, chosen or not.
    pub known_upto: Idx,
    pub chosen_upto: Idx,
    /// Nothing at or below it can still come from the lane.
    pub closed: Ts,
}

impl Replica {
    /// A picture of the ring as this node sees it.
    pub fn status(&self) -> RingStatus {
        RingStatus {
            me: self.me,
            boot: self.boot,
            epoch: self.header.config.epoch,
            gsn: self.header.gsn,
            voter: self.is_voter(),
            proposing: self.own.as_ref().is_some_and(|own| own.takes_proposals()),
            peers: self.peer_statuses(),
            lanes: self.lane_statuses(),
            quorum_rtt_us: self.quorum_rtt_us,
            lead_us: self.lead_us(),
            clock_offset_us: self.clock_offset_us,
            quorum: self.hears_quorum(),
            settled: self.is_settled(),
            pending: self.queue.len(),
            gsn_of_peers: self.peers.values().map(|peer| peer.gsn).max().unwrap_or_default(),
            takeovers: self.takeovers.keys().copied().collect(),
            mute: self.is_mute(),
            nonsense: self.nonsense,
        }
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let heard = self.peers.keys().copied();
        let nodes: BTreeSet<NodeId> = self.other_voters().into_iter().chain(heard).collect();
        let status = |node: NodeId| {
            let peer = self.peers.get(&node);
            let heard_us = peer.and_then(|peer| peer.heard_us);
            PeerStatus {
                node,
                weight: self.header.config.voters.get(&node).copied().unwrap_or(0),
                silent_us: heard_us.map(|us| self.now_us.saturating_sub(us)),
                rtt_us: peer.and_then(|peer| peer.clock.rtt_us()),
                gsn: peer.map(|peer| peer.gsn).unwrap_or_default(),
                suspected: !self.hears(node),
                diverged: peer.is_some_and(|peer| peer.accused),
                mute: peer.is_some_and(|peer| peer.mute),
                wants_epoch: peer.is_some_and(|peer| peer.wants_epoch),
            }
        };
        nodes.into_iter().map(status).collect()
    }

    fn lane_statuses(&self) -> Vec<LaneStatus> {
        let status = |(&lane, active): (&LaneId, &ActiveLane)| {
            let log = &self.lanes[&lane];
            LaneStatus {
                lane,
                next: active.next,
                known_upto: log.known_upto(),
                chosen_upto: log.chosen_upto,
                closed: self.bound(lane),
            }
        };
        self.header.active.iter().map(status).collect()
    }
}

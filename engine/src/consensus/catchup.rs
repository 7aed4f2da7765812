//! Catching up from the agreed order, where the lanes cannot help: after a restart, for nodes
//! without a vote, across epochs.

use super::effect::Effect;
use super::lane::LaneLog;
use super::message::Message;
use super::record::{Header, OrderRecord};
use super::replica::{Replica, Standing};
use super::retain::Retained;
use crate::ids::{Ballot, Gsn, Idx, NodeId};

/// What is asked of whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetching {
    asked: Option<(NodeId, u64)>,
    /// When the own order last grew, or was last known to be complete, µs.
    headway_us: u64,
    snapshot_us: Option<u64>,
}

impl Fetching {
    pub fn headway(&mut self, now_us: u64) {
        self.headway_us = now_us;
    }
}

impl Replica {
    /// Asks for agreements, if others have some that do not come by themselves.
    pub(super) fn catch_up(&mut self) {
        let Some(peer) = self.ahead() else {
            self.fetching.headway_us = self.now_us;
            return;
        };
        if let Some((_, asked_us)) = self.fetching.asked
            && self.now_us.saturating_sub(asked_us) < ANSWER_US
        {
            return;
        }
        let still_us = self.now_us.saturating_sub(self.fetching.headway_us);
        let patience_us = match self.is_voter() {
            _ if self.lag_of(self.header.gsn) > LAG_MAX => 0,
            true => LANES_US + self.quorum_rtt_us.unwrap_or(0),
            false => PUSH_US,
        };
        if still_us >= patience_us {
            self.fetch_from(peer);
        }
    }

    /// The nearest live peer that has executed more than this node.
    fn ahead(&self) -> Option<NodeId> {
        let failed = self.fetching.asked.map(|(peer, _)| peer);
        let ahead = self
            .peers
            .iter()
            .filter(|(node, peer)| peer.gsn > self.header.gsn && self.hears(**node));
        let by = |node: NodeId, rtt_us: Option<u64>| {
            (failed == Some(node), rtt_us.unwrap_or(u64::MAX), node)
        };
        ahead.map(|(&node, peer)| by(node, peer.clock.rtt_us())).min().map(|(_, _, node)| node)
    }

    /// How many agreements a node that has executed `gsn` lacks, as far as is known here.
    pub(super) fn lag_of(&self, gsn: Gsn) -> u64 {
        let newest = self.peers.values().map(|peer| peer.gsn).max().unwrap_or_default();
        newest.max(self.header.gsn).0.saturating_sub(gsn.0)
    }

    /// Close enough to the newest agreement to hold nobody up by owning a lane.
    pub(super) fn is_caught_up(&self) -> bool {
        self.fetching.asked.is_none() && self.lag_of(self.header.gsn) <= LAG_MAX
    }

    pub(super) fn fetch_from(&mut self, peer: NodeId) {
        if peer == self.me {
            return;
        }
        self.fetching.asked = Some((peer, self.now_us));
        self.send(peer, Message::Fetch { from: self.header.gsn.next() });
    }

    pub(super) fn on_fetch(&mut self, to: NodeId, from: Gsn) {
        if to == self.me || from == Gsn(0) {
            return self.nonsense();
        }
        if from <= self.header.gsn {
            self.out.push(Effect::ServeOrder { to, from });
        }
    }

    pub(super) fn on_order(
        &mut self,
        from: NodeId,
        records: Vec<OrderRecord>,
        oldest: Gsn,
        gsn: Gsn,
    ) {
        if from == self.me {
            return self.nonsense();
        }
        self.note_gsn(from, gsn);
        let asked = self.fetching.asked.is_some_and(|(peer, _)| peer == from);
        let next = self.header.gsn.next();
        if records.is_empty() {
            if oldest > next && asked {
                self.want_snapshot(from, oldest);
            }
            return;
        }
        let gap = records[0].gsn > next;
        for record in records {
            if record.gsn < self.header.gsn.next() {
                continue;
            }
            if self.halted || self.is_removed() || !self.header.admits(&record) {
                break;
            }
            self.execute_foreign(record);
        }
        // What the lanes now allow comes first: less is left to ask for.
        self.merge();
        let more = gsn > self.header.gsn;
        if asked {
            self.fetching.asked = None;
        }
        if more && (asked || gap && self.fetching.asked.is_none()) {
            self.fetch_from(from);
        }
    }

    /// Executes an agreement that a peer has told.
    fn execute_foreign(&mut self, record: OrderRecord) {
        // In the own lane it may be somebody else's: then the lane is in other hands.
        if self.own.as_ref().is_some_and(|own| own.lane() == record.lane) {
            let held = self.lanes[&record.lane].entries.get(&record.idx);
            let mine =
                held.is_some_and(|(ballot, entry)| *ballot == Ballot(0) && *entry == record.entry);
            if !mine {
                self.give_up(record.lane);
            }
        }
        self.execute(record);
    }

    fn want_snapshot(&mut self, peer: NodeId, oldest: Gsn) {
        let recent = self
            .fetching
            .snapshot_us
            .is_some_and(|us| self.now_us.saturating_sub(us) < SNAPSHOT_US);
        if !recent {
            self.fetching.snapshot_us = Some(self.now_us);
            self.out.push(Effect::NeedSnapshot { peer, oldest });
        }
    }

    /// The tables were replaced by a newer state.
    pub(super) fn installed(&mut self, header: Header, finished_seq: u64) {
        self.durable = self.durable.max(header.gsn);
        if header.gsn <= self.header.gsn {
            // The order has overtaken it on the way here. What was agreed beyond it goes on
            // top of it.
            return;
        }
        self.header = header;
        self.states.clear();
        if finished_seq > 0 {
            self.own_command_executed();
        }
        self.own = None;
        self.takeovers.clear();
        // With a removed node goes what the tables knew of its commands.
        if !self.is_removed() {
            self.queue.skip_to(finished_seq);
        }
        self.fetching = Fetching { headway_us: self.now_us, ..Fetching::default() };
        let mut over = Vec::new();
        for &lane in self.lanes.keys() {
            if self.header.standing(lane) == Standing::Over {
                over.push(lane);
            }
        }
        self.lanes.retain(|lane, _| !over.contains(lane));
        self.dead.retain(|lane, _| !over.contains(lane));
        self.retained = Retained::new(&self.header, over);
        self.executed.clear();
        self.reconfigured();
        let active: Vec<_> = self.header.active.iter().map(|(&l, &a)| (l, a)).collect();
        for (lane, active) in active {
            let now_us = self.now_us;
            let new = || LaneLog::new(active.next, now_us);
            let log = self.lanes.entry(lane).or_insert_with(new);
            log.chosen_upto = log.chosen_upto.max(Idx(active.next.0.saturating_sub(1)));
            log.promises.advance(active.next);
            self.open_lane(lane, active.start);
        }
    }

    pub(super) fn note_gsn(&mut self, from: NodeId, gsn: Gsn) {
        if from != self.me {
            let peer = self.peers.entry(from).or_default();
            peer.gsn = peer.gsn.max(gsn);
        }
    }

    /// The voter that an observer asks to be fed by: the nearest.
    pub(super) fn followed(&self) -> Option<NodeId> {
        if self.is_voter() {
            return None;
        }
        let near = self.other_voters().into_iter().filter(|&node| self.hears(node));
        near.min_by_key(|node| {
            let rtt_us = self.peers.get(node).and_then(|peer| peer.clock.rtt_us());
            (rtt_us.unwrap_or(u64::MAX), *node)
        })
    }

    pub(super) fn has_followers(&self) -> bool {
        self.peers.values().any(|peer| peer.follows)
    }

    /// Sends what was just executed to observers that follow this node.
    pub(super) fn feed_followers(&mut self) {
        let records = std::mem::take(&mut self.executed);
        if records.is_empty() || records.len() > PUSH_RECORDS_MAX {
            return; // They notice the gap, and fetch.
        }
        let gsn = self.header.gsn;
        let followers: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(node, peer)| peer.follows && self.hears(**node))
            .map(|(&node, _)| node)
            .collect();
        for to in followers {
            let (records, oldest) = (records.clone(), records[0].gsn);
            self.send(to, Message::Order { records, oldest, gsn });
        }
    }
}

/// An answer that takes longer is asked of somebody else.
const ANSWER_US: u64 = 1_000_000;

/// How long a voter trusts that its lanes will bring what others have.
const LANES_US: u64 = 150_000;

/// Agreements that may be on their way to a node at full load.
pub(super) const LAG_MAX: u64 = 512;

/// How long an observer trusts that it is fed.
const PUSH_US: u64 = 30_000;

const SNAPSHOT_US: u64 = 5_000_000;

/// A larger burst is cheaper to fetch in pieces.
const PUSH_RECORDS_MAX: usize = 256;

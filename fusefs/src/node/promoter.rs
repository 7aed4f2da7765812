//! Keeps the ring's voters as the policy wants them, without an operator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::Member;
use engine::consensus::{Config, Input, RingStatus};
use engine::ids::NodeId;
use engine::namespace::TablesError;
use parking_lot::Mutex;

use super::driver::Event;
use super::pulse::Pulse;
use super::queue::Outgoing;
use super::votes::{Change, Health, Situation};
use crate::ops::ports::Ring;

/// Follows who is heard, and has memberships proposed that the policy asks for.
///
/// Only the voter with the lowest id that is heard of proposes: two proposals would be
/// harmless, as the second one is void.
pub struct Promoter {
    ring: Arc<dyn Ring>,
    /// Of a child volume: the root volume's, whose members decide.
    root: Option<Arc<dyn Ring>>,
    pulse: Arc<Pulse>,
    events: Outgoing<Event>,
    failover_after: Duration,
    began: Instant,
    heard: Mutex<BTreeMap<NodeId, Heard>>,
}

/// When a node's silence or presence began.
#[derive(Clone, Copy)]
struct Heard {
    is_heard: bool,
    since: Instant,
    caught_up: bool,
}

/// A node so close to the newest agreement counts as caught up: it then needs well under a
/// second for the rest, and until then the quorum that it belongs to may have to wait for it.
const CAUGHT_UP_GSN: u64 = 1000;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a look that comes so late this process stood still, and heard nobody for that reason.
const STOOD_STILL: Duration = Duration::from_secs(1);

impl Promoter {
    pub fn new(
        ring: Arc<dyn Ring>,
        root: Option<Arc<dyn Ring>>,
        pulse: Arc<Pulse>,
        events: Outgoing<Event>,
        failover_after: Duration,
    ) -> Promoter {
        let began = Instant::now();
        Promoter { ring, root, pulse, events, failover_after, began, heard: Mutex::default() }
    }

    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = Instant::now();
        let mut proposed = None;
        loop {
            ticks.tick().await;
            let Some(status) = self.pulse.ring() else { continue };
            let late = last.elapsed() > STOOD_STILL;
            last = Instant::now();
            self.listen(&status, late);
            let header = self.pulse.header();
            if !in_charge(&status, &header.config) {
                continue;
            }
            let epoch = header.config.epoch;
            let Some(change) = self.next_change(&header.config) else {
                if somebody_waits(&status) {
                    self.events.send(Event::Input(Input::Renew));
                }
                continue;
            };
            if proposed.as_ref() != Some(&(epoch, change.voters.clone())) {
                tracing::info!(%epoch, why = change.why, "the membership is to change");
                proposed = Some((epoch, change.voters.clone()));
            }
            let (voters, remove) = (change.voters, change.remove);
            self.events.send(Event::Input(Input::Reconfigure { epoch, voters, remove }));
        }
    }

    /// Notes who is heard, and since when.
    fn listen(&self, status: &RingStatus, late: bool) {
        let now = Instant::now();
        let voters = &self.pulse.header().config.voters;
        let mut heard = self.heard.lock();
        heard.retain(|node, _| status.peers.iter().any(|peer| peer.node == *node));
        for peer in &status.peers {
            // A voter that lost its log keeps silent where voters speak.
            let speaks = !(peer.mute && voters.contains_key(&peer.node));
            let is_heard = !peer.suspected && peer.silent_us.is_some() && speaks;
            let caught_up = peer.gsn.0 + CAUGHT_UP_GSN >= status.gsn.0;
            let known = heard.entry(peer.node).or_insert(Heard {
                is_heard,
                since: if is_heard { now } else { self.began },
                caught_up,
            });
            // What this process missed while it stood still is nobody's silence.
            if known.is_heard != is_heard || (late && !is_heard) {
                known.since = now;
            }
            known.is_heard = is_heard;
            known.caught_up = caught_up;
        }
    }

    /// How `node` is, as this node hears it.
    pub fn health(&self, node: NodeId) -> Health {
        if node == self.ring.me() {
            let heard_for = Some(self.began.elapsed());
            return Health { heard_for, silent_for: Duration::ZERO, caught_up: true };
        }
        match self.heard.lock().get(&node) {
            Some(heard) if heard.is_heard => Health {
                heard_for: Some(heard.since.elapsed()),
                silent_for: Duration::ZERO,
                caught_up: heard.caught_up,
            },
            Some(heard) => Health {
                heard_for: None,
                silent_for: heard.since.elapsed(),
                caught_up: heard.caught_up,
            },
            None => Health { heard_for: None, silent_for: self.began.elapsed(), caught_up: false },
        }
    }

    /// The policy's look at `config` and `members` as they are heard here.
    pub fn situation<'a>(
        &self,
        members: &'a [Member],
        config: &'a Config,
        health: &'a dyn Fn(NodeId) -> Health,
    ) -> Situation<'a> {
        Situation { members, config, health, failover_after: self.failover_after }
    }

    fn next_change(&self, config: &Config) -> Option<Change> {
        let (members, gone) = self.members().ok()?;
        let health = |node| self.health(node);
        let change = self.situation(&members, config, &health).next();
        change.or_else(|| removal(config, gone))
    }

    /// The members; those of a child volume as the cluster has them. Who left the cluster, and
    /// has not left this volume yet, drains.
    fn members(&self) -> Result<(Vec<Member>, BTreeSet<NodeId>), TablesError> {
        let mut members = self.ring.view().members()?;
        let mut gone = BTreeSet::new();
        if let Some(root) = &self.root {
            let cluster = root.view();
            for member in &mut members {
                match cluster.member(member.id)? {
                    Some(known) => *member = known,
                    None => {
                        member.draining = true;
                        gone.insert(member.id);
                    }
                }
            }
        }
        Ok((members, gone))
    }
}

/// Whether it is for this node to propose a membership after `config`, and the time for it.
fn in_charge(status: &RingStatus, config: &Config) -> bool {
    let is_first = status.peers.iter().all(|peer| {
        let may = config.voters.contains_key(&peer.node) && !peer.suspected && !peer.mute;
        peer.node > status.me || !may
    });
    config.voters.contains_key(&status.me)
        && !status.mute
        && status.epoch == config.epoch
        && status.settled
        && status.quorum
        && is_first
}

/// A voter that lost its log may not vote in this epoch any more, and has caught up.
fn somebody_waits(status: &RingStatus) -> bool {
    status.peers.iter().any(|peer| {
        peer.wants_epoch && !peer.suspected && peer.gsn.0 + CAUGHT_UP_GSN >= status.gsn.0
    })
}

/// Takes whoever left the cluster out of a child volume, once they have no vote there.
fn removal(config: &Config, gone: BTreeSet<NodeId>) -> Option<Change> {
    let free = |node: &NodeId| !config.voters.contains_key(node) && !config.removed.contains(node);
    let remove: BTreeSet<NodeId> = gone.into_iter().filter(free).collect();
    let why = "nodes have left the cluster".to_owned();
    (!remove.is_empty()).then(|| Change { voters: config.voters.clone(), remove, why })
}

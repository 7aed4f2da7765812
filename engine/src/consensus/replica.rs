//! The replica: its state, and one step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::amnesia::Memory;
use super::catchup::Fetching;
use super::effect::Effect;
use super::forward::Forwarding;
use super::input::Input;
use super::lane::LaneLog;
use super::message::Message;
use super::peer::Peer;
use super::propose::OwnLane;
use super::queue::OwnCommands;
use super::random::Random;
use super::reconfigure::Reconfiguring;
use super::record::{Header, LogRecord, OrderRecord, Recovered};
use super::retain::Retained;
use super::shutdown::Shutdown;
use super::takeover::Takeover;
use crate::ids::{Gsn, Idx, LaneId, NodeId, StateHash, Ts};

/// One node's part in a volume's ring: acceptor, learner, and owner of a lane.
///
/// It starts no action by itself: the driver gives it every input and the time, and carries
/// out its effects in order.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(super) me: NodeId,
    pub(super) boot: u64,
    pub(super) random: Random,
    pub(super) now_us: u64,
    /// How far the clock that `step` is given went back, in all: time here only moves on, µs.
    set_back_us: u64,
    pub(super) start_us: u64,
    /// When no majority was heard last, µs.
    pub(super) blind_us: u64,
    pub(super) out: Vec<Effect>,

    // What is agreed, and what this node has accepted.
    pub(super) header: Header,
    /// The agreement with which the present epoch began, or a later one.
    pub(super) epoch_gsn: Gsn,
    /// Everything executed up to here is durable.
    pub(super) durable: Gsn,
    pub(super) lanes: BTreeMap<LaneId, LaneLog>,
    pub(super) started: BTreeSet<LaneId>,
    pub(super) retained: Retained,

    // Proposing.
    pub(super) own: Option<OwnLane>,
    pub(super) queue: OwnCommands,
    pub(super) forwarding: Forwarding,
    pub(super) reconfiguring: Option<Reconfiguring>,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) takeovers: BTreeMap<LaneId, Takeover>,
    /// Own lanes that were given up, and when: their takeover is left to others for a while.
    pub(super) dead: BTreeMap<LaneId, u64>,

    // Others, and time.
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) seen: Ts,
    pub(super) clock_offset_us: i64,
    pub(super) quorum_rtt_us: Option<u64>,
    pub(super) next_beat_us: u64,
    pub(super) fetching: Fetching,
    pub(super) executed: Vec<OrderRecord>,
    pub(super) states: VecDeque<(Gsn, StateHash)>,
    pub(super) tells_round: bool,
    /// A peer was found to differ, µs.
    pub(super) differs_since_us: Option<u64>,
    /// This node was found to be the one that is wrong.
    pub(super) convicted: bool,
    pub(super) memory: Memory,
    /// The agreement since which it is whole, while a restart might not know that.
    pub(super) whole_since: Option<Gsn>,
    pub(super) nonsense: u64,
    /// The order broke its own rules: nothing is executed any more.
    pub(super) halted: bool,
    #[cfg(test)]
    pub(super) mutation: Option<super::mutation::Mutation>,
    #[cfg(test)]
    pub(super) config_at_start: super::Config,
}

impl Replica {
    /// A replica as it was when the log and the tables were last durable. `boot` is larger
    /// than at every earlier start of this node; `seed` spreads retries (any number).
    ///
    /// # Panics
    /// If `recovered` contradicts itself: a store must notice damage before.
    pub fn recover(me: NodeId, boot: u64, recovered: Recovered, seed: u64) -> Replica {
        let Recovered { header, promised, started, mut accepted, forgetful } = recovered;
        let mut lanes = BTreeMap::new();
        let mut over = Vec::new();
        let known: BTreeSet<LaneId> = promised.keys().chain(accepted.keys()).copied().collect();
        for lane in known.into_iter().chain(header.active.keys().copied()) {
            let next = match header.standing(lane) {
                Standing::Active(next) => next,
                // What was promised and voted for in an epoch that the tables had not come to
                // when the node died counts all the same, and so does what it was for a lane that
                // they had not come to, however far the log is ahead of them.
                Standing::Future | Standing::FarFuture | Standing::NextEpoch => Idx(1),
                Standing::Over => {
                    over.push(lane);
                    continue;
                }
            };
            lanes.entry(lane).or_insert_with(|| {
                let promised = promised.get(&lane).copied().unwrap_or_default();
                let entries = accepted.remove(&lane).unwrap_or_default();
                LaneLog::recover(lane, me, next, promised, entries)
            });
        }
        Replica {
            me,
            boot,
            random: Random::new(seed),
            now_us: 0,
            set_back_us: 0,
            start_us: 0,
            blind_us: 0,
            out: Vec::new(),
            #[cfg(test)]
            config_at_start: header.config.clone(),
            retained: Retained::new(&header, over),
            epoch_gsn: header.gsn,
            durable: Gsn(0),
            header,
            lanes,
            started,
            own: None,
            queue: OwnCommands::new(me, boot),
            forwarding: Forwarding::default(),
            reconfiguring: None,
            shutdown: None,
            takeovers: BTreeMap::new(),
            dead: BTreeMap::new(),
            peers: BTreeMap::new(),
            seen: Ts(0),
            clock_offset_us: 0,
            quorum_rtt_us: None,
            next_beat_us: 0,
            fetching: Fetching::default(),
            executed: Vec::new(),
            states: VecDeque::new(),
            tells_round: false,
            differs_since_us: None,
            convicted: false,
            memory: if forgetful { Memory::Lost } else { Memory::Whole },
            whole_since: None,
            nonsense: 0,
            halted: false,
            #[cfg(test)]
            mutation: None,
        }
    }

    /// Handles one input and appends what the driver must do, in order. `now_us` is the
    /// node's clock, µs since the Unix epoch; a step backwards counts as standing still.
    pub fn step(&mut self, now_us: u64, input: Input, effects: &mut Vec<Effect>) {
        self.pass_time(now_us);
        if self.is_removed() {
            return;
        }
        match input {
            Input::Start => self.start(),
            Input::Timer => {}
            Input::Message { from, message } => self.on_message(from, message),
            Input::Propose(commands) => {
                commands.into_iter().for_each(|command| self.queue.push(command));
            }
            Input::Reconfigure { epoch, voters, remove } => {
                self.reconfigure(epoch, voters, &remove);
            }
            Input::Renew => self.renew(),
            Input::Installed { header, finished_seq } => self.installed(header, finished_seq),
            Input::AppliedDurable(gsn) => {
                self.durable = self.durable.max(gsn);
                self.truncate(gsn);
                self.tell_memory_whole();
            }
            Input::StateHash { gsn, hash } => self.note_state(gsn, hash),
            Input::PeerUp(node) => self.peer_up(node),
            Input::PeerDown(_) => {}
            Input::Shutdown => self.shut_down(),
        }
        if !self.is_removed() {
            self.act();
        }
        effects.append(&mut self.out);
    }

    /// What may follow from any input.
    fn act(&mut self) {
        self.merge();
        self.flush();
        if self.now_us >= self.next_beat_us {
            self.on_beat();
        }
        self.hasten_beat();
        self.feed_followers();
    }

    /// When [`Input::Timer`] is due, by the clock that `step` is given; changes with each step.
    /// `None` once this node is removed.
    pub fn next_timer(&self) -> Option<u64> {
        (!self.is_removed()).then(|| self.next_beat_us.saturating_sub(self.set_back_us))
    }

    /// Where the order stands here.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn start(&mut self) {
        self.start_us = self.now_us;
        self.next_beat_us = self.now_us;
        self.estimate();
        for log in self.lanes.values_mut() {
            log.watch.headway_us = self.now_us;
        }
        let config = &self.header.config;
        for log in self.lanes.values_mut() {
            log.learn(config, false);
        }
        let active: Vec<_> = self.header.active.iter().map(|(&l, a)| (l, a.start)).collect();
        for (lane, start) in active {
            self.open_lane(lane, start);
        }
    }

    /// The clock shows `clock_us`. Steps come every heartbeat at least; after a longer gap the
    /// node was not running, or its clock has stepped, and silence of others means nothing.
    fn pass_time(&mut self, clock_us: u64) {
        let now_us = clock_us.saturating_add(self.set_back_us);
        // Nothing here may wait until a clock that was set back has come where it was.
        self.set_back_us += self.now_us.saturating_sub(now_us);
        let gap_us = now_us.saturating_sub(self.now_us);
        self.now_us += gap_us;
        if self.start_us == 0 || gap_us < AWAY_US {
            return;
        }
        for peer in self.peers.values_mut() {
            peer.heard_us = peer.heard_us.map(|us| us + gap_us);
        }
        for log in self.lanes.values_mut() {
            log.watch.headway_us += gap_us;
        }
        if gap_us >= CLOCK_STEP_US {
            self.forget_clocks(gap_us);
        }
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        // The network lets members in only; a removed one may have sent this before.
        if self.header.config.removed.contains(&from) {
            return;
        }
        if from != self.me {
            self.peers.entry(from).or_default().heard(self.now_us);
        }
        match message {
            Message::Propose { lane, ballot, start, first, entries } => {
                self.on_propose(from, lane, ballot, start, first, entries);
            }
            Message::Accepted { vote, closed } => {
                self.on_vote(from, vote);
                if let Some(closed) = closed {
                    self.on_closed(from, closed);
                }
            }
            Message::Reject { lane, promised, gsn } => self.on_reject(from, lane, promised, gsn),
            Message::Need { lane, ballot, from: idx } => self.on_need(from, lane, ballot, idx),
            Message::Prepare { lane, ballot, from: idx } => {
                self.on_prepare(from, lane, ballot, idx);
            }
            Message::Promise { lane, ballot, first, accepted } => {
                self.on_promise(from, lane, ballot, first, accepted);
            }
            Message::Heartbeat(heartbeat) => self.on_heartbeat(from, heartbeat),
            Message::Forward { origin, hops, commands, activate } => {
                self.on_forward(from, origin, hops, commands, activate);
            }
            Message::Fetch { from: gsn } => self.on_fetch(from, gsn),
            Message::Order { records, oldest, gsn } => self.on_order(from, records, oldest, gsn),
            Message::Begun { lane } => self.on_begun(from, lane),
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        assert_ne!(to, self.me, "a message to oneself goes through the log");
        self.out.push(Effect::Send { to, message });
    }

    pub(super) fn send_durable(&mut self, to: NodeId, message: Message) {
        self.out.push(Effect::SendDurable { to, message });
    }

    pub(super) fn persist(&mut self, record: LogRecord) {
        self.out.push(Effect::Persist(record));
    }

    /// A correct peer did not send that.
    pub(super) fn nonsense(&mut self) {
        self.nonsense += 1;
    }

    pub(super) fn is_voter(&self) -> bool {
        self.header.config.is_voter(self.me) && !self.is_mute()
    }

    pub(super) fn other_voters(&self) -> Vec<NodeId> {
        self.header.config.voters.keys().copied().filter(|&node| node != self.me).collect()
    }

    /// Something came from `node` within the suspicion time.
    pub(super) fn hears(&self, node: NodeId) -> bool {
        self.heard_within(node, SUSPECT_US)
    }

    fn heard_within(&self, node: NodeId, span_us: u64) -> bool {
        let heard_us = self.peers.get(&node).and_then(|peer| peer.heard_us);
        heard_us.is_some_and(|heard_us| self.now_us.saturating_sub(heard_us) < span_us)
    }

    /// A majority, with this node, was heard within the suspicion time.
    pub(super) fn hears_quorum(&self) -> bool {
        self.hears_quorum_within(SUSPECT_US)
    }

    pub(super) fn hears_quorum_within(&self, span_us: u64) -> bool {
        let voters = self.header.config.voters.keys().copied();
        let heard = voters.filter(|&node| node == self.me || self.heard_within(node, span_us));
        self.header.config.quorum(heard)
    }
}

/// How a lane stands towards the executed order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// With the next entry to execute.
    Active(Idx),
    /// Not begun in the order as far as it is executed here; nodes ahead may use it.
    Future,
    /// The same, but so many terms ahead that a peer's word is no reason to keep anything of it.
    FarFuture,
    /// Its `End`, or its epoch's, is executed: it counts no more.
    Over,
    /// Of an epoch that this node has not come to.
    NextEpoch,
}

impl Header {
    pub(super) fn standing(&self, lane: LaneId) -> Standing {
        if let Some(active) = self.active.get(&lane) {
            return Standing::Active(active.next);
        }
        if lane.epoch > self.config.epoch {
            return Standing::NextEpoch;
        }
        if lane.epoch < self.config.epoch || !self.config.is_voter(lane.node) {
            return Standing::Over;
        }
        let next = self.next_terms.get(&lane.node).copied().unwrap_or_default();
        match lane.term.0.checked_sub(next.0) {
            None => Standing::Over,
            Some(ahead) if ahead < FUTURE_TERMS_MAX => Standing::Future,
            Some(_) => Standing::FarFuture,
        }
    }
}

/// Silence after which a node counts as gone: several heartbeats, but well below a second. For
/// the owner of an active lane, whom everybody waits for, it may be less (`Peer::suspect_us`).
pub(super) const SUSPECT_US: u64 = 400_000;

/// Late for the slowest heartbeat, and less than the shortest suspicion time.
const AWAY_US: u64 = 150_000;

/// No process stands still for so long every day; a clock that is set does it once.
const CLOCK_STEP_US: u64 = 2_000_000;

/// Lanes that a peer can make this node keep before they are begun in the order.
const FUTURE_TERMS_MAX: u32 = 4;

//! Which node is wrong when two differ.
//!
//! Nodes tell each other order hashes and state hashes. Two that differ at a GSN applied
//! different things: a bug, or damage that no checksum found. The one that differs from the
//! majority stops; the majority goes on and raises the alarm. Where no majority can tell them
//! apart, whoever sees the difference stops: two wrong answers are worse than none.

use super::effect::Effect;
use super::replica::Replica;
use crate::ids::{Gsn, NodeId, StateHash};

/// What comparing with a peer showed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same(Gsn),
    Differs(Gsn),
}

impl Replica {
    pub(super) fn note_state(&mut self, gsn: Gsn, hash: StateHash) {
        if self.states.back().is_some_and(|(newest, _)| *newest >= gsn) {
            return; // Replaced by a checkpoint meanwhile.
        }
        self.states.push_back((gsn, hash));
        if self.states.len() > STATES {
            self.states.pop_front();
        }
        let told: Vec<(NodeId, StateHash)> = self
            .peers
            .iter()
            .filter_map(|(&node, peer)| peer.state.map(|state| (node, state)))
            .filter(|(_, (theirs, _))| *theirs == gsn)
            .map(|(node, (_, theirs))| (node, theirs))
            .collect();
        for (node, theirs) in told {
            self.compared(node, gsn, theirs == hash);
        }
    }

    /// The state hash to tell others: by turns the newest, and the newest at a round GSN, where
    /// nodes under load are sure to have one in common.
    pub(super) fn state_to_tell(&mut self) -> Option<(Gsn, StateHash)> {
        self.tells_round = !self.tells_round;
        let round = |gsn: &Gsn| gsn.0.is_multiple_of(STATE_EVERY);
        let known = match self.tells_round {
            true => self.states.iter().rev().find(|(gsn, _)| round(gsn)),
            false => None,
        };
        known.or(self.states.back()).copied()
    }

    /// Compares a peer's order and state with ours, where both are known.
    pub(super) fn compare(
        &mut self,
        peer: NodeId,
        gsn: Gsn,
        order_hash: StateHash,
        state: Option<(Gsn, StateHash)>,
    ) {
        if self.retained.order_hash(gsn).is_some_and(|ours| ours != order_hash) {
            // Whatever the tables say: it has gone another way.
            return self.compared(peer, gsn, false);
        }
        if let Some((gsn, hash)) = state {
            self.peers.entry(peer).or_default().state = state;
            let known = self.states.binary_search_by_key(&gsn, |(gsn, _)| *gsn);
            if let Ok(at) = known {
                let ours = self.states[at].1;
                self.compared(peer, gsn, ours == hash);
            }
        }
    }

    fn compared(&mut self, peer: NodeId, gsn: Gsn, same: bool) {
        let now_us = self.now_us;
        let known = self.peers.entry(peer).or_default();
        match (same, known.verdict) {
            (true, _) => {
                known.verdict = Some(Verdict::Same(gsn));
                known.accused = false;
            }
            // The first one counts: the others are judged from there on.
            (false, Some(Verdict::Differs(_))) => {}
            (false, _) => {
                known.verdict = Some(Verdict::Differs(gsn));
                self.differs_since_us.get_or_insert(now_us);
            }
        }
        self.judge();
    }

    /// Decides who is wrong, once enough is known.
    pub(super) fn judge(&mut self) {
        let Some(since_us) = self.differs_since_us else { return };
        let differing: Vec<(NodeId, Gsn)> = self
            .peers
            .iter()
            .filter_map(|(&node, peer)| match peer.verdict {
                Some(Verdict::Differs(gsn)) => Some((node, gsn)),
                _ => None,
            })
            .collect();
        let Some(first) = differing.iter().map(|(_, gsn)| *gsn).min() else {
            self.differs_since_us = None; // It has other tables now.
            return;
        };
        let config = &self.header.config;
        let same = self.peers.iter().filter_map(|(&node, peer)| match peer.verdict {
            Some(Verdict::Same(gsn)) if gsn >= first => Some(node),
            _ => None,
        });
        let with_us = config.quorum(same.chain([self.me]));
        let against_us = config.quorum(differing.iter().map(|(node, _)| *node));
        let late = self.now_us.saturating_sub(since_us) >= UNDECIDED_US;
        if with_us {
            for (peer, gsn) in differing {
                let known = self.peers.get_mut(&peer).expect("it was compared");
                if !std::mem::replace(&mut known.accused, true) {
                    self.out.push(Effect::PeerDiverged { peer, gsn });
                }
            }
        } else if (against_us || late) && !self.convicted {
            self.convicted = true;
            let (peer, gsn) = differing[0];
            // The others hear of it from its last sign of life, with the newest state.
            self.tells_round = true;
            self.beat();
            self.out.push(Effect::Diverged { peer, gsn });
        }
    }
}

/// States at multiples of it are told as well as the newest.
pub const STATE_EVERY: u64 = 64;

/// Own state hashes kept for comparison.
const STATES: usize = 1024;

/// How long a node that differs from one peer waits for the others' word: many heartbeats.
const UNDECIDED_US: u64 = 2_000_000;

//! Leaving without being missed.

use super::effect::Effect;
use super::entry::EntryKind;
use super::replica::Replica;
use crate::ids::NodeId;

/// A shutdown on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shutdown {
    since_us: u64,
    done: bool,
}

impl Replica {
    pub(super) fn shut_down(&mut self) {
        self.shutdown.get_or_insert(Shutdown { since_us: self.now_us, done: false });
        self.finish_shutdown();
    }

    /// Ends the own lane, and hands the ring to a live voter if there is no other lane.
    pub(super) fn end_for_shutdown(&mut self) {
        if let Some(heir) = self.heir() {
            self.propose(vec![EntryKind::End { activate: Some(heir) }]);
        }
    }

    /// The nearest other voter that is alive.
    fn heir(&self) -> Option<NodeId> {
        let alive = self.other_voters().into_iter().filter(|&node| self.hears(node));
        alive.min_by_key(|node| {
            let rtt_us = self.peers.get(node).and_then(|peer| peer.clock.rtt_us());
            (rtt_us.unwrap_or(u64::MAX), *node)
        })
    }

    pub(super) fn finish_shutdown(&mut self) {
        let Some(shutdown) = self.shutdown.filter(|shutdown| !shutdown.done) else { return };
        let alone = self.other_voters().is_empty();
        let waited_for = self.header.active.keys().any(|lane| lane.node == self.me) && !alone;
        let late = self.now_us.saturating_sub(shutdown.since_us) >= SHUTDOWN_US;
        if (!waited_for && self.queue.is_empty()) || late {
            self.shutdown = Some(Shutdown { done: true, ..shutdown });
            self.out.push(Effect::ShutdownDone);
        }
    }
}

/// Whoever is cut off cannot say goodbye; the others will notice by themselves.
const SHUTDOWN_US: u64 = 3_000_000;

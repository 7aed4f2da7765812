//! Leaving the ring's lanes to those who use them.

use super::entry::EntryKind;
use super::replica::Replica;

impl Replica {
    /// Ends the own lane when nothing went through it for a while and another one lives: an
    /// idle zone holds nobody up, and may go away unnoticed.
    pub(super) fn leave_idle_lane(&mut self) {
        let Some(own) = self.own.as_ref().filter(|own| own.takes_proposals()) else { return };
        let lane = own.lane();
        let idle_us = self.now_us.saturating_sub(own.used_us);
        let open = self.lanes[&lane].chosen_upto < own.last();
        if self.header.active.contains_key(&lane)
            && idle_us >= IDLE_US + self.position() * SPREAD_US
            && !open
            && self.queue.is_empty()
            && self.reconfiguring.is_none()
            && self.another_lane_lives(lane)
        {
            self.propose(vec![EntryKind::End { activate: None }]);
        }
    }

    /// This node's place among the voters: spreads what all would do at the same moment.
    fn position(&self) -> u64 {
        self.header.config.voters.keys().take_while(|&&node| node < self.me).count() as u64
    }
}

/// Coming back costs one agreement through another zone.
const IDLE_US: u64 = 10_000_000;

const SPREAD_US: u64 = 500_000;

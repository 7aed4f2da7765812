//! What is known of another node.

use super::clock::PeerClock;
use super::diverge::Verdict;
use super::replica::SUSPECT_US;
use crate::ids::{Gsn, StateHash};

#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// When anything came from it, µs of our clock.
    pub heard_us: Option<u64>,
    gaps: Gaps,
    pub clock: PeerClock,
    /// Its newest heartbeat: its clock when sent, ours when it came. Goes back as the echo.
    pub echo: Option<(u64, u64)>,
    /// The last agreement that it reported as executed.
    pub gsn: Gsn,
    /// The last agreement that it reported as durable in its tables.
    pub durable: Gsn,
    pub state: Option<(Gsn, StateHash)>,
    /// What comparing its hashes with ours showed last.
    pub verdict: Option<Verdict>,
    /// The alarm about it was raised.
    pub accused: bool,
    /// It lost its log: it does not vote, and owns no lane that lives.
    pub mute: bool,
    /// It would vote in the next epoch.
    pub wants_epoch: bool,
    /// It asked to be sent agreements as they happen.
    pub follows: bool,
    /// Its own lane takes proposals.
    pub proposing: bool,
}

impl Peer {
    /// µs since it was heard, or since `start_us` if it never was.
    pub fn silent_us(&self, now_us: u64, start_us: u64) -> u64 {
        now_us.saturating_sub(self.heard_us.unwrap_or(start_us))
    }

    /// Something came from it.
    pub fn heard(&mut self, now_us: u64) {
        if let Some(last_us) = self.heard_us.replace(now_us) {
            self.gaps.observe(now_us, now_us.saturating_sub(last_us));
        }
    }

    /// Silence after which it counts as gone where somebody waits for it, µs. A peer that is
    /// heard like clockwork is missed sooner than one whose machine or link hesitates.
    pub fn suspect_us(&self) -> u64 {
        let rtt_us = self.clock.rtt_us().unwrap_or(SUSPECT_US);
        (rtt_us + LOSS_US).max(3 * self.gaps.worst_us()).clamp(SUSPECT_MIN_US, SUSPECT_US)
    }

    /// How long to wait for an answer before asking again, µs.
    pub fn patience_us(&self) -> u64 {
        PATIENCE_US.max(2 * self.clock.rtt_us().unwrap_or(0))
    }
}

/// The longest time in which nothing came from a peer, lately.
#[derive(Clone, Debug, Default)]
struct Gaps {
    window: u64,
    /// Of the present window, and of the one before.
    worst_us: [u64; 2],
}

impl Gaps {
    /// After a gap of [`GONE_US`] it was away, which says nothing about how it is heard.
    fn observe(&mut self, now_us: u64, gap_us: u64) {
        if gap_us >= GONE_US {
            return;
        }
        let window = now_us / GAPS_WINDOW_US;
        match window - self.window.min(window) {
            0 => {}
            1 => self.worst_us = [0, self.worst_us[0]],
            _ => self.worst_us = [0, 0],
        }
        self.window = window;
        self.worst_us[0] = self.worst_us[0].max(gap_us.min(SUSPECT_US));
    }

    fn worst_us(&self) -> u64 {
        self.worst_us[0].max(self.worst_us[1])
    }
}

const GAPS_WINDOW_US: u64 = 10_000_000;
const GONE_US: u64 = 2_000_000;

/// A lost packet holds up what follows it for a round trip, and this much more.
const LOSS_US: u64 = 100_000;

/// Many heartbeats of a busy ring, and more than the longest fsync of a sound disk.
const SUSPECT_MIN_US: u64 = 200_000;

/// Several times a slow fsync, so that a busy disk is not answered with more work.
pub(super) const PATIENCE_US: u64 = 200_000;

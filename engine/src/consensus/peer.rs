//! What is known of another node.

use super::clock::PeerClock;
use super::diverge::Verdict;
use crate::ids::{Gsn, StateHash};

#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// When anything came from it, µs of our clock.
    pub heard_us: Option<u64>,
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

    /// How long to wait for an answer before asking again, µs.
    pub fn patience_us(&self) -> u64 {
        PATIENCE_US.max(2 * self.clock.rtt_us().unwrap_or(0))
    }
}

/// Several times a slow fsync, so that a busy disk is not answered with more work.
pub(super) const PATIENCE_US: u64 = 200_000;

//! Leases (docs/design/0003-leases.md): a node may rely on its write tokens and locks while
//! something of it was agreed lately, and others may free them when nothing was for longer.
//!
//! No clocks are compared. The holder counts from before it proposed its newest agreed command,
//! the others from after they applied it, and they count further. What makes the one exclude the
//! other is the order: `Expire` names the command, and is void if a later one came before it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::command::Op;
use engine::ids::NodeId;
use engine::namespace::{Origin, TablesError};
use parking_lot::Mutex;

use super::clock;
use super::proposals::Proposals;
use crate::ops::ports::View;

/// How long the holder relies on its newest agreed command. A zone that is cut off for a moment
/// notices nothing, and somebody who waits for a dead one does so less than a minute.
pub const LEASE: Duration = Duration::from_secs(30);
/// How long the others wait after it: more, by what clocks may run apart and a call that is under
/// way may take.
pub const EXPIRES_AFTER: Duration = Duration::from_secs(45);
/// Three attempts before it ends.
const RENEW_AFTER: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// This node's lease.
#[derive(Default)]
pub struct Lease {
    /// When the newest command that was agreed was proposed, as [`clock::since_boot`] in
    /// milliseconds; 0 = none was.
    proposed_ms: AtomicU64,
}

impl Lease {
    /// A command that was proposed then is agreed, and everything before it is told to whoever
    /// relies on the lease.
    pub fn renew(&self, proposed: Duration) {
        let proposed_ms = u64::try_from(proposed.as_millis()).unwrap_or(u64::MAX);
        self.proposed_ms.fetch_max(proposed_ms, Ordering::Release);
    }

    pub fn stands(&self) -> bool {
        self.age(clock::since_boot()).is_some_and(|age| age < LEASE)
    }

    fn age(&self, now: Duration) -> Option<Duration> {
        match self.proposed_ms.load(Ordering::Acquire) {
            0 => None,
            proposed_ms => Some(now.saturating_sub(Duration::from_millis(proposed_ms))),
        }
    }

    /// Keeps the lease while `is_needed` says so: while programs here have files open for writing,
    /// or locks. A node without them lets it end, and gets it back with its next command.
    pub async fn keep(
        self: Arc<Self>,
        proposals: Arc<Proposals>,
        is_needed: impl Fn() -> bool + Send,
    ) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let is_old = self.age(clock::since_boot()).is_none_or(|age| age >= RENEW_AFTER);
            if is_old && is_needed() && proposals.propose_and_wait(Op::Noop).await.is_err() {
                return; // the node stops
            }
        }
    }
}

/// Since when nothing of the other members was agreed.
#[derive(Default)]
pub struct Silences(Mutex<BTreeMap<NodeId, (Origin, Instant)>>);

impl Silences {
    /// Looks at the tables all the time, so that somebody who wants something of a node that
    /// died long ago need not wait.
    pub async fn watch(self: Arc<Self>, view: impl Fn() -> View + Send) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.look(&view(), Instant::now()) {
                tracing::warn!(%error, "who is silent cannot be seen");
            }
        }
    }

    fn look(&self, view: &View, now: Instant) -> Result<(), TablesError> {
        let mut newest = BTreeMap::new();
        for member in view.members()? {
            if let Some(origin) = view.origin(member.id)? {
                newest.insert(member.id, origin);
            }
        }
        self.note(newest, now);
        Ok(())
    }

    fn note(&self, newest: BTreeMap<NodeId, Origin>, now: Instant) {
        let mut seen = self.0.lock();
        seen.retain(|node, _| newest.contains_key(node));
        for (node, origin) in newest {
            let known = seen.entry(node).or_insert((origin, now));
            if known.0 != origin {
                *known = (origin, now);
            }
        }
    }

    /// The newest command of `node`, if that is older than a lease.
    pub fn ended(&self, node: NodeId, now: Instant) -> Option<Origin> {
        let (origin, since) = *self.0.lock().get(&node)?;
        (now.saturating_duration_since(since) >= EXPIRES_AFTER).then_some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_its_newest_proposal() {
        let lease = Lease::default();
        assert!(!lease.stands(), "nothing was agreed yet");
        let now = clock::since_boot();
        lease.renew(now);
        lease.renew(now.saturating_sub(LEASE));
        assert!(lease.stands(), "an older one takes nothing away");
        assert_eq!(lease.age(now + LEASE).map(|age| age >= LEASE), Some(true));
    }

    #[test]
    fn silence_counts_from_the_first_look_at_the_newest_command() {
        let (silences, began) = (Silences::default(), Instant::now());
        let node = NodeId(2);
        let seen = |last_seq| BTreeMap::from([(node, Origin { boot: 1, last_seq })]);
        let long = EXPIRES_AFTER;
        silences.note(seen(5), began);
        silences.note(seen(5), began + long / 2);
        assert_eq!(silences.ended(node, began + long / 2), None);
        assert_eq!(silences.ended(node, began + long), Some(Origin { boot: 1, last_seq: 5 }));
        silences.note(seen(6), began + long);
        assert_eq!(silences.ended(node, began + long), None);
        assert_eq!(silences.ended(NodeId(3), began + long), None);
    }

    #[test]
    fn others_wait_for_longer_than_the_holder_relies_on_it() {
        assert!(EXPIRES_AFTER >= LEASE + LEASE / 4);
    }
}

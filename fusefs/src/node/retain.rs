//! How much of the agreed order is kept, for nodes that were away and for `fusion log`.
//!
//! Kept are the last `order_keep_gsn` agreements, as far as they fit into `order_keep_bytes`,
//! and what a live member still lacks, up to twice those limits. A member that is away for
//! longer is *sidelined*: nobody keeps agreements for it, and it comes back by a checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use engine::consensus::RingStatus;
use engine::ids::{Gsn, NodeId, VolumeId};
use engine::namespace::tables::TablesError;
use store::{OrderKept, Store, StoreError};

use super::checkpoint::CheckpointService;
use super::pulse::{Pulse, Retained};
use crate::ops::ports::Ring;

/// What the settings allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    pub keep_gsn: u64,
    pub keep_bytes: u64,
}

pub struct RetainThread {
    pub volume: VolumeId,
    pub store: Store,
    pub ring: Arc<dyn Ring>,
    pub pulse: Arc<Pulse>,
    pub checkpoints: Arc<CheckpointService>,
    pub limits: Keep,
}

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Agreements are dropped so many at a time at least, or as much of the kept ones: each time
/// rewrites a file or two.
const DROP_GSN_MIN: u64 = 256;
const DROP_FRACTION: u64 = 16;
/// Local table: the last agreement of each member that this node heard of, u64 each.
const HEARD_KEY: &[u8] = b"heard/";

impl RetainThread {
    /// Runs until the other end of `stop` is dropped.
    pub fn run(&self, stop: &Receiver<()>) {
        let mut heard = self.load_heard().unwrap_or_default();
        let mut tidied = self.pulse.installs();
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(LOOK_EVERY) {
            if let Some(damage) = self.store.damage() {
                self.pulse.fail_damaged(damage.to_owned());
                return;
            }
            if self.pulse.failure().is_some() {
                return;
            }
            self.checkpoints.expire();
            if let Err(error) = self.look(&mut heard) {
                tracing::error!(%error, "the order cannot be truncated");
            }
            let installs = self.pulse.installs();
            if installs != tidied {
                tidied = installs;
                if let Err(error) = self.store.compact_replaced(self.volume) {
                    tracing::error!(%error, "the space of replaced tables is not given back");
                }
            }
        }
    }

    fn look(&self, heard: &mut BTreeMap<NodeId, Gsn>) -> Result<(), StoreError> {
        let Some(status) = self.pulse.ring() else { return Ok(()) };
        let members = self.members().map_err(|error| StoreError::Invalid(error.to_string()))?;
        heard.retain(|node, _| members.contains_key(node));
        for (node, reported) in &members {
            let peer = status.peers.iter().find(|peer| peer.node == *node);
            let newest = heard.entry(*node).or_default();
            *newest = (*newest).max(*reported).max(peer.map_or(Gsn(0), |peer| peer.gsn));
        }
        let Some(mut kept) = self.store.order_kept(self.volume)? else {
            self.publish(&status, heard, None);
            return Ok(());
        };
        let needed = members.keys().filter(|node| is_live(&status, **node));
        let needed = needed.filter_map(|node| heard.get(node)).min().map(|gsn| gsn.next());
        let below = self.below(kept, needed)?;
        let slack = DROP_GSN_MIN.max((kept.newest.0 - kept.oldest.0) / DROP_FRACTION);
        if below.0 > kept.oldest.0 + slack {
            self.store.truncate_order(self.volume, below)?;
            self.save_heard(heard)?;
            tracing::debug!(%below, "the order is truncated");
            kept = self.store.order_kept(self.volume)?.unwrap_or(kept);
        }
        self.publish(&status, heard, Some(kept));
        Ok(())
    }

    /// The first agreement to keep.
    fn below(&self, kept: OrderKept, needed: Option<Gsn>) -> Result<Gsn, StoreError> {
        let Keep { keep_gsn, keep_bytes } = self.limits;
        let cut = |factor: u64| {
            let by_count = (kept.newest.0 + 1).saturating_sub(keep_gsn.saturating_mul(factor));
            let by_bytes = self.store.order_cut(self.volume, keep_bytes.saturating_mul(factor))?;
            Ok::<Gsn, StoreError>(Gsn(by_count).max(by_bytes))
        };
        let wanted = cut(1)?;
        match needed {
            // Live, but slow: it gets a reprieve, not the whole disk.
            Some(needed) if needed < wanted => Ok(needed.max(cut(2)?)),
            _ => Ok(wanted),
        }
    }

    /// The other members, and how far each one said that it has everything.
    fn members(&self) -> Result<BTreeMap<NodeId, Gsn>, TablesError> {
        let (view, me) = (self.ring.view(), self.ring.me());
        let mut members = BTreeMap::new();
        for member in view.members()?.into_iter().filter(|member| member.id != me) {
            members.insert(member.id, view.held_upto(member.id)?);
        }
        Ok(members)
    }

    fn publish(&self, status: &RingStatus, heard: &BTreeMap<NodeId, Gsn>, kept: Option<OrderKept>) {
        let oldest = kept.map_or(self.pulse.applied().next(), |kept| kept.oldest);
        let sidelined: BTreeSet<NodeId> = heard
            .iter()
            // Who was never heard of has just been admitted, and is still on its way.
            .filter(|(_, gsn)| **gsn > Gsn(0))
            .filter(|(node, gsn)| gsn.next() < oldest && !is_live(status, **node))
            .map(|(node, _)| *node)
            .collect();
        let before = self.pulse.retained().sidelined;
        for node in sidelined.difference(&before) {
            tracing::warn!(%node, %oldest, "sidelined: it is away for longer than the log is kept");
        }
        self.pulse.record_retained(Retained {
            oldest,
            bytes: kept.map_or(0, |kept| kept.bytes),
            sidelined,
        });
    }

    fn load_heard(&self) -> Result<BTreeMap<NodeId, Gsn>, StoreError> {
        let mut heard = BTreeMap::new();
        self.store.local_scan(HEARD_KEY, &mut |key, value| {
            let node = key.last_chunk::<2>().map(|node| NodeId(u16::from_be_bytes(*node)));
            let gsn = value.first_chunk::<8>().map(|gsn| Gsn(u64::from_be_bytes(*gsn)));
            heard.extend(node.zip(gsn));
            true
        })?;
        Ok(heard)
    }

    fn save_heard(&self, heard: &BTreeMap<NodeId, Gsn>) -> Result<(), StoreError> {
        for (node, gsn) in heard {
            let key = [HEARD_KEY, &node.0.to_be_bytes()].concat();
            self.store.local_put(&key, &gsn.0.to_be_bytes())?;
        }
        Ok(())
    }
}

fn is_live(status: &RingStatus, node: NodeId) -> bool {
    status.peers.iter().any(|peer| peer.node == node && !peer.suspected)
}

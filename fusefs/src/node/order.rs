//! Serves stored agreements to replicas that lag: on its own thread, because it reads the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::consensus::Message;
use engine::ids::{Gsn, NodeId, VolumeId};
use parking_lot::{Condvar, Mutex};
use store::{Store, StoreError};
use wire::{Packed, RefusedCode, Response};

use super::pulse::Pulse;

/// Takes questions; never blocks. Of each node only the newest one waits: it replaces what
/// that node asked before.
#[derive(Default)]
pub struct OrderService {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Default)]
struct Asked {
    from: BTreeMap<NodeId, Gsn>,
    stopped: bool,
}

impl OrderService {
    pub fn serve(&self, to: NodeId, from: Gsn) {
        self.asked.lock().from.insert(to, from);
        self.changed.notify_one();
    }

    /// Ends the thread that answers.
    pub fn stop(&self) {
        self.asked.lock().stopped = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<(NodeId, Gsn)> {
        let mut asked = self.asked.lock();
        loop {
            if asked.stopped {
                return None;
            }
            if let Some(next) = asked.from.pop_first() {
                return Some(next);
            }
            self.changed.wait(&mut asked);
        }
    }
}

/// The oldest agreement of `volume` that this node can give; with nothing stored, the next one.
pub fn oldest(store: &Store, volume: VolumeId, pulse: &Pulse) -> Result<Gsn, StoreError> {
    let kept = store.order_range(volume)?;
    Ok(kept.map_or_else(|| pulse.applied().next(), |(oldest, _)| oldest))
}

#[derive(Clone)]
pub struct OrderThread {
    pub volume: VolumeId,
    pub store: Store,
    pub wire: Arc<wire::Wire>,
    pub pulse: Arc<Pulse>,
}

/// A message of catching up: small enough not to delay heartbeats on the same connection.
const ANSWER_BYTES: usize = 512 << 10;
/// An answer to a node that catches up in bulk, before compression.
const BULK_BYTES: usize = 2 << 20;

impl OrderThread {
    pub fn run(&self, service: &OrderService) {
        while let Some((to, from)) = service.next() {
            match self.answer(from) {
                Ok(message) => self.wire.send_ring(to, self.volume, message.encode()),
                Err(error) => self.failed(&error),
            }
        }
    }

    fn answer(&self, from: Gsn) -> Result<Message, StoreError> {
        let oldest = oldest(&self.store, self.volume, &self.pulse)?;
        let records = if from < oldest {
            Vec::new()
        } else {
            self.store.order(self.volume, from, ANSWER_BYTES)?
        };
        Ok(Message::Order { records, oldest, gsn: self.pulse.applied() })
    }

    /// Answers a node that catches up in bulk.
    pub async fn bulk(&self, from: Gsn, upto: Gsn) -> Response {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || this.read(from, upto)).await;
        match read {
            Ok(Ok(Some(records))) => Response::Order { records, gsn: self.pulse.applied() },
            Ok(Ok(None)) => Response::refused(
                RefusedCode::TooOld,
                format!("agreement {from} is not kept here any more"),
            ),
            Ok(Err(error)) => {
                self.failed(&error);
                Response::refused(RefusedCode::Failed, error.to_string())
            }
            Err(_) => Response::refused(RefusedCode::Failed, "the reader stopped"),
        }
    }

    fn read(&self, from: Gsn, upto: Gsn) -> Result<Option<Packed>, StoreError> {
        if from < oldest(&self.store, self.volume, &self.pulse)? {
            return Ok(None);
        }
        let mut records = self.store.order_between(self.volume, from, upto, BULK_BYTES)?;
        loop {
            let bytes = minicbor::to_vec(&records).expect("a Vec takes any bytes");
            if bytes.len() <= Packed::RAW_MAX_BYTES {
                return Ok(Some(Packed::new(&bytes)));
            }
            // One large agreement may follow many small ones.
            records.truncate(records.len() / 2);
        }
    }

    fn failed(&self, error: &StoreError) {
        let reason = format!("the agreed order cannot be read: {error}");
        match error {
            StoreError::Damaged { .. } => self.pulse.fail_damaged(reason),
            _ => self.pulse.fail(reason),
        }
    }
}

//! Serves stored agreements to replicas that lag: on its own thread, because it reads the disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use engine::consensus::Message;
use engine::ids::{Gsn, NodeId, VolumeId};
use store::Store;

use super::pulse::Pulse;

/// Takes requests; never blocks.
#[derive(Clone)]
pub struct OrderService(pub Sender<(NodeId, Gsn)>);

impl OrderService {
    pub fn serve(&self, to: NodeId, from: Gsn) {
        let _ = self.0.send((to, from));
    }
}

pub struct OrderThread {
    pub volume: VolumeId,
    pub store: Store,
    pub wire: Arc<wire::Wire>,
    pub pulse: Arc<Pulse>,
}

/// A message of catching up: small enough not to delay heartbeats on the same connection.
const ANSWER_BYTES: usize = 512 << 10;

impl OrderThread {
    pub fn run(&self, requests: &Receiver<(NodeId, Gsn)>) {
        while let Ok((to, from)) = requests.recv() {
            match self.answer(from) {
                Ok(message) => self.wire.send_ring(to, self.volume, message.encode()),
                Err(error) => self.pulse.fail(format!("the agreed order cannot be read: {error}")),
            }
        }
    }

    fn answer(&self, from: Gsn) -> Result<Message, store::StoreError> {
        // Nothing stored: what comes next is the oldest that this node will have.
        let oldest = match self.store.order_range(self.volume)? {
            Some((oldest, _)) => oldest,
            None => self.pulse.applied().next(),
        };
        let records = if from < oldest {
            Vec::new()
        } else {
            self.store.order(self.volume, from, ANSWER_BYTES)?
        };
        Ok(Message::Order { records, oldest, gsn: self.pulse.applied() })
    }
}

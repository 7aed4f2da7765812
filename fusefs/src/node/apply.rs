//! The apply thread: agreed commands into the tables, then into everybody's caches, then the
//! replies.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use engine::consensus::Input;
use engine::consensus::entry::EntryKind;
use engine::consensus::record::{Header, OrderRecord};
use engine::ids::{Gsn, VolumeId};
use engine::namespace::tables::{Overlay, TablesError};
use engine::namespace::{Touched, View, apply};
use engine::outcome::Outcome;
use store::Store;

use super::driver::Event;
use super::proposals::Proposals;
use super::pulse::Pulse;
use crate::ops::ports::{Done, OnApplied, Origin, ProposeError};

/// One agreement and the state of the order after it.
pub struct Agreed {
    pub record: OrderRecord,
    pub header: Arc<Header>,
}

/// A caller's reply, to be run on the reply thread.
pub struct Finished {
    pub done: Done<Outcome, ProposeError>,
    pub result: Result<Outcome, ProposeError>,
}

pub struct ApplyThread {
    pub volume: VolumeId,
    pub store: Store,
    pub proposals: Arc<Proposals>,
    pub pulse: Arc<Pulse>,
    pub events: Sender<Event>,
    pub replies: Sender<Finished>,
    /// Told in this order.
    pub followers: Vec<Arc<dyn OnApplied>>,
}

/// Agreements applied in one batch at most: bounds the time until the first one shows.
const BATCH_ENTRIES_MAX: usize = 256;

/// What one command changed, for the followers.
struct Change {
    gsn: Gsn,
    touched: Vec<Touched>,
    origin: Origin,
}

impl ApplyThread {
    /// Runs until the channel is closed, or until the tables cannot be read or written.
    pub fn run(&self, agreed: &Receiver<Agreed>) {
        while let Ok(first) = agreed.recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_ENTRIES_MAX {
                let Ok(next) = agreed.try_recv() else { break };
                batch.push(next);
            }
            if let Err(reason) = self.apply(batch) {
                self.pulse.fail(reason);
                return;
            }
        }
    }

    fn apply(&self, batch: Vec<Agreed>) -> Result<(), String> {
        let mut overlay = Overlay::new(self.store.tables(self.volume));
        let mut changes = Vec::new();
        let mut finished = Vec::new();
        let mut hashes = Vec::with_capacity(batch.len());
        let mut expected = self.pulse.applied().next();
        for agreed in &batch {
            let gsn = agreed.record.gsn;
            assert_eq!(gsn, expected, "agreements apply without gaps");
            expected = gsn.next();
            self.apply_entry(&mut overlay, &agreed.record, &mut changes, &mut finished)
                .map_err(|error| format!("agreement {gsn} cannot be applied: {error}"))?;
            let hash = View::new(&overlay)
                .state_hash()
                .map_err(|error| format!("the state hash at {gsn} cannot be read: {error}"))?;
            hashes.push((gsn, hash));
        }
        let last = batch.last().expect("a batch has at least one agreement");
        let (gsn, header) = (last.record.gsn, last.header.clone());
        let records: Vec<OrderRecord> = batch.into_iter().map(|agreed| agreed.record).collect();
        self.store
            .apply(self.volume, overlay.changes(), &header, &records)
            .map_err(|error| format!("agreement {gsn} cannot be stored: {error}"))?;
        self.pulse.record_applied(&hashes, &header);

        for change in changes {
            for follower in &self.followers {
                follower.applied(change.gsn, &change.touched, change.origin);
            }
        }
        self.pulse.record_told(gsn);
        for reply in finished {
            let _ = self.replies.send(reply);
        }
        let (gsn, hash) = *hashes.last().expect("one hash for each agreement");
        let _ = self.events.send(Event::Input(Input::StateHash { gsn, hash }));
        Ok(())
    }

    fn apply_entry(
        &self,
        overlay: &mut Overlay<impl engine::namespace::tables::Tables>,
        record: &OrderRecord,
        changes: &mut Vec<Change>,
        finished: &mut Vec<Finished>,
    ) -> Result<(), TablesError> {
        match &record.entry.kind {
            EntryKind::Commands { commands, .. } => {
                for command in commands {
                    let applied = apply(overlay, record.gsn, command)?;
                    let mut origin = Origin::Elsewhere;
                    if let Some(outcome) = applied.outcome
                        && let Some(waiter) = self.proposals.finish(command.id)
                    {
                        origin = waiter.origin;
                        let result = waiter.waited.map(|()| outcome);
                        finished.push(Finished { done: waiter.done, result });
                    }
                    if !applied.touched.is_empty() {
                        changes.push(Change { gsn: record.gsn, touched: applied.touched, origin });
                    }
                }
            }
            EntryKind::Reconfigure(_) => {
                let touched = vec![Touched::Members];
                changes.push(Change { gsn: record.gsn, touched, origin: Origin::Elsewhere });
            }
            EntryKind::Tick | EntryKind::End { .. } => {}
        }
        Ok(())
    }
}

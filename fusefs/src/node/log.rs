//! The log thread: many records, one fsync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::consensus::record::LogRecord;
use engine::consensus::{Entry, Input, Message};
use engine::ids::{Gsn, NodeId, VolumeId};
use store::Store;

use super::driver::Event;
use super::pulse::Pulse;
use super::queue::{Outgoing, QueueReceiver, Received};
use super::stage::Stage;

/// Records to make durable, and the messages that may go only then.
#[derive(Default)]
pub struct LogJob {
    pub records: Vec<LogRecord>,
    pub then_send: Vec<(NodeId, Message)>,
}

impl LogJob {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.then_send.is_empty()
    }

    /// About what it holds.
    pub fn bytes(&self) -> usize {
        let record = |record: &LogRecord| match record {
            LogRecord::Accepted { entry, .. } => entry.size_hint(),
            _ => 64,
        };
        let message = |(_, message): &(NodeId, Message)| match message {
            Message::Propose { entries, .. } => entries.iter().map(Entry::size_hint).sum(),
            Message::Promise { accepted, .. } => {
                accepted.iter().map(|accepted| accepted.entry.size_hint()).sum()
            }
            _ => 64,
        };
        let records: usize = self.records.iter().map(record).sum();
        records + self.then_send.iter().map(message).sum::<usize>()
    }
}

pub struct LogThread {
    pub volume: VolumeId,
    pub me: NodeId,
    pub store: Store,
    pub wire: Arc<wire::Wire>,
    pub events: Outgoing<Event>,
    pub pulse: Arc<Pulse>,
    pub stage: Arc<Stage>,
}

/// Jobs that share one fsync at most. What arrives during an fsync waits for the next one, so
/// the slower the disk, the larger the groups.
const GROUP_JOBS_MAX: usize = 4096;

/// So long after the last record the tables are made durable for their own sake.
const IDLE: Duration = Duration::from_millis(200);

impl LogThread {
    /// Runs until the channel is closed, or until the disk fails.
    pub fn run(&self, jobs: &QueueReceiver<LogJob>) {
        let mut applied_durable = Gsn(0);
        loop {
            let mut group = match jobs.recv_within(IDLE) {
                Received::Item(group) => group,
                Received::Finished => return,
                Received::Nothing => {
                    // Nobody else makes the last agreements of an idle ring durable in the
                    // tables, and the next membership waits for that.
                    let applied = self.pulse.applied();
                    if applied > applied_durable {
                        if let Err(error) = self.store.sync() {
                            self.pulse
                                .fail(format!("the tables could not be made durable: {error}"));
                            return;
                        }
                        applied_durable = applied;
                        self.events.send(Event::Input(Input::AppliedDurable(applied)));
                    }
                    continue;
                }
            };
            for _ in 1..GROUP_JOBS_MAX {
                let Some(job) = jobs.next_if(|_| true) else { break };
                group.records.extend(job.records);
                group.then_send.extend(job.then_send);
            }
            if !group.records.is_empty() {
                // Read before the sync: what was applied until here is durable after it.
                let applied = self.pulse.applied();
                let begun = Instant::now();
                let persisted = self.persist(&group.records);
                self.stage.service.observe(begun.elapsed());
                if let Err(error) = persisted {
                    // Nothing that waited for this may ever be sent.
                    self.pulse
                        .fail(format!("the agreement log could not be made durable: {error}"));
                    return;
                }
                if applied > applied_durable {
                    applied_durable = applied;
                    self.events.send(Event::Input(Input::AppliedDurable(applied)));
                }
            }
            for (to, message) in group.then_send {
                if to == self.me {
                    let input = Input::Message { from: self.me, message };
                    self.events.send(Event::Input(input));
                } else {
                    self.wire.send_ring(to, self.volume, message.encode());
                }
            }
        }
    }

    fn persist(&self, records: &[LogRecord]) -> Result<(), store::StoreError> {
        self.store.append(self.volume, records)?;
        self.store.sync()
    }
}

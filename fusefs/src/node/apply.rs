//! The apply thread: agreed commands into the tables, then into everybody's caches, then the
//! replies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::consensus::Input;
use engine::consensus::diverge::STATE_EVERY;
use engine::consensus::entry::EntryKind;
use engine::consensus::record::{Header, OrderRecord};
use engine::ids::{Gsn, VolumeId};
use engine::namespace::tables::{Overlay, TablesError};
use engine::namespace::{Touched, View, apply, retire};
use engine::outcome::{Outcome, Verdict};
use store::{AppliedRecord, CheckpointInstall, Store};
use tokio::sync::oneshot;

use super::driver::Event;
use super::lease::Lease;
use super::proposals::{Proposals, Waiter};
use super::pulse::Pulse;
use super::queue::{Outgoing, QueueReceiver};
use super::stage::Stages;
use crate::ops::ports::{self, Done, OnApplied, Origin, ProposeError, SharedTables};

/// What the thread does next.
pub enum ApplyJob {
    Agreed(Agreed),
    Install(Install),
}

/// A complete and checked checkpoint to go on from.
pub struct Install {
    pub checkpoint: CheckpointInstall,
    /// Told when it is done; false if the tables had gone beyond it.
    pub done: oneshot::Sender<bool>,
}

/// One agreement and the state of the order after it.
pub struct Agreed {
    pub record: OrderRecord,
    pub header: Arc<Header>,
}

/// A caller's reply, to be run on the reply thread.
pub struct Finished {
    pub done: Done<Outcome, ProposeError>,
    pub result: Result<Outcome, ProposeError>,
    /// When the command was proposed, as [`super::clock::since_boot`].
    pub proposed: Duration,
}

pub struct ApplyThread {
    pub volume: VolumeId,
    pub store: Store,
    pub proposals: Arc<Proposals>,
    pub lease: Arc<Lease>,
    pub pulse: Arc<Pulse>,
    pub events: Outgoing<Event>,
    pub replies: Outgoing<Finished>,
    pub stages: Arc<Stages>,
    /// Told in this order.
    pub followers: Vec<Arc<dyn OnApplied>>,
}

/// Agreements applied in one batch at most: bounds the time until the first one shows.
const BATCH_ENTRIES_MAX: usize = 256;

/// What stops the thread.
enum Stop {
    /// The tables are not what was written.
    Damaged(String),
    Failed(String),
}

/// What one command changed, for the followers.
struct Change {
    gsn: Gsn,
    touched: Vec<Touched>,
    origin: Origin,
}

impl ApplyThread {
    /// Runs until the channel is closed, or until the tables cannot be read or written.
    pub fn run(&self, jobs: &QueueReceiver<ApplyJob>) {
        while let Some(job) = jobs.recv() {
            let done = match job {
                ApplyJob::Install(install) => self.install(install),
                ApplyJob::Agreed(first) => {
                    let mut batch = vec![first];
                    let is_agreed = |job: &ApplyJob| matches!(job, ApplyJob::Agreed(_));
                    while batch.len() < BATCH_ENTRIES_MAX
                        && let Some(ApplyJob::Agreed(next)) = jobs.next_if(is_agreed)
                    {
                        batch.push(next);
                    }
                    // Agreed on the way here of a checkpoint that contains it.
                    let applied = self.pulse.applied();
                    batch.retain(|agreed| agreed.record.gsn > applied);
                    if batch.is_empty() { Ok(()) } else { self.apply(batch) }
                }
            };
            // What a table holds is read by `apply` through an error that has only text.
            match (done, self.store.damage()) {
                (Ok(()), _) => {}
                (Err(Stop::Damaged(reason)), _) => return self.pulse.fail_damaged(reason),
                (Err(Stop::Failed(reason)), Some(_)) => return self.pulse.fail_damaged(reason),
                (Err(Stop::Failed(reason)), None) => return self.pulse.fail(reason),
            }
        }
    }

    /// Puts a checkpoint in the place of the tables, and tells everybody who follows them.
    fn install(&self, install: Install) -> Result<(), Stop> {
        let Install { checkpoint, done } = install;
        let header = Arc::new(checkpoint.header().clone());
        if header.gsn <= self.pulse.applied() {
            checkpoint.discard().map_err(Stop::store)?;
            let _ = done.send(false);
            return Ok(());
        }
        let before = self.view()?;
        checkpoint.finish().map_err(Stop::store)?;
        let after = self.view()?;
        let gsn = header.gsn;
        let hash = after.state_hash().map_err(Stop::tables)?;
        self.pulse.record_installed((gsn, hash), &header);
        for follower in &self.followers {
            follower.replaced(gsn, &before, &after);
        }
        let finished_seq = self.answer_installed(&after)?;
        let header = Header::clone(&header);
        self.events.send(Event::Input(Input::Installed { header, finished_seq }));
        self.events.send(Event::Input(Input::StateHash { gsn, hash }));
        drop(before);
        self.store.remove_replaced(self.volume).map_err(Stop::store)?;
        let _ = done.send(true);
        Ok(())
    }

    fn view(&self) -> Result<ports::View, Stop> {
        let tables = self.store.snapshot(self.volume).map_err(Stop::store)?;
        Ok(ports::View::new(SharedTables(Arc::new(tables))))
    }

    /// Answers the callers whose commands were agreed before the checkpoint was made: the
    /// tables keep the outcomes of so many commands as a node has on their way. Gives the last
    /// one of this start.
    fn answer_installed(&self, view: &ports::View) -> Result<u64, Stop> {
        let (me, boot) = self.proposals.origin();
        let origin = view.origin(me).map_err(Stop::tables)?;
        let finished_seq =
            origin.filter(|origin| origin.boot == boot).map_or(0, |origin| origin.last_seq);
        for (id, Waiter { done, waited, proposed, .. }) in self.proposals.finish_upto(finished_seq)
        {
            let outcome = view.outcome_of(id).map_err(Stop::tables)?;
            // Otherwise it happened, but what came of it is not known any more.
            let result = waited.and_then(|()| outcome.ok_or(ProposeError::Interrupted));
            self.reply(Finished { done, result, proposed });
        }
        Ok(finished_seq)
    }

    fn apply(&self, batch: Vec<Agreed>) -> Result<(), Stop> {
        let begun = Instant::now();
        let mut overlay = Overlay::new(self.store.tables(self.volume));
        let mut changes = Vec::new();
        let mut finished = Vec::new();
        let mut hashes = Vec::with_capacity(batch.len());
        let mut verdicts = Vec::with_capacity(batch.len());
        let mut expected = self.pulse.applied().next();
        for agreed in &batch {
            let gsn = agreed.record.gsn;
            assert_eq!(gsn, expected, "agreements apply without gaps");
            expected = gsn.next();
            let of_entry =
                self.apply_entry(&mut overlay, agreed, &mut changes, &mut finished).map_err(
                    |error| Stop::Failed(format!("agreement {gsn} cannot be applied: {error}")),
                )?;
            verdicts.push(of_entry);
            let hash = View::new(&overlay).state_hash().map_err(Stop::tables)?;
            hashes.push((gsn, hash));
        }
        let computed = Instant::now();
        self.stages.agreed.service.observe(computed - begun);
        self.stages.applied.entered(batch.len());
        let last = batch.last().expect("a batch has at least one agreement");
        let (gsn, header) = (last.record.gsn, last.header.clone());
        let records: Vec<AppliedRecord> = batch
            .into_iter()
            .zip(verdicts)
            .map(|(agreed, of_entry)| AppliedRecord {
                record: agreed.record,
                verdicts: Some(of_entry),
            })
            .collect();
        self.store
            .apply(self.volume, overlay.changes(), &header, &records)
            .map_err(|error| Stop::Failed(format!("agreement {gsn} cannot be stored: {error}")))?;
        self.pulse.record_applied(&hashes, &header);
        let written = Instant::now();
        self.stages.applied.wait.observe(written - computed);

        for change in changes {
            for follower in &self.followers {
                follower.applied(change.gsn, &change.touched, change.origin);
            }
        }
        self.pulse.record_told(gsn);
        self.stages.applied.service.observe(written.elapsed());
        self.stages.applied.left(hashes.len());
        for reply in finished {
            self.reply(reply);
        }
        for (at, (gsn, hash)) in hashes.iter().copied().enumerate() {
            if at + 1 == hashes.len() || gsn.0.is_multiple_of(STATE_EVERY) {
                self.events.send(Event::Input(Input::StateHash { gsn, hash }));
            }
        }
        Ok(())
    }

    /// When everybody was told of what the command changed.
    fn reply(&self, finished: Finished) {
        self.lease.renew(finished.proposed);
        self.replies.send(finished);
    }

    /// Gives what came of the commands that were not simply done, by their place.
    fn apply_entry(
        &self,
        overlay: &mut Overlay<impl engine::namespace::tables::Tables>,
        agreed: &Agreed,
        changes: &mut Vec<Change>,
        finished: &mut Vec<Finished>,
    ) -> Result<BTreeMap<u32, Verdict>, TablesError> {
        let mut verdicts = BTreeMap::new();
        let Agreed { record, header } = agreed;
        match &record.entry.kind {
            EntryKind::Commands { commands, .. } => {
                for (place, command) in (0..).zip(commands) {
                    let applied = apply(overlay, record.gsn, command)?;
                    let verdict = applied.verdict();
                    if verdict != Verdict::Done {
                        verdicts.insert(place, verdict);
                    }
                    let mut origin = Origin::Elsewhere;
                    if let Some(outcome) = applied.outcome
                        && let Some(waiter) = self.proposals.finish(command.id)
                    {
                        origin = waiter.origin;
                        let result = waiter.waited.map(|()| outcome);
                        finished.push(Finished {
                            done: waiter.done,
                            result,
                            proposed: waiter.proposed,
                        });
                    }
                    if !applied.touched.is_empty() {
                        changes.push(Change { gsn: record.gsn, touched: applied.touched, origin });
                    }
                }
            }
            EntryKind::Reconfigure(_) => {
                let mut touched = retire(overlay, record.gsn, &header.config.removed)?;
                if !touched.contains(&Touched::Members) {
                    touched.push(Touched::Members); // Votes are part of it.
                }
                changes.push(Change { gsn: record.gsn, touched, origin: Origin::Elsewhere });
            }
            EntryKind::Tick | EntryKind::End { .. } => {}
        }
        Ok(verdicts)
    }
}

impl Stop {
    fn store(error: store::StoreError) -> Stop {
        match error {
            store::StoreError::Damaged { .. } => Stop::Damaged(error.to_string()),
            _ => Stop::Failed(error.to_string()),
        }
    }

    fn tables(error: TablesError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

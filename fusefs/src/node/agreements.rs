//! The agreed order as people and programs read it: any part that is kept, by many at once.
//!
//! One thread of low priority reads for all of them, a bounded batch at a time: readers take
//! what the ring and the mount leave over, and hold nobody up. A follower holds one batch, and
//! only while it is being sent. It is woken when more is applied, but looks only so often, so
//! that under load many agreements cost one look.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use engine::command::Name;
use engine::ids::{Gsn, Ino, VolumeId};
use parking_lot::Mutex;
use store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::describe;
use super::order;
use super::paths;
use super::pulse::{Failure, Pulse};
use super::report::Names;
use super::setup::failed;
use crate::admin::control::{ControlError, FailureKind, LogFollower, LogQuery, Reply};
use crate::admin::report::{LogCommand, LogEntry};
use crate::ops::ports::Ring;

/// Readers of one volume's order.
pub struct Agreements {
    source: Source,
    /// Dropped, it ends the thread.
    jobs: Mutex<Option<Sender<Job>>>,
    places: Arc<Semaphore>,
    stopped: watch::Sender<bool>,
}

type Job = Box<dyn FnOnce() + Send>;

/// What the thread reads from.
#[derive(Clone)]
pub struct Source {
    pub volume: VolumeId,
    pub store: Store,
    pub ring: Arc<dyn Ring>,
    pub pulse: Arc<Pulse>,
}

/// So many may follow at once; each holds at most one batch, and a connection.
const FOLLOWERS_MAX: usize = 256;
/// Stored bytes read for one batch: some thousand agreements, some milliseconds.
const BATCH_BYTES: usize = 256 << 10;
/// A follower that has everything looks so often at most. The first news after silence comes at
/// once; under load a look costs as much as some tens of commands, and then serves many.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The thread's nice value: its work can wait for everybody else's.
const NICE: i32 = 10;

impl Agreements {
    /// The readers, and what their thread has to [`serve`].
    pub fn new(source: Source) -> (Arc<Agreements>, Receiver<Job>) {
        let (sender, jobs) = channel();
        let agreements = Agreements {
            source,
            jobs: Mutex::new(Some(sender)),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            stopped: watch::Sender::new(false),
        };
        (Arc::new(agreements), jobs)
    }

    /// The first agreements that `query` asks for.
    ///
    /// # Errors
    /// `Gone` if they are not kept any more, `Usage` for a path that cannot be.
    pub async fn page(&self, query: LogQuery) -> Result<Vec<LogEntry>, ControlError> {
        let filter = Filter::new(&query, &self.source)?;
        let limit = query.limit as u64;
        let deadline = Instant::now() + Duration::from_millis(query.wait_ms.unwrap_or(0));
        let mut applied = self.source.pulse.watch_applied();
        let mut next = match query.from {
            0 => {
                let newest = self.source.pulse.applied().0;
                Gsn((newest + 1).saturating_sub(limit)).max(self.oldest().await?)
            }
            from => Gsn(from),
        };
        loop {
            let batch = self.read(next, limit, filter.clone()).await?;
            let (is_there, before) = (!batch.entries.is_empty(), next);
            next = batch.next;
            if is_there || limit == 0 {
                return Ok(batch.entries);
            }
            if next > before && next <= self.source.pulse.applied() {
                continue;
            }
            let coming = applied.wait_for(|applied| *applied >= next);
            match tokio::time::timeout_at(deadline, coming).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return Ok(Vec::new()),
            }
        }
    }

    /// A new follower.
    ///
    /// # Errors
    /// As for [`Self::page`]; `Refused` if there are too many.
    pub async fn follow(self: &Arc<Self>, query: &LogQuery) -> Result<Follower, ControlError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            ControlError::refused(format!("{FOLLOWERS_MAX} readers follow this order already"))
                .hint("end some of them, or ask another node")
        })?;
        let pulse = &self.source.pulse;
        let next = match query.from {
            0 => pulse.applied().next(),
            from => Gsn(from),
        };
        // Whoever asks for what is gone is told at once, with an error instead of a stream.
        self.read(next, 1, Filter::default()).await?;
        Ok(Follower {
            filter: Filter::new(query, &self.source)?,
            next,
            applied: pulse.watch_applied(),
            failure: pulse.watch_failure(),
            stopped: self.stopped.subscribe(),
            rest_until: Instant::now(),
            agreements: Arc::clone(self),
            _place: place,
        })
    }

    pub fn followers(&self) -> usize {
        FOLLOWERS_MAX - self.places.available_permits()
    }

    /// Ends the thread and all followers.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
        drop(self.jobs.lock().take());
    }

    async fn read(&self, from: Gsn, limit: u64, filter: Filter) -> Result<Batch, ControlError> {
        self.on_thread(move |source| source.read(from, limit, &filter)).await
    }

    async fn oldest(&self) -> Result<Gsn, ControlError> {
        self.on_thread(Source::oldest).await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Source) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let (sender, done) = oneshot::channel();
        let source = self.source.clone();
        let job: Job = Box::new(move || drop(sender.send(job(&source))));
        let sent = self.jobs.lock().as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        match done.await {
            Ok(result) if sent => result,
            _ => Err(stopping()),
        }
    }
}

/// The thread that reads, until [`Agreements::stop`].
pub fn serve(jobs: &Receiver<Job>) {
    // On Linux a nice value is a thread's own.
    let lowered = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
    if let Err(error) = lowered {
        tracing::debug!(%error, "readers of the order have no lower priority");
    }
    while let Ok(job) = jobs.recv() {
        job();
    }
}

fn stopping() -> ControlError {
    ControlError::no_daemon("the node stops").hint("go on with the next GSN when it is back")
}

/// Some agreements.
struct Batch {
    entries: Vec<LogEntry>,
    /// The first that was not looked at.
    next: Gsn,
}

impl Source {
    fn read(&self, from: Gsn, limit: u64, filter: &Filter) -> Result<Batch, ControlError> {
        let applied = self.pulse.applied();
        if from > applied || limit == 0 {
            return Ok(Batch { entries: Vec::new(), next: from });
        }
        let upto = Gsn(from.0.saturating_add(limit - 1)).min(applied);
        let rows = self.store.order_applied(self.volume, from, upto, BATCH_BYTES);
        let rows = rows.map_err(failed)?;
        let Some(last) = rows.last() else {
            let oldest = self.oldest()?;
            return Err(ControlError::new(
                FailureKind::Gone,
                format!("agreement {from} is not kept here any more: the oldest is {oldest}"),
            )
            .hint(format!("go on with --from {oldest}, or ask another node")));
        };
        let next = last.record.gsn.next();
        let names = Names::read(&self.ring.view()).map_err(failed)?;
        let entries = rows.iter().map(|row| describe::agreement(row, &names));
        Ok(Batch { entries: entries.filter_map(|entry| filter.keep(entry)).collect(), next })
    }

    fn oldest(&self) -> Result<Gsn, ControlError> {
        order::oldest(&self.store, self.volume, &self.pulse).map_err(failed)
    }
}

/// One reader's place.
pub struct Follower {
    agreements: Arc<Agreements>,
    filter: Filter,
    next: Gsn,
    applied: watch::Receiver<Gsn>,
    failure: watch::Receiver<Option<Failure>>,
    stopped: watch::Receiver<bool>,
    rest_until: Instant,
    _place: OwnedSemaphorePermit,
}

impl LogFollower for Follower {
    fn next(&mut self) -> Reply<'_, Bytes> {
        Box::pin(async move {
            loop {
                self.wait().await?;
                let (next, filter) = (self.next, self.filter.clone());
                let (lines, next) = self
                    .agreements
                    .on_thread(move |source| {
                        let batch = source.read(next, u64::MAX, &filter)?;
                        Ok((lines(&batch.entries), batch.next))
                    })
                    .await?;
                self.next = next;
                if next > *self.applied.borrow() {
                    self.rest_until = Instant::now() + LOOK_EVERY;
                }
                if !lines.is_empty() {
                    return Ok(lines);
                }
            }
        })
    }
}

impl Follower {
    /// Until there is more, and it is time to look.
    async fn wait(&mut self) -> Result<(), ControlError> {
        let next = self.next;
        let more = async {
            let more = self.applied.wait_for(|applied| *applied >= next).await.is_ok();
            tokio::time::sleep_until(self.rest_until).await;
            more
        };
        tokio::select! {
            // What is applied is given also when the node fails after it.
            biased;
            true = more => Ok(()),
            failure = self.failure.wait_for(Option::is_some) => {
                let failure = failure.ok().and_then(|failure| failure.clone());
                let reason = failure.map_or_else(String::new, |failure| failure.reason);
                Err(ControlError::failed(format!("this node has stopped: {reason}"))
                    .hint("go on with the next GSN on another node"))
            }
            _ = self.stopped.wait_for(|stopped| *stopped) => Err(stopping()),
            else => Err(stopping()),
        }
    }
}

/// One JSON value on each line.
fn lines(entries: &[LogEntry]) -> Bytes {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry).expect("reports have JSON forms");
        lines.push(b'\n');
    }
    lines.into()
}

/// Which agreements, and which of their commands, a reader wants.
#[derive(Clone, Debug, Default)]
struct Filter {
    changes: bool,
    node: Option<String>,
    zone: Option<String>,
    uid: Option<u32>,
    place: Option<Place>,
}

/// A name in a directory, and what it led to when the reader came.
#[derive(Clone, Debug)]
struct Place {
    parent: Ino,
    name: String,
    ino: Option<Ino>,
}

impl Filter {
    fn new(query: &LogQuery, source: &Source) -> Result<Filter, ControlError> {
        let place = query.path.as_deref().map(|path| Place::find(path, source)).transpose()?;
        Ok(Filter {
            changes: query.changes,
            node: query.node.clone(),
            zone: query.zone.clone(),
            uid: query.uid,
            place,
        })
    }

    /// What is left of an agreement.
    fn keep(&self, mut entry: LogEntry) -> Option<LogEntry> {
        let counts_commands = self.node.is_some()
            || self.zone.is_some()
            || self.uid.is_some()
            || self.place.is_some();
        if counts_commands {
            entry.commands.retain(|command| self.wants(command));
            return (!entry.commands.is_empty()).then_some(entry);
        }
        let changes = !entry.commands.is_empty() || entry.kind == "reconfigure";
        (changes || !self.changes).then_some(entry)
    }

    fn wants(&self, command: &LogCommand) -> bool {
        self.node.as_ref().is_none_or(|node| *node == command.node)
            && self.zone.as_ref().is_none_or(|zone| *zone == command.zone)
            && self.uid.is_none_or(|uid| uid == command.uid)
            && self.place.as_ref().is_none_or(|place| place.is_named_by(command))
    }
}

impl Place {
    /// Only the directory must be there: whoever follows may ask for what is to come, and for
    /// what was removed.
    fn find(path: &str, source: &Source) -> Result<Place, ControlError> {
        let path = path.trim_matches('/');
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let view = source.ring.view();
        let (parent, _) = paths::find(&view, directory)?;
        if name.is_empty() {
            // The root has no name.
            return Ok(Place { parent: Ino(0), name: String::new(), ino: Some(parent) });
        }
        let name = Name::parse(name.as_bytes())
            .map_err(|error| ControlError::usage(format!("'{name}' in the path: {error}")))?;
        let ino = view.lookup(parent, &name).map_err(failed)?;
        Ok(Place { parent, name: describe::shown(name.as_bytes()), ino })
    }

    fn is_named_by(&self, command: &LogCommand) -> bool {
        let subject = &command.subject;
        let is_here = |parent: Option<u64>, name: &Option<String>| {
            parent == Some(self.parent.0) && name.as_ref() == Some(&self.name)
        };
        is_here(subject.parent, &subject.name)
            || is_here(subject.to_parent, &subject.to_name)
            || self.ino.is_some_and(|ino| subject.ino == Some(ino.0))
    }
}

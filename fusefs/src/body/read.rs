//! Reads: from memory and local files at once, else after an urgent fetch of just the bytes
//! that are missing.
//!
//! The plan of a read is made under the file's lock and names immutable bytes only (a layer's
//! own bytes aside), so what is read later is still of one version.

use std::ops::Range;
use std::sync::Arc;

use engine::ids::{BodyId, Ino};
use store::StoreError;
use tokio::time::Instant;

use super::BodyService;
use super::content::{From as Place, Segment, fill};
use super::error::stored;
use super::fetch::Remote;
use super::state::Base;
use crate::ops::ports::{BodyError, Handle, ReadDone};

/// Why a plan could not be read right away.
#[derive(Debug)]
enum NotRead {
    /// Not all bytes of this body are here.
    Missing,
    Failed(BodyError),
}

impl From<StoreError> for NotRead {
    fn from(error: StoreError) -> NotRead {
        NotRead::Failed(stored(error))
    }
}

impl BodyService {
    pub(super) fn read_handle(
        self: &Arc<Self>,
        handle: Handle,
        offset: u64,
        len: u32,
        done: ReadDone,
    ) {
        let planned = self.table.handle(handle).and_then(|open| {
            let state = open.body.state(&*self.ring, &self.stages, None)?;
            let range = offset..offset.saturating_add(u64::from(len));
            Ok((open.body.ino, state.plan(range), state.base.clone()))
        });
        let (ino, plan, base) = match planned {
            Ok(planned) => planned,
            Err(error) => return done(Err(error)),
        };
        let mut bytes = vec![0; plan_len(&plan)];
        match self.fill_here(&plan, &mut bytes) {
            Ok(()) => done(Ok(&bytes)),
            Err(NotRead::Failed(error)) => done(Err(error)),
            Err(NotRead::Missing) => {
                let service = Arc::clone(self);
                self.runtime.spawn(async move {
                    match service.read_missing(ino, plan, base, bytes).await {
                        Ok(bytes) => done(Ok(&bytes)),
                        Err(error) => done(Err(error)),
                    }
                });
            }
        }
    }

    /// Fetches what a plan lacks, and reads it.
    async fn read_missing(
        self: &Arc<Self>,
        ino: Ino,
        plan: Vec<Segment>,
        base: Base,
        mut bytes: Vec<u8>,
    ) -> Result<Vec<u8>, BodyError> {
        let deadline = Instant::now() + self.settings.fetch_timeout;
        let plan = Arc::new(plan);
        self.counters.reads_waited.add(1);
        self.wants.lock().list.ask(ino);
        self.wants_changed.notify_one();
        loop {
            for (id, len, range) in bodies_of(&plan) {
                let wanted = Remote { id, len, version: base.version, holder: base.holder };
                let brought = self.bring(wanted, range);
                match tokio::time::timeout_at(deadline, brought).await {
                    Ok(brought) => brought?,
                    Err(_) => {
                        let waited_ms = self.settings.fetch_timeout.as_millis();
                        let waited_ms = u64::try_from(waited_ms).unwrap_or(u64::MAX);
                        return Err(BodyError::Unreachable { waited_ms });
                    }
                }
            }
            let (service, reading) = (Arc::clone(self), Arc::clone(&plan));
            let read = tokio::task::spawn_blocking(move || {
                let result = service.fill_here(&reading, &mut bytes);
                (result, bytes)
            });
            let result;
            (result, bytes) = read.await.map_err(|error| BodyError::Storage(error.to_string()))?;
            match result {
                Ok(()) => return Ok(bytes),
                Err(NotRead::Failed(error)) => return Err(error),
                // It was here and is not any more: damaged, or evicted.
                Err(NotRead::Missing) if Instant::now() < deadline => {}
                Err(NotRead::Missing) => {
                    return Err(BodyError::Damaged("what was fetched was lost again".into()));
                }
            }
        }
    }

    /// Reads a plan that is known to be on this node.
    ///
    /// # Errors
    /// [`BodyError::Damaged`] if it is not.
    pub(super) fn read_here(&self, plan: &[Segment]) -> Result<Vec<u8>, BodyError> {
        let mut bytes = vec![0; plan_len(plan)];
        match self.fill_here(plan, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(NotRead::Failed(error)) => Err(error),
            Err(NotRead::Missing) => {
                Err(BodyError::Damaged("what was fetched was lost again".into()))
            }
        }
    }

    /// Reads a plan from what is on this node.
    fn fill_here(&self, plan: &[Segment], bytes: &mut [u8]) -> Result<(), NotRead> {
        fill(plan, bytes, &|id, offset, part| {
            if self.read_sealed(id, offset, part).map_err(NotRead::Failed)? {
                Ok(())
            } else {
                Err(NotRead::Missing)
            }
        })
    }
}

fn plan_len(plan: &[Segment]) -> usize {
    match (plan.first(), plan.last()) {
        (Some(first), Some(last)) => (last.range.end - first.range.start) as usize,
        _ => 0,
    }
}

/// The sealed bodies that a plan reads, with the range that it needs of each.
fn bodies_of(plan: &[Segment]) -> Vec<(BodyId, u64, Range<u64>)> {
    let mut found: Vec<(BodyId, u64, Range<u64>)> = Vec::new();
    for segment in plan {
        let Place::Body(id, len) = segment.from else { continue };
        match found.iter_mut().find(|(known, _, _)| *known == id) {
            Some((_, _, range)) => range.end = segment.range.end,
            None => found.push((id, len, segment.range.clone())),
        }
    }
    found
}

//! Holes: where a file reads as zeros that nobody stores.
//!
//! A hole that was punched, or never written, stays one in every zone: it is in no chunk of the
//! sealed body, no request fetches it, and no disk has blocks for it. Zeros that were written
//! are data.

use std::ops::Range;
use std::sync::Arc;

use engine::ids::BodyId;

use super::BodyService;
use super::content::{From, Segment};
use super::fetch::Remote;
use super::state::Base;
use crate::ops::ports::{BodyError, Done, Handle};

/// A shorter run of zeros is data, before a seal and after it: a block of usual filesystems,
/// so what applications punch is kept exactly, at 44 bytes of manifest for each hole.
pub const HOLE_BYTES_MIN: u64 = 4 << 10;
/// A body with more holes keeps only larger ones: a manifest of 44 MiB is enough.
const HOLES_MAX: usize = 1 << 20;
/// Searched first; a longer run doubles it.
const WINDOW_BYTES: u64 = 1 << 20;

/// A plan that shows the holes of sealed bodies.
pub struct Split {
    pub plan: Vec<Segment>,
    /// A body whose holes are not known here, with its bytes.
    pub unknown: Option<(BodyId, u64)>,
}

impl BodyService {
    /// Shows the holes of sealed bodies as zeros, and joins neighbours.
    ///
    /// # Errors
    /// When a manifest cannot be read.
    pub(super) fn split_holes(&self, plan: Vec<Segment>) -> Result<Split, BodyError> {
        let mut split = Vec::with_capacity(plan.len());
        let mut unknown = None;
        for segment in plan {
            let From::Body(id, len) = segment.from else {
                split.push(segment);
                continue;
            };
            let Some(manifest) = self.manifest_here(id)? else {
                unknown = Some((id, len));
                split.push(segment);
                continue;
            };
            let Range { start: mut at, end } = segment.range;
            for chunk in manifest.overlapping(at, end - at) {
                if at < chunk.offset {
                    split.push(Segment { range: at..chunk.offset, from: From::Zero });
                }
                let part = at.max(chunk.offset)..end.min(chunk.end());
                at = part.end;
                split.push(Segment { range: part, from: segment.from.clone() });
            }
            if at < end {
                split.push(Segment { range: at..end, from: From::Zero });
            }
        }
        Ok(Split { plan: join(split), unknown })
    }

    /// lseek(2) with SEEK_DATA, or SEEK_HOLE with `hole`.
    pub(super) fn seek_handle(
        self: &Arc<Self>,
        handle: Handle,
        offset: u64,
        hole: bool,
        done: Done<u64, BodyError>,
    ) {
        match self.try_seek(handle, offset, hole) {
            Err(NotFound::Failed(error)) => done(Err(error)),
            Ok(found) => done(Ok(found)),
            Err(NotFound::Unknown { base, id, len }) => {
                let service = Arc::clone(self);
                self.runtime.spawn(async move {
                    let missing = (*base, id, len);
                    let found = service.seek_remote(handle, offset, hole, missing).await;
                    done(found);
                });
            }
        }
    }

    /// Fetches the manifests that a search needs, and searches.
    async fn seek_remote(
        self: &Arc<Self>,
        handle: Handle,
        offset: u64,
        hole: bool,
        mut missing: (Base, BodyId, u64),
    ) -> Result<u64, BodyError> {
        let deadline = tokio::time::Instant::now() + self.settings.fetch_timeout;
        loop {
            let (base, id, len) = missing;
            let remote = Remote { id, len, version: base.version, holder: base.holder };
            let waited_ms = self.settings.fetch_timeout.as_millis() as u64;
            match tokio::time::timeout_at(deadline, self.bring(remote, 0..0)).await {
                Ok(brought) => brought?,
                Err(_) => return Err(BodyError::Unreachable { waited_ms }),
            }
            let service = Arc::clone(self);
            let found =
                tokio::task::spawn_blocking(move || service.try_seek(handle, offset, hole)).await;
            match found.map_err(|error| BodyError::Storage(error.to_string()))? {
                Ok(found) => return Ok(found),
                Err(NotFound::Failed(error)) => return Err(error),
                // The file changed meanwhile, or the part was given up.
                Err(NotFound::Unknown { base, id, len }) => missing = (*base, id, len),
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(BodyError::Unreachable { waited_ms });
            }
        }
    }

    fn try_seek(&self, handle: Handle, offset: u64, hole: bool) -> Result<u64, NotFound> {
        let open = self.table.handle(handle)?;
        let mut window = WINDOW_BYTES;
        loop {
            let (plan, size, base) = {
                let state = open.body.state(&*self.ring, &self.stages, None)?;
                let size = state.size();
                if offset >= size {
                    return Err(BodyError::NoData.into());
                }
                // From before the offset, to see whether the zeros there are enough for a hole.
                let start = offset.saturating_sub(HOLE_BYTES_MIN);
                let end = offset.saturating_add(window).min(size);
                (state.plan(start..end), size, state.base.clone())
            };
            let Split { plan, unknown } = self.split_holes(plan)?;
            if let Some((id, len)) = unknown {
                return Err(NotFound::Unknown { base: Box::new(base), id, len });
            }
            if let Some(found) = find(&plan, offset, size, hole) {
                return Ok(found);
            }
            if plan.last().is_none_or(|last| last.range.end >= size) {
                return if hole { Ok(size) } else { Err(BodyError::NoData.into()) };
            }
            window = window.saturating_mul(2);
        }
    }
}

/// Why a search has no result yet.
enum NotFound {
    /// The holes of this body are not known here.
    Unknown {
        base: Box<Base>,
        id: BodyId,
        len: u64,
    },
    Failed(BodyError),
}

impl std::convert::From<BodyError> for NotFound {
    fn from(error: BodyError) -> NotFound {
        NotFound::Failed(error)
    }
}

/// The first place at or behind `offset` that is, or is not, in a hole; `None` if the plan does
/// not tell. `size` is the file's: zeros up to its end are a hole of any length.
fn find(plan: &[Segment], offset: u64, size: u64, hole: bool) -> Option<u64> {
    for segment in plan {
        let Range { start, end } = segment.range;
        let is_zero = matches!(segment.from, From::Zero);
        let is_hole = is_hole(segment, HOLE_BYTES_MIN) || is_zero && end == size;
        let is_cut_off = is_zero && !is_hole && end == plan.last()?.range.end;
        if is_cut_off {
            return None;
        }
        if offset < end && is_hole == hole {
            return Some(start.max(offset));
        }
    }
    None
}

/// Whether a segment is a hole of a body that keeps holes of at least `bytes_min`.
pub fn is_hole(segment: &Segment, bytes_min: u64) -> bool {
    matches!(segment.from, From::Zero) && segment.range.end - segment.range.start >= bytes_min
}

/// From where on a joined plan has only zeros.
pub fn data_end(plan: &[Segment]) -> u64 {
    let last = plan.iter().rfind(|segment| !matches!(segment.from, From::Zero));
    last.map_or(0, |segment| segment.range.end)
}

/// The smallest hole that is kept, for a body of this plan.
pub fn hole_bytes_min(plan: &[Segment]) -> u64 {
    let mut bytes_min = HOLE_BYTES_MIN;
    while plan.iter().filter(|segment| is_hole(segment, bytes_min)).count() > HOLES_MAX {
        bytes_min *= 16;
    }
    bytes_min
}

/// Joins neighbours that are zeros or read the same body.
fn join(plan: Vec<Segment>) -> Vec<Segment> {
    let mut joined: Vec<Segment> = Vec::with_capacity(plan.len());
    for segment in plan {
        if let Some(last) = joined.last_mut() {
            let is_same = match (&last.from, &segment.from) {
                (From::Zero, From::Zero) => true,
                (From::Body(a, _), From::Body(b, _)) => a == b,
                _ => false,
            };
            if is_same && last.range.end == segment.range.start {
                last.range.end = segment.range.end;
                continue;
            }
        }
        joined.push(segment);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pieces: &[(u64, bool)]) -> Vec<Segment> {
        let mut at = 0;
        let segments = pieces.iter().map(|&(len, zero)| {
            let from = if zero { From::Zero } else { From::Memory(Arc::default()) };
            let range = at..at + len;
            at = range.end;
            Segment { range, from }
        });
        segments.collect()
    }

    #[test]
    fn a_block_of_zeros_is_a_hole_and_less_is_not_but_at_the_end() {
        let plan = plan(&[(4096, true), (100, false), (4095, true), (1, false), (10, true)]);
        let size = 4096 + 100 + 4095 + 1 + 10;
        assert_eq!(find(&plan, 0, size, true), Some(0));
        assert_eq!(find(&plan, 0, size, false), Some(4096));
        assert_eq!(find(&plan, 4200, size, false), Some(4200), "short zeros are data");
        assert_eq!(find(&plan, 4096, size, true), Some(size - 10));
        assert_eq!(find(&plan, size - 10, size, false), None);
        assert_eq!(data_end(&plan), size - 10);
    }

    #[test]
    fn zeros_at_the_border_of_what_was_looked_at_tell_nothing() {
        let plan = plan(&[(8192, false), (100, true)]);
        assert_eq!(find(&plan, 0, 1 << 20, true), None);
        assert_eq!(find(&plan, 8200, 1 << 20, false), None);
        assert_eq!(find(&plan, 0, 1 << 20, false), Some(0));
    }

    #[test]
    fn neighbouring_zeros_are_one_hole() {
        let plan = join(plan(&[(3000, true), (3000, true), (1, false)]));
        assert_eq!(plan.len(), 2);
        assert!(is_hole(&plan[0], HOLE_BYTES_MIN));
    }
}

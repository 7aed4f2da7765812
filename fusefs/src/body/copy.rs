//! copy_file_range(2): a copy that shares what it can.
//!
//! What is sealed and keeps its offset is not copied at all: the target's layer says whose
//! bytes they are. A whole file is therefore copied at once, whatever its size, and its seal
//! finds the same chunks and so the same body, without reading a byte. Holes stay holes. The
//! rest (bytes not sealed yet, other offsets) is copied here, between local files.

use std::ops::Range;
use std::sync::Arc;

use engine::ids::BodyId;

use super::BodyService;
use super::content::{From, Segment};
use super::fetch::Remote;
use super::layer::Layer;
use super::state::Base;
use super::table::OpenHandle;
use crate::ops::ports::{BodyError, Done, Handle};

/// A part of a copy.
struct Piece {
    segment: Segment,
    /// Where it goes.
    to: u64,
}

/// One call copies at most this many bytes, and tells so: the caller can be interrupted in
/// between.
const COPIED_BYTES_MAX: u64 = 64 << 20;
/// A call's answer is a signed 32-bit number of whole pages; shared bytes cost nothing.
const LEN_MAX: u64 = (i32::MAX as u64) & !4095;
const STEP_BYTES: u64 = 1 << 20;

impl BodyService {
    /// Copies up to `len` bytes from one handle's file to another's; gives how many.
    pub(super) fn copy_handle(
        self: &Arc<Self>,
        (from, from_offset): (Handle, u64),
        (to, to_offset): (Handle, u64),
        len: u64,
        done: Done<u64, BodyError>,
    ) {
        let planned = self.plan_copy((from, from_offset), (to, to_offset), len);
        let (target, pieces, base) = match planned {
            Ok(planned) => planned,
            Err(error) => return done(Err(error)),
        };
        let service = Arc::clone(self);
        self.runtime.spawn(async move {
            let copied = async {
                service.bring_copied(&pieces, &base).await?;
                let service = Arc::clone(&service);
                let copied =
                    tokio::task::spawn_blocking(move || service.copy_pieces(&target, &pieces));
                copied.await.map_err(|error| BodyError::Storage(error.to_string()))?
            };
            done(copied.await);
        });
    }

    fn plan_copy(
        &self,
        (from, from_offset): (Handle, u64),
        (to, to_offset): (Handle, u64),
        len: u64,
    ) -> Result<(OpenHandle, Vec<Piece>, Base), BodyError> {
        let source = self.table.handle(from)?;
        let target = self.table.handle(to)?;
        if !target.write {
            return Err(BodyError::BadHandle);
        }
        // Before anything is fetched: the caller takes the token and calls again.
        {
            let mut state = target.body.state(&*self.ring, &self.stages, None)?;
            self.check_token(target.body.ino, &mut state)?;
        }
        let len = len.min(LEN_MAX);
        super::stage::end_of(to_offset, len)?;
        let (plan, base) = {
            let state = source.body.state(&*self.ring, &self.stages, None)?;
            (state.plan(from_offset..from_offset.saturating_add(len)), state.base.clone())
        };
        let mut pieces = Vec::new();
        let mut copied = 0;
        for segment in plan {
            let Range { start, end } = segment.range;
            let to = to_offset + (start - from_offset);
            let room = COPIED_BYTES_MAX - copied;
            let mut piece = Piece { segment, to };
            if !piece.is_free() && end - start > room {
                piece.segment.range.end = start + room;
            }
            let is_cut = piece.segment.range.end < end;
            if !piece.is_free() {
                copied += piece.segment.range.end - start;
            }
            if !piece.segment.range.is_empty() {
                pieces.push(piece);
            }
            if is_cut {
                break;
            }
        }
        Ok((target, pieces, base))
    }

    /// Fetches what has to be copied and is not here.
    async fn bring_copied(
        self: &Arc<Self>,
        pieces: &[Piece],
        base: &Base,
    ) -> Result<(), BodyError> {
        let timeout = self.settings.fetch_timeout;
        for Piece { segment, .. } in pieces.iter().filter(|piece| !piece.is_free()) {
            let From::Body(id, len) = segment.from else { continue };
            let remote = Remote { id, len, version: base.version, holder: base.holder };
            let brought = self.bring(remote, segment.range.clone());
            match tokio::time::timeout(timeout, brought).await {
                Ok(brought) => brought?,
                Err(_) => {
                    let waited_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                    return Err(BodyError::Unreachable { waited_ms });
                }
            }
        }
        Ok(())
    }

    /// Gives how many bytes were copied: fewer than planned only if there is no more room.
    fn copy_pieces(&self, target: &OpenHandle, pieces: &[Piece]) -> Result<u64, BodyError> {
        let mut copied = 0;
        for piece in pieces {
            let len = piece.segment.range.end - piece.segment.range.start;
            let end = piece.to + len;
            let result = match piece.segment.from {
                From::Zero => self.punch(&target.body, piece.to, end),
                From::Body(id, len) if piece.is_free() => {
                    self.share(target, piece.to..end, id, len)
                }
                _ => self.copy_bytes(target, piece),
            };
            match result {
                Ok(()) => copied += len,
                // As write(2): what was done is told, and the error the next time.
                Err(_) if copied > 0 => return Ok(copied),
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    fn share(
        &self,
        target: &OpenHandle,
        range: Range<u64>,
        id: BodyId,
        len: u64,
    ) -> Result<(), BodyError> {
        let body = &*target.body;
        let _writing = body.writing.lock();
        let mut state = body.state(&*self.ring, &self.stages, None)?;
        self.check_token(body.ino, &mut state)?;
        let grown = self.use_quota_for(body.ino, &state, range.clone())?;
        let layer: &mut Layer = self.change(body.ino, &mut state);
        layer.grow(grown);
        layer.share(range.start, range.end, id, len);
        Ok(())
    }

    fn copy_bytes(&self, target: &OpenHandle, piece: &Piece) -> Result<(), BodyError> {
        let Range { start, end } = piece.segment.range;
        let mut at = start;
        while at < end {
            let step = at..end.min(at + STEP_BYTES);
            let to = piece.to + (at - start);
            at = step.end;
            let segment = Segment { range: step, from: piece.segment.from.clone() };
            let bytes = self.read_here(&[segment])?;
            self.write_to(target, to, &bytes, false)?;
        }
        Ok(())
    }
}

impl Piece {
    /// Costs no copy.
    fn is_free(&self) -> bool {
        match self.segment.from {
            From::Zero => true,
            From::Body(..) => self.to == self.segment.range.start,
            From::Memory(_) | From::File(_) => false,
        }
    }
}

//! Changes of a file's bytes by applications on this node: open, write, truncate, fallocate.
//!
//! Each lands in the file's top layer; nothing here waits for chunking, hashing, the network
//! or old bytes.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use engine::ids::Ino;
use engine::namespace::{FILE_SIZE_MAX, Inode};
use rustix::fs::FallocateFlags;
use store::bodies::StageState;

use super::BodyService;
use super::error::{stored, tables, written_to_disk};
use super::layer::{Data, Layer, MEMORY_BYTES_MAX, StageFile};
use super::queue::due_by_age;
use super::state::{Sealing, State, Token, Top};
use super::table::{OpenBody, OpenHandle};
use crate::ops::ports::{BodyError, Handle};

impl BodyService {
    pub(super) fn open_body(
        &self,
        ino: Ino,
        inode: &Inode,
        write: bool,
        truncate: bool,
    ) -> Result<Handle, BodyError> {
        let body = self.table.find_or_add(ino);
        let opened = self.count_open(&body, inode, write, truncate);
        match opened {
            Ok(()) => Ok(self.table.add_handle(body, write)),
            Err(error) => {
                self.table.forget_if_idle(body);
                Err(error)
            }
        }
    }

    fn count_open(
        &self,
        body: &OpenBody,
        inode: &Inode,
        write: bool,
        truncate: bool,
    ) -> Result<(), BodyError> {
        {
            let mut state = body.state(&*self.ring, &self.stages, Some(inode))?;
            if write || truncate {
                self.check_token(body.ino, &mut state)?;
            }
            // Counted first: a file that goes now stays for this handle.
            state.opens += 1;
            state.writers += u32::from(write);
        }
        if !truncate {
            return Ok(());
        }
        // Also of a file that is empty: its times move.
        let cut = self.cut(body, 0, |_| true);
        if let Err(error) = cut {
            let mut state = body.state(&*self.ring, &self.stages, Some(inode))?;
            state.opens -= 1;
            state.writers -= u32::from(write);
            return Err(error);
        }
        Ok(())
    }

    pub(super) fn write_body(
        &self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> Result<u32, BodyError> {
        let open = self.table.handle(handle)?;
        if !open.write {
            return Err(BodyError::BadHandle);
        }
        self.write_to(&open, offset, data, append)
    }

    /// Writes through a handle that may write.
    pub(super) fn write_to(
        &self,
        open: &OpenHandle,
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> Result<u32, BodyError> {
        let body = &*open.body;
        let len = u32::try_from(data.len()).map_err(|_| BodyError::Invalid)?;
        let _writing = body.writing.lock();
        let (offset, room) = {
            let mut state = body.state(&*self.ring, &self.stages, None)?;
            self.check_token(body.ino, &mut state)?;
            let offset = if append { state.size() } else { offset };
            let end = end_of(offset, u64::from(len))?;
            if data.is_empty() {
                return Ok(0);
            }
            self.admit(u64::from(len))?;
            let grown = self.use_quota_for(body.ino, &state, offset..end)?;
            let top = self.change(body.ino, &mut state);
            top.grow(grown);
            match top.data() {
                Data::Memory(_) if end <= MEMORY_BYTES_MAX && !self.stages.memory.is_spent() => {
                    top.write_memory(offset, data);
                    self.counters.written_bytes.add(u64::from(len));
                    return Ok(len);
                }
                room => {
                    let room = room.clone();
                    top.begin_write(end);
                    (offset, room)
                }
            }
        };
        let written = self.file_for(body, room).and_then(|file| {
            file.stage().file().write_all_at(data, offset).map_err(written_to_disk)
        });
        let mut state = body.state(&*self.ring, &self.stages, None)?;
        let top = self.change(body.ino, &mut state);
        match written {
            Ok(()) => {
                top.wrote(offset, u64::from(len));
                self.counters.written_bytes.add(u64::from(len));
                Ok(len)
            }
            Err(error) => {
                top.write_failed();
                Err(error)
            }
        }
    }

    /// Cuts or extends the file through its stage, which an open for writing may begin. False if
    /// it has none.
    pub(super) fn truncate_body(&self, ino: Ino, size: u64) -> Result<bool, BodyError> {
        end_of(0, size)?;
        let Some(body) = self.table.find(ino) else { return Ok(false) };
        self.cut(&body, size, |state| state.is_staged() || state.gone || state.writers > 0)
    }

    /// Cuts the file if `wanted` says so, asked under the lock that keeps others from changing
    /// it meanwhile.
    fn cut(
        &self,
        body: &OpenBody,
        size: u64,
        wanted: impl Fn(&State) -> bool,
    ) -> Result<bool, BodyError> {
        let _writing = body.writing.lock();
        let data = {
            let mut state = body.state(&*self.ring, &self.stages, None)?;
            if !wanted(&state) {
                return Ok(false);
            }
            self.check_token(body.ino, &mut state)?;
            self.change(body.ino, &mut state).data().clone()
        };
        let mut file_is_cut = true;
        if let Data::File(file) = &data {
            let file = file.stage().file();
            let len = file.metadata().map_err(written_to_disk)?.len();
            if len > size {
                file_is_cut = file.set_len(size).is_ok();
            }
        }
        let mut state = body.state(&*self.ring, &self.stages, None)?;
        self.change(body.ino, &mut state).truncate(size, file_is_cut);
        drop(state);
        self.settle_quota(body);
        Ok(true)
    }

    pub(super) fn fallocate_body(
        &self,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: u32,
    ) -> Result<(), BodyError> {
        let open = self.table.handle(handle)?;
        if !open.write {
            return Err(BodyError::BadHandle);
        }
        let change = Fallocate::parse(mode, len)?;
        let end = end_of(offset, len)?;
        let body = &*open.body;
        let _writing = body.writing.lock();
        let room = {
            let mut state = body.state(&*self.ring, &self.stages, None)?;
            self.check_token(body.ino, &mut state)?;
            if change.reserve {
                self.admit(len)?;
                if self.has_quotas() && !state.gone {
                    let (more, _) = state.growth(offset..end);
                    self.check_quota(body.ino, state.charge(), more)?;
                }
            }
            self.change(body.ino, &mut state).data().clone()
        };
        // Room can only be kept in a file of the layer's own.
        let data = match room {
            Data::Memory(_) if change.reserve && end > MEMORY_BYTES_MAX => {
                Data::File(self.file_for(body, room)?)
            }
            room => room,
        };
        let mut done_in_file = false;
        if let Data::File(file) = &data {
            done_in_file = change.run(file.stage().file(), offset, len)?;
        }
        let mut state = body.state(&*self.ring, &self.stages, None)?;
        let top = self.change(body.ino, &mut state);
        if !change.keep_size {
            top.extend(end);
        }
        if change.zero {
            top.zero(offset, end, done_in_file);
        }
        if change.reserve {
            top.reserve(offset, end);
        }
        Ok(())
    }

    /// `start..end` become a hole; the file is at least `end` bytes long.
    pub(super) fn punch(&self, body: &OpenBody, start: u64, end: u64) -> Result<(), BodyError> {
        let _writing = body.writing.lock();
        let data = {
            let mut state = body.state(&*self.ring, &self.stages, None)?;
            self.check_token(body.ino, &mut state)?;
            self.change(body.ino, &mut state).data().clone()
        };
        let punch = Fallocate { zero: true, reserve: false, keep_size: true };
        let done_in_file = match &data {
            Data::File(file) => punch.run(file.stage().file(), start, end - start)?,
            Data::Memory(_) => false,
        };
        let mut state = body.state(&*self.ring, &self.stages, None)?;
        let top = self.change(body.ino, &mut state);
        top.extend(end);
        top.zero(start, end, done_in_file);
        Ok(())
    }

    pub(super) fn release_body(&self, handle: Handle) {
        let Some(open) = self.table.remove_handle(handle) else { return };
        let mut orphan = None;
        if let Some(mut state) = open.body.loaded() {
            state.opens -= 1;
            state.writers -= u32::from(open.write);
            if state.gone && state.opens == 0 {
                orphan = Some((state.top.take(), state.sealing.take()));
            } else if open.write && state.writers == 0 && state.top.is_some() {
                self.queue.add(open.body.ino, Instant::now());
            }
        }
        if let Some((top, sealing)) = orphan {
            self.drop_orphan(open.body.ino, top.as_ref(), sealing.as_ref());
        }
        self.table.forget_if_idle(open.body);
    }

    /// The last handle of a file without names went: so do its bytes.
    pub(super) fn drop_orphan(&self, ino: Ino, top: Option<&Top>, sealing: Option<&Sealing>) {
        if let Some(top) = top {
            self.forget_layer(ino, &top.layer);
        }
        if let Some(sealing) = sealing {
            self.forget_layer(ino, &sealing.frozen.layer);
        }
        self.unpin(ino);
    }

    /// The layer to change, with its times set to now. The first change of a layer makes its
    /// file due for a seal by age.
    pub(super) fn change<'a>(&self, ino: Ino, state: &'a mut State) -> &'a mut Layer {
        let is_first = state.top.is_none();
        let (gone, last_seal) = (state.gone, state.last_seal);
        let top = state.top(self.ring.now());
        if is_first && !gone {
            self.queue.add(ino, due_by_age(top.since, self.settings.seal_age, last_seal));
        }
        &mut top.layer
    }

    /// The layer's file; its bytes move there from memory if they were still there.
    fn file_for(&self, body: &OpenBody, room: Data) -> Result<Arc<StageFile>, BodyError> {
        let memory = match room {
            Data::File(file) => return Ok(file),
            Data::Memory(memory) => memory,
        };
        let stage = self.store.bodies().stage_create().map_err(stored)?;
        let file = StageFile::new(stage, self.store.clone(), false);
        // Only what fsync journals counts after a crash; this record explains the file.
        let record = self.stage_record(body.ino, file.stage().id(), StageState::Open);
        self.store.bodies().stage_record(&record, false).map_err(stored)?;
        file.stage().write_at(0, &memory).map_err(stored)?;
        let file = Arc::new(file);
        let mut state = body.state(&*self.ring, &self.stages, None)?;
        self.change(body.ino, &mut state).spilled(Arc::clone(&file));
        Ok(file)
    }

    /// Takes room in the file's quota for writing `range`; gives what it adds to the layer.
    pub(super) fn use_quota_for(
        &self,
        ino: Ino,
        state: &State,
        range: std::ops::Range<u64>,
    ) -> Result<u64, BodyError> {
        if !self.has_quotas() || state.gone {
            return Ok(0);
        }
        let (more, here) = state.growth(range);
        self.use_quota(ino, state.charge(), here)?;
        Ok(more)
    }

    /// # Errors
    /// [`BodyError::NeedsToken`] or [`BodyError::NeedsLease`] unless this node may write the file
    /// now; [`BodyError::Expired`] while what it wrote before is put aside.
    pub(super) fn check_token(&self, ino: Ino, state: &mut State) -> Result<(), BodyError> {
        if state.gone {
            return Ok(());
        }
        if state.expired && state.is_staged() {
            return Err(BodyError::Expired);
        }
        if state.token == Token::Unknown {
            let holder = self.ring.view().token_holder(ino);
            if holder.map_err(tables)? == Some(self.ring.me()) {
                state.token = Token::Here;
            }
        }
        match state.token {
            Token::Here if self.ring.has_lease() => Ok(()),
            Token::Here => Err(BodyError::NeedsLease(ino)),
            Token::Unknown | Token::Recalled => Err(BodyError::NeedsToken(ino)),
        }
    }
}

/// What a mode of fallocate(2) asks for.
struct Fallocate {
    /// The range reads as zeros.
    zero: bool,
    /// There is room for the range.
    reserve: bool,
    keep_size: bool,
}

impl Fallocate {
    fn parse(mode: u32, len: u64) -> Result<Fallocate, BodyError> {
        if len == 0 {
            return Err(BodyError::Invalid);
        }
        let flags = FallocateFlags::from_bits(mode).ok_or(BodyError::Unsupported)?;
        let keep_size = flags.contains(FallocateFlags::KEEP_SIZE);
        let what = flags - FallocateFlags::KEEP_SIZE;
        if what.is_empty() {
            Ok(Fallocate { zero: false, reserve: true, keep_size })
        } else if what == FallocateFlags::ZERO_RANGE {
            Ok(Fallocate { zero: true, reserve: true, keep_size })
        } else if what == FallocateFlags::PUNCH_HOLE && keep_size {
            Ok(Fallocate { zero: true, reserve: false, keep_size })
        } else {
            Err(BodyError::Unsupported)
        }
    }

    /// Does it to a layer's file, whose length says nothing. True if zeros are zeros there.
    fn run(&self, file: &File, offset: u64, len: u64) -> Result<bool, BodyError> {
        let run = |flags: FallocateFlags| {
            let flags = flags | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file.as_fd(), flags, offset, len)
        };
        let zeros =
            if self.reserve { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
        match run(if self.zero { zeros } else { FallocateFlags::empty() }) {
            Ok(()) => Ok(self.zero),
            // Only the reservation is lost: the filesystem below has none.
            Err(rustix::io::Errno::OPNOTSUPP) if self.reserve && self.zero => {
                Ok(run(FallocateFlags::PUNCH_HOLE).is_ok())
            }
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(false),
            // Zeros are in the extents whether or not the space below is given back.
            Err(_) if !self.reserve => Ok(false),
            Err(error) => Err(written_to_disk(error.into())),
        }
    }
}

pub(super) fn end_of(offset: u64, len: u64) -> Result<u64, BodyError> {
    offset.checked_add(len).filter(|end| *end <= FILE_SIZE_MAX).ok_or(BodyError::TooLarge)
}

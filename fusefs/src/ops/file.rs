//! Open files: open, read, write, fallocate, copy, lseek, fsync, flush, release.

use std::sync::Arc;

use engine::command::Kind;
use engine::ids::Ino;
use parking_lot::Mutex;

use super::error::FsError;
use super::fs::{Fs, FsDone};
use super::ports::{BodyError, Caller, Demand, Done, Handle, ProposeError};
use super::rules::{Durability, Partition, Rule};
use super::token::{Attempt, Patience};

/// What to write, and where.
#[derive(Clone, Copy)]
pub struct Write<'a> {
    pub ino: Ino,
    pub handle: Handle,
    pub offset: u64,
    pub data: &'a [u8],
    /// At the end instead.
    pub append: bool,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u32,
    /// The write token came from elsewhere for it, or might have been away, so that the file may
    /// have been another when the caller began: an append may not lie where the caller thought.
    pub token_moved: bool,
}

impl Fs {
    /// Opens a regular file.
    pub fn open(self: &Arc<Self>, caller: Caller, ino: Ino, write: bool, done: FsDone<Handle>) {
        match self.try_open(ino, write) {
            Err(FsError::Body(BodyError::NeedsToken(_) | BodyError::NeedsLease(_))) => {
                let attempt: Attempt<Handle> =
                    Arc::new(move |fs, done| done(fs.try_open(ino, write)));
                self.token_then(ino, Patience::new(caller), attempt, done);
            }
            result => done(result),
        }
    }

    fn try_open(&self, ino: Ino, write: bool) -> Result<Handle, FsError> {
        let inode = self.record(ino)?;
        if write && self.ring.is_cut_off() && inode.nlink > 0 {
            let partition = Partition::of(&self.ring.view(), ino)?;
            if partition == Partition::ReadOnly {
                return Err(ProposeError::ReadOnly.into());
            }
        }
        match inode.kind {
            Kind::File => Ok(self.bodies.open(ino, &inode, write, false)?),
            Kind::Directory => Err(FsError::IsDirectory(ino)),
            _ => Err(FsError::NotFile(ino)),
        }
    }

    /// Reads up to `len` bytes; fewer only at the end of the file. `done` gets the bytes of
    /// one version.
    pub fn read(
        &self,
        handle: Handle,
        offset: u64,
        len: u32,
        done: impl FnOnce(Result<&[u8], FsError>) + Send + 'static,
    ) {
        let done = move |result: Result<&[u8], BodyError>| done(result.map_err(FsError::Body));
        self.bodies.read(handle, offset, len, Box::new(done));
    }

    /// Writes; less than all where a quota has not room for it. With `kill_set_id` the file loses
    /// its set-id bits.
    pub fn write(
        self: &Arc<Self>,
        caller: Caller,
        write: Write,
        kill_set_id: bool,
        done: FsDone<Written>,
    ) {
        match self.privileges_of(write.ino, kill_set_id) {
            Ok(None) => self.write_plainly(caller, write, done),
            Ok(Some(kill)) => {
                let (fs, data) = (Arc::clone(self), write.data.to_vec());
                let Write { ino, handle, offset, append, .. } = write;
                let stripped: FsDone<()> = Box::new(move |result| match result {
                    Ok(()) => {
                        let write = Write { ino, handle, offset, data: &data, append };
                        fs.write_plainly(caller, write, done);
                    }
                    Err(e) => done(Err(e)),
                });
                self.strip(ino, kill, stripped);
            }
            Err(e) => done(Err(e)),
        }
    }

    fn write_plainly(self: &Arc<Self>, caller: Caller, write: Write, done: FsDone<Written>) {
        let Write { ino, handle, offset, data, append } = write;
        // What is missing is told before the call returns, while `data` is still here: only
        // then the bytes are copied.
        let missing: Arc<Mutex<Option<(BodyError, FsDone<Written>)>>> = Arc::default();
        let told = Arc::clone(&missing);
        let first: Done<u32, BodyError> = Box::new(move |result| match result {
            Ok(bytes) => done(Ok(Written { bytes, token_moved: false })),
            Err(
                e @ (BodyError::NeedsToken(_)
                | BodyError::NeedsLease(_)
                | BodyError::NeedsQuota { .. }),
            ) => {
                *told.lock() = Some((e, done));
            }
            Err(e) => done(Err(e.into())),
        });
        self.bodies.write(handle, offset, data, append, first);
        let Some((missing, done)) = missing.lock().take() else { return };
        let token_moved = !matches!(missing, BodyError::NeedsQuota { .. });
        let len = data.len();
        let data: Arc<[u8]> = Arc::from(data);
        let attempt = move |len: usize| -> Attempt<Written> {
            let data = Arc::clone(&data);
            Arc::new(move |fs, done| {
                let written: Done<u32, BodyError> = Box::new(move |result| {
                    done(match result {
                        Ok(bytes) => Ok(Written { bytes, token_moved }),
                        Err(e) => Err(e.into()),
                    });
                });
                fs.bodies.write(handle, offset, &data[..len], append, written);
            })
        };
        let whole = attempt(len);
        let fs = Arc::clone(self);
        // As a full disk does: what fits is written, and the next write is refused.
        let again = caller.clone();
        let done: FsDone<Written> = Box::new(move |result| match result {
            Err(FsError::Body(BodyError::QuotaExceeded { short })) if short < len as u64 => {
                let fitting = attempt(len - short as usize);
                fs.with_token(ino, Patience::new(again), fitting, done);
            }
            result => done(result),
        });
        match missing {
            BodyError::NeedsQuota { quota, bytes } => {
                self.quota_then(ino, (quota, bytes), Patience::new(caller), whole, done);
            }
            _ => self.token_then(ino, Patience::new(caller), whole, done),
        }
    }

    /// fallocate(2); `mode` holds its flags.
    #[expect(clippy::too_many_arguments, reason = "as many as the call has")]
    pub fn fallocate(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: u32,
        done: FsDone<()>,
    ) {
        let attempt: Attempt<()> = Arc::new(move |fs, done| {
            fs.bodies.fallocate(handle, offset, len, mode, body_done(done));
        });
        self.change_with_token(caller, ino, attempt, done);
    }

    /// lseek(2) with SEEK_DATA, or SEEK_HOLE with `hole`. Fails with [`BodyError::NoData`]
    /// beyond the last data.
    pub fn seek(&self, handle: Handle, offset: u64, hole: bool, done: FsDone<u64>) {
        self.bodies.seek(handle, offset, hole, body_done(done));
    }

    /// copy_file_range(2) between two handles, each with its offset; the target is `ino`.
    pub fn copy(
        self: &Arc<Self>,
        caller: Caller,
        from: (Handle, u64),
        ino: Ino,
        to: (Handle, u64),
        len: u64,
        done: FsDone<u64>,
    ) {
        let attempt: Attempt<u64> = Arc::new(move |fs, done| {
            fs.bodies.copy(from, to, len, body_done(done));
        });
        self.change_with_token(caller, ino, attempt, done);
    }

    /// fsync(2), as durable as the file's directory says.
    pub fn fsync(&self, caller: Caller, ino: Ino, data_only: bool, done: FsDone<()>) {
        let view = self.ring.view();
        let rules = Durability::of(&view, ino)
            .and_then(|durability| Ok((durability, Partition::of(&view, ino)?)));
        match rules {
            Ok((durability, partition)) => {
                let demand = Demand { durability, partition, caller };
                self.bodies.fsync(ino, data_only, demand, body_done(done));
            }
            Err(error) => done(Err(error.into())),
        }
    }

    /// A descriptor was closed by the process that the kernel calls `owner`.
    pub fn flush(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        handle: Handle,
        owner: u64,
        done: FsDone<()>,
    ) {
        let bodies = Arc::clone(&self.bodies);
        let unlocked: FsDone<()> = Box::new(move |_| bodies.flush(handle, body_done(done)));
        self.unlock_closed(caller, ino, handle, owner, unlocked);
    }

    pub fn release(self: &Arc<Self>, ino: Ino, handle: Handle) {
        self.bodies.release(handle);
        self.unlock_released(ino, handle);
    }
}

/// Hands a body's result on as an operation's.
pub(super) fn body_done<T: 'static>(done: FsDone<T>) -> Done<T, BodyError> {
    Box::new(move |result| done(result.map_err(FsError::Body)))
}

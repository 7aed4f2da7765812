//! readdir and readdirplus.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use engine::ids::Ino;
use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::Kernel;
use super::entry::NewEntry;
use super::reply::{GENERATION, NO_TIME, file_attr, file_type};
use crate::ops::{Entry, FsError};

/// Puts entries behind `cookie` into the reply until it is full.
///
/// # Errors
/// As [`crate::ops::Fs::list`].
pub fn fill(
    kernel: &Kernel,
    directory: Ino,
    cookie: u64,
    reply: &mut ReplyDirectory,
) -> Result<(), FsError> {
    for_entries(kernel, directory, cookie, |entry| {
        let (ino, kind) = (INodeNo(entry.ino.0), file_type(entry.file_type));
        Ok(reply.add(ino, entry.cookie, kind, OsStr::from_bytes(&entry.name)))
    })
}

/// As [`fill`], with attributes: each entry counts as a lookup, and may be kept for so long.
///
/// # Errors
/// As [`fill`].
pub fn fill_plus(
    kernel: &Arc<Kernel>,
    directory: Ino,
    cookie: u64,
    keep: Duration,
    reply: &mut ReplyDirectoryPlus,
) -> Result<(), FsError> {
    for_entries(kernel, directory, cookie, |entry| {
        let (ino, name) = (INodeNo(entry.ino.0), OsStr::from_bytes(&entry.name));
        if entry.is_dot() {
            // Not counted as a lookup by the kernel (readdir.c, fuse_direntplus_link).
            let attr = file_attr(&kernel.fs.attr(entry.ino)?);
            return Ok(reply.add(ino, entry.cookie, name, &NO_TIME, &attr, GENERATION));
        }
        let attr = match NewEntry::expect(kernel, entry.ino, directory).attr() {
            Ok(attr) => file_attr(&attr),
            // It went since the listing was taken.
            Err(FsError::Stale(_)) => return Ok(false),
            Err(e) => return Err(e),
        };
        kernel.note_name(entry.ino, &entry.name);
        let full = reply.add(ino, entry.cookie, name, &keep, &attr, GENERATION);
        if full {
            kernel.forget(entry.ino, 1);
        }
        Ok(full)
    })
}

/// Runs `add` for each entry behind `cookie` until it says that the reply is full.
fn for_entries(
    kernel: &Kernel,
    directory: Ino,
    mut cookie: u64,
    mut add: impl FnMut(&Entry) -> Result<bool, FsError>,
) -> Result<(), FsError> {
    let listing = kernel.fs.list(directory)?;
    loop {
        let entries = listing.after(cookie, ENTRIES_AT_ONCE)?;
        let Some(last) = entries.last() else { return Ok(()) };
        cookie = last.cookie;
        for entry in &entries {
            if add(entry)? {
                return Ok(());
            }
        }
    }
}

/// A reply of 128 KiB holds about 800 entries; most callers use a few dozen at once.
const ENTRIES_AT_ONCE: usize = 64;

//! The kernel's side of the mount: an adapter between fuser and [`crate::ops`].
//!
//! Requests come in on a few threads, are decoded, and become calls of [`Fs`]; replies move
//! into callbacks, so that no thread waits for the ring or for bytes. The kernel caches names,
//! attributes, directory listings and pages without time limit; [`Kernel`] hears of every
//! applied command and takes back exactly what it changed.
//!
//! Reading order: `device` (mount and unmount), `adapter` (requests), `calls` and
//! `signals` (ending those that wait), `entry` and `known` (what
//! the kernel has in its caches), `invalidate` (taking it back, and the races of that),
//! `watchdog` (mounts of killed daemons), `errno`.

mod adapter;
mod calls;
mod device;
mod entry;
pub mod errno;
mod invalidate;
mod known;
mod listing;
mod locks;
mod options;
mod reply;
mod signals;
pub mod watchdog;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use engine::command::Name;
use engine::ids::{Gsn, Ino};
use engine::namespace::{FileType, Touched};

use crate::ops::ports::{OnApplied, Origin, View};
use crate::ops::replaced::changes;
use crate::ops::{Fs, FsError};
use adapter::Adapter;
use calls::Calls;
use invalidate::Invalidator;
use known::Known;
use watchdog::Watchdog;

pub use device::{KIND, MountError, kind_at, remount, unescape, unmount};
pub use options::{MountOptions, OptionsError};

/// What one mount shares between requests and applied commands.
///
/// A node mounts a volume once. A second `Kernel` beside it would be told `Origin::Caller` of
/// what the other's callers did, and would see none of their writes before the publish; other
/// places get a bind mount, which shares the kernel's caches.
///
/// Made and told to the applier before it is mounted, so that no applied command is missed.
pub struct Kernel {
    fs: Arc<Fs>,
    calls: Arc<Calls>,
    known: Arc<Known>,
    invalidator: Arc<Invalidator>,
}

/// A tree that is mounted.
pub struct Mounted {
    path: PathBuf,
    session: JoinHandle<io::Result<()>>,
}

impl Kernel {
    pub fn new(fs: Arc<Fs>) -> Arc<Kernel> {
        let known = Arc::new(Known::default());
        let invalidator = Invalidator::new(Arc::clone(&known));
        Arc::new(Kernel { fs, calls: Arc::default(), known, invalidator })
    }

    /// Mounts the tree at `path` and serves it on threads of its own. A `Kernel` is mounted
    /// once.
    ///
    /// # Errors
    /// [`MountError`], with nothing mounted.
    pub fn mount(
        self: &Arc<Self>,
        path: &Path,
        options: &MountOptions,
    ) -> Result<Mounted, MountError> {
        let device = device::mount(path, options)?;
        let undo = |e: io::Error| {
            if let Err(e) = device::unmount(path, true) {
                tracing::warn!(path = %path.display(), error = %e, "a failed mount stays behind");
            }
            MountError::Session(e)
        };
        let mut config = fuser::Config::default();
        // The kernel keeps other users out, unless allow_other is among the mount's options.
        config.acl = fuser::SessionACL::All;
        config.n_threads = Some(options.threads);
        // One descriptor for each thread, where this user may open the device.
        config.clone_fd = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
        let adapter = Adapter::new(Arc::clone(self), options);
        let session = fuser::Session::from_fd(adapter, device, fuser::SessionACL::All, config)
            .map_err(undo)?;
        self.invalidator.start(Box::new(session.notifier()));
        let kernel = Arc::clone(self);
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mount_point = path.clone();
        let watchdog = Watchdog::start(&path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error,
                "no watchdog: if this daemon is killed, `umount -f` may be needed");
            None
        });
        let fs = Arc::clone(&self.fs);
        std::thread::Builder::new()
            .name("fuse-locks".to_owned())
            .spawn(move || fs.watch_locks())
            .map_err(undo)?;
        let session = std::thread::Builder::new()
            .name("fuse-session".to_owned())
            .spawn(move || {
                let ended = session.run();
                kernel.ended(&mount_point, &ended);
                match ended {
                    Ok(()) => drop(watchdog),
                    // Other threads may still serve what is open.
                    Err(_) => std::mem::forget(watchdog),
                }
                ended
            })
            .map_err(undo)?;
        Ok(Mounted { path, session })
    }

    fn ended(&self, path: &Path, ended: &io::Result<()>) {
        self.fs.drop_all_unnamed();
        let Err(e) = ended else {
            self.fs.drop_locks();
            return self.invalidator.stop();
        };
        // A thread failed, and others may go on serving what is open: what they tell the
        // kernel is still to be taken back. No new use, and whoever waits for the mount hears
        // of it.
        tracing::error!(path = %path.display(), error = %e, "the mount failed; taking it down");
        if let Err(e) = device::unmount(path, true) {
            tracing::error!(path = %path.display(), error = %e, "the failed mount stays");
        }
    }

    /// The bytes of `ino` went back to the agreed version without an agreement.
    pub fn content_reverted(&self, ino: Ino) {
        self.invalidator.inode(ino);
    }

    /// See [`Fs::needs_lease`].
    pub fn needs_lease(&self) -> bool {
        self.fs.needs_lease()
    }

    /// See [`Fs::share_locks`].
    pub fn share_locks(&self, ino: Ino, done: Box<dyn FnOnce() + Send>) {
        self.fs.share_locks(ino, done);
    }

    /// The kernel is about to know `ino` by this name.
    fn note_name(&self, ino: Ino, name: &[u8]) {
        if locks::is_shared_memory(name) {
            self.fs.mark_solo(ino);
        }
    }

    /// What the kernel has for `name`. Once the name is moved, the kernel shows that under the
    /// new name, whatever was moved.
    ///
    /// # Errors
    /// [`FsError::Overtaken`] while the kernel may have another inode for the name; it looks
    /// again then.
    fn holds(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, FsError> {
        Ok(self.holds_with_type(parent, name)?.map(|(ino, _)| ino))
    }

    /// The directory that the kernel takes for dead once `name` is removed or replaced: it
    /// marks the inode that it has for the name, whatever was removed, and refuses every use of
    /// it from then on.
    ///
    /// # Errors
    /// As [`Self::holds`].
    fn victim(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, FsError> {
        let held = self.holds_with_type(parent, name)?;
        Ok(held.filter(|(_, kind)| *kind == FileType::Directory).map(|(ino, _)| ino))
    }

    fn holds_with_type(
        &self,
        parent: Ino,
        name: &Name,
    ) -> Result<Option<(Ino, FileType)>, FsError> {
        let held = self.fs.told(parent, name)?;
        match self.invalidator.is_stale(parent, name) {
            true => Err(FsError::Overtaken),
            false => Ok(held),
        }
    }

    /// How many inodes this node's kernel knows.
    pub fn known_inodes(&self) -> usize {
        self.known.len()
    }
}

impl OnApplied for Kernel {
    fn applied(&self, _: Gsn, touched: &[Touched], origin: Origin) {
        let mut attributes: &[(Vec<u8>, Vec<u8>)] = &[];
        for touch in touched {
            match touch {
                Touched::XattrsGone { xattrs, .. } => attributes = xattrs,
                Touched::Gone { ino, last } => {
                    let attributes = std::mem::take(&mut attributes);
                    self.known.if_known(*ino, || self.fs.pin(*ino, last, attributes));
                }
                _ => {}
            }
        }
        self.invalidator.applied(touched, origin);
        // Behind that: whoever gets a lock waits until the caches are right.
        self.fs.locks_applied(touched);
    }

    fn replaced(&self, gsn: Gsn, before: &View, after: &View) {
        for ino in self.known.all() {
            match changes(before, after, ino) {
                Ok(touched) => self.applied(gsn, &touched, Origin::Elsewhere),
                Err(error) => {
                    tracing::error!(%ino, %error, "the kernel may keep what is out of date");
                }
            }
        }
    }
}

impl Mounted {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the mount out of the tree. With `lazy` also when it is in use; it then ends with
    /// its last user.
    ///
    /// # Errors
    /// [`MountError::Busy`] when it is in use and not `lazy`.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        if self.session.is_finished() {
            return Ok(());
        }
        unmount(&self.path, lazy)
    }

    /// Whether it was unmounted, by [`Self::unmount`] or by somebody else.
    pub fn is_finished(&self) -> bool {
        self.session.is_finished()
    }

    /// Waits until it was unmounted and its last user is gone.
    ///
    /// # Errors
    /// What the session ended with, other than that; the mount is gone then as well.
    pub fn join(self) -> io::Result<()> {
        match self.session.join() {
            Ok(ended) => ended,
            Err(_) => Err(io::Error::other("the FUSE session's thread panicked")),
        }
    }
}

//! The places where this node shows the tree.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::ids::{Gsn, Ino};
use engine::namespace::Touched;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use wire::{RefusedCode, Response};

use crate::admin::control::{ControlError, MountRequest, UnmountRequest};
use crate::admin::report::MountReport;
use crate::kernel::{Kernel, MountError, MountOptions, Mounted};
use crate::ops::Fs;
use crate::ops::ports::{Bodies, OnApplied, Origin, Ring, View};

/// The mount of this daemon: one at a time.
pub struct Mounts {
    ring: Arc<dyn Ring>,
    bodies: Arc<dyn Bodies>,
    /// Told about every applied command, from before they are mounted until they are gone.
    kernels: RwLock<Vec<Arc<Kernel>>>,
    active: Mutex<Vec<Active>>,
}

struct Active {
    kernel: Arc<Kernel>,
    mounted: Mounted,
    report: MountReport,
}

impl Mounts {
    pub fn new(ring: Arc<dyn Ring>, bodies: Arc<dyn Bodies>) -> Mounts {
        Mounts { ring, bodies, kernels: RwLock::default(), active: Mutex::default() }
    }

    /// Mounts the tree; where this daemon has it mounted already, says how.
    pub fn mount(&self, request: &MountRequest) -> Result<MountReport, ControlError> {
        let mut active = self.active.lock();
        self.forget_finished(&mut active);
        let directory = canonical(&request.directory);
        if let Some(known) = active.iter().find(|mount| mount.mounted.path() == directory) {
            return Ok(known.report.clone());
        }
        // A second kernel view would not hear of what is written through the first one before
        // it is published; a bind mount shares the first one's caches.
        if let Some(other) = active.first() {
            let first = &other.report.directory;
            return Err(ControlError::refused(format!(
                "this daemon shows the tree at {first} already"
            ))
            .hint(format!("mount --bind {first} {}", request.directory.display())));
        }
        let mut options =
            MountOptions { source: request.source.clone(), ..MountOptions::default() };
        options.allow_other = request.allow_other;
        options.add(&request.options).map_err(|error| ControlError::usage(error.to_string()))?;

        let kernel = Kernel::new(Fs::new(self.ring.clone(), self.bodies.clone()));
        // Before it is mounted: no applied command may be missed.
        self.kernels.write().push(kernel.clone());
        let mounted = match kernel.mount(&request.directory, &options) {
            Ok(mounted) => mounted,
            Err(error) => {
                self.kernels.write().retain(|known| !Arc::ptr_eq(known, &kernel));
                return Err(refused(&error));
            }
        };
        let report = MountReport {
            directory: mounted.path().display().to_string(),
            read_only: options.read_only,
            allow_other: options.allow_other.unwrap_or(rustix::process::geteuid().is_root()),
        };
        active.push(Active { kernel, mounted, report: report.clone() });
        Ok(report)
    }

    /// Takes a mount away; one that is not there is fine.
    pub fn unmount(&self, request: &UnmountRequest) -> Result<(), ControlError> {
        let mut active = self.active.lock();
        let directory = canonical(&request.directory);
        if let Some(mount) = active.iter().find(|mount| mount.mounted.path() == directory) {
            mount.mounted.unmount(request.lazy).map_err(|error| refused(&error))?;
        }
        self.forget_finished(&mut active);
        Ok(())
    }

    /// Takes all mounts away, lazily where they are in use.
    pub fn unmount_all(&self) {
        let mut active = self.active.lock();
        for mount in active.iter() {
            let gone = mount.mounted.unmount(false).or_else(|_| mount.mounted.unmount(true));
            if let Err(error) = gone {
                tracing::warn!(path = %mount.mounted.path().display(), %error, "still mounted");
            }
        }
        self.forget_finished(&mut active);
    }

    pub fn list(&self) -> Vec<MountReport> {
        let mut active = self.active.lock();
        self.forget_finished(&mut active);
        active.iter().map(|mount| mount.report.clone()).collect()
    }

    /// Hands the locks of a file over, as far as they are kept on this node, because another
    /// one asks for them.
    pub async fn share_locks(self: Arc<Self>, ino: Ino) -> Response {
        let kernel = self.kernels.read().last().cloned();
        let (sender, shared) = oneshot::channel();
        let done: Box<dyn FnOnce() + Send> = Box::new(move || {
            // The receiver is gone when the asker gave up; the locks are handed over all the
            // same.
            let _ = sender.send(());
        });
        match kernel {
            Some(kernel) => kernel.share_locks(ino, done),
            // What a mount kept is dropped with it.
            None => done(),
        }
        match shared.await {
            Ok(()) => Response::At(self.ring.applied_gsn()),
            Err(_) => Response::refused(RefusedCode::Failed, "the locks are not handed over"),
        }
    }

    /// Whether a program has a lock through one of the mounts.
    pub fn needs_lease(&self) -> bool {
        self.kernels.read().iter().any(|kernel| kernel.needs_lease())
    }

    /// See [`Kernel::content_reverted`].
    pub fn content_reverted(&self, ino: Ino) {
        for kernel in self.kernels.read().iter() {
            kernel.content_reverted(ino);
        }
    }

    /// Drops mounts that somebody unmounted.
    fn forget_finished(&self, active: &mut Vec<Active>) {
        active.retain(|mount| {
            if mount.mounted.is_finished() {
                self.kernels.write().retain(|known| !Arc::ptr_eq(known, &mount.kernel));
            }
            !mount.mounted.is_finished()
        });
    }
}

impl OnApplied for Mounts {
    fn applied(&self, gsn: Gsn, touched: &[Touched], origin: Origin) {
        for kernel in self.kernels.read().iter() {
            kernel.applied(gsn, touched, origin);
        }
    }

    fn replaced(&self, gsn: Gsn, before: &View, after: &View) {
        for kernel in self.kernels.read().iter() {
            kernel.replaced(gsn, before, after);
        }
    }
}

/// A dead mount can't be asked for its own path.
fn canonical(directory: &Path) -> PathBuf {
    directory.canonicalize().unwrap_or_else(|_| directory.to_owned())
}

fn refused(error: &MountError) -> ControlError {
    match error {
        MountError::Busy { .. } => ControlError::refused(error.to_string()),
        _ => ControlError::failed(error.to_string()),
    }
}

//! Takes a demo down.

use std::path::Path;
use std::time::Duration;

use super::plan::Plan;
use super::process::Process;
use super::up::lock;
use crate::admin::control::ControlError;
use crate::kernel;
use crate::mount_table;

/// A daemon seals, syncs and leaves the ring; the last ones have no majority to say goodbye to.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Stops all processes and removes all mounts, dead ones too. With `purge` the stores and
/// everything else below `root` go too. A demo that is not there is down already; then false.
///
/// # Errors
/// `Failed` naming what could not be stopped, unmounted or removed.
pub async fn down(root: &Path, purge: bool, say: &dyn Fn(&str)) -> Result<bool, ControlError> {
    let Some(plan) = Plan::load(root)? else { return Ok(false) };
    let lock = lock(root)?;
    let mut stops = tokio::task::JoinSet::new();
    for zone in &plan.zones {
        let process = Process::of_zone(&plan, &zone.name);
        stops.spawn(async move { (process.name.clone(), process.stop(STOP_PATIENCE).await) });
    }
    while let Some(outcome) = stops.join_next().await {
        let (name, outcome) = outcome.expect("a stop does not panic");
        if outcome? {
            say(&format!("{name}: stopped"));
        } else {
            say(&format!("{name}: did not stop in {} s and was killed", STOP_PATIENCE.as_secs()));
        }
    }
    for zone in plan.zones.iter().filter(|zone| !zone.witness) {
        unmount(&plan.mount(&zone.name))?;
    }
    Process::relay(&plan).stop(STOP_PATIENCE).await?;
    if purge {
        remove(&plan)?;
    }
    drop(lock);
    Ok(true)
}

/// Removes what a killed daemon left mounted.
fn unmount(directory: &Path) -> Result<(), ControlError> {
    while mount_table::is_mounted(directory) {
        kernel::unmount(directory, true).map_err(|error| {
            ControlError::failed(format!("{} cannot be unmounted: {error}", directory.display()))
                .hint(format!("as root: umount -l {}", directory.display()))
        })?;
    }
    Ok(())
}

/// Removes what a demo makes, and its root if nothing else is there.
fn remove(plan: &Plan) -> Result<(), ControlError> {
    let failed = |path: &Path, error: std::io::Error| {
        ControlError::failed(format!("{} cannot be removed: {error}", path.display()))
    };
    // The mount points are empty now: never remove through a mount.
    for zone in plan.zones.iter().filter(|zone| !zone.witness) {
        let mount = plan.mount(&zone.name);
        match std::fs::remove_dir(&mount) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&mount, error));
            }
            _ => {}
        }
    }
    let _ = std::fs::remove_dir(plan.root.join("mnt"));
    for name in ["store", "log", "run"] {
        let path = plan.root.join(name);
        std::fs::remove_dir_all(&path).map_err(|error| failed(&path, error))?;
    }
    for name in ["wan.toml", "demo.json"] {
        let path = plan.root.join(name);
        std::fs::remove_file(&path).map_err(|error| failed(&path, error))?;
    }
    // Left alone if the user has put something there.
    let _ = std::fs::remove_dir(&plan.root);
    Ok(())
}

//! `fusion watchdog`: the process beside a daemon that frees its mount when it is killed.

use std::path::PathBuf;

use clap::Args;

use super::Exit;
use crate::admin::control::ControlError;
use crate::kernel::watchdog;

#[derive(Args)]
pub struct WatchdogArgs {
    /// The kernel's number of the FUSE connection
    connection: u32,
    /// Where it is mounted
    path: PathBuf,
}

impl WatchdogArgs {
    pub fn run(&self) -> Result<Exit, ControlError> {
        watchdog::watch(self.connection, &self.path).map(|()| Exit::Ok).map_err(|error| {
            ControlError::failed(format!(
                "the mount {} of a killed daemon cannot be freed: {error}",
                self.path.display()
            ))
            .hint(format!("as root: umount -f {}", self.path.display()))
        })
    }
}

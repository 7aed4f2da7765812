//! `fusion umount`: seals, syncs, unmounts.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, Globals, find, output};
use crate::admin::control::{ControlError, FailureKind, UnmountRequest};
use crate::kernel;
use crate::mount_table;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  fusion umount /srv/tree\n  fusion umount --lazy /srv/tree\n\n\
    The daemon goes on; `fusion serve` ends by SIGTERM. Exit code 6: somebody uses the mount."
)]
pub struct UmountArgs {
    /// A mounted tree
    directory: PathBuf,
    /// Detach at once, also when busy or when its daemon is gone
    #[arg(long, short)]
    lazy: bool,
}

impl UmountArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let directory = mount_table::resolve(&self.directory).map_err(|error| {
            ControlError::usage(format!("{}: {error}", self.directory.display()))
        })?;
        if !mount_table::is_mounted(&directory) {
            return Err(ControlError::usage(format!(
                "{} is not a FusionFS mount",
                directory.display()
            ))
            .hint("`findmnt -t fuse.fusion` lists the mounts"));
        }
        let request = UnmountRequest { directory: directory.clone(), lazy: self.lazy };
        let outcome = match find::daemon_of_mount(globals, &directory).await {
            Ok(client) => client.unmount(&request).await,
            // Nothing is left to seal or sync through a mount without a daemon.
            Err(_) if self.lazy || mount_table::is_dead(&directory) => {
                kernel::unmount(&directory, true)
                    .map_err(|error| ControlError::failed(error.to_string()))
            }
            Err(error) => Err(error),
        };
        outcome.map_err(|error| name_the_busy(error, &directory))?;
        if globals.json {
            output::print_json(&serde_json::json!({ "unmounted": directory }));
        }
        Ok(Exit::Ok)
    }
}

/// Adds who uses the mount to a refusal.
fn name_the_busy(error: ControlError, directory: &Path) -> ControlError {
    let users = users_of(directory);
    if error.kind != FailureKind::Refused || users.is_empty() {
        return error;
    }
    let list: Vec<String> = users
        .iter()
        .map(|user| format!("{:>8} {} ({})", user.pid, user.program, user.how))
        .collect();
    let hint = format!(
        "in use by:\n{}\nend these, or detach it while they go on: fusion umount --lazy",
        list.join("\n")
    );
    ControlError { hint, ..error }
}

struct User {
    pid: u32,
    program: String,
    how: &'static str,
}

/// The processes that we may look at and that have a file, a directory or a mapping inside.
fn users_of(directory: &Path) -> Vec<User> {
    let inside =
        |link: &Path| std::fs::read_link(link).is_ok_and(|target| target.starts_with(directory));
    let any_inside = |links: &Path| {
        std::fs::read_dir(links).into_iter().flatten().flatten().any(|entry| inside(&entry.path()))
    };
    let mut users = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let process = entry.path();
        let how = if inside(&process.join("cwd")) {
            "works in it"
        } else if inside(&process.join("root")) {
            "has it as root"
        } else if inside(&process.join("exe")) || any_inside(&process.join("map_files")) {
            "runs or maps a file of it"
        } else if any_inside(&process.join("fd")) {
            "has a file open"
        } else {
            continue;
        };
        let program = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        users.push(User { pid, program: program.trim().to_owned(), how });
    }
    users
}

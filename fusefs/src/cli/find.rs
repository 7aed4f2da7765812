//! Finds the daemon that a verb is for.
//!
//! In this order: `--socket` (or FUSION_SOCKET), the daemon whose mount the path is in, the
//! socket that the settings name, any daemon that announced itself.

use std::path::Path;
use std::time::Duration;

use toml::Table;

use super::Globals;
use crate::admin::client::Client;
use crate::admin::control::{ControlError, FailureKind};
use crate::admin::report::Identity;
use crate::admin::socket;
use crate::mount_table;

/// How long a daemon may take to say who it is; it answers from memory.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(3);

/// The daemon for a verb about the cluster.
///
/// # Errors
/// `NoDaemon` if none answers, `Usage` if daemons of several clusters do.
pub async fn daemon(globals: &Globals) -> Result<Client, ControlError> {
    if let Some(socket) = &globals.socket {
        return Ok(Client::new(socket.clone(), globals.patience()));
    }
    let configured = globals.settings(Table::new())?.settings.socket_path();
    if globals.config.is_some() || configured.exists() {
        return Ok(Client::new(configured, globals.patience()));
    }
    let alive = alive(globals).await;
    let Some((first, client)) = alive.first() else {
        return Err(none(&configured));
    };
    if alive.iter().any(|(identity, _)| identity.cluster != first.cluster) {
        let sockets: Vec<String> = alive
            .iter()
            .map(|(identity, client)| {
                format!("fusion --socket {} ...   # {}", client.socket().display(), identity.node)
            })
            .collect();
        return Err(ControlError::usage("daemons of several clusters run here")
            .hint(format!("choose one:\n{}", sockets.join("\n"))));
    }
    Ok(client.clone())
}

/// A daemon together with a path as it sees it: from the volume's root.
#[derive(Debug)]
pub struct Located {
    pub client: Client,
    /// The directory at which the volume is mounted.
    pub mount: String,
    pub path: String,
}

/// The daemon whose mount `path` is in. The last part of the path may be a link: it is meant
/// itself.
///
/// # Errors
/// `Usage` if the path is in none of our mounts, `NoDaemon` if the mount is dead.
pub async fn daemon_of_path(globals: &Globals, path: &Path) -> Result<Located, ControlError> {
    let place = |error: std::io::Error| {
        ControlError::failed(format!("{}: {error}", path.display()))
            .hint("the path must exist in a mounted tree")
    };
    let absolute = super::absolute(path)?;
    let whole = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if !mount_table::is_mounted(&absolute) => {
            parent.canonicalize().map_err(place)?.join(name)
        }
        _ => mount_table::resolve(&absolute).map_err(place)?,
    };
    let mount = mount_table::containing(&whole).ok_or_else(|| {
        ControlError::usage(format!("{} is not in a FusionFS mount", path.display()))
            .hint("`findmnt -t fuse.fusion` lists the mounts")
    })?;
    let inside = whole.strip_prefix(&mount.directory).expect("the mount contains the path");
    let path = format!("/{}", super::path_text(inside)?);
    let client = daemon_of_mount(globals, &mount.directory).await?;
    let mount = super::path_text(&mount.directory)?.to_owned();
    Ok(Located { client, mount, path })
}

/// The daemon that serves the mount at exactly `directory`.
///
/// # Errors
/// `NoDaemon` if none does.
pub async fn daemon_of_mount(globals: &Globals, directory: &Path) -> Result<Client, ControlError> {
    if let Some(socket) = &globals.socket {
        return Ok(Client::new(socket.clone(), globals.patience()));
    }
    let configured = globals.settings(Table::new())?.settings.socket_path();
    let mut sockets = socket::announced();
    sockets.insert(0, configured);
    for socket in sockets {
        let client = Client::new(socket, IDENTITY_PATIENCE);
        let Ok(status) = client.status().await else { continue };
        if status.mounts.iter().any(|mount| Path::new(&mount.directory) == directory) {
            return Ok(client.with_timeout(globals.patience()));
        }
    }
    Err(ControlError::no_daemon(format!("no daemon that this user may ask serves {}", directory.display()))
        .hint("name its socket (--socket STORE/admin.sock); remove a dead mount: `fusion umount --lazy DIR`"))
}

/// The daemons that announced themselves and answer.
async fn alive(globals: &Globals) -> Vec<(Identity, Client)> {
    let mut alive = Vec::new();
    for socket in socket::announced() {
        let client = Client::new(socket, IDENTITY_PATIENCE);
        if let Ok(identity) = client.identity().await {
            alive.push((identity, client.with_timeout(globals.patience())));
        }
    }
    alive
}

fn none(configured: &Path) -> ControlError {
    ControlError::new(
        FailureKind::NoDaemon,
        format!("no daemon runs here (nothing at {}, none announced)", configured.display()),
    )
    .hint(
        "try it out: `fusion demo`\n\
         start yours: systemctl start fusion, or `fusion serve --store DIR`\n\
         ask a certain one: --socket STORE/admin.sock",
    )
}

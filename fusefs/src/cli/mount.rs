//! `fusion mount`: asks the running daemon, or starts one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{Exit, Globals, absolute, output, path_text};
use crate::admin::client::Client;
use crate::admin::control::{ControlError, FailureKind, MountRequest};
use crate::config::Settings;
use crate::detach::Daemon;
use crate::mount_table;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion mount /srv/tree\n  \
    fusion mount --store /var/lib/fusion /srv/tree -o ro,noexec\n  \
    fusion mount /srv/tree -o consistency=strict\n  \
    mount -t fusion tree /srv/tree -o store=/var/lib/fusion\n\
    In /etc/fstab:\n  \
    tree /srv/tree fusion store=/var/lib/fusion,_netdev,nofail 0 0")]
pub struct MountArgs {
    /// Where to mount the tree
    directory: PathBuf,
    /// Directory of the store
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Mount options, as in /etc/fstab
    #[arg(long, short = 'o', value_name = "OPTIONS", default_value = "")]
    options: String,
    /// What `mount` shows as the device; the store if not given
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

impl MountArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let settings = globals.settings(super::serve::store_flag(self.store.as_deref())?)?.settings;
        let source = match self.source {
            Some(source) => source,
            None => path_text(&settings.store)?.to_owned(),
        };
        let mount = Mount {
            directory: self.directory,
            source,
            options: self.options,
            patience: globals.patience(),
        };
        let done = mount.run(&settings, globals.config.as_deref()).await?;
        if globals.json {
            output::print_json(&serde_json::json!({ "mounted": done }));
        } else if !globals.quiet {
            match done {
                Done::Mounted => println!("mounted {}", mount.directory.display()),
                Done::Already => println!("{} is mounted already", mount.directory.display()),
            }
        }
        Ok(Exit::Ok)
    }
}

/// One mount to make; also for the mount helper.
pub struct Mount {
    pub directory: PathBuf,
    pub source: String,
    pub options: String,
    pub patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    Mounted,
    Already,
}

impl Mount {
    /// Returns when the mount is usable. A live mount of ours at the directory is success; a
    /// dead one is replaced.
    ///
    /// # Errors
    /// Of the daemon, or of starting it.
    pub async fn run(
        &self,
        settings: &Settings,
        config: Option<&Path>,
    ) -> Result<Done, ControlError> {
        let directory = mount_table::resolve(&self.directory).map_err(|error| {
            ControlError::usage(format!("{}: {error}", self.directory.display()))
                .hint(format!("make the directory: mkdir -p {}", self.directory.display()))
        })?;
        if mount_table::is_mounted(&directory) && !mount_table::is_dead(&directory) {
            return Ok(Done::Already);
        }
        let client = Client::new(settings.socket_path(), self.patience);
        let request = MountRequest {
            directory: directory.clone(),
            source: self.source.clone(),
            options: self.options.clone(),
            allow_other: settings.allow_other.choice(),
        };
        match client.mount(&request).await {
            Ok(_) => return Ok(Done::Mounted),
            Err(error) if error.kind == FailureKind::NoDaemon => {}
            Err(error) => return Err(error),
        }
        self.start_daemon(settings, config, &directory).await?;
        Ok(Done::Mounted)
    }

    async fn start_daemon(
        &self,
        settings: &Settings,
        config: Option<&Path>,
        directory: &Path,
    ) -> Result<(), ControlError> {
        let store = absolute(&settings.store)?;
        let mut arguments = vec!["serve".to_owned()];
        let mut flag =
            |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        flag("--store", path_text(&store)?);
        flag("--mount", path_text(directory)?);
        flag("--source", &self.source);
        flag("--options", &self.options);
        if let Some(config) = config {
            flag("--config", path_text(&absolute(config)?)?);
        }
        if !settings.socket.as_os_str().is_empty() {
            flag("--socket", path_text(&settings.socket)?);
        }
        let daemon = Daemon { arguments, log: store.join("serve.log") };
        daemon.start(self.patience).await.map(drop)
    }
}

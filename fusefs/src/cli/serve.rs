//! `fusion serve`: the daemon, in the foreground.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use toml::{Table, Value};
use tracing::{error, info, warn};

use super::{Exit, Globals, absolute, ignore_broken_pipes, path_text};
use crate::admin::control::{Control, ControlError, FailureKind, MountRequest};
use crate::admin::server;
use crate::admin::socket::Registration;
use crate::config::Settings;
use crate::kernel;
use crate::node;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion serve --store /var/lib/fusion --mount /srv/tree\n  \
    FUSION_LOG=info,wire=debug fusion serve\n\n\
    SIGTERM and SIGINT end it in order: unmount, end the lane, sync. Says READY=1 to systemd\n\
    (Type=notify) when the mount is usable.")]
pub struct ServeArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Mount the tree there
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Mount options, as in /etc/fstab
    #[arg(long, short = 'o', value_name = "OPTIONS", default_value = "")]
    options: String,
    /// What `mount` shows as the device; the store if not given
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// UDP address to listen at
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Use another address for a node than the agreed one (relays); may be given several times
    #[arg(long = "override", value_name = "NODE=ADDR:PORT", value_parser = override_pair)]
    overrides: Vec<(String, SocketAddr)>,
}

impl ServeArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let settings = globals.settings(self.flags()?)?.settings;
        start_log(&settings.log)?;
        ignore_broken_pipes();
        abort_on_panic();
        raise_descriptor_limit();
        // This same program, also after an upgrade has replaced its file.
        kernel::watchdog::enable(vec!["/proc/self/exe".into(), "watchdog".into()]);
        if !settings.store.is_dir() {
            return Err(ControlError::failed(format!("there is no store at {}", settings.store.display()))
                .hint("make one: `fusion init --store DIR --zone ZONE` or `fusion join TOKEN --store DIR`"));
        }
        let mut signals = Signals::new()?;
        let control = node::start(settings.clone()).await?;
        let outcome = self.serve(&settings, control.clone(), &mut signals).await;
        if let Err(error) = &outcome {
            // The error is what the operator must see; a second one would hide it.
            let _ = control.shutdown().await;
            if error.kind == FailureKind::Damaged {
                return Err(start_again(error));
            }
        }
        outcome
    }

    async fn serve(
        &self,
        settings: &Settings,
        control: Arc<dyn Control>,
        signals: &mut Signals,
    ) -> Result<Exit, ControlError> {
        let socket = absolute(&settings.socket_path())?;
        let listener = server::bind(&socket).await?;
        let api = tokio::spawn(server::serve(listener, control.clone()));
        if !settings.mount.as_os_str().is_empty() {
            let mount = control.mount(self.mount_request(settings, &settings.mount)?).await?;
            info!(directory = mount.directory, "mounted");
        }
        let identity = control.identity();
        let registration = Registration::announce(&identity.cluster, &identity.node, &socket);
        if let Err(error) = &registration {
            warn!(%error, "other programs must name this daemon's socket: --socket {}", socket.display());
        }
        info!(node = identity.node, zone = identity.zone, cluster = identity.cluster,
            address = identity.address, socket = %socket.display(), "ready");
        notify(&[
            NotifyState::Ready,
            NotifyState::Status(&format!("serving as {}", identity.node)),
        ]);

        let stopped = tokio::select! {
            stopped = control.stopped() => stopped,
            name = signals.next() => {
                info!(signal = name, "stopping");
                notify(&[NotifyState::Stopping]);
                tokio::select! {
                    outcome = control.shutdown() => outcome,
                    name = signals.next() => {
                        warn!(signal = name, "stopping at once; the next start recovers");
                        std::process::exit(130);
                    }
                }
            }
        };
        api.abort();
        drop(registration);
        let _ = std::fs::remove_file(&socket);
        match stopped {
            Ok(()) => {
                info!("stopped");
                Ok(Exit::Ok)
            }
            Err(error) => {
                error!(error = error.message, "the node stopped by itself");
                Err(error)
            }
        }
    }

    fn flags(&self) -> Result<Table, ControlError> {
        let mut flags = store_flag(self.store.as_deref())?;
        if let Some(directory) = &self.mount {
            let directory = Value::from(path_text(&absolute(directory)?)?);
            flags.insert("mount".to_owned(), directory);
        }
        if let Some(listen) = self.listen {
            flags.insert("listen".to_owned(), Value::from(listen.to_string()));
        }
        if !self.overrides.is_empty() {
            let table: Table = self
                .overrides
                .iter()
                .map(|(node, address)| (node.clone(), Value::from(address.to_string())))
                .collect();
            flags.insert("overrides".to_owned(), Value::Table(table));
        }
        Ok(flags)
    }

    fn mount_request(
        &self,
        settings: &Settings,
        directory: &Path,
    ) -> Result<MountRequest, ControlError> {
        let source = match &self.source {
            Some(source) => source.clone(),
            None => path_text(&settings.store)?.to_owned(),
        };
        Ok(MountRequest {
            directory: absolute(directory)?,
            source,
            options: self.options.clone(),
            allow_other: settings.allow_other.choice(),
        })
    }
}

/// Becomes a fresh daemon in the same process, which repairs the store at its start. Returns
/// only if that fails.
fn start_again(damage: &ControlError) -> ControlError {
    warn!("starting again, to take a peer's state");
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "fusion".into());
    let error = std::process::Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
    error!(%error, "cannot start again");
    damage.clone()
}

/// `--store` as a flag of the settings.
pub fn store_flag(store: Option<&Path>) -> Result<Table, ControlError> {
    let mut flags = Table::new();
    if let Some(store) = store {
        flags.insert("store".to_owned(), Value::from(path_text(&absolute(store)?)?));
    }
    Ok(flags)
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, ControlError> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| ControlError::failed(format!("cannot handle signals: {error}")))
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn start_log(filter: &str) -> Result<(), ControlError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| {
        ControlError::usage(format!("log = '{filter}': {error}"))
            .hint("use a level (error, warn, info, debug, trace) or a filter like info,wire=debug")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // The journal puts its own times.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
    Ok(())
}

/// A thread that panicked has broken a promise to the others: the daemon ends at once, without
/// voting or answering any more, and its next start recovers.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Container files, sockets and RocksDB's tables need more than the usual soft limit of 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, "cannot raise the descriptor limit");
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot tell the service manager");
    }
}

fn override_pair(text: &str) -> Result<(String, SocketAddr), String> {
    let form = || format!("must be like z2=127.0.0.1:7421, not '{text}'");
    let (node, address) = text.split_once('=').ok_or_else(form)?;
    Ok((node.to_owned(), address.parse().map_err(|_| form())?))
}

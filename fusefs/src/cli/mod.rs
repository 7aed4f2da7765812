//! The command line: one file per verb.
//!
//! Every verb returns an [`Exit`] or a `ControlError`, which says what to do next. What a
//! verb prints on stdout is its answer; everything else goes to stderr.

mod cert;
mod completion;
mod config;
mod conflicts;
mod demo;
mod disaster;
mod doctor;
mod find;
mod holders;
mod init;
mod join;
mod log;
mod member;
mod mount;
mod mount_helper;
mod node;
mod output;
mod quota;
mod serve;
mod status;
mod token;
mod umount;
mod version;
mod volume;
mod wait;
mod wan;
mod watchdog;
mod zone;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ColorChoice, Parser, Subcommand};
use toml::{Table, Value};

use crate::admin::control::{ControlError, FailureKind};
use crate::config::{Loaded, Sources};

/// One file tree across datacenters: writable everywhere, the same everywhere.
#[derive(Parser)]
#[command(
    name = "fusion",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Start with:\n  fusion demo          three zones on this machine\n  \
        fusion doctor        what this machine lacks\n\n\
        Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded, 4 no daemon, 5 timeout or not yet, \
        6 refused.\nSettings: flag > FUSION_* > /etc/fusion > store > default \
        (`fusion config show --origin`)."
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags that every verb has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Read this file instead of those under /etc/fusion
    #[arg(long, global = true, env = "FUSION_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask the daemon at this socket
    #[arg(long, global = true, env = "FUSION_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only answers and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// When to use colours; NO_COLOR is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// How long to wait for the daemon's answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    pub timeout: f64,
    /// Answer yes to questions
    #[arg(long, short, global = true)]
    pub yes: bool,
}

impl Globals {
    pub fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }

    /// Reads the settings, with `flags` as the strongest.
    ///
    /// # Errors
    /// `Usage` with the place of the mistake.
    pub fn settings(&self, flags: Table) -> Result<Loaded, ControlError> {
        let mut flags = flags;
        if let Some(socket) = &self.socket {
            flags.insert("socket".to_owned(), Value::from(path_text(socket)?));
        }
        crate::config::load(&Sources { config: self.config.clone(), flags }).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            ControlError::usage(format!("{error}{}", cause.unwrap_or_default()))
                .hint("`fusion config check FILE` checks a file alone")
        })
    }
}

#[derive(Subcommand)]
enum Verb {
    /// Run three zones on this machine, with links as long as you like
    Demo(demo::DemoArgs),
    /// Make a new cluster: authority, first node, first zone
    Init(init::InitArgs),
    /// Rights to join
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Make this machine a node of a cluster, with a token from `fusion token create`
    Join(join::JoinArgs),
    /// Nodes: list, show, drain, promote, demote, remove
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// Zones: list, show, drain, resume, remove
    #[command(subcommand)]
    Zone(zone::ZoneVerb),
    /// Run the daemon in the foreground (what systemd runs)
    Serve(serve::ServeArgs),
    /// Mount the tree; starts a daemon if none serves the store
    Mount(mount::MountArgs),
    /// Seal, sync and unmount
    Umount(umount::UmountArgs),
    /// Ring, nodes, links: who is where in the agreed order
    Status(status::StatusArgs),
    /// The agreed order, readable
    #[command(subcommand)]
    Log(log::LogVerb),
    /// Which nodes hold a file's newest version
    Where(holders::WhereArgs),
    /// Wait until other nodes have come to a place in the order
    Wait(wait::WaitArgs),
    /// The place in the order of a path's last change, or of this node
    Gsn(wait::GsnArgs),
    /// Wait until what was agreed before, and what is being written at PATH, shows here
    Sync(wait::SyncArgs),
    /// Trees beside the root tree, each with a ring of its own
    #[command(subcommand)]
    Volume(volume::VolumeVerb),
    /// Bytes that no version could take
    Conflicts(conflicts::ConflictsArgs),
    /// Limits for what lies below a directory
    #[command(subcommand)]
    Quota(quota::QuotaVerb),
    /// What this machine lacks, with a line that repairs it
    Doctor(doctor::DoctorArgs),
    /// When a majority is lost FOR GOOD: one survivor goes on alone
    #[command(subcommand)]
    Disaster(disaster::DisasterVerb),
    /// This node's certificate
    #[command(subcommand)]
    Cert(cert::CertVerb),
    /// Settings and where each comes from
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Completion script for a shell
    Completion(completion::CompletionArgs),
    /// Version of this program and of the daemon
    Version,
    /// The WAN emulator of the demo and the tests
    #[command(hide = true)]
    Wan(wan::WanArgs),
    /// Frees the mount of a killed daemon
    #[command(hide = true)]
    Watchdog(watchdog::WatchdogArgs),
}

/// How a verb ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// The answer is printed, and it says that something is wrong.
    Degraded,
}

/// For daemons: a client that goes away before it has its whole answer is no reason to end.
fn ignore_broken_pipes() {
    // SAFETY: needs no handler, and nothing here counts on the default action.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    // Rust ignores SIGPIPE; `fusion log show | head` must end quietly. Daemons ignore it again.
    // SAFETY: no other thread runs yet, and the default action needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called_as = arguments.first().map(Path::new).and_then(Path::file_name);
    if matches!(
        called_as.and_then(|name| name.to_str()),
        Some("mount.fusion" | "mount.fuse.fusion")
    ) {
        return mount_helper::main(&arguments[1..]);
    }
    if mount_helper::is_call_of_mount_fuse(&arguments[1..]) {
        return mount_helper::main(&arguments[1..]);
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // --help and --version come this way too, with code 0.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let globals = cli.globals.clone();
    output::set_color(globals.color);
    match run(cli) {
        Ok(Exit::Ok) => ExitCode::SUCCESS,
        Ok(Exit::Degraded) => ExitCode::from(FailureKind::Degraded.exit_code()),
        Err(error) => {
            output::print_error(&globals, &error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<Exit, ControlError> {
    let globals = &cli.globals;
    let runtime = match cli.verb {
        Verb::Serve(_) | Verb::Wan(_) | Verb::Join(_) | Verb::Init(_) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build()
        }
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let runtime = runtime.map_err(|error| {
        ControlError::failed(format!("cannot start threads: {error}"))
            .hint("the process or descriptor limit may be too low: ulimit -u; ulimit -n")
    })?;
    runtime.block_on(async {
        match cli.verb {
            Verb::Demo(args) => args.run(globals).await,
            Verb::Init(args) => args.run(globals),
            Verb::Token(verb) => verb.run(globals).await,
            Verb::Join(args) => args.run(globals).await,
            Verb::Node(verb) => verb.run(globals).await,
            Verb::Zone(verb) => verb.run(globals).await,
            Verb::Serve(args) => args.run(globals).await,
            Verb::Mount(args) => args.run(globals).await,
            Verb::Umount(args) => args.run(globals).await,
            Verb::Status(args) => args.run(globals).await,
            Verb::Log(verb) => verb.run(globals).await,
            Verb::Where(args) => args.run(globals).await,
            Verb::Wait(args) => args.run(globals).await,
            Verb::Gsn(args) => args.run(globals).await,
            Verb::Sync(args) => args.run(globals),
            Verb::Volume(verb) => verb.run(globals).await,
            Verb::Conflicts(args) => args.run(globals).await,
            Verb::Quota(verb) => verb.run(globals).await,
            Verb::Doctor(args) => args.run(globals).await,
            Verb::Disaster(verb) => verb.run(globals),
            Verb::Cert(verb) => verb.run(globals).await,
            Verb::Config(verb) => verb.run(globals),
            Verb::Completion(args) => Ok(args.run()),
            Verb::Version => version::run(globals).await,
            Verb::Wan(args) => args.run().await,
            Verb::Watchdog(args) => args.run(),
        }
    })
}

/// Seconds above zero and below a year, for flags.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if 0.0 < value && value < 31_536_000.0 => Ok(value),
        _ => Err("must be a number of seconds above 0".to_owned()),
    }
}

/// A path as text: what settings and messages carry.
fn path_text(path: &Path) -> Result<&str, ControlError> {
    path.to_str().ok_or_else(|| {
        ControlError::usage(format!("{} is not UTF-8", path.display())).hint("use another path")
    })
}

/// A path that stays right when a daemon changes its directory.
fn absolute(path: &Path) -> Result<PathBuf, ControlError> {
    std::path::absolute(path)
        .map_err(|error| ControlError::usage(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_verb_shows_an_example() {
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let leaves: Vec<_> = verb.get_subcommands().collect();
            let has_example = |c: &clap::Command| c.get_after_help().is_some();
            assert!(
                has_example(verb)
                    || leaves.iter().any(|leaf| has_example(leaf))
                    || verb.get_name() == "version",
                "{} has no example",
                verb.get_name()
            );
        }
    }
}

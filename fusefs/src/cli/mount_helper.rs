//! `mount.fusion`: what mount(8) calls for `-t fusion` and for /etc/fstab.
//!
//! `mount.fusion SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`, see mount(8),
//! "External helpers". The options `store`, `socket`, `config` and `timeout` are ours; all
//! others go to the daemon.
//!
//! Mounts show as type `fuse.fusion`, for which mount(8) calls `mount.fuse.fusion` or else
//! libfuse's `mount.fuse`, which runs `fusion SOURCE DIR -o OPTIONS`: so a remount gets here
//! also where only `fusion` is installed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ColorChoice;

use super::mount::{Done, Mount};
use super::{Globals, serve};
use crate::admin::control::{ControlError, FailureKind};
use crate::kernel::{self, MountOptions};

/// mount(8), "Exit status".
const WRONG_USE: u8 = 1;
const SYSTEM_ERROR: u8 = 2;
const MOUNT_FAILURE: u8 = 32;

const REMOUNT: &str = "remount";
/// How long a start may take at boot, with a store to recover.
const TIMEOUT_SECONDS: f64 = 90.0;

/// Runs the helper; `arguments` without the program's name.
pub fn main(arguments: &[OsString]) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mount.fusion: {}", error.message);
            for line in error.hint.lines() {
                eprintln!("  {line}");
            }
            ExitCode::from(match error.kind {
                FailureKind::Usage => WRONG_USE,
                FailureKind::NoDaemon => SYSTEM_ERROR,
                FailureKind::Failed
                | FailureKind::Gone
                | FailureKind::Degraded
                | FailureKind::Timeout
                | FailureKind::Damaged
                | FailureKind::Refused => MOUNT_FAILURE,
            })
        }
    }
}

/// Whether `fusion` was run by libfuse's `mount.fuse`: no verb, but source, directory and
/// options.
pub fn is_call_of_mount_fuse(arguments: &[OsString]) -> bool {
    matches!(arguments, [_, directory, flag, _, ..]
        if flag == "-o" && Path::new(directory).is_absolute())
}

fn run(arguments: &[OsString]) -> Result<(), ControlError> {
    let call = Call::parse(arguments)?;
    if call.fake {
        return Ok(());
    }
    if call.remount {
        let options = MountOptions::parse(&call.options)
            .map_err(|error| ControlError::usage(error.to_string()))?;
        return kernel::remount(&call.directory, &options)
            .map_err(|error| ControlError::failed(error.to_string()));
    }
    let globals = Globals {
        config: call.own.config.clone(),
        socket: call.own.socket.clone(),
        json: false,
        quiet: true,
        color: ColorChoice::Never,
        timeout: call.own.timeout,
        yes: false,
    };
    let settings = globals.settings(serve::store_flag(call.own.store.as_deref())?)?.settings;
    let mount = Mount {
        directory: call.directory.clone(),
        source: call.source,
        options: call.options,
        patience: globals.patience(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ControlError::failed(format!("cannot start: {error}")))?;
    let done = runtime.block_on(mount.run(&settings, globals.config.as_deref()))?;
    if call.verbose {
        let what = match done {
            Done::Mounted => "mounted",
            Done::Already => "mounted already",
        };
        println!("mount.fusion: {} {what}", call.directory.display());
    }
    Ok(())
}

/// What mount(8) asks for.
#[derive(Debug, PartialEq)]
struct Call {
    source: String,
    directory: PathBuf,
    own: OwnOptions,
    /// For the daemon.
    options: String,
    /// What is mounted there gets other flags.
    remount: bool,
    /// -f: everything but the mount.
    fake: bool,
    verbose: bool,
}

#[derive(Debug, PartialEq)]
struct OwnOptions {
    store: Option<PathBuf>,
    socket: Option<PathBuf>,
    config: Option<PathBuf>,
    /// Seconds.
    timeout: f64,
}

impl Call {
    fn parse(arguments: &[OsString]) -> Result<Call, ControlError> {
        let usage = |message: &str| {
            ControlError::usage(message)
                .hint("usage: mount -t fusion NAME DIR -o store=/var/lib/fusion[,OPTION...]")
        };
        let mut places = Vec::new();
        let mut lists = Vec::new();
        let (mut fake, mut verbose) = (false, false);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let text = argument.to_str().ok_or_else(|| usage("an argument is not UTF-8"))?;
            let Some(flags) = text.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
                places.push(text.to_owned());
                continue;
            };
            for (at, flag) in flags.char_indices() {
                match flag {
                    'f' => fake = true,
                    'v' => verbose = true,
                    // Sloppy and no-mtab change nothing here.
                    's' | 'n' => {}
                    'r' => lists.push("ro".to_owned()),
                    'w' => lists.push("rw".to_owned()),
                    'o' | 't' | 'N' => {
                        let attached = &flags[at + 1..];
                        let value = match attached {
                            "" => rest.next().and_then(|value| value.to_str()),
                            attached => Some(attached),
                        };
                        let value =
                            value.ok_or_else(|| usage(&format!("-{flag} needs a value")))?;
                        if flag == 'o' {
                            lists.push(value.to_owned());
                        }
                        break;
                    }
                    _ => return Err(usage(&format!("unknown flag -{flag}"))),
                }
            }
        }
        let [source, directory] = places.as_slice() else {
            return Err(usage("a name and a directory are needed"));
        };
        let lists = lists.join(",");
        let (own, options) = split_options(&lists)?;
        Ok(Call {
            source: source.clone(),
            directory: PathBuf::from(directory),
            own,
            options,
            remount: lists.split(',').any(|option| option == REMOUNT),
            fake,
            verbose,
        })
    }
}

/// Separates our options from those of the mount.
fn split_options(list: &str) -> Result<(OwnOptions, String), ControlError> {
    let mut own = OwnOptions { store: None, socket: None, config: None, timeout: TIMEOUT_SECONDS };
    let mut others = Vec::new();
    for option in list.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("store", value)) => own.store = Some(PathBuf::from(value)),
            Some(("socket", value)) => own.socket = Some(PathBuf::from(value)),
            Some(("config", value)) => own.config = Some(PathBuf::from(value)),
            Some(("timeout", value)) => {
                own.timeout = super::seconds(value)
                    .map_err(|message| ControlError::usage(format!("timeout={value} {message}")))?;
            }
            None if option == REMOUNT => {}
            _ => others.push(option),
        }
    }
    Ok((own, others.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Call, ControlError> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Call::parse(&arguments)
    }

    #[test]
    fn what_mount_8_passes_is_understood() {
        let call = parse("tree /srv/tree -n -v -o rw,store=/s,_netdev,nofail,x-systemd.automount")
            .expect("a usual call");
        assert_eq!(call.source, "tree");
        assert_eq!(call.directory, PathBuf::from("/srv/tree"));
        assert_eq!(call.own.store, Some(PathBuf::from("/s")));
        assert_eq!(call.options, "rw,_netdev,nofail,x-systemd.automount");
        assert!(call.verbose && !call.fake);
    }

    #[test]
    fn flags_may_stand_together_and_carry_their_value() {
        let call = parse("-fvoro,store=/s tree /srv/tree -t fuse.fusion").expect("short flags");
        assert_eq!(call.options, "ro");
        assert!(call.verbose && call.fake);
    }

    #[test]
    fn a_remount_is_told_from_a_mount() {
        // What libmount 2.38 makes of `mount -o remount,ro DIR`.
        let line = "fusion /srv/tree -o rw,noatime,user_id=0,default_permissions,remount,ro";
        let call = parse(line).expect("a usual call");
        assert!(call.remount);
        assert!(MountOptions::parse(&call.options).expect("known options").read_only);
        assert!(!parse("tree /srv/tree -o rw").expect("a usual call").remount);
    }

    #[test]
    fn what_mount_fuse_runs_is_no_verb() {
        let is = |line: &str| {
            is_call_of_mount_fuse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
        };
        assert!(is("fusion /srv/tree -o rw,remount"));
        assert!(!is("mount /srv/tree --options ro"));
        assert!(!is("status --watch"));
    }

    #[test]
    fn a_wrong_call_is_a_usage_error() {
        for line in ["tree", "a b c", "tree /d -o", "tree /d -x", "tree /d -o timeout=never"] {
            assert_eq!(parse(line).expect_err(line).kind, FailureKind::Usage, "{line}");
        }
    }
}

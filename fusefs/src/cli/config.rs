//! `fusion config`: settings and where each comes from.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use toml::Table;

use super::{Exit, Globals, output};
use crate::admin::control::ControlError;
use crate::config::{self, KEYS};

#[derive(Subcommand)]
pub enum ConfigVerb {
    /// The settings that a daemon started now would have
    Show(ShowArgs),
    /// Whether a file is good
    Check(CheckArgs),
    /// A file with every key and its default
    #[command(after_help = "Example:\n  fusion config default > /etc/fusion/fusion.toml")]
    Default,
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  fusion config show --origin\n  FUSION_LOG=debug fusion config show"
)]
pub struct ShowArgs {
    /// Also where each value comes from
    #[arg(long)]
    origin: bool,
    /// Of the daemon of this store
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "Example:\n  fusion config check /etc/fusion/fusion.toml")]
pub struct CheckArgs {
    /// The file; all places that a daemon reads if not given
    file: Option<PathBuf>,
}

impl ConfigVerb {
    pub fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        match self {
            ConfigVerb::Show(args) => show(globals, &args)?,
            ConfigVerb::Check(args) => {
                let checked = match &args.file {
                    Some(file) => config::load_file(file)
                        .map(drop)
                        .map_err(|error| ControlError::usage(error.to_string())),
                    None => globals.settings(Table::new()).map(drop),
                };
                checked?;
                if !globals.quiet && !globals.json {
                    println!("ok");
                }
            }
            ConfigVerb::Default => print!("{}", config::default_file()),
        }
        Ok(Exit::Ok)
    }
}

fn show(globals: &Globals, args: &ShowArgs) -> Result<(), ControlError> {
    let loaded = globals.settings(super::serve::store_flag(args.store.as_deref())?)?;
    if globals.json {
        let keys: serde_json::Map<String, serde_json::Value> = KEYS
            .iter()
            .map(|key| {
                let value = serde_json::to_value(&loaded.values[key.name]).expect("TOML fits JSON");
                let origin = loaded.origins[key.name].to_string();
                (key.name.to_owned(), serde_json::json!({ "value": value, "origin": origin }))
            })
            .collect();
        output::print_json(&keys);
        return Ok(());
    }
    for key in KEYS {
        let value = &loaded.values[key.name];
        if args.origin {
            println!("{:<40} # {}", format!("{} = {value}", key.name), loaded.origins[key.name]);
        } else {
            println!("{} = {value}", key.name);
        }
    }
    Ok(())
}

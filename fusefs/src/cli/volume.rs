//! `fusion volume`: trees beside the root tree, each with a ring of its own.

use clap::{Args, Subcommand};

use super::{Exit, Globals, find, output};
use crate::admin::control::ControlError;

#[derive(Subcommand)]
pub enum VolumeVerb {
    /// Make a volume in which some of the cluster's nodes take part
    Create(CreateArgs),
    /// The volumes, and how this node does in those that it takes part in
    #[command(after_help = "Examples:\n  fusion volume list\n  fusion volume list --json")]
    List,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion volume create scratch\n  \
    fusion volume create europe --nodes paris1,berlin1,oslo1\n  \
    fusion mount /srv/europe -o volume=europe")]
pub struct CreateArgs {
    /// Its name: 1 to 63 letters, digits, '-', '_' and '.'
    name: String,
    /// Who takes part; all nodes of the cluster if not given
    #[arg(long, value_name = "NODE,..", value_delimiter = ',')]
    nodes: Vec<String>,
}

impl VolumeVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let client = find::daemon(globals).await?;
        match self {
            VolumeVerb::Create(args) => {
                let made = client.create_volume(&args.name, &args.nodes).await?;
                if globals.json {
                    output::print_json(&made);
                } else if !globals.quiet {
                    println!("volume {} on {}", made.name, made.nodes.join(" "));
                    eprintln!("on each of them: fusion mount DIR -o volume={}", made.name);
                }
            }
            VolumeVerb::List => {
                let volumes = client.list_volumes().await?;
                if globals.json {
                    output::print_json(&volumes);
                } else {
                    let mut table = output::table(&[
                        "volume",
                        "nodes",
                        "voters",
                        "state",
                        "applied",
                        "state hash",
                        "mount",
                    ]);
                    for volume in volumes {
                        let here = volume.here.as_ref();
                        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                        table.add_row([
                            volume.name.clone(),
                            volume.nodes.join(" "),
                            shown(here.map(|here| here.voters.join(" "))),
                            here.map_or("not here", |here| here.state.word()).to_owned(),
                            shown(here.map(|here| here.gsn_applied.to_string())),
                            shown(here.map(|here| here.state_hash.chars().take(12).collect())),
                            shown(here.map(|here| {
                                let mounts = here.mounts.iter();
                                mounts
                                    .map(|mount| mount.directory.as_str())
                                    .collect::<Vec<_>>()
                                    .join(" ")
                            })),
                        ]);
                    }
                    output::print_table(&table);
                }
            }
        }
        Ok(Exit::Ok)
    }
}

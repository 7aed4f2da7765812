//! `fusion zone`: all nodes of a place at once. A zone comes with its first node.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use super::member::{Target, print_sole};
use super::status::{role_words, state_word};
use super::{Exit, Globals, find, output};
use crate::admin::control::{ControlError, MemberAction};
use crate::admin::report::NodeReport;

#[derive(Subcommand)]
pub enum ZoneVerb {
    /// Zones with their nodes and votes
    #[command(after_help = "Example:\n  fusion zone list")]
    List,
    /// The nodes of one zone, and what only they have
    #[command(after_help = "Example:\n  fusion zone show tokyo")]
    Show(ZoneArgs),
    /// Drain every node of a zone
    #[command(after_help = "Example:\n  fusion zone drain tokyo")]
    Drain(DrainArgs),
    /// End the drain of every node of a zone
    #[command(after_help = "Example:\n  fusion zone resume tokyo")]
    Resume(ZoneArgs),
    /// Remove every node of a zone, dead or alive
    #[command(after_help = "Examples:\n  fusion zone drain tokyo && fusion zone remove tokyo\n  \
        fusion zone remove tokyo --force     # whatever only it has is given up")]
    Remove(ForceArgs),
}

#[derive(Args)]
pub struct ZoneArgs {
    /// As `fusion zone list` shows it
    zone: String,
}

#[derive(Args)]
pub struct ForceArgs {
    /// As `fusion zone list` shows it
    zone: String,
    /// Also if something is lost by it
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub struct DrainArgs {
    /// As `fusion zone list` shows it
    zone: String,
    /// Also if no other zone would hold bodies
    #[arg(long)]
    force: bool,
    /// Return at once; the drain goes on
    #[arg(long)]
    no_wait: bool,
}

impl ZoneVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        match self {
            ZoneVerb::List => list(globals).await,
            ZoneVerb::Show(args) => show(globals, &args.zone).await,
            ZoneVerb::Drain(args) => {
                Target::Zone(args.zone).drain(globals, args.force, !args.no_wait).await
            }
            ZoneVerb::Resume(args) => {
                let target = Target::Zone(args.zone);
                target.change(globals, MemberAction::Resume, false, "drains no more").await
            }
            ZoneVerb::Remove(args) => {
                let target = Target::Zone(args.zone);
                target.change(globals, MemberAction::Remove, args.force, "is removed").await
            }
        }
    }
}

async fn list(globals: &Globals) -> Result<Exit, ControlError> {
    let status = find::daemon(globals).await?.status().await?;
    let mut zones: BTreeMap<String, Vec<NodeReport>> = BTreeMap::new();
    for node in status.nodes {
        zones.entry(node.zone.clone()).or_default().push(node);
    }
    let weight = |nodes: &[NodeReport]| nodes.iter().map(|node| node.weight).sum::<u32>();
    let may_fail = |zone: &str| status.ring.zones_dispensable.iter().any(|name| name == zone);
    if globals.json {
        let rows: Vec<_> = zones
            .iter()
            .map(|(zone, nodes)| {
                serde_json::json!({ "zone": zone, "nodes": nodes, "weight": weight(nodes),
                    "may_fail": may_fail(zone) })
            })
            .collect();
        output::print_json(&rows);
        return Ok(Exit::Ok);
    }
    let mut table = output::table(&["zone", "nodes", "votes", "may fail alone"]);
    for (zone, nodes) in &zones {
        let names: Vec<String> =
            nodes.iter().map(|node| format!("{} ({})", node.node, role_words(node))).collect();
        let may_fail = if may_fail(zone) { "yes" } else { "no" };
        table.add_row([
            zone.clone(),
            names.join(", "),
            weight(nodes).to_string(),
            may_fail.to_owned(),
        ]);
    }
    output::print_table(&table);
    Ok(Exit::Ok)
}

async fn show(globals: &Globals, zone: &str) -> Result<Exit, ControlError> {
    let client = find::daemon(globals).await?;
    let target = Target::Zone(zone.to_owned());
    let sole = target.sole(&client).await?;
    let mut status = client.status().await?;
    status.nodes.retain(|node| target.is_meant(node));
    if globals.json {
        output::print_json(&serde_json::json!({ "nodes": status.nodes, "sole_copies": sole }));
        return Ok(Exit::Ok);
    }
    println!("zone {}", output::bold(zone));
    for node in &status.nodes {
        let (role, state) = (role_words(node), state_word(node.state));
        println!("node      {}: {role}, {state}, at {}", node.node, node.address);
    }
    print_sole(&sole);
    Ok(Exit::Ok)
}

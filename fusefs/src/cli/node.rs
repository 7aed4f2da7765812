//! `fusion node`: the members, one by one.

use clap::{Args, Subcommand};

use super::member::{Target, print_sole};
use super::status::{role_words, state_word};
use super::{Exit, Globals, find, output};
use crate::admin::control::{ControlError, MemberAction};
use crate::admin::report::NodeReport;

#[derive(Subcommand)]
pub enum NodeVerb {
    /// Every member, and who was removed
    #[command(after_help = "Example:\n  fusion node list --json | jq '.nodes[].node'")]
    List,
    /// One member, and what only it has
    #[command(after_help = "Example:\n  fusion node show z3")]
    Show(NodeArgs),
    /// Hand over what a node has: its vote, its write tokens, sole copies; it changes nothing more
    #[command(
        after_help = "Examples:\n  fusion node drain z3             # returns when nothing is left\n  \
        fusion node drain z3 --no-wait\n\nPrograms on its mount read on; changes give EROFS. `fusion node resume` ends it."
    )]
    Drain(DrainArgs),
    /// End a drain
    #[command(after_help = "Example:\n  fusion node resume z3")]
    Resume(NodeArgs),
    /// Give a node the vote of its zone, or a vote besides
    #[command(
        after_help = "Examples:\n  fusion node promote z3b          # in place of the zone's voter\n  \
        fusion node promote z3b --extra  # besides it\n  fusion node promote z1 --weight 2"
    )]
    Promote(PromoteArgs),
    /// Take a node's vote: it observes from then on
    #[command(after_help = "Example:\n  fusion node demote z3")]
    Demote(ForceArgs),
    /// Out of the cluster for good, dead or alive
    #[command(
        after_help = "Examples:\n  fusion node remove z3            # drained, or dead with copies elsewhere\n  \
        fusion node remove z3 --force    # whatever only it has is given up\n\n\
        It cannot come back: its machine joins as a new node. Refused (6) while something would be lost."
    )]
    Remove(ForceArgs),
}

#[derive(Args)]
pub struct NodeArgs {
    /// Name or number, as `fusion node list` shows
    node: String,
}

#[derive(Args)]
pub struct ForceArgs {
    /// Name or number, as `fusion node list` shows
    node: String,
    /// Also if something is lost by it
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
pub struct DrainArgs {
    /// Name or number, as `fusion node list` shows
    node: String,
    /// Also if no other node would hold bodies
    #[arg(long)]
    force: bool,
    /// Return at once; the drain goes on
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args)]
pub struct PromoteArgs {
    /// Name or number, as `fusion node list` shows
    node: String,
    /// Besides the zone's present voter, not in its place
    #[arg(long)]
    extra: bool,
    /// How much its vote counts: breaks ties between an even number of zones
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
}

impl NodeVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        match self {
            NodeVerb::List => list(globals).await,
            NodeVerb::Show(args) => show(globals, &args.node).await,
            NodeVerb::Drain(args) => {
                Target::Node(args.node).drain(globals, args.force, !args.no_wait).await
            }
            NodeVerb::Resume(args) => {
                let target = Target::Node(args.node);
                target.change(globals, MemberAction::Resume, false, "drains no more").await
            }
            NodeVerb::Promote(args) => {
                let action = MemberAction::Promote { extra: args.extra, weight: args.weight };
                Target::Node(args.node).change(globals, action, false, "votes").await
            }
            NodeVerb::Demote(args) => {
                let target = Target::Node(args.node);
                target.change(globals, MemberAction::Demote, args.force, "observes").await
            }
            NodeVerb::Remove(args) => {
                let target = Target::Node(args.node);
                target.change(globals, MemberAction::Remove, args.force, "is removed").await
            }
        }
    }
}

async fn list(globals: &Globals) -> Result<Exit, ControlError> {
    let status = find::daemon(globals).await?.status().await?;
    if globals.json {
        let removed = &status.ring.removed;
        output::print_json(&serde_json::json!({ "nodes": status.nodes, "removed": removed }));
        return Ok(Exit::Ok);
    }
    let mut table = output::table(&["node", "id", "zone", "role", "state", "address", "behind"]);
    for node in &status.nodes {
        table.add_row([
            node.node.clone(),
            node.id.to_string(),
            node.zone.clone(),
            role_words(node),
            state_word(node.state),
            node.address.clone(),
            output::lag(&node.lag),
        ]);
    }
    for gone in &status.ring.removed {
        table.add_row([
            gone.node.clone(),
            gone.id.to_string(),
            gone.zone.clone(),
            format!("removed at GSN {}", gone.gsn),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
        ]);
    }
    output::print_table(&table);
    Ok(Exit::Ok)
}

async fn show(globals: &Globals, name: &str) -> Result<Exit, ControlError> {
    let client = find::daemon(globals).await?;
    let target = Target::Node(name.to_owned());
    let sole = target.sole(&client).await?;
    let status = client.status().await?;
    let Some(node) = status.nodes.into_iter().find(|node| target.is_meant(node)) else {
        return Err(ControlError::failed(format!("{name} has just been removed")));
    };
    if globals.json {
        output::print_json(&serde_json::json!({ "node": node, "sole_copies": sole }));
        return Ok(Exit::Ok);
    }
    print_node(&node);
    print_sole(&sole);
    Ok(Exit::Ok)
}

fn print_node(node: &NodeReport) {
    println!(
        "{} ({}) in zone {} at {}",
        output::bold(&node.node),
        node.id,
        node.zone,
        node.address
    );
    println!("role      {}", role_words(node));
    println!("state     {}", state_word(node.state));
    println!("applied   {} of {}", node.gsn_applied, node.gsn_agreed);
    println!("watermark {}   behind {}", node.watermark, output::lag(&node.lag));
    if node.unpublished_files > 0 {
        println!("unpublished {} files", node.unpublished_files);
    }
}

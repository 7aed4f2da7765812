//! `fusion status`: who is where in the agreed order.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use super::{Exit, Globals, find, output};
use crate::admin::control::ControlError;
use crate::admin::report::{CatchUpReport, NodeReport, NodeState, RingReport, Status};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion status\n  \
    fusion status --watch\n  \
    fusion status --json | jq '.nodes[] | {node, gsn_applied, state_hash}'\n\n\
    Equal state hashes at an equal GSN: the nodes have the same tree. A node's watermark is the\n\
    GSN up to which it holds every file body that it should; `behind` is what it lacks.\n\
    Exit code 3: something is degraded.")]
pub struct StatusArgs {
    /// Show it again and again
    #[arg(long, short)]
    watch: bool,
    /// Seconds between two looks with --watch
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = super::seconds)]
    every: f64,
}

impl StatusArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let client = find::daemon(globals).await?;
        if !self.watch {
            let status = client.status().await?;
            print(globals, &status);
            return Ok(exit(&status));
        }
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(self.every));
        loop {
            ticks.tick().await;
            let status = client.status().await?;
            if globals.json {
                output::print_json_line(&status);
                continue;
            }
            if std::io::stdout().is_terminal() {
                // Home, then erase below: less flicker than clearing first.
                print!("\x1b[H\x1b[J");
            }
            print(globals, &status);
            let _ = std::io::stdout().flush();
        }
    }
}

fn exit(status: &Status) -> Exit {
    let all_well = status.nodes.iter().all(|node| node.state == NodeState::Ok);
    if all_well && status.state == NodeState::Ok { Exit::Ok } else { Exit::Degraded }
}

fn print(globals: &Globals, status: &Status) {
    if globals.json {
        output::print_json(status);
    } else {
        print_status(status);
    }
}

/// The same for `fusion demo`.
pub fn print_status(status: &Status) {
    let ring = &status.ring;
    let quorum = if ring.quorum { output::good("quorum") } else { output::bad("no quorum") };
    println!(
        "{} at {}: {}   ring: epoch {}, voters {}, {quorum}{}",
        output::bold(&format!("cluster {}", output::short_hash(&status.cluster))),
        status.node,
        state_word(status.state),
        ring.epoch,
        ring.voters.join(" "),
        match ring.quorum_rtt_ms {
            Some(rtt) => format!(" {} away", output::milliseconds(Some(rtt))),
            None => String::new(),
        },
    );
    println!();
    print_nodes(&status.nodes);
    if !status.links.is_empty() {
        println!();
        let mut table = output::table(&[
            "link to",
            "zone",
            "address",
            "state",
            "round trip",
            "sent",
            "received",
        ]);
        for link in &status.links {
            let state = if link.connected { output::good("up") } else { output::bad("down") };
            table.add_row([
                link.peer.clone(),
                link.zone.clone(),
                link.address.clone(),
                state,
                output::milliseconds(link.rtt_ms.filter(|_| link.connected)),
                output::bytes(link.bytes_sent),
                output::bytes(link.bytes_received),
            ]);
        }
        output::print_table(&table);
    }
    let lanes: Vec<String> = ring
        .lanes
        .iter()
        .map(|lane| {
            let suspected = if lane.suspected { " (suspected)" } else { "" };
            format!("{}.{}#{}{suspected}", lane.node, lane.term, lane.next)
        })
        .collect();
    println!(
        "\nlanes   {}",
        if lanes.is_empty() { "none active".to_owned() } else { lanes.join("  ") }
    );
    if ring.pending > 0 {
        println!("pending {} own commands wait for agreement", ring.pending);
    }
    for mount in &status.mounts {
        println!(
            "mount   {}{}",
            mount.directory,
            if mount.read_only { " (read-only)" } else { "" }
        );
    }
    for node in &status.nodes {
        if let Some(catch_up) = &node.catch_up {
            println!("{} catches up: {}", node.node, catch_up_text(catch_up));
        }
    }
    println!("{}", tolerance_words(ring));
    for warning in &status.warnings {
        println!("{} {warning}", output::doubtful("warning"));
    }
}

fn catch_up_text(catch_up: &CatchUpReport) -> String {
    match catch_up {
        CatchUpReport::Log { done, upto } => format!("by log, at {done} of {upto}"),
        CatchUpReport::Checkpoint { from, gsn, bytes, about_bytes } => format!(
            "by a checkpoint at {gsn} from {from}, {} of about {}",
            output::bytes(*bytes),
            output::bytes(*bytes.max(about_bytes))
        ),
    }
}

fn print_nodes(nodes: &[NodeReport]) {
    let mut table = output::table(&[
        "node",
        "zone",
        "role",
        "state",
        "applied",
        "agreed",
        "state hash",
        "watermark",
        "behind",
        "seen",
    ]);
    for node in nodes {
        table.add_row([
            node.node.clone(),
            node.zone.clone(),
            role_words(node),
            state_word(node.state),
            node.gsn_applied.to_string(),
            node.gsn_agreed.to_string(),
            output::short_hash(&node.state_hash).to_owned(),
            node.watermark.to_string(),
            output::lag(&node.lag),
            match node.age_seconds {
                None => "never".to_owned(),
                Some(age) if age < 1.0 => "now".to_owned(),
                Some(age) => format!("{age:.0} s ago"),
            },
        ]);
    }
    output::print_table(&table);
}

/// The role, with what is unusual about it.
pub fn role_words(node: &NodeReport) -> String {
    let weight = if node.weight > 1 { format!(" x{}", node.weight) } else { String::new() };
    let draining = if node.draining { ", draining" } else { "" };
    format!("{}{weight}{draining}", node.role.word())
}

/// How much may fail before changes wait.
fn tolerance_words(ring: &RingReport) -> String {
    let zones = |names: &[String]| names.join(" or ");
    match (ring.zones_may_fail, ring.zones_dispensable.as_slice()) {
        (0, []) => "safety  no zone may fail: changes then wait until it is back".to_owned(),
        (0, some) => {
            format!("safety  only {} may fail: without any other zone changes wait", zones(some))
        }
        (1, _) => "safety  any one zone may fail".to_owned(),
        (count, _) => format!("safety  any {count} zones may fail at once"),
    }
}

/// The state in its colour.
pub fn state_word(state: NodeState) -> String {
    match state {
        NodeState::Ok => output::good(state.word()),
        NodeState::Starting | NodeState::CatchingUp | NodeState::Stopping => {
            output::doubtful(state.word())
        }
        NodeState::CutOff | NodeState::Unreachable | NodeState::Sidelined | NodeState::Failed => {
            output::bad(state.word())
        }
    }
}

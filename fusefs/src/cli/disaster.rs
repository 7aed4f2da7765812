//! `fusion disaster`: when a majority is lost for good.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, Globals, absolute, output};
use crate::admin::control::ControlError;
use crate::admin::report::DisasterReport;
use crate::node;

#[derive(Subcommand)]
pub enum DisasterVerb {
    /// Let one survivor go on ALONE; every other node is thrown out, and what only they know is lost
    ForceNewEpoch(ForceArgs),
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion disaster force-new-epoch --store /var/lib/fusion            # only looks, says what is lost\n  \
    fusion disaster force-new-epoch --store /var/lib/fusion --apply    # asks, then does it\n\n\
    Only when a majority is gone and will not come back. The survivor's daemon must be stopped.\n\
    Afterwards the others join as new nodes; one of the old ones that comes back is told that it\n\
    was removed. If a majority lives somewhere out of reach, there are then two trees that nobody\n\
    can merge.")]
pub struct ForceArgs {
    /// Directory of the survivor's store
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fusion")]
    store: PathBuf,
    /// Do it, after a question; without this it only looks
    #[arg(long)]
    apply: bool,
}

impl DisasterVerb {
    pub fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let DisasterVerb::ForceNewEpoch(args) = self;
        let store = absolute(&args.store)?;
        let report = node::disaster::look(&store)?;
        if !args.apply {
            if globals.json {
                output::print_json(&report);
            } else {
                print_report(&report);
                println!("\nnothing was changed; --apply does it");
            }
            return Ok(Exit::Ok);
        }
        if !globals.json {
            print_report(&report);
        }
        confirm(globals, &report)?;
        let report = node::disaster::force(&store)?;
        if globals.json {
            output::print_json(&report);
        } else {
            println!(
                "\nepoch {} begins at GSN {} with {} alone\nnext  fusion serve --store {} --mount DIR; \
                 then `fusion token create` for each node that joins anew",
                report.forced_epoch.unwrap_or_default(),
                report.forced_gsn.unwrap_or_default(),
                report.node,
                store.display()
            );
        }
        Ok(Exit::Ok)
    }
}

/// Whoever means it types the node's name.
fn confirm(globals: &Globals, report: &DisasterReport) -> Result<(), ControlError> {
    if globals.yes {
        return Ok(());
    }
    let refused = |why: &str| {
        Err(ControlError::refused(format!("{why}: nothing was changed"))
            .hint("type the node's name when asked, or say --yes"))
    };
    if !std::io::stdin().is_terminal() {
        return refused("nobody confirmed it");
    }
    eprint!("\nType the survivor's name ({}) to throw all others out: ", report.node);
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if answer.trim() == report.node { Ok(()) } else { refused("not confirmed") }
}

fn print_report(report: &DisasterReport) {
    println!("{}", output::bad("FORCING A NEW EPOCH throws every other node out for good."));
    println!("survivor  {} at GSN {}, epoch {}", report.node, report.gsn, report.epoch);
    println!("          its newest agreement is {} old", output::seconds(report.age_seconds));
    println!("voters    {}", report.voters.join(" "));
    if report.salvaged > 0 {
        println!(
            "salvaged  {} agreements that this node voted for and did not see decided are taken over",
            report.salvaged
        );
    }
    let mut table = output::table(&["other", "zone", "voter", "last seen at GSN", "seen"]);
    for other in &report.others {
        table.add_row([
            other.node.clone(),
            other.zone.clone(),
            if other.voter { "yes" } else { "no" }.to_owned(),
            other.gsn.map_or_else(|| "never".to_owned(), |gsn| gsn.to_string()),
            match other.seen_seconds_ago {
                Some(seconds) => format!("{} ago", output::seconds(seconds as f64)),
                None => "-".to_owned(),
            },
        ]);
    }
    output::print_table(&table);
    let ahead = report.others.iter().filter_map(|other| other.gsn).max().unwrap_or(0);
    let known = report.gsn + report.salvaged;
    println!("lost      whatever was agreed after GSN {known} without this node knowing");
    if ahead > known {
        println!(
            "          {}",
            output::bad(&format!("at least GSN {} to {ahead}: others had them", known + 1))
        );
    }
    if report.missing_files > 0 {
        println!(
            "          the content of {} files ({}) that is not in this store",
            report.missing_files,
            output::bytes(report.missing_bytes)
        );
    }
    println!("          what other nodes' programs wrote and did not publish");
    if report.witness {
        println!("          {}", output::bad("this is a witness: it has no file's content at all"));
    }
}

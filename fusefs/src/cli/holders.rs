//! `fusion where`: which nodes hold a file's newest version.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Globals, find, output};
use crate::admin::control::ControlError;
use crate::admin::report::HolderState;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion where /srv/tree/report.pdf\n  \
    fusion where --json /srv/tree/report.pdf")]
pub struct WhereArgs {
    /// In a mounted tree
    path: PathBuf,
}

impl WhereArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let located = find::daemon_of_path(globals, &self.path).await?;
        let report = located.client.where_path(&located.path).await?;
        if globals.json {
            output::print_json(&report);
            return Ok(Exit::Ok);
        }
        if report.holders.is_empty() {
            println!(
                "{}  {}: every node has it in its tables",
                output::bold(&report.path),
                report.kind
            );
            return Ok(Exit::Ok);
        }
        println!(
            "{}  {} {}, version {}{}",
            output::bold(&report.path),
            report.kind,
            output::bytes(report.size_bytes),
            report.version,
            match &report.writer {
                Some(node) => format!(", written at {node}"),
                None => String::new(),
            }
        );
        let mut table = output::table(&["node", "zone", "state", "here"]);
        for holder in report.holders {
            let word = match holder.state {
                HolderState::Held | HolderState::Inline => output::good(holder.state.word()),
                HolderState::Arriving | HolderState::Unknown => {
                    output::doubtful(holder.state.word())
                }
                HolderState::Missing => output::bad(holder.state.word()),
            };
            let bytes = holder.bytes.map_or_else(|| "-".to_owned(), output::bytes);
            table.add_row([holder.node, holder.zone, word, bytes]);
        }
        output::print_table(&table);
        Ok(Exit::Ok)
    }
}

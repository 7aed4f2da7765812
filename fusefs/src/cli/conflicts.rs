//! `fusion conflicts`: bytes that no version could take.

use clap::Args;

use super::{Exit, Globals, find, output};
use crate::admin::control::ControlError;

#[derive(Args)]
#[command(after_help = "Example:\n  fusion conflicts\n\n\
    A version is refused when another one was agreed first, or when this node was silent for\n\
    so long that others were given the file. Its bytes are kept at the place that is shown,\n\
    until you have looked and removed them. Exit code 3: there are some.")]
pub struct ConflictsArgs {}

impl ConflictsArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let conflicts = find::daemon(globals).await?.list_conflicts().await?;
        if globals.json {
            output::print_json(&conflicts);
        } else if conflicts.is_empty() {
            if !globals.quiet {
                println!("no conflicts");
            }
        } else {
            let mut table = output::table(&["file", "based on", "now", "size", "kept at"]);
            for conflict in &conflicts {
                table.add_row([
                    conflict.path.clone().unwrap_or_else(|| format!("inode {}", conflict.ino)),
                    format!("version {}", conflict.base),
                    format!("version {}", conflict.current),
                    output::bytes(conflict.size_bytes),
                    conflict.kept_at.clone(),
                ]);
            }
            output::print_table(&table);
        }
        Ok(if conflicts.is_empty() { Exit::Ok } else { Exit::Degraded })
    }
}

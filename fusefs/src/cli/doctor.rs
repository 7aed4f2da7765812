//! `fusion doctor`: what this machine lacks.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Globals, output};
use crate::admin::control::{ControlError, FailureKind};
use crate::doctor::{self, Verdict};

#[derive(Args)]
#[command(after_help = "Examples:\n  fusion doctor\n  fusion doctor --store /data/fusion\n\n\
    Exit code 3: something works less well than it could; 1: something does not work.")]
pub struct DoctorArgs {
    /// Directory of the store, or of a future one
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl DoctorArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let settings = globals.settings(super::serve::store_flag(self.store.as_deref())?)?.settings;
        let findings = doctor::examine(&settings.store);
        let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good);
        if globals.json {
            output::print_json(&findings);
        } else {
            for finding in &findings {
                let mark = match finding.verdict {
                    Verdict::Good => output::good("ok  "),
                    Verdict::Doubtful => output::doubtful("hm  "),
                    Verdict::Bad => output::bad("bad "),
                };
                if finding.verdict != Verdict::Good || !globals.quiet {
                    println!("{mark} {:<28} {}", finding.subject, finding.detail);
                }
                if !finding.fix.is_empty() {
                    println!("     {:<28} -> {}", "", finding.fix);
                }
            }
        }
        match worst {
            Verdict::Good => Ok(Exit::Ok),
            Verdict::Doubtful => Ok(Exit::Degraded),
            // With --json the findings are the whole answer; a second value would spoil it.
            Verdict::Bad if globals.json => Ok(Exit::Degraded),
            Verdict::Bad => {
                Err(ControlError::new(FailureKind::Failed, "FusionFS cannot run here yet")
                    .hint("repair what is marked bad above"))
            }
        }
    }
}

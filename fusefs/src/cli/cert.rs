//! `fusion cert`: this node's certificate.

use clap::Subcommand;

use super::{Exit, Globals, find, output};
use crate::admin::control::ControlError;
use crate::admin::report::CertificateReport;

#[derive(Subcommand)]
pub enum CertVerb {
    /// Whom it names, and until when it is good
    #[command(after_help = "Example:\n  fusion cert show")]
    Show,
    /// Get a new certificate now; the daemon does it by itself at half of the old one's life
    #[command(after_help = "Example:\n  fusion cert rotate")]
    Rotate,
}

impl CertVerb {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let client = find::daemon(globals).await?;
        let report = match self {
            CertVerb::Show => client.certificate().await?,
            CertVerb::Rotate => client.rotate_certificate().await?,
        };
        if globals.json {
            output::print_json(&report);
        } else {
            print(&report);
        }
        Ok(Exit::Ok)
    }
}

fn print(report: &CertificateReport) {
    println!("name      {}", report.name);
    let left = output::seconds(report.expires_in_seconds as f64);
    let due = if report.renewal_due { " (renewal is due)" } else { "" };
    println!("expires   in {left}{due}");
    println!("key       {}", report.key);
    println!("authority {}", report.authority);
    let issues =
        if report.issues { "has the authority's key" } else { "asks a voter for new ones" };
    println!("          this node {issues}");
}

//! `fusion wait` and `fusion gsn`: reading one's own writes on other nodes.
//!
//! A GSN is the token: whoever has it from the writer waits for it where the reader is.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, Globals, find, output};
use crate::admin::control::{ControlError, WaitQuery};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion wait /srv/tree/report.pdf --zone paris --bodies\n  \
    fusion wait --gsn 4711                 # until this node has applied it\n  \
    fusion wait --gsn 4711 --zone paris    # until every node of paris has\n  \
    fusion wait --all --bodies --timeout 600\n\n\
    Ends with 0 when it is reached, with 5 when --timeout passes first.")]
pub struct WaitArgs {
    /// What changed last at this path, in a mounted tree
    #[arg(conflicts_with = "gsn")]
    path: Option<PathBuf>,
    /// The agreement to wait for; the newest one that this node knows if not given
    #[arg(long, value_name = "GSN")]
    gsn: Option<u64>,
    /// Wait for every node of this zone
    #[arg(long)]
    zone: Option<String>,
    /// Wait for every node of the cluster
    #[arg(long, conflicts_with = "zone")]
    all: bool,
    /// Wait also for the content of files
    #[arg(long)]
    bodies: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion gsn                          # the newest agreement applied on this node\n  \
    fusion gsn /srv/tree/report.pdf     # the agreement that changed it last\n  \
    ssh paris fusion wait --gsn $(fusion gsn /srv/tree/report.pdf) --bodies")]
pub struct GsnArgs {
    /// In a mounted tree
    path: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    fusion sync /srv/tree/report.pdf && cat /srv/tree/report.pdf\n  \
    fusion sync /srv/tree")]
pub struct SyncArgs {
    /// In a mounted tree
    path: PathBuf,
}

impl WaitArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let (client, gsn) = match (&self.path, self.gsn) {
            (Some(path), _) => {
                let gsn = attribute(path, "user.fusion.gsn")?;
                (find::daemon_of_path(globals, path).await?.client, gsn)
            }
            (None, Some(gsn)) => (find::daemon(globals).await?, gsn),
            (None, None) => {
                let client = find::daemon(globals).await?;
                let gsn = newest(&client).await?;
                (client, gsn)
            }
        };
        let query = WaitQuery { gsn, zone: self.zone, all: self.all, bodies: self.bodies };
        let reached = client.wait(&query).await?;
        if globals.json {
            output::print_json(&reached);
        } else if !globals.quiet {
            let nodes: Vec<&str> = reached.nodes.iter().map(|node| node.node.as_str()).collect();
            let what = if reached.bodies { "applied, with all content" } else { "applied" };
            println!("GSN {} {what}: {}", reached.gsn, nodes.join(" "));
        }
        Ok(Exit::Ok)
    }
}

impl GsnArgs {
    pub async fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        let gsn = match &self.path {
            Some(path) => attribute(path, "user.fusion.gsn")?,
            None => newest(&find::daemon(globals).await?).await?,
        };
        print_gsn(globals, gsn);
        Ok(Exit::Ok)
    }
}

impl SyncArgs {
    pub fn run(self, globals: &Globals) -> Result<Exit, ControlError> {
        print_gsn(globals, attribute(&self.path, "user.fusion.sync")?);
        Ok(Exit::Ok)
    }
}

fn print_gsn(globals: &Globals, gsn: u64) {
    if globals.json {
        output::print_json(&serde_json::json!({ "gsn": gsn }));
    } else if !globals.quiet {
        println!("{gsn}");
    }
}

/// The newest agreement that the daemon has applied.
async fn newest(client: &crate::admin::client::Client) -> Result<u64, ControlError> {
    let status = client.status().await?;
    status.own().map(|own| own.gsn_applied).ok_or_else(|| {
        ControlError::timeout("the daemon has not joined its ring yet").hint("`fusion status`")
    })
}

/// A GSN that the filesystem tells by an attribute.
fn attribute(path: &Path, name: &str) -> Result<u64, ControlError> {
    let mut value = [0; 32];
    let read = rustix::fs::getxattr(path, name, &mut value[..]);
    let len = read.map_err(|error| match error {
        rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP => {
            ControlError::usage(format!("{} is not in a FusionFS mount", path.display()))
                .hint("`findmnt -t fuse.fusion` lists the mounts")
        }
        rustix::io::Errno::TIMEDOUT => {
            ControlError::timeout(format!("{}: no majority answers", path.display()))
                .hint("`fusion status` shows who is cut off")
        }
        error => ControlError::failed(format!("{}: {error}", path.display())),
    })?;
    let text = std::str::from_utf8(&value[..len]).ok().and_then(|text| text.parse().ok());
    text.ok_or_else(|| ControlError::failed(format!("{name} of {} is no GSN", path.display())))
}

//! What `fusion node` and `fusion zone` have in common: asking, and watching a drain.

use std::time::Duration;

use super::{Exit, Globals, find, output};
use crate::admin::client::Client;
use crate::admin::control::{ControlError, MemberAction, MemberRequest};
use crate::admin::report::{NodeReport, NodeState, SoleReport, Status};

/// Whom a verb is about.
#[derive(Clone, Debug)]
pub enum Target {
    Node(String),
    Zone(String),
}

/// Between two looks at a drain.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Reading all inodes and asking every node takes its time in a large tree.
const COUNT_PATIENCE: Duration = Duration::from_secs(3600);
/// The ring has to agree, perhaps after a failover.
const CHANGE_PATIENCE: Duration = Duration::from_secs(120);

impl Target {
    pub fn request(&self, action: MemberAction, force: bool) -> MemberRequest {
        let (node, zone) = match self {
            Target::Node(node) => (Some(node.clone()), None),
            Target::Zone(zone) => (None, Some(zone.clone())),
        };
        MemberRequest { node, zone, action, force }
    }

    pub fn is_meant(&self, node: &NodeReport) -> bool {
        match self {
            Target::Node(name) => node.node == *name || node.id.to_string() == *name,
            Target::Zone(zone) => node.zone == *zone,
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Target::Node(_) => "node",
            Target::Zone(_) => "zone",
        }
    }

    fn name(&self) -> &str {
        match self {
            Target::Node(name) | Target::Zone(name) => name,
        }
    }

    /// Has it done, and says what it came to.
    pub async fn change(
        &self,
        globals: &Globals,
        action: MemberAction,
        force: bool,
        done: &str,
    ) -> Result<Exit, ControlError> {
        let client = find::daemon(globals).await?.with_timeout(CHANGE_PATIENCE);
        let changed = client.change_member(&self.request(action, force)).await?;
        if globals.json {
            output::print_json(&changed);
        } else if !globals.quiet {
            println!("{} {done}; epoch {}, GSN {}", self.name(), changed.epoch, changed.gsn);
        }
        Ok(Exit::Ok)
    }

    /// Drains, and with `wait` returns when nothing is left that only it has.
    pub async fn drain(
        &self,
        globals: &Globals,
        force: bool,
        wait: bool,
    ) -> Result<Exit, ControlError> {
        let client = find::daemon(globals).await?;
        let request = self.request(MemberAction::Drain, force);
        let changed = client.with_timeout(CHANGE_PATIENCE).change_member(&request).await?;
        if !wait {
            if globals.json {
                output::print_json(&changed);
            } else if !globals.quiet {
                println!("{} drains; `fusion {} show` tells how far", self.name(), self.verb());
            }
            return Ok(Exit::Ok);
        }
        let mut said = String::new();
        loop {
            let sole = self.sole(&client).await?;
            let status = client.status().await?;
            let left = self.left(&status, &sole);
            if left.is_empty() {
                break;
            }
            let line = left.join("; ");
            if !globals.quiet && line != said {
                eprintln!("{}: {line}", self.name());
                said = line;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if globals.json {
            output::print_json(&changed);
        } else if !globals.quiet {
            println!(
                "{} is drained: `fusion {} remove {}` or `resume`",
                self.name(),
                self.verb(),
                self.name()
            );
        }
        Ok(Exit::Ok)
    }

    pub async fn sole(&self, client: &Client) -> Result<SoleReport, ControlError> {
        // The action does not matter for counting.
        let request = self.request(MemberAction::Drain, false);
        client.with_timeout(COUNT_PATIENCE).sole_copies(&request).await
    }

    /// What a drain still waits for.
    fn left(&self, status: &Status, sole: &SoleReport) -> Vec<String> {
        let mut left = Vec::new();
        for node in status.nodes.iter().filter(|node| self.is_meant(node)) {
            // The only voter keeps its vote: somebody has to have one.
            if node.weight > 0 && status.ring.voters.len() > 1 {
                left.push(format!("{} has a vote", node.node));
            }
            if node.unpublished_files > 0 && node.state != NodeState::Unreachable {
                left.push(format!("{} has {} files to publish", node.node, node.unpublished_files));
            }
        }
        if sole.files > 0 {
            let bytes = output::bytes(sole.bytes);
            left.push(format!(
                "{} of {} files ({bytes}) are nowhere else",
                sole.files, sole.checked_files
            ));
        }
        left
    }
}

/// The lines of `sole` for people.
pub fn print_sole(sole: &SoleReport) {
    if sole.files == 0 {
        println!("copies    all {} bodies are elsewhere too", sole.checked_files);
    } else {
        println!(
            "copies    {} of {} bodies ({}) are nowhere else",
            sole.files,
            sole.checked_files,
            output::bytes(sole.bytes)
        );
        for file in &sole.examples {
            println!("          inode {} ({})", file.ino, output::bytes(file.size_bytes));
        }
    }
    if !sole.silent.is_empty() {
        println!("          not counted, because silent: {}", sole.silent.join(", "));
    }
}

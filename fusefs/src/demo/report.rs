//! How a demo does: what `fusion demo status` shows and `--json` carries.

use serde::{Deserialize, Serialize};

use super::plan::{Plan, Shape};
use super::process::{self, Process};
use crate::admin::report::{Lag, NodeState};
use crate::mount_table;

/// A demo, zone by zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    pub root: String,
    /// All of its processes run.
    pub running: bool,
    /// The relay's process.
    pub wan_pid: Option<u32>,
    /// In the order of the links given.
    pub zones: Vec<ZoneReport>,
    pub links: Vec<PairReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZoneReport {
    /// The node's name; that of the zone for its first node.
    pub name: String,
    pub zone: String,
    pub mount: String,
    pub store: String,
    pub log: String,
    /// The local API's socket.
    pub socket: String,
    pub pid: Option<u32>,
    /// UDP.
    pub port: u16,
    /// The mount is there and its daemon lives.
    pub mounted: bool,
    /// What its daemon says; absent when it does not answer.
    pub daemon: Option<DaemonReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DaemonReport {
    pub state: NodeState,
    pub quorum: bool,
    /// Round trip to the nearest majority.
    pub quorum_rtt_ms: Option<f64>,
    pub voters: Vec<String>,
    pub gsn_applied: u64,
    pub gsn_agreed: u64,
    pub state_hash: String,
    pub watermark: u64,
    pub lag: Lag,
}

/// A pair of zones and what the relay does between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    pub a: String,
    pub b: String,
    /// As configured: both one-way delays together.
    pub rtt_ms: f64,
    pub cut: bool,
    pub a_to_b: Shape,
    pub b_to_a: Shape,
}

/// Looks at everything; a daemon that does not answer is shown so.
pub async fn report(plan: &Plan) -> DemoReport {
    let mut zones = Vec::new();
    for zone in &plan.zones {
        let status = process::client(plan, &zone.name).status().await.ok();
        let daemon = status.and_then(|status| {
            let own = status.own()?;
            Some(DaemonReport {
                state: status.state,
                quorum: status.ring.quorum,
                quorum_rtt_ms: status.ring.quorum_rtt_ms,
                voters: status.ring.voters.clone(),
                gsn_applied: own.gsn_applied,
                gsn_agreed: own.gsn_agreed,
                state_hash: own.state_hash.clone(),
                watermark: own.watermark,
                lag: own.lag,
            })
        });
        let mount = plan.mount(&zone.name);
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        zones.push(ZoneReport {
            name: zone.name.clone(),
            zone: zone.zone.clone(),
            mounted: daemon.is_some() && mount_table::is_mounted(&mount),
            mount: text(mount),
            store: text(plan.store(&zone.name)),
            log: text(plan.log(&zone.name)),
            socket: text(plan.socket(&zone.name)),
            pid: Process::of_zone(plan, &zone.name).pid(),
            port: zone.port,
            daemon,
        });
    }
    let wan_pid = Process::relay(plan).pid();
    DemoReport {
        root: plan.root.to_string_lossy().into_owned(),
        running: wan_pid.is_some() && zones.iter().all(|zone| zone.pid.is_some()),
        wan_pid,
        zones,
        links: pairs(plan),
    }
}

fn pairs(plan: &Plan) -> Vec<PairReport> {
    let shape = |from: &str, to: &str| {
        // All nodes of a zone have the same links, unless one was cut alone.
        let link = plan.links.iter().find(|link| link.from == from && link.to == to);
        link.map(|link| link.shape).unwrap_or_default()
    };
    plan.pairs()
        .into_iter()
        .map(|(a, b)| {
            let (a_to_b, b_to_a) = (shape(&a, &b), shape(&b, &a));
            let rtt_ms = a_to_b.one_way_ms + b_to_a.one_way_ms;
            PairReport { cut: a_to_b.cut || b_to_a.cut, rtt_ms, a, b, a_to_b, b_to_a }
        })
        .collect()
}

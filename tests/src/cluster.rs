//! A cluster of real daemons, mounts and links, in a directory of its own.
//!
//! It is the demo that users get: the tests start, cut, kill and heal it with the same verbs.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Run, fusion};
use crate::wait::{wait_for_ok, wait_until};

/// Three (or more) zones; all stopped, unmounted and removed when dropped.
pub struct Cluster {
    root: TempDir,
    /// The nodes; the first one of each zone has the zone's name.
    zones: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

/// One cluster at a time: on a small machine two would only disturb each other's times.
static TURN: Mutex<()> = Mutex::new(());

/// What to start.
#[derive(Clone, Debug)]
pub struct Wishes {
    pub zones: usize,
    /// In milliseconds, one for each pair: z1-z2, z1-z3, z2-z3; empty = no distance.
    pub round_trips_ms: Vec<f64>,
    /// In each zone: z1, z1b, ...
    pub nodes: usize,
    /// The last zone is a witness.
    pub witness: bool,
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes { zones: 3, round_trips_ms: Vec::new(), nodes: 1, witness: false }
    }
}

impl Cluster {
    /// Three zones without distance; `None`, loudly, where this machine has no FUSE.
    pub fn start() -> Option<Cluster> {
        Cluster::start_with(&Wishes::default())
    }

    /// # Panics
    /// If it does not come up.
    pub fn start_with(wishes: &Wishes) -> Option<Cluster> {
        if !crate::fuse::usable() {
            return None;
        }
        let root = tempfile::Builder::new()
            .prefix("fusion-test-")
            .tempdir()
            .expect("a temporary directory");
        let zones = (1..=wishes.zones)
            .flat_map(|number| {
                let alone = wishes.witness && number == wishes.zones;
                let count = if alone { 1 } else { wishes.nodes };
                ["", "b", "c"]
                    .into_iter()
                    .take(count)
                    .map(move |letter| format!("z{number}{letter}"))
            })
            .collect();
        // A test that failed in its turn has left nothing behind: its cluster was dropped.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = Cluster { root, zones, _turn: turn };
        let mut arguments = vec!["up".to_owned(), "--json".to_owned()];
        arguments.extend(["--zones".to_owned(), wishes.zones.to_string()]);
        arguments.extend(["--nodes".to_owned(), wishes.nodes.to_string()]);
        if wishes.witness {
            arguments.push("--witness".to_owned());
        }
        if !wishes.round_trips_ms.is_empty() {
            let values: Vec<String> = wishes.round_trips_ms.iter().map(f64::to_string).collect();
            arguments.extend(["--rtt".to_owned(), values.join(",")]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        cluster.demo(&arguments).expect_ok();
        Some(cluster)
    }

    /// Runs `fusion demo ARGUMENTS` on this cluster.
    pub fn demo(&self, arguments: &[&str]) -> Run {
        let root = self.root.path().to_str().expect("temporary paths are UTF-8");
        let (verb, arguments) = arguments.split_first().expect("a verb");
        fusion([&["demo", verb, "--root", root], arguments].concat())
    }

    /// Runs `fusion ARGUMENTS` against the daemon of `zone`.
    pub fn fusion(&self, zone: &str, arguments: &[&str]) -> Run {
        let socket = self.store(zone).join("admin.sock");
        let socket = socket.to_str().expect("temporary paths are UTF-8");
        fusion([&["--socket", socket], arguments].concat())
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The zones' names, in order.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.zones.iter().map(String::as_str)
    }

    /// Where a zone's tree is mounted.
    pub fn mount(&self, zone: &str) -> PathBuf {
        self.root.path().join("mnt").join(zone)
    }

    pub fn store(&self, zone: &str) -> PathBuf {
        self.root.path().join("store").join(zone)
    }

    /// What a zone's daemon logged.
    pub fn log(&self, zone: &str) -> String {
        std::fs::read_to_string(self.root.path().join("log").join(format!("{zone}.log")))
            .unwrap_or_default()
    }

    /// The process id of a zone's daemon; `None` when it does not run.
    pub fn pid(&self, zone: &str) -> Option<u32> {
        let report = self.demo(&["status", "--json"]).json();
        let zones = report["zones"].as_array().cloned().unwrap_or_default();
        let own = zones.into_iter().find(|entry| entry["name"] == zone)?;
        u32::try_from(own["pid"].as_u64()?).ok()
    }

    /// `fusion status --json` of a zone's daemon; `None` when it does not answer.
    pub fn status(&self, zone: &str) -> Option<Value> {
        let run = self.fusion(zone, &["status", "--json", "--timeout", "5"]);
        // 3: it answers, and says that something is wrong.
        matches!(run.code, 0 | 3).then(|| run.json())
    }

    /// A zone's own line of its status.
    pub fn node(&self, zone: &str) -> Option<Value> {
        let status = self.status(zone)?;
        let nodes = status["nodes"].as_array()?;
        nodes.iter().find(|node| node["node"] == zone).cloned()
    }

    /// The names of the voters, as a node knows them, in order.
    pub fn voters(&self, node: &str) -> Vec<String> {
        let status = self.status(node).unwrap_or_default();
        let voters = status["ring"]["voters"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> =
            voters.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// Waits until a node sees exactly these voters.
    ///
    /// # Panics
    /// When it doesn't.
    #[track_caller]
    pub fn wait_for_voters(&self, node: &str, voters: &[&str]) {
        wait_for_ok(&format!("{node} sees the voters {voters:?}"), || {
            let seen = self.voters(node);
            if seen == voters { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }

    /// What `node` knows of `other`.
    pub fn line(&self, node: &str, other: &str) -> Option<Value> {
        let status = self.status(node)?;
        let nodes = status["nodes"].as_array()?;
        nodes.iter().find(|line| line["node"] == other).cloned()
    }

    /// The last GSN in a zone's tables.
    pub fn gsn(&self, zone: &str) -> Option<u64> {
        self.node(zone)?["gsn_applied"].as_u64()
    }

    /// Cuts a zone off from all others.
    pub fn cut(&self, zone: &str) {
        self.demo(&["cut", zone]).expect_ok();
    }

    /// Mends all links.
    pub fn heal(&self) {
        self.demo(&["heal"]).expect_ok();
    }

    /// kill -9.
    pub fn kill(&self, zone: &str) {
        self.demo(&["kill", zone]).expect_ok();
    }

    /// Starts what does not run, and returns when it is usable.
    pub fn start_missing(&self) {
        self.demo(&["up", "--quiet"]).expect_ok();
    }

    /// Starts a zone's daemon, whatever the others do.
    pub fn start_one(&self, zone: &str) {
        self.restart(zone);
    }

    /// Stops a daemon in order, if it runs, and starts it again.
    pub fn restart(&self, zone: &str) {
        self.demo(&["restart", zone]).expect_ok();
    }

    /// Waits until all zones are at one GSN with one state hash, and returns that GSN.
    ///
    /// # Panics
    /// When they don't get there.
    #[track_caller]
    pub fn wait_for_equal_state(&self) -> u64 {
        let zones: Vec<&str> = self.zones().collect();
        self.wait_for_equal_state_of(&zones)
    }

    /// The same for some nodes.
    ///
    /// # Panics
    /// When they don't get there.
    #[track_caller]
    pub fn wait_for_equal_state_of(&self, nodes: &[&str]) -> u64 {
        wait_for_ok(&format!("{nodes:?} have the same GSN and state hash"), || {
            let states: Vec<(u64, String)> =
                nodes.iter().map(|node| self.state(node)).collect::<Result<_, _>>()?;
            let equal = states.iter().all(|state| *state == states[0]);
            if equal { Ok(states[0].0) } else { Err(format!("{states:?}")) }
        })
        .0
    }

    /// A zone's GSN and state hash.
    fn state(&self, zone: &str) -> Result<(u64, String), String> {
        let node = self.node(zone).ok_or_else(|| format!("{zone} does not answer"))?;
        let gsn = node["gsn_applied"].as_u64();
        let hash = node["state_hash"].as_str();
        gsn.zip(hash).map(|(gsn, hash)| (gsn, hash.to_owned())).ok_or_else(|| node.to_string())
    }

    /// Waits until a path shows in a zone's tree.
    ///
    /// # Panics
    /// When it doesn't.
    #[track_caller]
    pub fn wait_for_path(&self, zone: &str, path: &str) -> PathBuf {
        let path = self.mount(zone).join(path);
        wait_until(&format!("{} exists", path.display()), || path.symlink_metadata().is_ok());
        path
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for zone in self.zones() {
                let log = self.log(zone);
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(30)..];
                eprintln!("--- the end of the log of {zone} ---\n{}", tail.join("\n"));
            }
        }
        if std::thread::panicking() && std::env::var_os("FUSION_TEST_KEEP").is_some() {
            self.root.disable_cleanup(true);
            eprintln!("FUSION_TEST_KEEP: the cluster stays up: {}", self.root.path().display());
            return;
        }
        let down = self.demo(&["down", "--purge", "--yes"]);
        if down.code != 0 && !std::thread::panicking() {
            panic!("the cluster did not stop: {}", down.stderr);
        }
    }
}

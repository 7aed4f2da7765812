//! Settings of a daemon, and where each one comes from.
//!
//! A key is looked up in this order, and the first place that has it wins: command-line
//! flag, environment (`FUSION_` and the key in capitals), `/etc/fusion/conf.d/*.toml` (last
//! name first), `/etc/fusion/fusion.toml`, `fusion.toml` in the store, default. `--config
//! FILE` stands in for the files under `/etc/fusion`.

mod key;
mod load;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use key::{KEYS, Key};
pub use load::{ConfigError, Loaded, Origin, Sources, load, load_file};

/// Name of the file in a store that `fusion init` and `fusion join` write.
pub const STORE_FILE: &str = "fusion.toml";

/// Everything a daemon can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory of the store; made by `fusion init` or `fusion join`.
    pub store: PathBuf,
    /// The UDP address of everything between nodes.
    pub listen: SocketAddr,
    /// `host:port` at which other nodes reach `listen`; empty = `listen` itself.
    pub advertise: String,
    /// Directory where `fusion serve` mounts the tree; empty = not at all.
    pub mount: PathBuf,
    /// Whether other users may use the mount: `auto` = root: yes, users: if /etc/fuse.conf
    /// permits.
    pub allow_other: AllowOther,
    /// The unix socket of the local API; empty = `admin.sock` in the store.
    pub socket: PathBuf,
    /// What goes to the log: a level, or a tracing filter such as `info,wire=debug`.
    pub log: String,
    /// A file that stays open is sealed when its oldest change is this old.
    pub seal_age_ms: u64,
    /// How long a reader waits for bytes that no reachable node has, before EIO.
    pub fetch_timeout_ms: u64,
    /// How long calls wait for a majority below directories whose rule is `partition=error`.
    pub op_timeout_ms: u64,
    /// Agreements that are kept for nodes that were away and for `fusion log`.
    pub order_keep_gsn: u64,
    /// Bytes that they may have, before compression; for a live node that lags, twice as much.
    pub order_keep_bytes: u64,
    /// A voter that is silent for so long is replaced by another node of its zone; the node
    /// that notices decides.
    pub failover_after_ms: u64,
    /// Node name -> address to use instead of the agreed one: for links that go through a
    /// relay, such as the demo's WAN emulator.
    pub overrides: BTreeMap<String, SocketAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AllowOther {
    #[default]
    Auto,
    Yes,
    No,
}

impl AllowOther {
    pub fn choice(self) -> Option<bool> {
        match self {
            AllowOther::Auto => None,
            AllowOther::Yes => Some(true),
            AllowOther::No => Some(false),
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            store: PathBuf::from("/var/lib/fusion"),
            listen: SocketAddr::from(([0, 0, 0, 0], Settings::PORT)),
            advertise: String::new(),
            mount: PathBuf::new(),
            allow_other: AllowOther::Auto,
            socket: PathBuf::new(),
            log: "info".to_owned(),
            seal_age_ms: 5_000,
            fetch_timeout_ms: 30_000,
            op_timeout_ms: 30_000,
            order_keep_gsn: 1_000_000,
            order_keep_bytes: 1 << 30,
            failover_after_ms: 5_000,
            overrides: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// UDP. Unassigned at IANA, outside the ephemeral range.
    pub const PORT: u16 = 7420;

    pub fn socket_path(&self) -> PathBuf {
        if self.socket.as_os_str().is_empty() {
            self.store.join("admin.sock")
        } else {
            self.socket.clone()
        }
    }

    /// What other nodes are told; `listen` where nothing better is known.
    pub fn advertised(&self) -> String {
        if self.advertise.is_empty() { self.listen.to_string() } else { self.advertise.clone() }
    }

    pub fn seal_age(&self) -> Duration {
        Duration::from_millis(self.seal_age_ms)
    }

    pub fn op_timeout(&self) -> Duration {
        Duration::from_millis(self.op_timeout_ms)
    }

    pub fn failover_after(&self) -> Duration {
        Duration::from_millis(self.failover_after_ms)
    }

    pub fn fetch_timeout(&self) -> Duration {
        Duration::from_millis(self.fetch_timeout_ms)
    }
}

/// A file with every key at its default, commented out.
pub fn default_file() -> String {
    let defaults = Table::try_from(Settings::default()).expect("defaults have TOML forms");
    let mut text =
        String::from("# FusionFS. Every key with its default; remove the # to change one.\n");
    for key in KEYS {
        text.push_str(&format!("\n# {}\n", key.help));
        let value = &defaults[key.name];
        text.push_str(&format!("# {} = {value}\n", key.name));
    }
    text
}

/// Writes `fusion.toml` into a new store, with the keys that belong to this node.
///
/// # Errors
/// What the filesystem says.
pub fn write_store_file(store: &Path, listen: SocketAddr, advertise: &str) -> std::io::Result<()> {
    let listen = Value::from(listen.to_string());
    let advertise = Value::from(advertise);
    let text = format!(
        "# Written when the store was made. Files under /etc/fusion are stronger.\n\
         listen = {listen}\nadvertise = {advertise}\n"
    );
    std::fs::write(store.join(STORE_FILE), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_a_key_and_every_key_a_field() {
        let defaults = Table::try_from(Settings::default()).expect("defaults have TOML forms");
        let mut keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        keys.sort_unstable();
        let mut fields: Vec<_> = defaults.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(keys, fields);
    }

    #[test]
    fn the_default_file_is_valid_when_uncommented() {
        let text: String = default_file()
            .lines()
            .filter_map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")))
            .filter(|rest| key::find(rest.split(' ').next().unwrap_or("")).is_some())
            .map(|line| format!("{line}\n"))
            .collect();
        let table: Table = text.parse().expect("valid TOML");
        assert_eq!(table.try_into::<Settings>().expect("valid"), Settings::default());
    }
}

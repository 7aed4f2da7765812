//! Settings of a daemon, and where each one comes from.
//!
//! A key is looked up in this order, and the first place that has it wins: command-line
//! flag, environment (`FUSION_` and the key in capitals), `/etc/fusion/conf.d/*.toml` (last
//! name first), `/etc/fusion/fusion.toml`, `fusion.toml` in the store, default. `--config
//! FILE` stands in for the files under `/etc/fusion`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// Where the daemon's packages expect their configuration.
pub const SYSTEM_FILE: &str = "/etc/fusion/fusion.toml";
const SYSTEM_DROPINS: &str = "/etc/fusion/conf.d";
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
    /// Directories that `fusion serve` mounts.
    pub mounts: Vec<PathBuf>,
    /// Whether other users may use the mounts: `auto` = root: yes, users: if /etc/fuse.conf
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
            mounts: Vec::new(),
            allow_other: AllowOther::Auto,
            socket: PathBuf::new(),
            log: "info".to_owned(),
            seal_age_ms: 5_000,
            fetch_timeout_ms: 30_000,
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

    pub fn fetch_timeout(&self) -> Duration {
        Duration::from_millis(self.fetch_timeout_ms)
    }
}

/// One key, for the environment, `fusion config` and the documentation.
pub struct Key {
    pub name: &'static str,
    kind: KeyKind,
    pub help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Text,
    Number,
    /// In the environment: parts separated by `:`.
    Paths,
    /// In the environment: `name=address` parts separated by `,`.
    Addresses,
}

/// Every key, in the order of `fusion config default`.
pub const KEYS: &[Key] = &[
    Key { name: "store", kind: KeyKind::Text, help: "directory of the store" },
    Key { name: "listen", kind: KeyKind::Text, help: "UDP address of everything between nodes" },
    Key {
        name: "advertise",
        kind: KeyKind::Text,
        help: "host:port at which other nodes reach it; empty = listen",
    },
    Key { name: "mounts", kind: KeyKind::Paths, help: "directories that `fusion serve` mounts" },
    Key {
        name: "allow_other",
        kind: KeyKind::Text,
        help: "may other users use the mounts: auto (root: yes, users: if fuse.conf permits), yes, no",
    },
    Key {
        name: "socket",
        kind: KeyKind::Text,
        help: "unix socket of the local API; empty = admin.sock in the store",
    },
    Key { name: "log", kind: KeyKind::Text, help: "level or filter, as in info,wire=debug" },
    Key {
        name: "seal_age_ms",
        kind: KeyKind::Number,
        help: "an open file is sealed when its oldest change is this old",
    },
    Key {
        name: "fetch_timeout_ms",
        kind: KeyKind::Number,
        help: "how long a reader waits for bytes that no reachable node has, before EIO",
    },
    Key {
        name: "overrides",
        kind: KeyKind::Addresses,
        help: "node name = address to use instead of the agreed one (relays)",
    },
];

/// Why settings are unusable. Says where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{origin}: {message}")]
    Syntax { origin: Origin, message: String },
    #[error("{origin}: unknown key '{key}'; did you mean '{nearest}'? (`fusion config default` lists all)")]
    UnknownKey { origin: Origin, key: String, nearest: &'static str },
    #[error("{origin}: '{key}' {message}")]
    BadValue { origin: Origin, key: &'static str, message: String },
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment(String),
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("command line"),
            Origin::Environment(name) => f.write_str(name),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// Settings with the origin of each.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub origins: BTreeMap<&'static str, Origin>,
    /// The same as `settings`, key by key.
    pub values: Table,
}

/// What the command line says: `config` is `--config`, `flags` the keys given as flags.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub config: Option<PathBuf>,
    pub flags: Table,
}

/// Reads all places and merges them.
///
/// # Errors
/// [`ConfigError`] for an unreadable file, an unknown key or a value of a wrong form. Absent
/// files under /etc are fine; an absent `--config` file is not.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut layers = vec![(Origin::Flag, sources.flags.clone())];
    layers.extend(environment(|name| std::env::var(name).ok())?);
    match &sources.config {
        Some(path) => layers.push(read_file(path)?),
        None => layers.extend(system_files()?),
    }
    // The store's own file needs the store's place, which it therefore cannot set.
    let store = layers
        .iter()
        .find_map(|(_, table)| table.get("store").and_then(Value::as_str).map(PathBuf::from))
        .unwrap_or_else(|| Settings::default().store);
    let store_file = store.join(STORE_FILE);
    if store_file.exists() {
        layers.push(read_file(&store_file)?);
    }
    merge(layers)
}

/// Reads one file alone over the defaults, for `fusion config check FILE`.
///
/// # Errors
/// As [`load`].
pub fn load_file(path: &Path) -> Result<Loaded, ConfigError> {
    merge(vec![read_file(path)?])
}

/// Merges layers, the strongest first.
fn merge(layers: Vec<(Origin, Table)>) -> Result<Loaded, ConfigError> {
    let mut values = Table::new();
    let mut origins = BTreeMap::new();
    let defaults = Table::try_from(Settings::default()).expect("defaults have TOML forms");
    for (origin, table) in layers.into_iter().chain([(Origin::Default, defaults)]) {
        for (name, value) in table {
            let key = key(&name).ok_or_else(|| ConfigError::UnknownKey {
                origin: origin.clone(),
                nearest: nearest_key(&name),
                key: name.clone(),
            })?;
            if !values.contains_key(key.name) {
                check_value(key, &value, &origin)?;
                values.insert(key.name.to_owned(), value);
                origins.insert(key.name, origin.clone());
            }
        }
    }
    let settings = values
        .clone()
        .try_into()
        .expect("every value was checked alone, and keys don't depend on each other");
    Ok(Loaded { settings, origins, values })
}

/// Checks one value by putting it alone over the defaults, so that the message can name its
/// origin.
fn check_value(key: &Key, value: &Value, origin: &Origin) -> Result<(), ConfigError> {
    let mut alone = Table::try_from(Settings::default()).expect("defaults have TOML forms");
    alone.insert(key.name.to_owned(), value.clone());
    let outcome: Result<Settings, _> = alone.try_into();
    outcome.map(drop).map_err(|error: toml::de::Error| ConfigError::BadValue {
        origin: origin.clone(),
        key: key.name,
        message: format!("= {value}: {}", error.message()),
    })
}

fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known key with the smallest edit distance.
fn nearest_key(name: &str) -> &'static str {
    let nearest = KEYS.iter().min_by_key(|key| edit_distance(name, key.name));
    nearest.expect("there are keys").name
}

/// Levenshtein's distance, in bytes.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn read_file(path: &Path) -> Result<(Origin, Table), ConfigError> {
    let origin = Origin::File(path.to_owned());
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let table = text.parse::<Table>().map_err(|error| ConfigError::Syntax {
        origin: origin.clone(),
        message: error.to_string().trim_end().to_owned(),
    })?;
    Ok((origin, table))
}

/// The files under /etc/fusion that exist, the strongest first.
fn system_files() -> Result<Vec<(Origin, Table)>, ConfigError> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(SYSTEM_DROPINS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths.reverse();
    if Path::new(SYSTEM_FILE).exists() {
        paths.push(PathBuf::from(SYSTEM_FILE));
    }
    paths.iter().map(|path| read_file(path)).collect()
}

/// One layer per variable that is set.
fn environment(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(Origin, Table)>, ConfigError> {
    let mut layers = Vec::new();
    for key in KEYS {
        let name = format!("FUSION_{}", key.name.to_uppercase());
        let Some(text) = variable(&name) else { continue };
        let origin = Origin::Environment(name);
        let value = key.parse(&text).map_err(|message| ConfigError::BadValue {
            origin: origin.clone(),
            key: key.name,
            message,
        })?;
        layers.push((origin, Table::from_iter([(key.name.to_owned(), value)])));
    }
    Ok(layers)
}

impl Key {
    fn parse(&self, text: &str) -> Result<Value, String> {
        match self.kind {
            KeyKind::Text => Ok(Value::from(text)),
            KeyKind::Number => text
                .trim()
                .parse::<i64>()
                .map(Value::from)
                .map_err(|_| format!("must be a number, not '{text}'")),
            KeyKind::Paths => {
                Ok(Value::Array(text.split(':').filter(|s| !s.is_empty()).map(Value::from).collect()))
            }
            KeyKind::Addresses => {
                let mut table = Table::new();
                for part in text.split(',').filter(|s| !s.is_empty()) {
                    let (node, address) = part
                        .split_once('=')
                        .ok_or_else(|| format!("must be like z2=127.0.0.1:7421, not '{part}'"))?;
                    table.insert(node.to_owned(), Value::from(address));
                }
                Ok(Value::Table(table))
            }
        }
    }
}

/// A file with every key at its default, commented out.
pub fn default_file() -> String {
    let defaults = Table::try_from(Settings::default()).expect("defaults have TOML forms");
    let mut text = String::from("# FusionFS. Every key with its default; remove the # to change one.\n");
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

    fn file(text: &str) -> (Origin, Table) {
        (Origin::File("f.toml".into()), text.parse().expect("test TOML is valid"))
    }

    #[test]
    fn the_first_layer_that_has_a_key_wins() {
        let loaded = merge(vec![
            (Origin::Flag, Table::from_iter([("log".to_owned(), Value::from("debug"))])),
            file("log = 'warn'\nseal_age_ms = 70"),
        ])
        .expect("valid settings");
        assert_eq!(loaded.settings.log, "debug");
        assert_eq!(loaded.settings.seal_age_ms, 70);
        assert_eq!(loaded.origins["log"], Origin::Flag);
        assert_eq!(loaded.origins["listen"], Origin::Default);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let error = merge(vec![file("lisen = '0.0.0.0:1'")]).expect_err("'lisen' is no key");
        assert!(error.to_string().contains("did you mean 'listen'"), "{error}");
    }

    #[test]
    fn a_bad_value_names_its_place() {
        let error = merge(vec![file("listen = 'nowhere'")]).expect_err("not an address");
        assert!(error.to_string().starts_with("f.toml: 'listen'"), "{error}");
    }

    #[test]
    fn the_environment_reads_lists_and_addresses() {
        let layers = environment(|name| match name {
            "FUSION_MOUNTS" => Some("/a:/b".to_owned()),
            "FUSION_OVERRIDES" => Some("z2=127.0.0.1:9".to_owned()),
            _ => None,
        })
        .expect("valid variables");
        let settings = merge(layers).expect("valid settings").settings;
        assert_eq!(settings.mounts, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(settings.overrides["z2"], SocketAddr::from(([127, 0, 0, 1], 9)));
    }

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
            .filter(|rest| key(rest.split(' ').next().unwrap_or("")).is_some())
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(merge(vec![file(&text)]).expect("valid").settings, Settings::default());
    }
}

//! Reads settings from all their places, and remembers which one won.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::key::{self, KEYS, Key};
use super::{STORE_FILE, Settings};

/// Where the daemon's packages expect their configuration.
const SYSTEM_FILE: &str = "/etc/fusion/fusion.toml";
const SYSTEM_DROPINS: &str = "/etc/fusion/conf.d";

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
    #[error(
        "{origin}: unknown key '{key}'; did you mean '{nearest}'? (`fusion config default` lists all)"
    )]
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
            let key = key::find(&name).ok_or_else(|| ConfigError::UnknownKey {
                origin: origin.clone(),
                nearest: key::nearest(&name),
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

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
    fn the_environment_reads_numbers_and_addresses() {
        let layers = environment(|name| match name {
            "FUSION_SEAL_AGE_MS" => Some("70".to_owned()),
            "FUSION_OVERRIDES" => Some("z2=127.0.0.1:9".to_owned()),
            _ => None,
        })
        .expect("valid variables");
        let settings = merge(layers).expect("valid settings").settings;
        assert_eq!(settings.seal_age_ms, 70);
        assert_eq!(settings.overrides["z2"], SocketAddr::from(([127, 0, 0, 1], 9)));
    }
}

//! The keys of the settings: their names, their forms in the environment, their help.

use toml::{Table, Value};

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
    Key {
        name: "mount",
        kind: KeyKind::Text,
        help: "where `fusion serve` mounts the tree; empty = not at all",
    },
    Key {
        name: "allow_other",
        kind: KeyKind::Text,
        help: "may other users use the mount: auto (root: yes, users: if fuse.conf permits), yes, no",
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
        name: "op_timeout_ms",
        kind: KeyKind::Number,
        help: "how long calls wait for a majority where a directory says partition=error",
    },
    Key {
        name: "failover_after_ms",
        kind: KeyKind::Number,
        help: "a voter that is silent for so long is replaced by another node of its zone",
    },
    Key {
        name: "order_keep_gsn",
        kind: KeyKind::Number,
        help: "agreements kept for nodes that were away and for `fusion log`",
    },
    Key {
        name: "order_keep_bytes",
        kind: KeyKind::Number,
        help: "bytes that those may have, before compression",
    },
    Key {
        name: "overrides",
        kind: KeyKind::Addresses,
        help: "node name = address to use instead of the agreed one (relays)",
    },
];

impl Key {
    /// Reads the form that the key has in the environment.
    pub(super) fn parse(&self, text: &str) -> Result<Value, String> {
        match self.kind {
            KeyKind::Text => Ok(Value::from(text)),
            KeyKind::Number => text
                .trim()
                .parse::<i64>()
                .map(Value::from)
                .map_err(|_| format!("must be a number, not '{text}'")),
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

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known key with the smallest edit distance.
pub(super) fn nearest(name: &str) -> &'static str {
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

//! Rules of directories: extended attributes that hold for everything below, unless a directory
//! in between says otherwise.
//!
//! | attribute | value | |
//! |---|---|---|
//! | `user.fusion.durability` | `local`, `agreed`, `zone`, `2zones` and more, `all` | [`Durability`] |
//! | `user.fusion.partition` | `wait`, `error`, `readonly` | [`Partition`] |
//!
//! They are agreed as any attribute is, and looked up when they are needed: a directory that is
//! moved takes on the rules of its new place. A file follows the directory that it was made in
//! or last moved to ([`Inode::home`]).

use std::fmt;
use std::str::FromStr;

use engine::ids::Ino;
use engine::namespace::tables::{Tables, TablesError};
use engine::namespace::{Inode, View};

/// What fsync(2) waits for, beyond this node's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing.
    #[default]
    Local,
    /// The version is agreed.
    Agreed,
    /// And a second node has its bytes: of this zone where the zone has another node, else of
    /// any.
    Zone,
    /// And so many zones have its bytes, this one included; at least 2.
    Zones(u16),
    /// And every zone has its bytes.
    All,
}

/// What a call that needs the order does while no majority can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partition {
    /// It waits, interruptibly, until it can.
    #[default]
    Wait,
    /// It fails after `op_timeout_ms`. It may still happen.
    Error,
    /// It fails at once.
    ReadOnly,
}

/// A word that is no value of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRule;

/// A rule, as an attribute.
pub trait Rule: FromStr<Err = BadRule> + fmt::Display + Default {
    /// The attribute's name.
    const NAME: &'static [u8];

    /// The rule that holds for `ino`.
    ///
    /// # Errors
    /// When the tables cannot be read.
    fn of<T: Tables>(view: &View<T>, ino: Ino) -> Result<Self, TablesError> {
        let Some(value) = nearest(view, ino, Self::NAME)? else { return Ok(Self::default()) };
        // Only what can be parsed is set; a later program may know more words.
        Ok(Self::parse(&value).unwrap_or_default())
    }

    /// # Errors
    /// [`BadRule`].
    fn parse(value: &[u8]) -> Result<Self, BadRule> {
        std::str::from_utf8(value).map_err(|_| BadRule)?.parse()
    }
}

impl Rule for Durability {
    const NAME: &'static [u8] = b"user.fusion.durability";
}

impl Rule for Partition {
    const NAME: &'static [u8] = b"user.fusion.partition";
}

/// Whether `value` may be set as the attribute `name`; `None` if that is no rule.
pub fn check(name: &[u8], value: &[u8]) -> Option<Result<(), BadRule>> {
    match name {
        Durability::NAME => Some(Durability::parse(value).map(drop)),
        Partition::NAME => Some(Partition::parse(value).map(drop)),
        _ => None,
    }
}

/// Whether `name` is a rule's.
pub fn is_rule(name: &[u8]) -> bool {
    [Durability::NAME, Partition::NAME].contains(&name)
}

/// The attribute of the nearest directory upwards that has it.
fn nearest<T: Tables>(
    view: &View<T>,
    ino: Ino,
    name: &[u8],
) -> Result<Option<Vec<u8>>, TablesError> {
    let mut at = ino;
    for _ in 0..DEPTH_MAX {
        let inode = view.inode(at)?;
        if let Some(inode) = &inode
            && inode.xattr_list_len > 0
            && let Some(value) = view.xattr(at, name)?
        {
            return Ok(Some(value));
        }
        if at == Ino::ROOT {
            return Ok(None);
        }
        at = inode.as_ref().and_then(above).unwrap_or(Ino::ROOT);
    }
    Err(TablesError(format!("directory {ino} lies in a circle")))
}

/// Where to look next. What has no directory of its own on record follows the root.
fn above(inode: &Inode) -> Option<Ino> {
    if inode.is_file() { Some(inode.home) } else { inode.parent() }
}

/// Deeper than any path can be.
const DEPTH_MAX: usize = 1 << 20;

impl FromStr for Durability {
    type Err = BadRule;

    fn from_str(word: &str) -> Result<Durability, BadRule> {
        match word {
            "local" => Ok(Durability::Local),
            "agreed" => Ok(Durability::Agreed),
            "zone" => Ok(Durability::Zone),
            "all" => Ok(Durability::All),
            _ => {
                let digits = word.strip_suffix("zones").ok_or(BadRule)?;
                // One spelling for each: no sign, no zeros in front.
                let count: u16 = digits.parse().map_err(|_| BadRule)?;
                let is_plain = count >= 2 && digits == count.to_string();
                if is_plain { Ok(Durability::Zones(count)) } else { Err(BadRule) }
            }
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Local => f.write_str("local"),
            Durability::Agreed => f.write_str("agreed"),
            Durability::Zone => f.write_str("zone"),
            Durability::Zones(count) => write!(f, "{count}zones"),
            Durability::All => f.write_str("all"),
        }
    }
}

impl FromStr for Partition {
    type Err = BadRule;

    fn from_str(word: &str) -> Result<Partition, BadRule> {
        match word {
            "wait" => Ok(Partition::Wait),
            "error" => Ok(Partition::Error),
            "readonly" => Ok(Partition::ReadOnly),
            _ => Err(BadRule),
        }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Partition::Wait => "wait",
            Partition::Error => "error",
            Partition::ReadOnly => "readonly",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_one_spelling() {
        for word in ["local", "agreed", "zone", "2zones", "17zones", "all"] {
            assert_eq!(
                Durability::parse(word.as_bytes()).map(|rule| rule.to_string()),
                Ok(word.to_owned())
            );
        }
        for word in ["wait", "error", "readonly"] {
            assert_eq!(
                Partition::parse(word.as_bytes()).map(|rule| rule.to_string()),
                Ok(word.to_owned())
            );
        }
        for word in [
            "",
            "Local",
            "local\n",
            "1zones",
            "0zones",
            "02zones",
            "+2zones",
            "zones",
            "99999zones",
        ] {
            assert_eq!(Durability::parse(word.as_bytes()), Err(BadRule), "{word}");
            assert_eq!(Partition::parse(word.as_bytes()), Err(BadRule), "{word}");
        }
        assert_eq!(Durability::parse(&[0xff]), Err(BadRule));
    }
}

//! Whose store it is: the `format` file, read before anything else is touched.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};

use engine::ids::NodeId;

use crate::StoreError;
use crate::layout::{Layout, write_atomic};

/// The format that this program writes. A higher number in a store means a newer program.
pub const FORMAT_VERSION: u32 = 1;

/// Names the store's owner. A node that lost its disk gets a new [`NodeId`] and with it a new
/// store, so the three never change within one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: [u8; 16],
    pub node: NodeId,
    /// Random, drawn when the store is created: tells two stores of one node id apart.
    pub incarnation: [u8; 16],
}

impl Identity {
    /// An identity with a fresh incarnation from the system's random source.
    pub fn new(cluster: [u8; 16], node: NodeId) -> io::Result<Identity> {
        let mut incarnation = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut incarnation)?;
        Ok(Identity { cluster, node, incarnation })
    }

    /// The text of the `format` file. The last line's checksum covers the lines above it.
    fn to_text(&self) -> String {
        let mut text = format!(
            "fusionfs-store {FORMAT_VERSION}\ncluster {}\nnode {}\nincarnation {}\n",
            hex(&self.cluster),
            self.node.0,
            hex(&self.incarnation)
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        writeln!(text, "crc32c {checksum:08x}").expect("a String takes any text");
        text
    }
}

/// Writes the `format` file; its presence makes a directory a store.
pub fn write(layout: &Layout, identity: &Identity) -> Result<(), StoreError> {
    write_atomic(&layout.format_file(), identity.to_text().as_bytes())
}

/// Reads and checks the `format` file.
///
/// # Errors
/// [`StoreError::NotAStore`], [`StoreError::NewerVersion`], or [`StoreError::Damaged`].
pub fn read(layout: &Layout) -> Result<Identity, StoreError> {
    let path = layout.format_file();
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::NotAStore { dir: layout.root().to_owned() });
        }
        other => other.map_err(StoreError::io("read", &path))?,
    };
    let damaged = |detail: &str| StoreError::damaged(format!("{}", path.display()), detail);
    let text = str::from_utf8(&bytes).map_err(|_| damaged("it is not text"))?;

    // The version comes first and is believed without the checksum: a newer format may end
    // differently.
    let mut lines = text.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("fusionfs-store "))
        .and_then(|number| number.parse::<u32>().ok())
        .ok_or_else(|| damaged("its first line is not 'fusionfs-store NUMBER'"))?;
    if version > FORMAT_VERSION {
        return Err(StoreError::NewerVersion {
            dir: layout.root().to_owned(),
            found: version,
            supported: FORMAT_VERSION,
        });
    }
    let mut field = |name: &str| {
        lines
            .next()
            .and_then(|line| line.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or_else(|| damaged(&format!("the line '{name}' is missing")))
    };
    let cluster = field("cluster")?;
    let node = field("node")?;
    let incarnation = field("incarnation")?;
    let identity = (|| {
        Some(Identity {
            cluster: unhex(cluster)?,
            node: NodeId(node.parse().ok()?),
            incarnation: unhex(incarnation)?,
        })
    })()
    .ok_or_else(|| damaged("a line cannot be read"))?;
    // Writing it again and comparing checks the checksum and every byte between.
    if identity.to_text() != text {
        return Err(damaged("its checksum does not match"));
    }
    Ok(identity)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes any text");
    }
    text
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> (tempfile::TempDir, Layout, Identity) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let identity = Identity::new([7; 16], NodeId(3)).unwrap();
        write(&layout, &identity).unwrap();
        (dir, layout, identity)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_dir, layout, identity) = stored();
        assert_eq!(read(&layout).unwrap(), identity);
    }

    #[test]
    fn newer_version_is_refused_by_number() {
        let (_dir, layout, _) = stored();
        fs::write(layout.format_file(), "fusionfs-store 2\nanything else\n").unwrap();
        assert!(matches!(read(&layout), Err(StoreError::NewerVersion { found: 2, .. })));
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let (_dir, layout, _) = stored();
        let good = fs::read(layout.format_file()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(layout.format_file(), &bad).unwrap();
            assert!(read(&layout).is_err(), "byte {at} changed unnoticed");
        }
    }
}

//! The name in a certificate: `fusion://<cluster, 32 hex digits>/<zone>/<node id>`.

use std::fmt;

use engine::ids::NodeId;

/// Who a certificate says its holder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName {
    pub cluster: [u8; 16],
    pub zone: String,
    pub node: NodeId,
}

/// As in a DNS label.
pub const NAME_MAX_BYTES: usize = 63;
const SCHEME: &str = "fusion://";

/// Whether `name` can name a zone or node: such names stand in URIs, paths and tables.
pub fn is_valid_name(name: &str) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    (1..=NAME_MAX_BYTES).contains(&name.len())
        && name.bytes().all(fits)
        && name.as_bytes()[0].is_ascii_alphanumeric()
}

impl NodeName {
    /// Reads what `Display` wrote; nothing else is accepted.
    pub fn parse(uri: &str) -> Option<NodeName> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (cluster, zone, node) = (parts.next()?, parts.next()?, parts.next()?);
        let name = NodeName {
            cluster: parse_hex(cluster)?,
            zone: Some(zone).filter(|zone| is_valid_name(zone))?.to_owned(),
            node: NodeId(node.parse().ok()?),
        };
        // One way to write each name: `+1`, `01` and trailing parts are out.
        (name.to_string() == uri).then_some(name)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", hex(&self.cluster), self.zone, self.node)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok())?.map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_name_parses() {
        let name = NodeName { cluster: [0xab; 16], zone: "tokyo-1".into(), node: NodeId(7) };
        let uri = name.to_string();
        assert_eq!(uri, format!("fusion://{}/tokyo-1/7", "ab".repeat(16)));
        assert_eq!(NodeName::parse(&uri), Some(name));
        for wrong in [
            uri.replace("/7", "/07"),
            uri.replace("/7", "/+7"),
            uri.replace("/7", "/70000"),
            uri.replace("/7", "/7/"),
            uri.replace("ab", "AB"),
            uri.replace("tokyo-1", ""),
            uri.replace("tokyo-1", "Tokyo"),
            uri.replace("fusion", "http"),
            String::new(),
        ] {
            assert_eq!(NodeName::parse(&wrong), None, "{wrong}");
        }
    }
}

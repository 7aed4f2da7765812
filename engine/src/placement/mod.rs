//! Says which zone holds which body.
//!
//! A [`Placement`] says how many copies each zone holds; [`holders`] says which nodes they lie
//! on. Both follow from agreed state alone, so that every node computes the same answer at
//! the same GSN without asking anybody.

mod fetch;
mod holders;

use std::collections::BTreeMap;

pub use fetch::fetch_order;
pub use holders::{holders, should_hold};

use crate::command::Member;
use crate::ids::ZoneId;

/// How many copies of a body each zone holds. A zone that is not named holds none, and its
/// nodes must not get the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Placement {
    copies: BTreeMap<ZoneId, u32>,
}

impl Placement {
    /// The rule where nothing else is said: one copy in every zone that has a member.
    pub fn everywhere(members: &[Member]) -> Placement {
        Placement::of(members.iter().map(|member| (member.zone, 1)))
    }

    /// Zones named with 0 copies are as if they were not named.
    pub fn of(copies: impl IntoIterator<Item = (ZoneId, u32)>) -> Placement {
        Placement { copies: copies.into_iter().filter(|&(_, copies)| copies > 0).collect() }
    }

    /// Whether nodes of `zone` may get the bytes. A sender asks this last thing before the
    /// socket.
    pub fn permits(&self, zone: ZoneId) -> bool {
        self.copies.contains_key(&zone)
    }

    pub fn copies(&self, zone: ZoneId) -> u32 {
        self.copies.get(&zone).copied().unwrap_or(0)
    }

    /// The zones that hold copies, by id.
    pub fn zones(&self) -> impl Iterator<Item = ZoneId> {
        self.copies.keys().copied()
    }
}

#[cfg(test)]
mod tests_support {
    use super::*;
    use crate::command::MemberRole;
    use crate::ids::{BodyId, NodeId};

    /// Members as (node, zone).
    pub(super) fn members(nodes: &[(u16, u16)]) -> Vec<Member> {
        let member = |&(node, zone): &(u16, u16)| Member {
            id: NodeId(node),
            name: format!("n{node}"),
            zone: ZoneId(zone),
            zone_name: format!("z{zone}"),
            address: format!("127.0.0.1:{node}"),
            key_hash: [node as u8; 32],
            role: MemberRole::Voter,
            draining: false,
        };
        nodes.iter().map(member).collect()
    }

    pub(super) fn body(number: u64) -> BodyId {
        BodyId(*blake3::hash(&number.to_be_bytes()).as_bytes())
    }
}

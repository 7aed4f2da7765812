//! Whom a node asks for a body, and in which order.

use super::Placement;
use super::holders::{holders, rank};
use crate::command::Member;
use crate::ids::{BodyId, NodeId};

/// The nodes that `asker` asks for `body`, best first.
///
/// Holders in its own zone come first: their bytes cross no border between zones. Then the
/// other nodes that should have it, nearest first; `origin`, which published the body and had
/// all of it then, is one of them even if the placement does not name it. Last come the other
/// members that may have it, for what they still keep. `rtt_us` is a measured round trip in
/// microseconds; nodes without one come behind those with one.
///
/// The answer is for the asker alone: it need not be the same on other nodes.
pub fn fetch_order(
    asker: NodeId,
    body: BodyId,
    members: &[Member],
    placement: &Placement,
    origin: Option<NodeId>,
    rtt_us: impl Fn(NodeId) -> Option<u64>,
) -> Vec<NodeId> {
    let zone = members.iter().find(|member| member.id == asker).map(|member| member.zone);
    let holders = holders(body, members, placement);
    let mut order: Vec<_> = members
        .iter()
        .filter(|member| member.id != asker)
        .filter(|member| placement.permits(member.zone) || Some(member.id) == origin)
        .map(|member| {
            let node = member.id;
            let likely = holders.binary_search(&node).is_ok() || Some(node) == origin;
            let near = likely && Some(member.zone) == zone;
            let distance = rtt_us(node).unwrap_or(u64::MAX);
            // The rank spreads askers' bodies over equally near nodes.
            ((!near, !likely, distance, rank(body, node)), node)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{body, members};
    use super::*;
    use crate::ids::ZoneId;

    fn rtt_us(node: NodeId) -> Option<u64> {
        match node.0 {
            2 => Some(90_000),
            3 => Some(20_000),
            4 => Some(500),
            _ => None,
        }
    }

    #[test]
    fn own_zone_then_nearest_then_unmeasured() {
        let members = members(&[(1, 1), (2, 2), (3, 3), (4, 1), (5, 5)]);
        let placement = Placement::of((1..=5).map(|zone| (ZoneId(zone), 2)));
        let order = fetch_order(NodeId(1), body(1), &members, &placement, None, rtt_us);
        assert_eq!(order, [4, 3, 2, 5].map(NodeId));
    }

    #[test]
    fn the_origin_is_asked_even_where_placement_names_no_copy() {
        let members = members(&[(1, 1), (2, 2), (3, 3)]);
        let placement = Placement::of([(ZoneId(1), 1), (ZoneId(2), 1)]);
        let order = fetch_order(NodeId(1), body(1), &members, &placement, Some(NodeId(3)), rtt_us);
        assert_eq!(order, [3, 2].map(NodeId));
        let order = fetch_order(NodeId(1), body(1), &members, &placement, None, rtt_us);
        assert_eq!(order, [2].map(NodeId));
    }

    #[test]
    fn a_zone_fellow_that_is_no_holder_comes_last() {
        let members = members(&[(1, 1), (4, 1), (6, 1), (2, 2)]);
        let placement = Placement::everywhere(&members);
        for number in 0..20 {
            let body = body(number);
            let holder = holders(body, &members, &placement)
                .into_iter()
                .find(|&node| node != NodeId(2))
                .expect("zone 1 has a holder");
            let order = fetch_order(NodeId(1), body, &members, &placement, None, rtt_us);
            if holder == NodeId(1) {
                assert_eq!(order, [2, 4, 6].map(NodeId));
            } else {
                assert_eq!(order[..2], [holder, NodeId(2)]);
            }
        }
    }
}

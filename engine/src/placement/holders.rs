//! Which nodes hold the copies that a placement asks for.

use super::Placement;
use crate::command::Member;
use crate::ids::{BodyId, NodeId};

/// The nodes that hold `body`, by id.
///
/// Each zone's copies lie on its nodes with the highest ranks for this body (rendezvous
/// hashing: Thaler and Ravishankar, 1998), so that a node that comes or goes moves only the
/// bodies that it holds. A zone with fewer nodes than copies holds one on each.
pub fn holders(body: BodyId, members: &[Member], placement: &Placement) -> Vec<NodeId> {
    let mut holders = Vec::new();
    for zone in placement.zones() {
        let mut nodes: Vec<NodeId> =
            members.iter().filter(|member| member.zone == zone).map(|member| member.id).collect();
        let copies = placement.copies(zone) as usize;
        if nodes.len() > copies {
            nodes.sort_by_cached_key(|&node| std::cmp::Reverse((rank(body, node), node)));
            nodes.truncate(copies);
        }
        holders.extend(nodes);
    }
    holders.sort_unstable();
    holders
}

/// Whether `node` is among the [`holders`] of `body`.
pub fn should_hold(node: NodeId, body: BodyId, members: &[Member], placement: &Placement) -> bool {
    let Some(zone) = members.iter().find(|member| member.id == node).map(|member| member.zone)
    else {
        return false;
    };
    let copies = placement.copies(zone) as usize;
    let own = (rank(body, node), node);
    let ahead = members
        .iter()
        .filter(|member| member.zone == zone && (rank(body, member.id), member.id) > own)
        .count();
    ahead < copies
}

/// The node's rank for a body: agreed, so it must not change between releases.
pub(super) fn rank(body: BodyId, node: NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&body.0).update(&node.0.to_be_bytes());
    let mut rank = [0; 8];
    hasher.finalize_xof().fill(&mut rank);
    u64::from_be_bytes(rank)
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{body, members};
    use super::*;
    use crate::ids::ZoneId;

    #[test]
    fn a_node_alone_in_its_zone_holds_everything() {
        let members = members(&[(1, 1), (2, 2), (3, 3)]);
        let placement = Placement::everywhere(&members);
        for number in 0..50 {
            let holders = holders(body(number), &members, &placement);
            assert_eq!(holders, [NodeId(1), NodeId(2), NodeId(3)]);
        }
    }

    #[test]
    fn copies_are_spread_and_both_functions_agree() {
        let members = members(&[(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]);
        let placement = Placement::of([(ZoneId(1), 2), (ZoneId(2), 1), (ZoneId(9), 1)]);
        let mut held = [0u32; 6];
        for number in 0..3000 {
            let body = body(number);
            let holders = holders(body, &members, &placement);
            assert_eq!(holders.len(), 3);
            for member in &members {
                let holds = holders.contains(&member.id);
                assert_eq!(should_hold(member.id, body, &members, &placement), holds);
                held[usize::from(member.id.0)] += u32::from(holds);
            }
        }
        for node in [1, 2, 3] {
            assert!((1800..2200).contains(&held[node]), "{held:?}");
        }
        for node in [4, 5] {
            assert!((1350..1650).contains(&held[node]), "{held:?}");
        }
        assert!(!should_hold(NodeId(9), body(0), &members, &placement));
    }

    #[test]
    fn a_new_node_takes_over_bodies_and_moves_no_others() {
        let before = members(&[(1, 1), (2, 1), (3, 1)]);
        let after = members(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        let placement = Placement::everywhere(&before);
        for number in 0..1000 {
            let old = holders(body(number), &before, &placement);
            let new = holders(body(number), &after, &placement);
            assert!(new == old || new == [NodeId(4)]);
        }
    }

    /// Which node holds what is agreed state.
    #[test]
    fn golden_ranks() {
        assert_eq!(rank(body(1), NodeId(2)), 4_835_386_051_378_396_295);
    }
}

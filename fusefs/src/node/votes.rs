//! Who should vote: the policy by which the ring's membership follows the agreed members and
//! what is heard of them.
//!
//! One voter per zone, unless `fusion node promote --extra` asked for more; it keeps its vote
//! while it lives. When it has been silent for long enough, another node of its zone takes
//! over its vote. When it comes back, it stands by: so votes move once for each death, however
//! often nodes come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engine::command::{Member, MemberRole};
use engine::consensus::Config;
use engine::ids::NodeId;

/// What is known of a node's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How long it has been heard without a gap; `None` if it is silent now.
    pub heard_for: Option<Duration>,
    /// How long it has been silent; zero while it is heard.
    pub silent_for: Duration,
    /// It has executed almost everything that is agreed.
    pub caught_up: bool,
}

/// The members, the present voters, and how they are.
pub struct Situation<'a> {
    pub members: &'a [Member],
    pub config: &'a Config,
    pub health: &'a dyn Fn(NodeId) -> Health,
    /// A voter that was silent for so long is replaced. Who takes over must have been heard
    /// for as long, so that nodes that come and go pass no votes back and forth.
    pub failover_after: Duration,
}

/// A membership that should come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub voters: BTreeMap<NodeId, u32>,
    /// Who leaves the volume for good.
    pub remove: BTreeSet<NodeId>,
    /// What happened, for the log.
    pub why: String,
}

impl Situation<'_> {
    /// The one change to make now, if there is one.
    pub fn next(&self) -> Option<Change> {
        self.relieved().or_else(|| self.failed_over()).or_else(|| self.joined())
    }

    /// Takes the vote from a member that must not have one any more (it drains, or is an
    /// observer now), and gives it to another node of its zone, if there is one.
    fn relieved(&self) -> Option<Change> {
        let leaver = self.voting().find(|member| !member.may_vote())?;
        let (voters, heir) = self.without(leaver.id)?;
        // Better a voter that leaves than no majority.
        if !self.has_live_quorum(&voters) {
            return None;
        }
        Some(Change {
            voters,
            remove: BTreeSet::new(),
            why: match heir {
                Some(heir) => format!("{} leaves its vote to {}", leaver.name, heir.name),
                None => format!("{} gives up its vote", leaver.name),
            },
        })
    }

    fn failed_over(&self) -> Option<Change> {
        let dead = |member: &&Member| (self.health)(member.id).silent_for >= self.failover_after;
        self.voting().filter(dead).find_map(|dead| {
            let heir = self.heir(dead)?;
            let voters = replaced(&self.config.voters, dead.id, heir.id);
            let remove = BTreeSet::new();
            Some(Change {
                voters,
                remove,
                why: format!("{} is silent: {} votes", dead.name, heir.name),
            })
        })
    }

    /// Gives a vote to the first node of a zone without a voter.
    fn joined(&self) -> Option<Change> {
        let zone_votes = |member: &Member| self.voting().any(|voter| voter.zone == member.zone);
        let candidate = self.members.iter().find(|member| {
            let health = (self.health)(member.id);
            member.may_vote()
                && !self.config.voters.contains_key(&member.id)
                && health.heard_for.is_some()
                && health.caught_up
                && !zone_votes(member)
        })?;
        let mut voters = self.config.voters.clone();
        voters.insert(candidate.id, 1);
        let remove = BTreeSet::new();
        Some(Change { voters, remove, why: format!("{} votes", candidate.name) })
    }

    /// The voters without `node`, its vote with another node of its zone if one can take it.
    /// `None` if nobody would be left.
    pub fn without(&self, node: NodeId) -> Option<(BTreeMap<NodeId, u32>, Option<&Member>)> {
        let member = self.members.iter().find(|member| member.id == node);
        if let Some(heir) = member.and_then(|member| self.heir(member)) {
            return Some((replaced(&self.config.voters, node, heir.id), Some(heir)));
        }
        let mut voters = self.config.voters.clone();
        voters.remove(&node);
        (!voters.is_empty()).then_some((voters, None))
    }

    /// Enough of `voters` are heard to decide anything.
    pub fn has_live_quorum(&self, voters: &BTreeMap<NodeId, u32>) -> bool {
        let config = Config { voters: voters.clone(), ..self.config.clone() };
        let heard = |node: &NodeId| (self.health)(*node).heard_for.is_some();
        config.quorum(voters.keys().copied().filter(heard))
    }

    /// Who can take over the vote of `member`: a voter by role before a witness, then the one
    /// that was heard longest.
    fn heir(&self, member: &Member) -> Option<&Member> {
        let fit = self.members.iter().filter(|other| {
            let health = (self.health)(other.id);
            other.zone == member.zone
                && other.id != member.id
                && other.may_vote()
                && !self.config.voters.contains_key(&other.id)
                && health.caught_up
                && health.heard_for.is_some_and(|heard| heard >= self.failover_after)
        });
        fit.max_by_key(|other| {
            let heard = (self.health)(other.id).heard_for;
            (other.role == MemberRole::Voter, heard, std::cmp::Reverse(other.id))
        })
    }

    /// The members that vote now.
    pub fn voting(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| self.config.voters.contains_key(&member.id))
    }
}

/// `into` votes in place of `out`, with its weight.
fn replaced(voters: &BTreeMap<NodeId, u32>, out: NodeId, into: NodeId) -> BTreeMap<NodeId, u32> {
    let mut voters = voters.clone();
    let weight = voters.remove(&out).unwrap_or(1);
    voters.insert(into, weight);
    voters
}

/// How many zones may fail, whichever they are, so that the rest is still a quorum; and the
/// names of those that may fail alone.
pub fn tolerance(members: &[Member], voters: &BTreeMap<NodeId, u32>) -> (usize, Vec<String>) {
    let mut weights: BTreeMap<&str, u64> = BTreeMap::new();
    for member in members {
        if let Some(weight) = voters.get(&member.id) {
            *weights.entry(&member.zone_name).or_default() += u64::from(*weight);
        }
    }
    let total: u64 = weights.values().sum();
    let goes_on = |lost: u64| 2 * (total - lost) > total;
    let mut heaviest: Vec<u64> = weights.values().copied().collect();
    heaviest.sort_unstable_by(|a, b| b.cmp(a));
    let mut lost = 0;
    let any = heaviest
        .iter()
        .take_while(|weight| {
            lost += **weight;
            goes_on(lost)
        })
        .count();
    let alone = weights.iter().filter(|(_, weight)| goes_on(**weight));
    (any, alone.map(|(zone, _)| (*zone).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use engine::ids::{Epoch, ZoneId};

    use super::*;

    const AFTER: Duration = Duration::from_secs(5);
    const ALIVE: Health =
        Health { heard_for: Some(AFTER), silent_for: Duration::ZERO, caught_up: true };
    const DEAD: Health = Health { heard_for: None, silent_for: AFTER, caught_up: false };

    fn member(id: u16, zone: u16) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: ZoneId(zone),
            zone_name: format!("z{zone}"),
            address: String::new(),
            key_hash: [0; 32],
            role: MemberRole::Voter,
            draining: false,
        }
    }

    fn config(voters: &[u16]) -> Config {
        let mut config = Config::genesis(NodeId(1));
        config.epoch = Epoch(7);
        config.voters = voters.iter().map(|&node| (NodeId(node), 1)).collect();
        config
    }

    /// The next voters, where the nodes of `special` are not alive and caught up.
    fn next(members: &[Member], voters: &[u16], special: &[(u16, Health)]) -> Option<Vec<u16>> {
        let health = |node: NodeId| {
            let known = special.iter().find(|(id, _)| NodeId(*id) == node);
            known.map_or(ALIVE, |(_, health)| *health)
        };
        let config = config(voters);
        let situation =
            Situation { members, config: &config, health: &health, failover_after: AFTER };
        let change = situation.next()?;
        Some(change.voters.keys().map(|node| node.0).collect())
    }

    #[test]
    fn one_node_of_each_zone_votes() {
        let members = [member(1, 1), member(2, 1), member(3, 2), member(4, 2)];
        assert_eq!(next(&members, &[1], &[]), Some(vec![1, 3]));
        assert_eq!(next(&members, &[1, 3], &[]), None);
        assert_eq!(next(&members, &[1], &[(3, DEAD)]), Some(vec![1, 4]));
        let behind = Health { caught_up: false, ..ALIVE };
        assert_eq!(next(&members, &[1], &[(3, behind), (4, behind)]), None);
    }

    #[test]
    fn observers_and_drained_nodes_get_no_vote() {
        let mut members = [member(1, 1), member(2, 2), member(3, 3)];
        members[1].role = MemberRole::Observer;
        members[2].draining = true;
        assert_eq!(next(&members, &[1], &[]), None);
        members[1].role = MemberRole::Witness;
        assert_eq!(next(&members, &[1], &[]), Some(vec![1, 2]));
    }

    #[test]
    fn a_dead_voter_is_replaced_in_its_zone_only_and_for_good() {
        let members = [member(1, 1), member(2, 2), member(3, 3), member(4, 3)];
        assert_eq!(next(&members, &[1, 2, 3], &[(2, DEAD)]), None);
        assert_eq!(next(&members, &[1, 2, 3], &[(3, DEAD)]), Some(vec![1, 2, 4]));
        // It returns, and stands by.
        assert_eq!(next(&members, &[1, 2, 4], &[]), None);
    }

    #[test]
    fn flapping_nodes_pass_no_votes_back_and_forth() {
        let members = [member(1, 1), member(2, 2), member(3, 3), member(4, 3)];
        let short = Health { silent_for: AFTER / 2, ..DEAD };
        assert_eq!(next(&members, &[1, 2, 3], &[(3, short)]), None);
        let just_back = Health { heard_for: Some(AFTER / 2), ..ALIVE };
        assert_eq!(next(&members, &[1, 2, 3], &[(3, DEAD), (4, just_back)]), None);
    }

    #[test]
    fn a_draining_voter_leaves_its_vote_in_its_zone() {
        let mut members = [member(1, 1), member(2, 2), member(3, 3), member(4, 3)];
        members[2].draining = true;
        assert_eq!(next(&members, &[1, 2, 3], &[]), Some(vec![1, 2, 4]));
        members[3].role = MemberRole::Observer;
        assert_eq!(next(&members, &[1, 2, 3], &[]), Some(vec![1, 2]));
        // The last voter keeps its vote: somebody has to.
        let mut alone = [member(1, 1)];
        alone[0].draining = true;
        assert_eq!(next(&alone, &[1], &[]), None);
    }

    #[test]
    fn tolerance_counts_zones_not_nodes() {
        let voters = |weights: &[(u16, u32)]| -> BTreeMap<NodeId, u32> {
            weights.iter().map(|&(node, weight)| (NodeId(node), weight)).collect()
        };
        let three = [member(1, 1), member(2, 2), member(3, 3)];
        let all = vec!["z1".to_owned(), "z2".to_owned(), "z3".to_owned()];
        assert_eq!(tolerance(&three, &voters(&[(1, 1), (2, 1), (3, 1)])), (1, all));
        assert_eq!(tolerance(&three, &voters(&[(1, 1), (2, 1)])), (0, vec![]));
        assert_eq!(tolerance(&three, &voters(&[(1, 2), (2, 1)])), (0, vec!["z2".to_owned()]));
        let same = [member(1, 1), member(2, 1), member(3, 2)];
        let votes = voters(&[(1, 1), (2, 1), (3, 1)]);
        assert_eq!(tolerance(&same, &votes), (0, vec!["z2".to_owned()]));
    }
}

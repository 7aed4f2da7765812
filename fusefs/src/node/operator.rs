//! What an operator asks of nodes and zones: drain, resume, promote, demote, remove.
//!
//! Each is an agreement or several: rows of the agreed members, and memberships of the ring.
//! Any node may be asked; one without a vote has a voter propose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::command::{Member, MemberRole, Op};
use engine::consensus::{Config, Input};
use engine::ids::{Epoch, NodeId, VolumeId};
use engine::outcome::Outcome;
use wire::{Ask, Request, Response, Wire};

use super::setup::failed;
use super::sole::SoleCopies;
use super::volume::Volume;
use crate::admin::control::{ControlError, MemberAction, MemberRequest};
use crate::admin::report::{MemberChanged, SoleReport};

pub struct Operator {
    /// The cluster's members are those of the root volume; child volumes follow them.
    pub root: Arc<Volume>,
    pub wire: Arc<Wire>,
    pub sole: SoleCopies,
}

/// The next voters, and who is to be removed; `None` when nothing is left to do.
type Wanted = Option<(BTreeMap<NodeId, u32>, BTreeSet<NodeId>)>;

/// Longer than a failover and a few agreements; a minority waits in vain.
const PATIENCE: Duration = Duration::from_secs(45);
/// A membership that was dropped is asked for again.
const ASK_EVERY: Duration = Duration::from_millis(300);
const VOTER_TIMEOUT: Duration = Duration::from_secs(2);

impl Operator {
    pub async fn act(&self, request: MemberRequest) -> Result<MemberChanged, ControlError> {
        let targets = self.targets(&request)?;
        match request.action {
            MemberAction::Drain => self.drain(&targets, request.force).await?,
            MemberAction::Resume => self.set(&targets, None, Some(false)).await?,
            MemberAction::Promote { extra, weight } => {
                self.promote(only(&targets)?, extra, weight).await?;
            }
            MemberAction::Demote => self.demote(only(&targets)?, request.force).await?,
            MemberAction::Remove => self.remove(&targets, request.force).await?,
        }
        let header = self.root.pulse.header();
        Ok(MemberChanged { gsn: header.gsn.0, epoch: header.config.epoch.0 })
    }

    /// What only the nodes of `request` have.
    pub async fn sole_copies(&self, request: &MemberRequest) -> Result<SoleReport, ControlError> {
        let nodes = self.targets(request)?.iter().map(|member| member.id).collect();
        self.sole.of(&nodes).await
    }

    async fn drain(&self, targets: &[Member], force: bool) -> Result<(), ControlError> {
        let members = self.members()?;
        let stays = |member: &&Member| !targets.iter().any(|target| target.id == member.id);
        if !members.iter().filter(stays).any(Member::takes_bodies) && !force {
            return Err(ControlError::refused("no node would be left to hold bodies")
                .hint("add one first: `fusion token create`"));
        }
        self.set(targets, None, Some(true)).await
    }

    async fn promote(
        &self,
        target: &Member,
        extra: bool,
        weight: Option<u32>,
    ) -> Result<(), ControlError> {
        if target.draining {
            return Err(ControlError::refused(format!("{} is draining", target.name))
                .hint(format!("`fusion node resume {}` ends that", target.name)));
        }
        let role = (target.role == MemberRole::Observer).then_some(MemberRole::Voter);
        self.set(std::slice::from_ref(target), role, None).await?;
        let members = self.members()?;
        self.change(|config| {
            let mut voters = config.voters.clone();
            let present = voters.get(&target.id).copied();
            if present.is_some() && weight.is_none_or(|weight| present == Some(weight)) {
                return Ok(None);
            }
            let health = self.root.promoter.health(target.id);
            if present.is_none() && !(health.heard_for.is_some() && health.caught_up) {
                return Err(ControlError::timeout(format!(
                    "{} is not heard, or has not caught up",
                    target.name
                ))
                .hint("a voter that lags would hold the ring up; ask again when it is `ok`"));
            }
            let fellow = members.iter().find(|member| {
                member.zone == target.zone
                    && member.id != target.id
                    && voters.contains_key(&member.id)
            });
            let inherited = match fellow {
                Some(fellow) if !extra && present.is_none() => voters.remove(&fellow.id),
                _ => present,
            };
            voters.insert(target.id, weight.or(inherited).unwrap_or(1));
            Ok(Some((voters, BTreeSet::new())))
        })
        .await
    }

    async fn demote(&self, target: &Member, force: bool) -> Result<(), ControlError> {
        if target.role == MemberRole::Witness {
            return Err(ControlError::refused(format!(
                "{} is a witness: it has nothing but its vote",
                target.name
            ))
            .hint(format!("`fusion node remove {}`", target.name)));
        }
        // Looked at first: a role that cannot follow would stay behind.
        self.voters_without(&BTreeSet::from([target.id]), force)?;
        self.set(std::slice::from_ref(target), Some(MemberRole::Observer), None).await?;
        self.unvote(&BTreeSet::from([target.id]), force).await
    }

    async fn remove(&self, targets: &[Member], force: bool) -> Result<(), ControlError> {
        let nodes: BTreeSet<NodeId> = targets.iter().map(|target| target.id).collect();
        if !force {
            self.refuse_loss(targets, &nodes).await?;
        }
        self.voters_without(&nodes, force)?;
        // Or the policy would give a node that has just lost its vote another one.
        self.set(targets, None, Some(true)).await?;
        self.change(|config| {
            // First the votes, in an epoch of their own: see `Config::follows`.
            if nodes.iter().any(|node| config.voters.contains_key(node)) {
                return Ok(Some((self.voters_without(&nodes, force)?, BTreeSet::new())));
            }
            let left = nodes.iter().any(|node| !config.removed.contains(node));
            Ok(left.then(|| (config.voters.clone(), nodes.clone())))
        })
        .await
    }

    /// Refuses a removal that would lose something, and says what.
    async fn refuse_loss(
        &self,
        targets: &[Member],
        nodes: &BTreeSet<NodeId>,
    ) -> Result<(), ControlError> {
        let mut losses = Vec::new();
        for target in targets.iter().filter(|target| target.role != MemberRole::Witness) {
            if self.root.promoter.health(target.id).heard_for.is_some() && !target.draining {
                losses.push(format!(
                    "{} is alive: what its programs wrote and did not publish yet",
                    target.name
                ));
            }
        }
        if targets.iter().any(Member::keeps_bodies) {
            let sole = self.sole.of(nodes).await?;
            if sole.files > 0 {
                losses.push(format!(
                    "the content of {} files ({} bytes), which no other node that answers has \
                     (inode {} is one)",
                    sole.files, sole.bytes, sole.examples[0].ino
                ));
            }
            if sole.files > 0 && !sole.silent.is_empty() {
                losses.push(format!("not asked, because silent: {}", sole.silent.join(", ")));
            }
        }
        if losses.is_empty() {
            return Ok(());
        }
        let target = &targets[0].name;
        Err(ControlError::refused(format!("the removal would lose: {}", losses.join("; "))).hint(
            format!("`fusion node drain {target}` first; or --force, which gives that up for good"),
        ))
    }

    /// Takes the votes of `nodes`, one agreement each.
    async fn unvote(&self, nodes: &BTreeSet<NodeId>, force: bool) -> Result<(), ControlError> {
        self.change(|config| {
            if !nodes.iter().any(|node| config.voters.contains_key(node)) {
                return Ok(None);
            }
            Ok(Some((self.voters_without(nodes, force)?, BTreeSet::new())))
        })
        .await
    }

    /// The voters when `nodes` have lost their votes, to nodes of their zones where possible.
    fn voters_without(
        &self,
        nodes: &BTreeSet<NodeId>,
        force: bool,
    ) -> Result<BTreeMap<NodeId, u32>, ControlError> {
        let members: Vec<Member> = self.members()?;
        let staying: Vec<Member> =
            members.iter().filter(|member| !nodes.contains(&member.id)).cloned().collect();
        let mut config = self.root.pulse.header().config.clone();
        let health = |node| self.root.promoter.health(node);
        let voting: Vec<NodeId> =
            nodes.iter().copied().filter(|node| config.voters.contains_key(node)).collect();
        for node in voting {
            let mut known = staying.clone();
            known.extend(members.iter().find(|member| member.id == node).cloned());
            let (voters, _) =
                self.root.promoter.situation(&known, &config, &health).without(node).ok_or_else(
                    || {
                        ControlError::refused("no voter would be left")
                            .hint("promote another node first: `fusion node promote`")
                    },
                )?;
            config.voters = voters;
        }
        let situation = self.root.promoter.situation(&members, &config, &health);
        if !force && !situation.has_live_quorum(&config.voters) {
            return Err(ControlError::refused(
                "what is left would not reach a majority: too many of its voters are silent",
            )
            .hint(
                "start or remove those first; or --force, and changes wait until they are back",
            ));
        }
        Ok(config.voters)
    }

    /// Agrees roles and draining of members.
    async fn set(
        &self,
        targets: &[Member],
        role: Option<MemberRole>,
        draining: Option<bool>,
    ) -> Result<(), ControlError> {
        for target in targets {
            let same_role = role.is_none_or(|role| role == target.role);
            if same_role && draining.is_none_or(|draining| draining == target.draining) {
                continue;
            }
            let op = Op::SetMember { node: target.id, role, draining };
            let agreed =
                tokio::time::timeout(PATIENCE, self.root.proposals.propose_and_wait(op)).await;
            match agreed.map_err(|_| no_majority())? {
                Ok(Outcome::Refused(refusal)) => {
                    return Err(ControlError::refused(format!("{}: {refusal}", target.name)));
                }
                Ok(_) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Has memberships proposed until `next` wants none. It is asked again for each present
    /// membership, because others may change it too.
    async fn change(
        &self,
        next: impl Fn(&Config) -> Result<Wanted, ControlError> + Send + Sync,
    ) -> Result<(), ControlError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let header = self.root.pulse.header();
            let epoch = header.config.epoch;
            let Some((voters, remove)) = next(&header.config)? else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(no_majority());
            }
            self.propose(epoch, voters, remove).await;
            let mut applied = self.root.pulse.watch_applied();
            let changed = applied.wait_for(|_| self.root.pulse.header().config.epoch != epoch);
            let _ = tokio::time::timeout(ASK_EVERY, changed).await;
        }
    }

    /// Proposes a membership here, or has a voter propose it. Lost ones are asked for again.
    async fn propose(&self, epoch: Epoch, voters: BTreeMap<NodeId, u32>, remove: BTreeSet<NodeId>) {
        let present = self.root.pulse.header();
        if present.config.voters.contains_key(&self.root.ring.me()) {
            return self.root.input(Input::Reconfigure { epoch, voters, remove });
        }
        for &voter in present.config.voters.keys() {
            let ask = Ask::Reconfigure { epoch, voters: voters.clone(), remove: remove.clone() };
            let request = Request::new(VolumeId::ROOT, self.root.pulse.applied(), ask);
            let asked = tokio::time::timeout(VOTER_TIMEOUT, self.wire.call(voter, request)).await;
            if let Ok(Ok(Response::At(_))) = asked {
                return;
            }
        }
    }

    /// The members that `request` names: one by name or number, or all of a zone.
    fn targets(&self, request: &MemberRequest) -> Result<Vec<Member>, ControlError> {
        let members = self.members()?;
        let (what, name) = match (&request.node, &request.zone) {
            (Some(node), None) => ("node", node),
            (None, Some(zone)) => ("zone", zone),
            _ => return Err(ControlError::usage("name a node or a zone")),
        };
        let is_meant = |member: &Member| match what {
            "zone" => member.zone_name == *name,
            _ => member.name == *name || member.id.0.to_string() == *name,
        };
        let found: Vec<Member> = members.into_iter().filter(is_meant).collect();
        if found.is_empty() {
            return Err(ControlError::usage(format!("there is no {what} '{name}'"))
                .hint(format!("`fusion {what} list` shows them")));
        }
        Ok(found)
    }

    fn members(&self) -> Result<Vec<Member>, ControlError> {
        self.root.ring.view().members().map_err(failed)
    }
}

fn only(targets: &[Member]) -> Result<&Member, ControlError> {
    match targets {
        [target] => Ok(target),
        _ => Err(ControlError::usage("that is for one node, not for a zone")),
    }
}

fn no_majority() -> ControlError {
    ControlError::timeout("the ring did not agree in time")
        .hint("is a majority reachable? `fusion status`; what was asked may still happen")
}

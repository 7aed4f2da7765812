//! The running node, and what people may ask of it.

use std::sync::Arc;
use std::time::Duration;

use engine::command::{Body, Member, Op};
use engine::ids::{NodeId, VolumeId};
use engine::namespace::{FileType, Inode};
use engine::outcome::Outcome;
use engine::time::Timestamp;
use store::Store;
use tokio::task::JoinHandle as Task;
use wire::{Ask, JoinToken, Request, Response, Wire};

use super::admission::Admission;
use super::agreements::Agreements;
use super::gossip::Gossip;
use super::operator::Operator;
use super::pulse::{Cure, Failure};
use super::quotas::Quotas;
use super::renewal::Renewal;
use super::report::node_name;
use super::setup::{account, failed};
use super::volume::{ROOT_NAME, Volume, Volumes};
use super::{clock, farewell, metrics, paths, volume_report, waiting};
use crate::admin::control::{
    Control, ControlError, FailureKind, LogFollower, LogQuery, MemberRequest, MemberRole,
    MountRequest, QuotaPlace, QuotaRequest, Reply, UnmountRequest, WaitQuery,
};
use crate::admin::report::{
    CertificateReport, ConflictReport, HolderReport, HolderState, Identity, LogEntry,
    MemberChanged, MountReport, QuotaReport, Reached, SoleReport, Status, TokenCreated,
    TokenReport, VolumeReport, WhereReport,
};
use crate::kernel::MountOptions;
use crate::ops::ports::ProposeError;

/// A running node.
pub struct Node {
    parts: Parts,
    ended: tokio::sync::watch::Sender<bool>,
    stopping: tokio::sync::Mutex<bool>,
}

/// What a node is made of.
pub struct Parts {
    /// As it was when the store was made: for as long as the agreed one is not here.
    pub member: Member,
    pub store: Store,
    pub wire: Arc<Wire>,
    pub volumes: Arc<Volumes>,
    /// The root volume: it has the cluster's members.
    pub root: Arc<Volume>,
    pub gossip: Arc<Gossip>,
    pub admission: Arc<Admission>,
    pub operator: Arc<Operator>,
    pub renewal: Arc<Renewal>,
    pub tasks: Vec<Task<()>>,
}

/// A daemon whose state diverged stays, so that people can look at it.
fn ends_the_daemon(failure: &Option<Failure>) -> bool {
    failure.as_ref().is_some_and(|failure| failure.cure != Cure::Diverged)
}

/// A holder that does not answer in this time counts as unknown.
const WHERE_TIMEOUT: Duration = Duration::from_secs(2);

impl Node {
    pub(super) fn new(parts: Parts) -> Arc<Node> {
        Arc::new(Node {
            parts,
            ended: tokio::sync::watch::Sender::new(false),
            stopping: tokio::sync::Mutex::new(false),
        })
    }

    async fn propose(&self, op: Op) -> Result<(), ControlError> {
        match self.parts.root.proposals.propose_and_wait(op).await {
            Ok(Outcome::Refused(refusal)) => Err(ControlError::refused(refusal.to_string())),
            Ok(_) => Ok(()),
            Err(error @ ProposeError::NoQuorum { .. }) => {
                Err(ControlError::timeout(error.to_string()))
            }
            Err(error) => Err(ControlError::failed(error.to_string())),
        }
    }

    /// Who reads the order that `query` means.
    fn agreements(&self, query: &LogQuery) -> Result<Arc<Agreements>, ControlError> {
        let Some(name) = &query.volume else { return Ok(self.parts.root.agreements.clone()) };
        let volume = self.parts.volumes.by_name(name).ok_or_else(|| {
            ControlError::failed(format!("no volume '{name}' runs here"))
                .hint("`fusion volume list` shows who takes part")
        })?;
        Ok(volume.agreements.clone())
    }

    async fn holders(&self, inode: &Inode) -> Result<Vec<HolderReport>, ControlError> {
        let mut members = self.parts.root.ring.view().members().map_err(failed)?;
        members.retain(Member::keeps_bodies);
        let Body::Sealed { id, len } = inode.body else {
            let state = HolderState::Inline;
            return Ok(members
                .iter()
                .map(|member| paths::holder(member, state, Some(inode.size)))
                .collect());
        };
        let mut lines = Vec::new();
        for member in &members {
            let state = if member.id == self.parts.root.ring.me() {
                match self.parts.root.bodies.holds(id) {
                    true => HolderState::Held,
                    false => HolderState::Missing,
                }
            } else {
                self.ask_holder(member.id, id).await
            };
            let bytes = match state {
                HolderState::Held => Some(len),
                _ => None,
            };
            lines.push(paths::holder(member, state, bytes));
        }
        Ok(lines)
    }

    async fn ask_holder(&self, node: NodeId, body: engine::ids::BodyId) -> HolderState {
        let ask = Ask::Which { bodies: vec![body] };
        let request = Request::new(VolumeId::ROOT, self.parts.root.pulse.applied(), ask);
        let answer = tokio::time::timeout(WHERE_TIMEOUT, self.parts.wire.call(node, request)).await;
        match answer {
            Ok(Ok(Response::Which(held))) if held.first() == Some(&true) => HolderState::Held,
            Ok(Ok(Response::Which(_))) => HolderState::Missing,
            _ => HolderState::Unknown,
        }
    }

    /// Stops everything, in the order in which nothing is lost.
    async fn stop(&self) -> Result<(), ControlError> {
        let mut stopping = self.stopping.lock().await;
        if *stopping {
            return Ok(());
        }
        let parts = &self.parts;
        let volumes = parts.volumes.all();
        for volume in &volumes {
            volume.drain().await?;
        }
        for task in &parts.tasks {
            task.abort();
        }
        for volume in &volumes {
            volume.stop();
        }
        parts.wire.close().await;
        let store = parts.store.clone();
        let removed_at = parts.root.pulse.removed_at();
        let synced = tokio::task::spawn_blocking(move || {
            for volume in volumes {
                volume.join();
            }
            if let Some(gsn) = removed_at {
                farewell::note(&store, gsn)?;
            }
            store.sync()
        });
        let synced = synced.await.map_err(failed)?;
        *stopping = true;
        self.ended.send_replace(true);
        synced.map_err(failed)
    }

    /// Quotas of the volume that is mounted at `mount`; the root volume's without one.
    fn quotas(&self, mount: Option<&str>) -> Result<Quotas, ControlError> {
        let Some(mount) = mount else { return Ok(Quotas::of(&self.parts.root)) };
        let serves = |volume: &Arc<Volume>| {
            volume.mounts.list().iter().any(|report| report.directory == mount)
        };
        let volume = self.parts.volumes.all().into_iter().find(serves);
        let volume = volume.ok_or_else(|| {
            ControlError::failed(format!("this daemon does not serve {mount}"))
                .hint("`fusion status` shows its mounts")
        })?;
        Ok(Quotas::of(&volume))
    }
}

impl Control for Node {
    fn identity(&self) -> Identity {
        let parts = &self.parts;
        let agreed = parts.root.ring.view().member(parts.root.ring.me()).ok().flatten();
        account(&parts.store.identity().cluster, agreed.as_ref().unwrap_or(&parts.member))
    }

    fn status(&self) -> Reply<'_, Status> {
        Box::pin(async move {
            let parts = &self.parts;
            let cluster = parts.store.identity().cluster;
            let mut status =
                parts.root.reporter.status(&cluster, &parts.gossip, &parts.wire).map_err(failed)?;
            let volumes = parts.volumes.all();
            status.mounts = volumes.iter().flat_map(|volume| volume.mounts.list()).collect();
            Ok(status)
        })
    }

    fn log(&self, query: LogQuery) -> Reply<'_, Vec<LogEntry>> {
        Box::pin(async move { self.agreements(&query)?.page(query).await })
    }

    fn follow_log(&self, query: LogQuery) -> Reply<'_, Box<dyn LogFollower>> {
        Box::pin(async move {
            let follower = self.agreements(&query)?.follow(&query).await?;
            Ok(Box::new(follower) as Box<dyn LogFollower>)
        })
    }

    fn metrics(&self) -> Reply<'_, String> {
        Box::pin(async move {
            metrics::text(&self.parts.volumes.all(), &self.parts.wire.stats()).map_err(failed)
        })
    }

    fn where_path(&self, path: String) -> Reply<'_, WhereReport> {
        Box::pin(async move {
            let view = self.parts.root.ring.view();
            let (ino, inode) = paths::find(&view, &path)?;
            let members = view.members().map_err(failed)?;
            let writer = view.token_holder(ino).map_err(failed)?;
            let writer = writer.map(|node| node_name(&members, node));
            drop(view);
            let holders = match inode.file_type() {
                FileType::File => self.holders(&inode).await?,
                _ => Vec::new(),
            };
            Ok(paths::where_report(&path, ino, &inode, writer, holders))
        })
    }

    fn create_token(
        &self,
        zone: String,
        role: MemberRole,
        lifetime: Duration,
    ) -> Reply<'_, TokenCreated> {
        Box::pin(async move {
            if !wire::identity::is_valid_name(&zone) {
                return Err(ControlError::usage(format!("'{zone}' cannot name a zone"))
                    .hint("use 1 to 63 of a-z, 0-9, '-', '_' and '.'"));
            }
            let authority = self.parts.admission.authority.as_ref().ok_or_else(|| {
                ControlError::refused("this node cannot admit others: it has no authority key")
                    .hint("run this on another node")
            })?;
            let id = u64::from_be_bytes(wire::identity::random());
            let addresses = self.identity().address;
            let token = JoinToken::generate(id, authority.hash(), vec![addresses]);
            let now = clock::timestamp();
            let lifetime_s = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
            let expires = Timestamp::new(now.seconds.saturating_add(lifetime_s), now.nanos);
            self.propose(Op::CreateJoinToken {
                id,
                secret_hash: token.secret_hash(),
                zone: zone.clone(),
                expires,
                role: agreed_role(role),
            })
            .await?;
            Ok(TokenCreated {
                id: format!("{id:016x}"),
                zone,
                role: agreed_role(role).word().to_owned(),
                token: token.to_string(),
                expires_in_seconds: lifetime_s,
            })
        })
    }

    fn list_tokens(&self) -> Reply<'_, Vec<TokenReport>> {
        Box::pin(async move {
            let now = clock::timestamp();
            let tokens = self.parts.root.ring.view().join_tokens().map_err(failed)?;
            let report = |(id, token): (u64, engine::namespace::JoinToken)| TokenReport {
                id: format!("{id:016x}"),
                zone: token.zone,
                role: token.role.word().to_owned(),
                expires_in_seconds: token.expires.seconds.saturating_sub(now.seconds),
            };
            Ok(tokens.into_iter().map(report).collect())
        })
    }

    fn revoke_token(&self, id: String) -> Reply<'_, ()> {
        Box::pin(async move {
            let id = u64::from_str_radix(&id, 16).map_err(|_| {
                ControlError::usage(format!("'{id}' is no token id"))
                    .hint("`fusion token list` shows them: 16 hex digits")
            })?;
            self.propose(Op::RevokeJoinToken { id }).await
        })
    }

    fn change_member(&self, request: MemberRequest) -> Reply<'_, MemberChanged> {
        Box::pin(self.parts.operator.act(request))
    }

    fn sole_copies(&self, request: MemberRequest) -> Reply<'_, SoleReport> {
        Box::pin(async move { self.parts.operator.sole_copies(&request).await })
    }

    fn certificate(&self) -> Reply<'_, CertificateReport> {
        Box::pin(async move { Ok(self.parts.renewal.report()) })
    }

    fn rotate_certificate(&self) -> Reply<'_, CertificateReport> {
        Box::pin(self.parts.renewal.renew())
    }

    fn list_conflicts(&self) -> Reply<'_, Vec<ConflictReport>> {
        Box::pin(async move {
            let conflicts = self.parts.root.bodies.conflicts();
            Ok(conflicts
                .into_iter()
                .map(|conflict| ConflictReport {
                    ino: conflict.ino.0,
                    path: paths::of_file(&self.parts.root.ring.view(), conflict.ino),
                    base: conflict.base.0,
                    current: conflict.current.0,
                    size_bytes: conflict.size_bytes,
                    kept_at: conflict.kept_at.display().to_string(),
                })
                .collect())
        })
    }

    fn wait(&self, query: WaitQuery) -> Reply<'_, Reached> {
        Box::pin(waiting::wait(&self.parts.root, &self.parts.wire, query))
    }

    fn create_volume(&self, name: String, nodes: Vec<String>) -> Reply<'_, VolumeReport> {
        Box::pin(volume_report::create(&self.parts.root, name, nodes))
    }

    fn list_volumes(&self) -> Reply<'_, Vec<VolumeReport>> {
        Box::pin(async move { volume_report::list(&self.parts.root, &self.parts.volumes) })
    }

    fn set_quota(&self, request: QuotaRequest) -> Reply<'_, QuotaReport> {
        Box::pin(async move { self.quotas(request.mount.as_deref())?.set(request).await })
    }

    fn end_quota(&self, place: QuotaPlace) -> Reply<'_, ()> {
        Box::pin(async move { self.quotas(place.mount.as_deref())?.end(&place.path).await })
    }

    fn list_quotas(&self) -> Reply<'_, Vec<QuotaReport>> {
        Box::pin(async move {
            let mut quotas = Vec::new();
            for volume in self.parts.volumes.all() {
                quotas.extend(Quotas::of(&volume).list()?);
            }
            Ok(quotas)
        })
    }

    fn mount(&self, request: MountRequest) -> Reply<'_, MountReport> {
        Box::pin(async move {
            let ring = &self.parts.root.ring;
            let own = ring.view().member(ring.me()).map_err(failed)?;
            if own.is_some_and(|member| !member.keeps_bodies()) {
                return Err(ControlError::refused("a witness keeps no bodies and has no mount")
                    .hint("mount the tree on another node"));
            }
            let options = MountOptions::parse(&request.options)
                .map_err(|error| ControlError::usage(error.to_string()))?;
            let name = options.volume.as_deref().unwrap_or(ROOT_NAME);
            let volume = self.parts.volumes.by_name(name).ok_or_else(|| {
                ControlError::refused(format!("this node has no volume '{name}'")).hint(
                    "`fusion volume list` shows who takes part; a new one takes a moment to start",
                )
            })?;
            let mounts = volume.mounts.clone();
            let mounted = tokio::task::spawn_blocking(move || mounts.mount(&request));
            mounted.await.map_err(failed)?
        })
    }

    fn unmount(&self, request: UnmountRequest) -> Reply<'_, ()> {
        Box::pin(async move {
            let volumes = self.parts.volumes.all();
            let unmounted = tokio::task::spawn_blocking(move || {
                volumes.iter().try_for_each(|volume| volume.mounts.unmount(&request))
            });
            unmounted.await.map_err(failed)?
        })
    }

    fn shutdown(&self) -> Reply<'_, ()> {
        Box::pin(async move { self.stop().await })
    }

    fn stopped(&self) -> Reply<'_, ()> {
        Box::pin(async move {
            let (mut ended, mut failure) =
                (self.ended.subscribe(), self.parts.root.pulse.watch_failure());
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => Ok(()),
                failed = failure.wait_for(ends_the_daemon) => {
                    let failed = failed.ok().and_then(|failed| failed.clone());
                    let kind = match &failed {
                        Some(Failure { cure: Cure::Repair, .. }) => FailureKind::Damaged,
                        // Starting it again will not help.
                        Some(Failure { cure: Cure::None, .. }) => FailureKind::Refused,
                        _ => FailureKind::Failed,
                    };
                    let reason = failed.map(|failed| failed.reason);
                    Err(ControlError::new(kind, reason.unwrap_or_default()))
                }
            }
        })
    }
}

/// The role as the agreed state has it.
fn agreed_role(role: MemberRole) -> engine::command::MemberRole {
    match role {
        MemberRole::Voter => engine::command::MemberRole::Voter,
        MemberRole::Witness => engine::command::MemberRole::Witness,
        MemberRole::Observer => engine::command::MemberRole::Observer,
    }
}

//! Puts a node together: store, network, volumes.

use std::sync::{Arc, OnceLock};

use engine::command::{Member, Op};
use engine::ids::VolumeId;
use engine::outcome::Outcome;
use wire::{Authority, NodeIdentity, Wire, WireConfig};

use super::admission::Admission;
use super::checkpoint;
use super::children::{Changed, Children};
use super::control::{Node, Parts};
use super::farewell;
use super::gossip::Gossip;
use super::handler::{NodeHandler, Services};
use super::inodes::InodeNumbers;
use super::members::peer;
use super::operator::Operator;
use super::renewal::Renewal;
use super::setup::{failed, own_member, seeds};
use super::sole::SoleCopies;
use super::volume::{ROOT_NAME, Shared, Volume, Volumes};
use super::{repair, roster};
use crate::admin::control::ControlError;
use crate::config::Settings;

/// Starts the node of the store in `settings`. Returns when it takes part in its ring (or
/// tries to: a node that cannot reach the others starts all the same).
///
/// # Errors
/// When the store, the identity or the UDP port cannot be used.
pub async fn start(settings: Settings) -> Result<Arc<Node>, ControlError> {
    let dir = settings.store.clone();
    let identity = NodeIdentity::load(&dir.join("identity")).map_err(failed)?;
    let own = identity.node();
    let store = tokio::task::spawn_blocking(move || repair::open(&dir, own));
    let store = store.await.map_err(failed)??;
    farewell::check(&store)?;
    let authority = Authority::load(&store.identity_dir()).map_err(failed)?;
    let member = own_member(&store)?;
    let me = member.id;
    if identity.node() != me || store.identity().node != me {
        return Err(ControlError::failed(format!(
            "the certificate is node {}'s, the store is node {me}'s",
            identity.node()
        ))
        .hint("restore the store's own identity/ directory"));
    }

    let volumes = Arc::new(Volumes::default());
    let services = Arc::new(OnceLock::new());
    let handler = Arc::new(NodeHandler { volumes: volumes.clone(), services: services.clone() });
    let mut config = WireConfig::new(settings.listen, identity.clone());
    config.overrides = settings
        .overrides
        .iter()
        .map(|(name, address)| (name.clone(), address.to_string()))
        .collect();
    let wire = Arc::new(Wire::bind(config, handler).map_err(failed)?);

    if store.header(VolumeId::ROOT).map_err(failed)?.is_none() {
        let seeds = match roster::load(store.dir(), VolumeId::ROOT) {
            Some(known) => known.into_iter().filter(|member| member.id != me).collect(),
            None => seeds(&store)?,
        };
        let nodes = seeds.iter().map(|seed| seed.id).collect();
        wire.set_peers(seeds.into_iter().map(peer).collect());
        checkpoint::fetch_first(&wire, &store, VolumeId::ROOT, nodes).await?;
    }
    if let Some(header) = store.header(VolumeId::ROOT).map_err(failed)?
        && header.config.removed.contains(&me)
    {
        // It applied its removal, and ended before it could note that.
        farewell::note(&store, header.gsn).map_err(failed)?;
        farewell::check(&store)?;
    }
    let shared = Shared {
        me,
        store: store.clone(),
        wire: wire.clone(),
        settings,
        inodes: Arc::new(InodeNumbers::open(me, store.clone()).map_err(failed)?),
    };
    let children_changed = Arc::new(Changed::default());
    let root =
        Volume::start(VolumeId::ROOT, ROOT_NAME, &shared, None, vec![children_changed.clone()])
            .await?;
    volumes.add(root.clone());
    let children = Children::new(shared, root.ring.clone(), volumes.clone(), children_changed);
    children.start_known().await?;

    let own_report = {
        let reporter = root.reporter.clone();
        Box::new(move || reporter.own().ok().flatten())
    };
    let gossip = Arc::new(Gossip::new(
        VolumeId::ROOT,
        root.ring.clone(),
        wire.clone(),
        root.pulse.clone(),
        own_report,
        store.clone(),
    ));
    let admission = Arc::new(Admission {
        cluster: store.identity().cluster,
        ring: root.ring.clone(),
        proposals: root.proposals.clone(),
        authority,
    });
    let _ = services.set(Services { admission: admission.clone(), gossip: gossip.clone() });
    let renewal = Arc::new(Renewal::new(
        identity,
        store.identity_dir(),
        wire.clone(),
        root.ring.clone(),
        admission.clone(),
    ));
    let operator = Arc::new(Operator {
        root: root.clone(),
        wire: wire.clone(),
        sole: SoleCopies { root: root.ring.clone(), wire: wire.clone(), volumes: volumes.clone() },
    });
    let tasks = vec![
        tokio::spawn(gossip.clone().run()),
        tokio::spawn(children.run()),
        tokio::spawn(renewal.clone().run()),
    ];

    announce(&root, &member).await?;
    Ok(Node::new(Parts {
        member,
        store,
        wire,
        volumes,
        root,
        gossip,
        admission,
        operator,
        renewal,
        tasks,
    }))
}

/// Tells the cluster about this node: the first node of all admits itself; one whose address
/// changed says so. Others need no agreement to start.
async fn announce(root: &Volume, member: &Member) -> Result<(), ControlError> {
    let known = root.ring.view().members().map_err(failed)?;
    if !known.is_empty() {
        return Ok(());
    }
    let op = Op::AdmitNode { node: member.clone(), token: None };
    match root.proposals.propose_and_wait(op).await.map_err(failed)? {
        Outcome::Refused(refusal) => Err(failed(refusal)),
        _ => Ok(()),
    }
}

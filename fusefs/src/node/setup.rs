//! What makes a directory a node's store: a new cluster, or joining one.

use std::path::Path;

use engine::command::{Member, MemberRole};
use engine::consensus::record::Header;
use engine::ids::{NodeId, VolumeId, ZoneId};
use engine::namespace::{VolumeParams, genesis};
use store::{Identity, LocalBatch, Options, Store};
use wire::identity::{is_valid_name, random};
use wire::{Authority, JoinToken, NodeIdentity, NodeKey, NodeName};

use super::{clock, roster};
use crate::admin::control::{ControlError, InitRequest, JoinRequest};
use crate::admin::report;

const FIRST_NODE: NodeId = NodeId(1);
const FIRST_ZONE: ZoneId = ZoneId(1);

/// Local table: this node as a member, before the agreed members are known here.
const SELF_KEY: &[u8] = b"node/self";
/// Local table: the members when this node joined, to fetch the first checkpoint from.
const SEEDS_KEY: &[u8] = b"node/seeds";

/// Makes the first node of a new cluster: an authority, a store, an empty tree.
pub fn init(request: &InitRequest) -> Result<report::Identity, ControlError> {
    check_name("zone", &request.zone)?;
    check_name("node", &request.node)?;
    check_empty(&request.store)?;
    let cluster: [u8; 16] = random();
    let name = NodeName { cluster, zone: request.zone.clone(), node: FIRST_NODE };
    let authority = Authority::create(&cluster).map_err(failed)?;
    let identity = NodeIdentity::first(&authority, &name).map_err(failed)?;
    let dir = request.store.join("identity");
    authority.save(&dir).map_err(failed)?;
    identity.save(&dir).map_err(failed)?;

    let store = create_store(&request.store, cluster, FIRST_NODE)?;
    let params = VolumeParams {
        key: random(),
        time: clock::timestamp(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mode: 0o755,
    };
    store
        .initialize(VolumeId::ROOT, &genesis(&params), &Header::genesis(FIRST_NODE))
        .map_err(failed)?;
    let member = Member {
        id: FIRST_NODE,
        name: request.node.clone(),
        zone: FIRST_ZONE,
        zone_name: request.zone.clone(),
        address: request.advertise.clone(),
        key_hash: identity.key_hash(),
        role: MemberRole::Voter,
        draining: false,
    };
    remember(&store, &member, &[])?;
    Ok(account(&cluster, &member))
}

/// Makes a store for a node of an existing cluster, which a token lets in.
pub async fn join(request: &JoinRequest) -> Result<report::Identity, ControlError> {
    check_name("node", &request.node)?;
    let token: JoinToken = request
        .token
        .parse()
        .map_err(|error: wire::TokenError| ControlError::usage(error.to_string()))?;
    check_empty(&request.store)?;
    let dir = request.store.join("identity");
    let key = NodeKey::load_or_create(&dir).map_err(failed)?;
    let joining = wire::Joining {
        token: &token,
        key: &key,
        name: request.node.clone(),
        zone: String::new(),
        address: request.advertise.clone(),
    };
    let (identity, reply) = wire::join(joining).await.map_err(|error| {
        ControlError::refused(format!("the cluster did not admit this node: {}", failed(error)))
            .hint("a token works once and for an hour: make a new one with `fusion token create`")
    })?;
    if let Some(authority_key) = &reply.authority_key {
        let authority = Authority::from_parts(&reply.authority, authority_key).map_err(failed)?;
        authority.save(&dir).map_err(failed)?;
    }
    identity.save(&dir).map_err(failed)?;
    let store = create_store(&request.store, reply.cluster, reply.node)?;
    let (own, seeds): (Vec<Member>, Vec<Member>) =
        reply.members.into_iter().partition(|member| member.id == reply.node);
    let own = own
        .into_iter()
        .next()
        .ok_or_else(|| ControlError::failed("the cluster's answer does not name this node"))?;
    remember(&store, &own, &seeds)?;
    Ok(account(&reply.cluster, &own))
}

/// A cluster's id, for people: 32 hex digits.
pub fn cluster_text(cluster: &[u8; 16]) -> String {
    cluster.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who the node is, for people.
pub fn account(cluster: &[u8; 16], member: &Member) -> report::Identity {
    report::Identity {
        cluster: cluster_text(cluster),
        node: member.name.clone(),
        id: member.id.0,
        zone: member.zone_name.clone(),
        address: member.address.clone(),
    }
}

/// This node as it was made; the agreed members may know better by now.
pub fn own_member(store: &Store) -> Result<Member, ControlError> {
    if let Some(bytes) = store.local_get(SELF_KEY).map_err(failed)? {
        return minicbor::decode(&bytes).map_err(failed);
    }
    // The database was lost once.
    let known = roster::load(store.dir(), VolumeId::ROOT).unwrap_or_default();
    known.into_iter().find(|member| member.id == store.identity().node).ok_or_else(|| {
        ControlError::failed("the store has no node in it")
            .hint("its `fusion init` or `fusion join` was interrupted: remove it and repeat that")
    })
}

/// Members to fetch the first checkpoint from.
pub fn seeds(store: &Store) -> Result<Vec<Member>, ControlError> {
    match store.local_get(SEEDS_KEY).map_err(failed)? {
        Some(bytes) => minicbor::decode(&bytes).map_err(failed),
        None => Ok(Vec::new()),
    }
}

fn remember(store: &Store, own: &Member, seeds: &[Member]) -> Result<(), ControlError> {
    let encoded = "a Vec takes any bytes";
    let mut batch = LocalBatch::new();
    batch.put(SELF_KEY, &minicbor::to_vec(own).expect(encoded));
    batch.put(SEEDS_KEY, &minicbor::to_vec(seeds).expect(encoded));
    let members: Vec<Member> = [own].into_iter().chain(seeds).cloned().collect();
    roster::save(store.dir(), VolumeId::ROOT, &members).map_err(failed)?;
    store.local_write(&batch, true).map_err(failed)
}

fn create_store(dir: &Path, cluster: [u8; 16], node: NodeId) -> Result<Store, ControlError> {
    let identity = Identity::new(cluster, node).map_err(failed)?;
    Store::create(dir, &identity, &Options::default()).map_err(failed)
}

fn check_name(what: &str, name: &str) -> Result<(), ControlError> {
    if is_valid_name(name) {
        return Ok(());
    }
    Err(ControlError::usage(format!("'{name}' cannot name a {what}"))
        .hint("use 1 to 63 of a-z, 0-9, '-', '_' and '.'"))
}

/// A store is made only where nothing else is.
fn check_empty(dir: &Path) -> Result<(), ControlError> {
    if dir.join("format").exists() {
        return Err(ControlError::refused(format!("{} holds a store already", dir.display()))
            .hint("`fusion serve` starts it; choose another --store for a new node"));
    }
    let foreign = match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "identity"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(ControlError::failed(format!("cannot read {}: {error}", dir.display())));
        }
    };
    if foreign {
        return Err(ControlError::refused(format!("{} is not empty", dir.display()))
            .hint("choose an empty or absent directory with --store"));
    }
    Ok(())
}

/// The whole chain of causes in one sentence.
pub fn failed(error: impl std::error::Error) -> ControlError {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    ControlError::failed(message)
}

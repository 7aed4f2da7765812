//! Puts a node together: store, network, replica, threads.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::command::{Member, Op};
use engine::consensus::Replica;
use engine::namespace::View;
use engine::outcome::Outcome;
use store::{Options, Store};
use tokio::runtime::Handle;
use wire::{Authority, NodeIdentity, Wire, WireConfig};

use super::admission::Admission;
use super::apply::{ApplyThread, Finished};
use super::checkpoint::{self, CheckpointService};
use super::clock::Clock;
use super::control::{Node, Parts};
use super::driver::{self, Outlets};
use super::gossip::Gossip;
use super::handler::{NodeHandler, Services};
use super::inodes::InodeNumbers;
use super::local_ring::LocalRing;
use super::log::LogThread;
use super::members::{Members, Promoter, peer};
use super::mounts::Mounts;
use super::order::{OrderService, OrderThread};
use super::proposals::{INTERRUPT_EVERY, Proposals};
use super::pulse::Pulse;
use super::report::Reporter;
use super::setup::{ROOT_VOLUME, failed, own_member, seeds};
use crate::admin::control::ControlError;
use crate::body::BodyService;
use crate::config::Settings;
use crate::ops::ports::Ring;

/// Starts the node of the store in `settings`. Returns when it takes part in its ring (or
/// tries to: a node that cannot reach the others starts all the same).
///
/// # Errors
/// When the store, the identity or the UDP port cannot be used.
pub async fn start(settings: Settings) -> Result<Arc<Node>, ControlError> {
    let dir = settings.store.clone();
    let store = blocking(move || Store::open(&dir, &Options::default())).await?.map_err(failed)?;
    let identity = NodeIdentity::load(&store.identity_dir()).map_err(failed)?;
    let authority = Authority::load(&store.identity_dir()).map_err(failed)?;
    let member = own_member(&store)?;
    let (volume, me, boot) = (ROOT_VOLUME, member.id, store.boot());
    if identity.node() != me || store.identity().node != me {
        return Err(ControlError::failed(format!(
            "the certificate is node {}'s, the store is node {me}'s",
            identity.node()
        ))
        .hint("restore the store's own identity/ directory"));
    }

    let (events, event_queue) = channel();
    let services = Arc::new(OnceLock::new());
    let pulse_slot = Arc::new(OnceLock::new());
    let handler = Arc::new(NodeHandler {
        volume,
        events: events.clone(),
        pulse: pulse_slot.clone(),
        services: services.clone(),
    });
    let mut config = WireConfig::new(settings.listen, identity);
    config.overrides = settings
        .overrides
        .iter()
        .map(|(name, address)| (name.clone(), address.to_string()))
        .collect();
    let wire = Arc::new(Wire::bind(config, handler).map_err(failed)?);

    if store.header(volume).map_err(failed)?.is_none() {
        first_checkpoint(&wire, &store).await?;
    }
    let recovered = {
        let store = store.clone();
        blocking(move || store.recover(volume)).await?.map_err(failed)?
    };
    let hash = View::new(store.tables(volume)).state_hash().map_err(failed)?;
    let pulse = Arc::new(Pulse::new(recovered.header.clone(), hash));
    let _ = pulse_slot.set(pulse.clone());
    let proposals = Arc::new(Proposals::new(me, boot, events.clone()));
    let ring: Arc<dyn Ring> = Arc::new(LocalRing {
        me,
        volume,
        store: store.clone(),
        wire: wire.clone(),
        pulse: pulse.clone(),
        proposals: proposals.clone(),
        inodes: InodeNumbers::open(me, store.clone()).map_err(failed)?,
        runtime: Handle::current(),
    });

    let bodies = BodyService::start(crate::body::Config {
        volume,
        store: store.clone(),
        ring: ring.clone(),
        wire: wire.clone(),
        runtime: Handle::current(),
        seal_age: settings.seal_age(),
        fetch_timeout: settings.fetch_timeout(),
    })
    .map_err(failed)?;
    let mounts = Arc::new(Mounts::new(ring.clone(), bodies.clone()));
    {
        let mounts = mounts.clone();
        bodies.set_on_reverted(move |ino| mounts.content_reverted(ino));
    }
    let members = Arc::new(Members::new(ring.clone(), wire.clone()));
    members.publish().map_err(failed)?;

    let mut threads = Threads::default();
    let (jobs, job_queue) = channel();
    let (agreed, agreed_queue) = channel();
    let (replies, reply_queue) = channel();
    let (requests, request_queue) = channel();
    let log = LogThread {
        volume,
        me,
        store: store.clone(),
        wire: wire.clone(),
        events: events.clone(),
        pulse: pulse.clone(),
    };
    threads.spawn("log", move || log.run(&job_queue))?;
    let apply = ApplyThread {
        volume,
        store: store.clone(),
        proposals: proposals.clone(),
        pulse: pulse.clone(),
        events: events.clone(),
        replies,
        followers: vec![members, bodies.clone(), mounts.clone()],
    };
    threads.spawn("apply", move || apply.run(&agreed_queue))?;
    threads.spawn("reply", move || answer(&reply_queue))?;
    let order =
        OrderThread { volume, store: store.clone(), wire: wire.clone(), pulse: pulse.clone() };
    threads.spawn("order", move || order.run(&request_queue))?;
    let outlets = Outlets {
        volume,
        me,
        wire: wire.clone(),
        log: jobs,
        apply: agreed,
        order: OrderService(requests),
        pulse: pulse.clone(),
    };
    let seed = u64::from_be_bytes(wire::identity::random());
    let replica = Replica::recover(me, boot, recovered, seed);
    threads.spawn("ring", move || {
        driver::run(replica, &Clock::default(), &event_queue, &outlets);
    })?;

    let reporter =
        Arc::new(Reporter { ring: ring.clone(), pulse: pulse.clone(), bodies: bodies.clone() });
    let own_report = {
        let reporter = reporter.clone();
        Box::new(move || reporter.own().ok().flatten())
    };
    let gossip =
        Arc::new(Gossip::new(volume, ring.clone(), wire.clone(), pulse.clone(), own_report));
    let admission = Arc::new(Admission {
        cluster: store.identity().cluster,
        ring: ring.clone(),
        proposals: proposals.clone(),
        authority,
    });
    let _ = services.set(Services {
        bodies: bodies.clone(),
        checkpoints: Arc::new(CheckpointService::new(volume, store.clone())),
        admission: admission.clone(),
        gossip: gossip.clone(),
    });
    let promoter = Promoter { ring: ring.clone(), pulse: pulse.clone(), events: events.clone() };
    let tasks = vec![
        tokio::spawn(gossip.clone().run()),
        tokio::spawn(promoter.run()),
        tokio::spawn(interrupt(proposals.clone())),
    ];

    announce(&ring, &proposals, &member).await?;
    Ok(Node::new(Parts {
        member,
        store,
        wire,
        ring,
        pulse,
        proposals,
        events,
        bodies,
        mounts,
        reporter,
        gossip,
        admission,
        threads: threads.0,
        tasks,
    }))
}

/// Tells the cluster about this node: the first node of all admits itself; one whose address
/// changed says so. Others need no agreement to start.
async fn announce(
    ring: &Arc<dyn Ring>,
    proposals: &Arc<Proposals>,
    member: &Member,
) -> Result<(), ControlError> {
    let known = ring.view().members().map_err(failed)?;
    if !known.is_empty() {
        return Ok(());
    }
    let op = Op::AdmitNode { node: member.clone(), token: None };
    match proposals.propose_and_wait(op).await.map_err(failed)? {
        Outcome::Refused(refusal) => Err(failed(refusal)),
        _ => Ok(()),
    }
}

/// Fetches the tables from whichever member answers first, for as long as it takes.
async fn first_checkpoint(wire: &Arc<Wire>, store: &Store) -> Result<(), ControlError> {
    let seeds = seeds(store)?;
    wire.set_peers(seeds.iter().cloned().map(peer).collect());
    let mut rounds = tokio::time::interval(Duration::from_millis(500));
    loop {
        for seed in &seeds {
            match checkpoint::fetch(wire, store, ROOT_VOLUME, seed.id).await {
                Ok(header) => {
                    tracing::info!(from = %seed.name, gsn = %header.gsn, "checkpoint installed");
                    return Ok(());
                }
                Err(checkpoint::FetchError::Store(error)) => return Err(failed(error)),
                Err(error) => tracing::warn!(from = %seed.name, %error, "no checkpoint yet"),
            }
        }
        rounds.tick().await;
    }
}

/// The kernel does not tell of signals (fuser refuses FUSE_INTERRUPT), so look for them.
async fn interrupt(proposals: Arc<Proposals>) {
    let mut ticks = tokio::time::interval(INTERRUPT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        proposals.interrupt();
    }
}

/// The reply thread: callers are answered in the order of their agreements.
fn answer(replies: &Receiver<Finished>) {
    while let Ok(Finished { done, outcome }) = replies.recv() {
        done(Ok(outcome));
    }
}

/// Named threads, to be joined at the end.
#[derive(Default)]
struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), ControlError> {
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
        self.0.push(thread);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ControlError> {
    tokio::task::spawn_blocking(run).await.map_err(failed)
}

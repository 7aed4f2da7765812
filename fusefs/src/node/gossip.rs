//! What the nodes tell each other about themselves, for `fusion status` on any of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::ids::{Gsn, NodeId, VolumeId};
use parking_lot::Mutex;
use store::Store;
use tokio::sync::Notify;
use wire::{Ask, RefusedCode, Request, Response, Wire};

use super::clock;
use super::pulse::Pulse;
use super::sightings::{self, Sighting};
use crate::admin::report::NodeReport;
use crate::ops::ports::Ring;

/// Makes this node's own line.
pub type OwnReport = Box<dyn Fn() -> Option<NodeReport> + Send + Sync>;

pub struct Gossip {
    pub volume: VolumeId,
    pub ring: Arc<dyn Ring>,
    pub wire: Arc<Wire>,
    pub pulse: Arc<Pulse>,
    pub own_report: OwnReport,
    /// Where it is kept how far the others were.
    pub store: Store,
    heard: Mutex<BTreeMap<NodeId, (Instant, NodeReport)>>,
    noted: Mutex<Option<Instant>>,
    ask: Notify,
}

const ASK_EVERY: Duration = Duration::from_secs(1);
const NOTE_EVERY: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

impl Gossip {
    pub fn new(
        volume: VolumeId,
        ring: Arc<dyn Ring>,
        wire: Arc<Wire>,
        pulse: Arc<Pulse>,
        own_report: OwnReport,
        store: Store,
    ) -> Gossip {
        Gossip {
            volume,
            ring,
            wire,
            pulse,
            own_report,
            store,
            heard: Mutex::default(),
            noted: Mutex::new(None),
            ask: Notify::new(),
        }
    }

    /// This node's own line, for a peer.
    pub fn own(&self) -> Response {
        match (self.own_report)().map(|report| serde_json::to_vec(&report)) {
            Some(Ok(bytes)) => Response::Status(Bytes::from(bytes)),
            _ => Response::refused(RefusedCode::Failed, "this node cannot read its own state"),
        }
    }

    /// What `node` said last, and how long ago.
    pub fn heard(&self, node: NodeId) -> Option<(Duration, NodeReport)> {
        let heard = self.heard.lock();
        heard.get(&node).map(|(when, report)| (when.elapsed(), report.clone()))
    }

    /// Ask now: something changed.
    pub fn ask_soon(&self) {
        self.ask.notify_one();
    }

    /// Asks the peers now and then, and when told to.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.ask.notified() => {}
            }
            self.refresh().await;
            self.note_sightings();
        }
    }

    /// Keeps on disk, now and then, how far the others were.
    fn note_sightings(&self) {
        let mut noted = self.noted.lock();
        if noted.is_some_and(|when| when.elapsed() < NOTE_EVERY) {
            return;
        }
        *noted = Some(Instant::now());
        let now_s = clock::timestamp().seconds;
        let sighting = |(&node, (when, report)): (&NodeId, &(Instant, NodeReport))| Sighting {
            node,
            gsn: Gsn(report.gsn_applied),
            seen_unix_s: now_s - i64::try_from(when.elapsed().as_secs()).unwrap_or(0),
        };
        let sightings: Vec<Sighting> = self.heard.lock().iter().map(sighting).collect();
        if let Err(error) = sightings::note(&self.store, &sightings) {
            tracing::debug!(%error, "sightings of other nodes are not kept");
        }
    }

    /// Asks every peer and waits for the answers of those that are there.
    pub async fn refresh(self: &Arc<Self>) {
        let Ok(members) = self.ring.view().members() else { return };
        let me = self.ring.me();
        let mut asked = tokio::task::JoinSet::new();
        for member in members.into_iter().filter(|member| member.id != me) {
            let gossip = self.clone();
            asked.spawn(async move { gossip.ask_one(member.id).await });
        }
        asked.join_all().await;
    }

    async fn ask_one(&self, node: NodeId) {
        let request = Request::new(self.volume, self.pulse.applied(), Ask::Status);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.wire.call(node, request)).await;
        let Ok(Ok(Response::Status(bytes))) = answer else { return };
        match serde_json::from_slice::<NodeReport>(&bytes) {
            Ok(report) => drop(self.heard.lock().insert(node, (Instant::now(), report))),
            Err(error) => tracing::debug!(%node, %error, "a peer's status cannot be read"),
        }
    }
}

//! Child volumes: run here as soon as the root volume says that this node takes part.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::consensus::record::Header;
use engine::ids::{Gsn, NodeId, VolumeId};
use engine::namespace::{Touched, VolumeParams, VolumeRecord, genesis_of_child};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::setup::failed;
use super::volume::{Shared, Volume, Volumes};
use super::{checkpoint, roster};
use crate::admin::control::ControlError;
use crate::ops::ports::{OnApplied, Origin, Ring, View};

/// Starts child volumes; each once.
pub struct Children {
    shared: Shared,
    root: Arc<dyn Ring>,
    volumes: Arc<Volumes>,
    /// Volumes whose start has begun.
    begun: Mutex<BTreeSet<VolumeId>>,
    changed: Arc<Changed>,
}

/// Told by the root volume's apply thread that there may be another volume.
#[derive(Default)]
pub struct Changed(Notify);

impl OnApplied for Changed {
    fn applied(&self, _: Gsn, touched: &[Touched], _: Origin) {
        if touched.contains(&Touched::Volumes) {
            self.0.notify_one();
        }
    }

    fn replaced(&self, _: Gsn, _: &View, _: &View) {
        self.0.notify_one();
    }
}

impl Children {
    pub fn new(
        shared: Shared,
        root: Arc<dyn Ring>,
        volumes: Arc<Volumes>,
        changed: Arc<Changed>,
    ) -> Arc<Children> {
        Arc::new(Children { shared, root, volumes, begun: Mutex::default(), changed })
    }

    /// Starts the volumes whose tables are here; the node's start waits for these.
    ///
    /// # Errors
    /// When a volume's tables cannot be read.
    pub async fn start_known(&self) -> Result<(), ControlError> {
        for (id, record) in self.own()? {
            if self.shared.store.header(id).map_err(failed)?.is_some() && self.begin(id) {
                self.start(id, &record).await?;
            }
        }
        Ok(())
    }

    /// Starts what comes, until dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            match self.own() {
                Ok(volumes) => {
                    for (id, record) in volumes {
                        if self.begin(id) {
                            tokio::spawn(self.clone().bring_up(id, record));
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "the volumes cannot be read"),
            }
            self.changed.0.notified().await;
        }
    }

    /// The volumes in which this node takes part.
    fn own(&self) -> Result<Vec<(VolumeId, VolumeRecord)>, ControlError> {
        let volumes = self.root.view().volumes().map_err(failed)?;
        let me = self.shared.me;
        Ok(volumes.into_iter().filter(|(_, record)| record.members.contains(&me)).collect())
    }

    /// Whether the caller is the one to start it.
    fn begin(&self, id: VolumeId) -> bool {
        self.begun.lock().insert(id)
    }

    async fn bring_up(self: Arc<Self>, id: VolumeId, record: VolumeRecord) {
        if let Err(error) = self.provide_tables(id, &record).await {
            tracing::error!(volume = record.name, %error, "the volume cannot be made");
        } else if let Err(error) = self.start(id, &record).await {
            tracing::error!(volume = record.name, %error, "the volume cannot be started");
        }
    }

    /// Makes the first tables, or gets them from another member.
    async fn provide_tables(
        &self,
        id: VolumeId,
        record: &VolumeRecord,
    ) -> Result<(), ControlError> {
        let Shared { me, store, wire, .. } = &self.shared;
        if store.header(id).map_err(failed)?.is_some() {
            return Ok(());
        }
        // One that had them and gave them up gets them back, and does not make others.
        let had_them = roster::load(store.dir(), id).is_some();
        if record.creator != *me || had_them {
            let seeds = record.members.iter().copied().filter(|node| node != me);
            return checkpoint::fetch_first(wire, store, id, seeds.collect()).await;
        }
        // Not in the agreed record: nobody outside of the volume learns the key.
        let params = VolumeParams {
            key: wire::identity::random(),
            time: record.created,
            uid: record.uid,
            gid: record.gid,
            mode: 0o755,
        };
        let members = self.root.view().members().map_err(failed)?;
        let takes_part = |node: &NodeId| record.members.contains(node);
        let members: Vec<_> = members.into_iter().filter(|member| takes_part(&member.id)).collect();
        let tables = genesis_of_child(&params, &members);
        store.initialize(id, &tables, &Header::genesis(*me)).map_err(failed)
    }

    async fn start(&self, id: VolumeId, record: &VolumeRecord) -> Result<(), ControlError> {
        let root = Some(self.root.clone());
        let volume = Volume::start(id, &record.name, &self.shared, root, Vec::new()).await?;
        tracing::info!(volume = record.name, gsn = %volume.pulse.applied(), "takes part");
        self.volumes.add(volume);
        Ok(())
    }
}

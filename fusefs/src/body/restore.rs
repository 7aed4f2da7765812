//! Brings back what the journal knows of stages: what was fsynced, and what was sealed but
//! not yet agreed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use engine::command::Body;
use engine::ids::Ino;
use engine::namespace::Inode;
use store::StoreError;
use store::bodies::{StageId, StageState};

use super::BodyService;
use super::content::{Content, Frozen};
use super::journal::{BelowRecord, DataRecord, LayerRecord, is_outlived};
use super::layer::{Data, Layer, LayerId, StageFile};
use super::state::{Base, Sealing, State, Step, Top};

impl BodyService {
    /// Runs at the start, before anything uses the files.
    pub(super) fn restore(&self) -> Result<(), StoreError> {
        let mut files: BTreeMap<Ino, Vec<(LayerId, LayerRecord)>> = BTreeMap::new();
        for (ino, layer, record) in self.journal_records()? {
            files.entry(ino).or_default().push((layer, record));
        }
        let view = self.ring.view();
        let known = self.store.bodies().stages()?;
        let known = known.into_iter().map(|stage| (stage.id, stage.state)).collect();
        let mut used = BTreeSet::new();
        for (ino, layers) in files {
            let inode = view.inode(ino).map_err(|error| StoreError::Damaged {
                what: "the tables".into(),
                detail: error.to_string(),
            })?;
            match inode {
                Some(inode) => self.restore_file(ino, &inode, layers, &known, &mut used)?,
                // Its last name went after the fsync: nobody can ask for it.
                None => layers.iter().try_for_each(|(layer, _)| self.delete_record(ino, *layer))?,
            }
        }
        self.drop_unused_stages(&known, &used)
    }

    fn restore_file(
        &self,
        ino: Ino,
        inode: &Inode,
        layers: Vec<(LayerId, LayerRecord)>,
        known: &BTreeMap<StageId, StageState>,
        used: &mut BTreeSet<StageId>,
    ) -> Result<(), StoreError> {
        let mut state: Option<State> = None;
        let me = self.ring.me();
        let mut base = Base::of(inode);
        for (id, record) in layers {
            let sealed = match &record.sealed {
                Some(sealed) => self.usable(sealed.clone().into())?,
                None => None,
            };
            let is_agreed = inode.version > record.base
                && sealed.as_ref().is_some_and(|sealed| sealed.body == inode.body);
            let is_lowest = state.is_none();
            let over_outlived = matches!(record.below, BelowRecord::Layer(_)) && is_lowest;
            // A newer version of the same bytes: the lease ended, or somebody cut the file.
            let is_replaced = !matches!(&record.below, BelowRecord::Content(below)
                if Content::from(below.clone()).body == inode.body);
            let is_outlived = is_replaced
                && is_outlived(record.base, inode.version, inode.holder, me)
                && !over_outlived;
            if is_agreed || is_outlived {
                self.delete_record(ino, id)?;
                continue;
            }
            let Some(layer) = self.restore_layer(id, &record, known, used)? else {
                match sealed {
                    Some(sealed) if is_lowest => {
                        base = base_of(&record, base);
                        let empty = Layer::over(id, 0, sealed.size, &self.stages.memory);
                        state = Some(self.sealing_state(&base, &record, empty, Some(sealed)));
                    }
                    // Neither its bytes nor what they became are here: it was never promised.
                    _ => self.delete_record(ino, id)?,
                }
                continue;
            };
            match &mut state {
                None => {
                    base = if over_outlived { base } else { base_of(&record, base) };
                    state = Some(match sealed {
                        Some(sealed) => self.sealing_state(&base, &record, layer, Some(sealed)),
                        None => self.top_state(&base, &record, layer),
                    });
                }
                // A second layer over the first, which then is the one to be sealed.
                Some(state) => {
                    if let Some(lower) = state.top.take() {
                        state.sealing = Some(frozen(lower, state));
                    }
                    state.top = Some(top(&record, layer));
                }
            }
        }
        if let Some(mut state) = state {
            state.unnamed = inode.nlink == 0;
            tracing::info!(%ino, size = state.size(), "a stage is back");
            self.table.find_or_add(ino).restore(state);
            self.queue.add(ino, Instant::now());
        }
        Ok(())
    }

    /// What a layer was sealed into, if that is here.
    fn usable(&self, content: Content) -> Result<Option<Content>, StoreError> {
        match content.body {
            Body::Sealed { id, .. } if !self.store.bodies().has(id)? => Ok(None),
            _ => Ok(Some(content)),
        }
    }

    fn restore_layer(
        &self,
        id: LayerId,
        record: &LayerRecord,
        known: &BTreeMap<StageId, StageState>,
        used: &mut BTreeSet<StageId>,
    ) -> Result<Option<Layer>, StoreError> {
        let data = match &record.data {
            DataRecord::None => return Ok(None),
            DataRecord::Memory(bytes) => Data::Memory(Arc::new(bytes.clone())),
            DataRecord::File(stage) => {
                let stage = StageId(*stage);
                let state = known.get(&stage);
                if !matches!(state, Some(StageState::Open | StageState::Synced)) {
                    return Ok(None);
                }
                used.insert(stage);
                let opened = self.store.bodies().stage_open(stage)?;
                Data::File(Arc::new(StageFile::new(opened, self.store.clone(), true)))
            }
        };
        let memory = &self.stages.memory;
        Ok(Some(Layer::restored(id, record.extents.clone(), data, record.size, memory)))
    }

    fn sealing_state(
        &self,
        base: &Base,
        record: &LayerRecord,
        layer: Layer,
        sealed: Option<Content>,
    ) -> State {
        let mut state = State::new(base.clone(), self.stages.clone());
        state.sealing = Some(Sealing {
            frozen: Arc::new(Frozen { layer, below: base.content.clone() }),
            base: record.base,
            step: if sealed.is_some() { Step::Stored } else { Step::Frozen },
            stored: sealed,
            mtime: record.mtime,
            ctime: record.mtime,
            journaled: true,
            rebase: false,
        });
        state
    }

    fn top_state(&self, base: &Base, record: &LayerRecord, layer: Layer) -> State {
        let mut state = State::new(base.clone(), self.stages.clone());
        state.top = Some(top(record, layer));
        state
    }

    /// Stages that no journal record needs held what was not fsynced.
    fn drop_unused_stages(
        &self,
        known: &BTreeMap<StageId, StageState>,
        used: &BTreeSet<StageId>,
    ) -> Result<(), StoreError> {
        for (&stage, &state) in known {
            // What is quarantined stays for a diagnosis.
            if !used.contains(&stage) && state != StageState::Quarantined {
                self.store.bodies().stage_remove(stage)?;
            }
        }
        Ok(())
    }
}

/// The version that a record's layer lies over.
fn base_of(record: &LayerRecord, agreed: Base) -> Base {
    match &record.below {
        BelowRecord::Content(content) => {
            Base { version: record.base, content: content.clone().into(), ..agreed }
        }
        BelowRecord::Layer(_) => agreed,
    }
}

fn top(record: &LayerRecord, layer: Layer) -> Top {
    let (mtime, ctime) = (record.mtime, record.mtime);
    Top { layer, mtime, ctime, since: Instant::now(), journaled: true, closed: true }
}

fn frozen(lower: Top, state: &State) -> Sealing {
    Sealing {
        frozen: Arc::new(Frozen { layer: lower.layer, below: state.base.content.clone() }),
        base: state.base.version,
        step: Step::Frozen,
        stored: None,
        mtime: lower.mtime,
        ctime: lower.ctime,
        journaled: true,
        rebase: false,
    }
}

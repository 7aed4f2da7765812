//! What a start does about files that a crash left behind, before anybody uses them.
//!
//! Explained and useful: whole containers go to the index, interrupted seals become stages
//! again. Explained and useless: parts without a record, empty or removed stages: deleted.
//! Not explained: moved to `lost+found`, never deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use engine::ids::BodyId;

use super::container;
use super::index::{self, ContainerPlace, IndexBatch, Place, body_key, part_key, stage_key};
use super::pack;
use super::stage::{StageId, StageName, StageRecord, StageState, parse_name, stage_path};
use crate::StoreError;
use crate::database::Database;
use crate::layout::{Area, Layout, remove_file, sync_dir};

/// Counts of what was found; all 0 after a clean stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Whole containers that the index did not know.
    pub containers_found: u64,
    /// Index entries whose container is gone: those bodies are to be fetched again.
    pub containers_missing: u64,
    /// Stages whose sealing was interrupted; they are stages again.
    pub seals_undone: u64,
    /// Records of open stages whose file is gone.
    pub stages_missing: u64,
    /// Files deleted because nothing needs them.
    pub removed: u64,
    /// Files moved to `lost+found`.
    pub lost: Vec<PathBuf>,
}

struct Sweeper<'a> {
    layout: &'a Layout,
    db: &'a Database,
    boot: u64,
    /// Stages whose container was there without its index entry.
    became: BTreeMap<StageId, BodyId>,
    swept: Swept,
}

pub fn sweep(layout: &Layout, db: &Database, boot: u64) -> Result<Swept, StoreError> {
    let mut sweeper =
        Sweeper { layout, db, boot, became: BTreeMap::new(), swept: Swept::default() };
    // Before the stages: it finds what became of some.
    sweeper.containers()?;
    sweeper.stages()?;
    sweeper.parts()?;
    sweeper.packs()?;
    let swept = sweeper.swept;
    if swept != Swept::default() {
        tracing::info!(?swept, "cleared what the last stop left");
    }
    Ok(swept)
}

impl Sweeper<'_> {
    fn stages(&mut self) -> Result<(), StoreError> {
        let mut known = BTreeMap::new();
        let mut gone = Vec::new();
        index::scan_stages(self.db, &mut |id, record| match record {
            Some(record) => {
                known.insert(id, record);
            }
            None => gone.push(id),
        })?;

        let dir = self.layout.stage();
        let mut found = BTreeSet::new();
        for name in names(&dir)? {
            let path = dir.join(&name);
            let id = match parse_name(&name) {
                Some(StageName::Plain(id)) => id,
                Some(StageName::Sealing(id, len)) => {
                    self.undo_seal(&path, id, len)?;
                    id
                }
                None => {
                    self.lose(&path)?;
                    continue;
                }
            };
            let path = stage_path(self.layout, id);
            if known.contains_key(&id) {
                found.insert(id);
            } else if gone.contains(&id) || is_empty(&path)? {
                self.remove(&path)?;
            } else {
                self.lose(&path)?;
            }
        }

        let mut batch = IndexBatch::new(self.db);
        for (id, record) in known.iter().filter(|(id, _)| !found.contains(id)) {
            if let StageState::Sealed(_) = record.state {
                continue;
            }
            if let Some(body) = self.became.get(id) {
                let state = StageState::Sealed(*body);
                batch.put_stage(&StageRecord { state, ..*record }, false);
                continue;
            }
            tracing::warn!(stage = %id, "a stage's file is missing");
            self.swept.stages_missing += 1;
            batch.delete(stage_key(*id));
        }
        // The names first: see `stage_remove`.
        sync_dir(&dir)?;
        for id in gone {
            batch.delete(stage_key(id));
        }
        batch.write()
    }

    fn undo_seal(&mut self, path: &Path, id: StageId, len: u64) -> Result<(), StoreError> {
        let undo = || {
            File::options().write(true).open(path)?.set_len(len)?;
            fs::rename(path, stage_path(self.layout, id))
        };
        undo().map_err(StoreError::io("rename", path))?;
        self.swept.seals_undone += 1;
        Ok(())
    }

    fn parts(&mut self) -> Result<(), StoreError> {
        let mut known = BTreeSet::new();
        index::scan_parts(self.db, &mut |id, _| {
            known.insert(id);
        })?;
        let dir = self.layout.part();
        for name in names(&dir)? {
            match BodyId::from_hex(&name).filter(|id| id.to_hex() == name) {
                Some(id) if known.remove(&id) => {}
                Some(_) => self.remove(&dir.join(name))?,
                None => self.lose(&dir.join(name))?,
            }
        }
        // Records without a file: begun, but the file was not durable yet.
        let mut batch = IndexBatch::new(self.db);
        for id in known {
            batch.delete(part_key(id));
        }
        batch.write()
    }

    /// Compares the containers with the index, directory by directory: both in the order of
    /// ids, so neither has to fit in memory.
    fn containers(&mut self) -> Result<(), StoreError> {
        for area in [Area::Objects, Area::Cache] {
            let dir = self.layout.area(area);
            let mut present = names(&dir)?.into_iter().collect::<BTreeSet<_>>();
            for first in 0..=255u8 {
                let name = format!("{first:02x}");
                let files = match present.remove(&name) {
                    true => names(&dir.join(&name))?,
                    // Made with its first container.
                    false => Vec::new(),
                };
                self.container_dir(area, first, &dir.join(name), files)?;
            }
            for name in present {
                self.lose(&dir.join(name))?;
            }
        }
        Ok(())
    }

    fn container_dir(
        &mut self,
        area: Area,
        first: u8,
        dir: &Path,
        files: Vec<String>,
    ) -> Result<(), StoreError> {
        let mut indexed = BTreeSet::new();
        index::scan_places_of(self.db, first, &mut |id, place| {
            match place {
                Place::Container(ContainerPlace { area: there, .. }) if there == area => {
                    indexed.insert(id);
                }
                _ => {}
            }
            Ok(true)
        })?;
        let mut batch = IndexBatch::new(self.db);
        for name in files {
            let path = dir.join(&name);
            let id = BodyId::from_hex(&name).filter(|id| id.to_hex() == name && id.0[0] == first);
            let Some(id) = id else {
                self.lose(&path)?;
                continue;
            };
            if indexed.remove(&id) {
                continue;
            }
            if index::place(self.db, id)?.is_some() {
                // A second copy of a body that is in a pack or in the other area.
                self.remove(&path)?;
                continue;
            }
            let file = File::open(&path).map_err(StoreError::io("open", &path))?;
            match container::read(&file, id) {
                Ok((footer, _)) => {
                    batch.put_place(id, Place::Container(footer.place(area)));
                    self.became.extend(footer.stage.map(|stage| (stage, id)));
                    self.swept.containers_found += 1;
                }
                Err(detail) => {
                    tracing::warn!(path = %path.display(), detail, "not a whole container");
                    self.lose(&path)?;
                }
            }
        }
        for id in indexed {
            tracing::error!(%id, "a container is missing");
            self.swept.containers_missing += 1;
            batch.delete(body_key(id));
        }
        batch.write()
    }

    fn packs(&mut self) -> Result<(), StoreError> {
        let dir = self.layout.packs();
        for name in names(&dir)? {
            if pack::number_of(&name).is_none() {
                self.lose(&dir.join(name))?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<(), StoreError> {
        self.swept.removed += 1;
        remove_file(path)
    }

    fn lose(&mut self, path: &Path) -> Result<(), StoreError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = self.layout.lost_found().join(format!(
            "{}-{}-{name}",
            self.boot,
            self.swept.lost.len()
        ));
        tracing::warn!(from = %path.display(), to = %to.display(), "an unexplained file");
        fs::rename(path, &to).map_err(StoreError::io("move to lost+found", path))?;
        self.swept.lost.push(to);
        Ok(())
    }
}

fn is_empty(path: &Path) -> Result<bool, StoreError> {
    Ok(fs::metadata(path).map_err(StoreError::io("measure", path))?.len() == 0)
}

/// Sorted. A name that is not UTF-8 comes back changed, and is then not one of ours.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = fs::read_dir(dir)
        .map_err(StoreError::io("read", dir))?
        .map(|entry| {
            let entry = entry.map_err(StoreError::io("read", dir))?;
            Ok(entry.file_name().to_string_lossy().into_owned())
        })
        .collect::<Result<Vec<String>, StoreError>>()?;
    names.sort_unstable();
    Ok(names)
}

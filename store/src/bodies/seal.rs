//! Turns stages and arrived parts into sealed bodies, many with the same few syncs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;

use engine::chunking::Manifest;
use engine::ids::BodyId;

use super::container::{self, Footer};
use super::index::{self, IndexBatch, Place, part_key};
use super::pack::{Record, put_durable_ends};
use super::stage::{StageId, StageRecord, StageState, quarantine, sealing_path, stage_path};
use super::{Bodies, Part, SMALL_BODY_MAX_BYTES, store_manifest};
use crate::StoreError;
use crate::layout::{Area, remove_file, sync_dir};

/// A body of at most [`SMALL_BODY_MAX_BYTES`], in memory.
#[derive(Clone, Debug)]
pub struct SmallBody {
    pub id: BodyId,
    pub manifest: Manifest,
    /// All of the body, holes as zeros.
    pub bytes: Vec<u8>,
}

/// Something to be sealed. The caller has hashed the bytes: the id is theirs.
#[derive(Clone, Debug)]
pub enum Seal {
    /// Goes to a pack. The stage that held the bytes, if there was one, is marked as sealed,
    /// and its file goes.
    Small { body: SmallBody, stage: Option<StageId> },
    /// The stage's file becomes the container; its first `manifest.len()` bytes are the body.
    /// Nobody may write to it any more.
    Stage { id: BodyId, manifest: Manifest, stage: StageId },
}

/// A file on its way to be a container.
struct Moving<'a> {
    id: BodyId,
    manifest: &'a Manifest,
    stage: StageId,
}

/// Names that are being changed, and what the index will say.
#[derive(Default)]
struct Names {
    dirs: BTreeSet<PathBuf>,
    places: Vec<(BodyId, Place)>,
    /// Not needed any more once the index is durable.
    surplus: Vec<PathBuf>,
}

impl Bodies {
    /// Seals all of `seals`. When it returns, every one is durable and in the index, and
    /// their stages' records say so. On an error none of them is promised; all may be tried
    /// again, except a stage whose sync failed, which is quarantined.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Invalid`] for bytes that don't fit their
    /// manifest or a quarantined stage, or an error of the disk.
    pub fn seal(&self, seals: &[Seal]) -> Result<(), StoreError> {
        let mut small = Vec::new();
        let mut moving = Vec::new();
        let mut sealed = Vec::new();
        let mut names = Names::default();
        for seal in seals {
            let (id, stage) = match seal {
                Seal::Small { body, stage } => (body.id, *stage),
                Seal::Stage { id, stage, .. } => (*id, Some(*stage)),
            };
            if let Some(stage) = stage {
                self.refuse_quarantined(stage)?;
                sealed.extend(index::stage(&self.db, stage)?.map(|record| (record, id)));
            }
            // The same content may be here already, from another file.
            let here = index::place(&self.db, id)?.is_some();
            match seal {
                Seal::Small { body, .. } if !here => small.push(body),
                Seal::Stage { id, manifest, stage } if !here => {
                    moving.push(Moving { id: *id, manifest, stage: *stage });
                    continue;
                }
                _ => {}
            }
            names.surplus.extend(stage.map(|stage| stage_path(&self.layout, stage)));
        }

        let manifests: Vec<Vec<u8>> =
            small.iter().map(|body| store_manifest(&body.manifest)).collect();
        let records = small
            .iter()
            .zip(&manifests)
            .map(|(body, manifest)| Record { id: body.id, manifest, body: &body.bytes })
            .collect::<Vec<_>>();
        self.check_small(&small)?;
        let packed = self.pack(&records)?;
        self.move_stages(&moving, &mut names)?;

        let mut batch = IndexBatch::new(&self.db);
        for (record, place) in records.iter().zip(&packed) {
            batch.put_place(record.id, Place::Pack(*place));
        }
        put_durable_ends(&mut batch, &packed);
        for (record, id) in &sealed {
            let state = StageState::Sealed(*id);
            batch.put_stage(&StageRecord { state, ..*record }, false);
        }
        self.finish(batch, names)
    }

    /// Stores small bodies, durably.
    pub fn put_small(&self, bodies: &[SmallBody]) -> Result<(), StoreError> {
        let seal = |body: &SmallBody| Seal::Small { body: body.clone(), stage: None };
        self.seal(&bodies.iter().map(seal).collect::<Vec<_>>())
    }

    /// Turns one stage's file into the container of `id`.
    pub fn adopt_stage(
        &self,
        stage: StageId,
        id: BodyId,
        manifest: &Manifest,
    ) -> Result<(), StoreError> {
        self.seal(&[Seal::Stage { id, manifest: manifest.clone(), stage }])
    }

    /// Makes an arrived part a sealed body, durably. Others may go on reading the part.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if chunks are missing. After an error of the disk the part is
    /// not believed any more: discard it and fetch again.
    pub fn part_complete(&self, part: &Part, area: Area) -> Result<(), StoreError> {
        let id = part.id();
        if !part.complete() {
            let detail = format!("body {id} has not arrived completely");
            return Err(StoreError::Invalid(detail));
        }
        let mut batch = IndexBatch::new(&self.db);
        let mut names = Names::default();
        let here = index::place(&self.db, id)?.is_some();
        let manifest = store_manifest(part.manifest());
        if here {
            names.surplus.push(part.path().clone());
        } else if part.len() <= SMALL_BODY_MAX_BYTES {
            let mut bytes = vec![0; part.len() as usize];
            part.read_at(0, &mut bytes)?;
            let places = self.pack(&[Record { id, manifest: &manifest, body: &bytes }])?;
            for place in &places {
                batch.put_place(id, Place::Pack(*place));
            }
            put_durable_ends(&mut batch, &places);
            names.surplus.push(part.path().clone());
        } else {
            let footer =
                container::finish(part.file(), part.path(), id, None, part.len(), &manifest)
                    .inspect_err(|_| part.fail())?;
            self.rename(part.path(), footer, area, &mut names)?;
        }
        batch.delete(part_key(id));
        self.finish(batch, names)?;
        self.parts.lock().remove(&id);
        Ok(())
    }

    fn check_small(&self, bodies: &[&SmallBody]) -> Result<(), StoreError> {
        match bodies.iter().find(|body| body.manifest.len() != body.bytes.len() as u64) {
            None => Ok(()),
            Some(body) => Err(StoreError::Invalid(format!(
                "body {} has {} bytes, its manifest says {}",
                body.id,
                body.bytes.len(),
                body.manifest.len()
            ))),
        }
    }

    /// Puts records into packs, durably; they are not in the index yet.
    fn pack(&self, records: &[Record<'_>]) -> Result<Vec<index::PackPlace>, StoreError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        self.space.admit(records.iter().map(|record| record.body.len() as u64).sum())?;
        let places = self.packs.append(records)?;
        self.packs.sync()?;
        Ok(places)
    }

    fn move_stages(&self, moving: &[Moving<'_>], names: &mut Names) -> Result<(), StoreError> {
        if moving.is_empty() {
            return Ok(());
        }
        // First the name that says how long the body is, so that a crash amid appending the
        // footer does not make it part of the stage.
        let mut files = Vec::with_capacity(moving.len());
        for Moving { manifest, stage, .. } in moving {
            let plain = stage_path(&self.layout, *stage);
            let sealing = sealing_path(&self.layout, *stage, manifest.len());
            let file = File::options()
                .read(true)
                .write(true)
                .open(&plain)
                .map_err(StoreError::io("open", &plain))?;
            let len = file.metadata().map_err(StoreError::io("measure", &plain))?.len();
            if len > manifest.len() {
                return Err(StoreError::Invalid(format!(
                    "stage {stage} has {len} bytes, its manifest says {}",
                    manifest.len()
                )));
            }
            fs::rename(&plain, &sealing).map_err(StoreError::io("rename", &plain))?;
            files.push((file, sealing, plain));
        }
        let attempt = (|| {
            sync_dir(&self.layout.stage())?;
            let mut footers = Vec::with_capacity(moving.len());
            for (Moving { id, manifest, stage }, (file, path, _)) in moving.iter().zip(&files) {
                let bytes = store_manifest(manifest);
                let from = Some(*stage);
                let footer = container::finish(file, path, *id, from, manifest.len(), &bytes)
                    .inspect_err(|error| {
                        quarantine(&self.db, &self.quarantined, *stage, error);
                    })?;
                footers.push(footer);
            }
            Ok(footers)
        })();
        let footers = match attempt {
            Ok(footers) => footers,
            Err(error) => {
                // Back to stages, as the next start would do.
                for (Moving { manifest, .. }, (file, sealing, plain)) in moving.iter().zip(&files) {
                    let undo = || {
                        file.set_len(manifest.len())?;
                        fs::rename(sealing, plain)
                    };
                    undo().map_err(StoreError::io("rename", sealing))?;
                }
                return Err(error);
            }
        };
        names.dirs.insert(self.layout.stage());
        for (footer, (_, path, _)) in footers.into_iter().zip(&files) {
            self.rename(path, footer, Area::Objects, names)?;
        }
        Ok(())
    }

    fn rename(
        &self,
        from: &PathBuf,
        footer: Footer,
        area: Area,
        names: &mut Names,
    ) -> Result<(), StoreError> {
        let to = self.layout.container(area, footer.id);
        names.dirs.insert(self.layout.make_container_dir(area, footer.id)?);
        fs::rename(from, &to).map_err(StoreError::io("rename", from))?;
        names.places.push((footer.id, Place::Container(footer.place(area))));
        Ok(())
    }

    /// Directories, then the index, then what is surplus.
    fn finish(&self, mut batch: IndexBatch<'_>, names: Names) -> Result<(), StoreError> {
        names.dirs.iter().try_for_each(|dir| sync_dir(dir))?;
        for (id, place) in names.places {
            batch.put_place(id, place);
        }
        batch.write()?;
        self.db.sync()?;
        names.surplus.iter().try_for_each(|path| remove_file(path))
    }
}

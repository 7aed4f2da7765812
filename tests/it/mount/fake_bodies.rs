//! Bodies as plain files in a directory. What other nodes publish comes inside the command.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use engine::command::{Body, Op};
use engine::ids::{BodyId, Gsn, Ino};
use engine::namespace::{Inode, Touched};
use engine::outcome::{Outcome, Refusal};
use engine::time::Timestamp;
use fusefs::ops::ports::{
    Bodies, BodyError, Demand, Done, Handle, LocalAttr, Offer, OfferDone, OnApplied, Origin,
    ProposeError, ReadDone, Residence, Ring, Space, View,
};
use fusefs::ops::replaced::changes;
use fusefs::ops::rules::Partition;

use super::fake_ring::{FakeRing, HERE, clock};

pub struct FakeBodies {
    directory: tempfile::TempDir,
    ring: OnceLock<Weak<FakeRing>>,
    files: Mutex<HashMap<Ino, Arc<Mutex<Stage>>>>,
    handles: Mutex<HashMap<Handle, Opened>>,
    next_handle: AtomicU64,
}

#[derive(Clone)]
struct Opened {
    ino: Ino,
    write: bool,
    stage: Arc<Mutex<Stage>>,
}

struct Stage {
    file: File,
    handles: u32,
    token: bool,
    dirty: bool,
    /// Counts changes, so that a publish of an earlier one leaves later ones dirty.
    changes: u64,
    gone: bool,
    /// Another version was agreed; its bytes are to be taken over.
    outdated: bool,
    mtime: Timestamp,
    ctime: Timestamp,
}

impl Stage {
    fn changeable(&self, ino: Ino) -> Result<(), BodyError> {
        if self.token || self.gone { Ok(()) } else { Err(BodyError::NeedsToken(ino)) }
    }

    fn changed(&mut self) {
        self.dirty = true;
        self.changes += 1;
        self.mtime = clock();
        self.ctime = self.mtime;
    }

    fn len(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    fn load(&mut self, inode: &Inode) {
        if let Body::Inline(bytes) = &inode.body {
            self.file.set_len(0).unwrap();
            self.file.write_all_at(bytes, 0).unwrap();
        }
        self.file.set_len(inode.valid_len).unwrap();
        self.file.set_len(inode.size).unwrap();
        self.outdated = false;
    }
}

impl FakeBodies {
    pub fn new() -> Arc<FakeBodies> {
        Arc::new(FakeBodies {
            directory: tempfile::tempdir().unwrap(),
            ring: OnceLock::new(),
            files: Mutex::default(),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
        })
    }

    pub fn attach(&self, ring: &Arc<FakeRing>) {
        self.ring.set(Arc::downgrade(ring)).expect("attached once");
    }

    fn ring(&self) -> Arc<FakeRing> {
        self.ring.get().expect("attached").upgrade().expect("the ring lives")
    }

    fn opened(&self, handle: Handle) -> Result<Opened, BodyError> {
        self.handles.lock().unwrap().get(&handle).cloned().ok_or(BodyError::BadHandle)
    }

    fn is_unnamed(&self, ino: Ino) -> bool {
        self.ring().view().inode(ino).unwrap().is_some_and(|inode| inode.nlink == 0)
    }

    fn fresh(&self, opened: &Opened) {
        let mut stage = opened.stage.lock().unwrap();
        if stage.outdated
            && !stage.dirty
            && let Some(inode) = self.ring().view().inode(opened.ino).unwrap()
        {
            stage.load(&inode);
        }
    }

    /// Proposes what is written of `ino` as its next version, and waits for that.
    pub fn publish(&self, ino: Ino) {
        let stage = self.files.lock().unwrap()[&ino].clone();
        let (sender, published) = std::sync::mpsc::channel();
        let then = Box::new(move || sender.send(()).expect("the test waits"));
        publish(self.ring(), ino, &stage, then);
        published.recv().expect("the order goes on");
    }
}

fn publish(
    ring: Arc<FakeRing>,
    ino: Ino,
    stage: &Arc<Mutex<Stage>>,
    then: Box<dyn FnOnce() + Send>,
) {
    let Some(inode) = ring.view().inode(ino).unwrap() else { return };
    let guard = stage.lock().unwrap();
    let (len, mtime, changes) = (guard.len(), guard.mtime, guard.changes);
    let body = match len {
        0 => Body::Empty,
        _ if len <= Body::INLINE_MAX_BYTES as u64 => {
            let mut bytes = vec![0; len as usize];
            guard.file.read_exact_at(&mut bytes, 0).unwrap();
            Body::Inline(bytes)
        }
        _ => Body::Sealed { id: BodyId([1; 32]), len },
    };
    drop(guard);
    let op = Op::Publish {
        ino,
        base: inode.version,
        body,
        size: len,
        mtime,
        holder: HERE,
        stored_len: len,
        ctime: clock(),
    };
    let stage = Arc::clone(stage);
    let again = Arc::clone(&ring);
    let done = Box::new(move |result: Result<Outcome, ProposeError>| match result {
        // An earlier version was on its way.
        Ok(Outcome::Refused(Refusal::Superseded(_))) => publish(again, ino, &stage, then),
        _ => {
            let mut guard = stage.lock().unwrap();
            guard.dirty &= guard.changes != changes;
            drop(guard);
            then();
        }
    });
    ring.propose_as_daemon(op, done);
}

impl Bodies for FakeBodies {
    fn open(
        &self,
        ino: Ino,
        inode: &Inode,
        write: bool,
        truncate: bool,
    ) -> Result<Handle, BodyError> {
        let token = inode.writer == Some(HERE);
        let stage = {
            let mut files = self.files.lock().unwrap();
            let stage = files.entry(ino).or_insert_with(|| {
                let path = self.directory.path().join(ino.to_string());
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .unwrap();
                let mut stage = Stage {
                    file,
                    handles: 0,
                    token,
                    dirty: false,
                    changes: 0,
                    gone: self.ring().view().inode(ino).unwrap().is_none(),
                    outdated: false,
                    mtime: inode.mtime,
                    ctime: inode.ctime,
                };
                stage.load(inode);
                Arc::new(Mutex::new(stage))
            });
            Arc::clone(stage)
        };
        let mut guard = stage.lock().unwrap();
        guard.token = token;
        if write || truncate {
            guard.changeable(ino)?;
        }
        if truncate {
            guard.file.set_len(0).unwrap();
            guard.changed();
        }
        guard.handles += 1;
        drop(guard);
        let handle = Handle(self.next_handle.fetch_add(1, Ordering::Relaxed));
        self.handles
            .lock()
            .unwrap()
            .insert(handle, Opened { ino, write: write || truncate, stage });
        Ok(handle)
    }

    fn read(&self, handle: Handle, offset: u64, len: u32, done: ReadDone) {
        let opened = match self.opened(handle) {
            Ok(opened) => opened,
            Err(e) => return done(Err(e)),
        };
        self.fresh(&opened);
        let stage = opened.stage.lock().unwrap();
        let mut bytes = vec![0; len as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match stage.file.read_at(&mut bytes[filled..], offset + filled as u64).unwrap() {
                0 => break,
                more => filled += more,
            }
        }
        drop(stage);
        done(Ok(&bytes[..filled]));
    }

    fn write(
        &self,
        handle: Handle,
        offset: u64,
        data: &[u8],
        append: bool,
        done: Done<u32, BodyError>,
    ) {
        let written = self.opened(handle).and_then(|opened| {
            self.fresh(&opened);
            let mut stage = opened.stage.lock().unwrap();
            if !stage.token && !stage.gone {
                let view = self.ring().view();
                stage.token = view.token_holder(opened.ino).unwrap() == Some(HERE);
            }
            stage.changeable(opened.ino)?;
            let offset = if append { stage.len() } else { offset };
            stage.file.write_all_at(data, offset).unwrap();
            stage.changed();
            Ok(data.len() as u32)
        });
        done(written);
    }

    fn truncate(&self, ino: Ino, size: u64, done: Done<bool, BodyError>) {
        let stage = self.files.lock().unwrap().get(&ino).cloned();
        let staged = stage.is_some_and(|stage| {
            let mut stage = stage.lock().unwrap();
            let staged = stage.dirty || stage.gone;
            if staged {
                stage.file.set_len(size).unwrap();
                stage.changed();
            }
            staged
        });
        done(Ok(staged));
    }

    fn set_mtime(&self, ino: Ino, mtime: Timestamp) -> bool {
        let stage = self.files.lock().unwrap().get(&ino).cloned();
        stage.is_some_and(|stage| {
            let mut stage = stage.lock().unwrap();
            if stage.dirty {
                stage.changed();
                stage.mtime = mtime;
            }
            stage.dirty
        })
    }

    fn reserve(&self, _: Ino, _: u64, _: Partition, done: Done<(), BodyError>) {
        done(Ok(()));
    }

    fn fallocate(
        &self,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: u32,
        done: Done<(), BodyError>,
    ) {
        let result = self.opened(handle).and_then(|opened| {
            let mut stage = opened.stage.lock().unwrap();
            stage.changeable(opened.ino)?;
            // Safety: plain system call on an open descriptor.
            let failed = unsafe {
                libc::fallocate(stage.file.as_raw_fd(), mode as i32, offset as i64, len as i64)
            };
            stage.changed();
            if failed == 0 { Ok(()) } else { Err(BodyError::Unsupported) }
        });
        done(result);
    }

    fn fsync(&self, _: Ino, _: bool, _: Demand, done: Done<(), BodyError>) {
        done(Ok(()));
    }

    fn publish_file(&self, ino: Ino, done: Done<(), BodyError>) {
        let stage = self.files.lock().unwrap().get(&ino).cloned();
        match stage {
            Some(stage) => publish(self.ring(), ino, &stage, Box::new(|| done(Ok(())))),
            None => done(Ok(())),
        }
    }

    fn flush(&self, _: Handle, done: Done<(), BodyError>) {
        done(Ok(()));
    }

    /// Publishes at each release already.
    fn offer(&self, _: Offer, done: OfferDone) {
        done();
    }

    fn revoke(&self, handle: Handle) {
        panic!("no lease ends here, but {handle:?} is revoked");
    }

    fn release(&self, handle: Handle) {
        let Some(opened) = self.handles.lock().unwrap().remove(&handle) else { return };
        let mut stage = opened.stage.lock().unwrap();
        stage.handles -= 1;
        let (gone, last, dirty) = (stage.gone, stage.handles == 0, stage.dirty);
        drop(stage);
        if gone && last {
            self.files.lock().unwrap().remove(&opened.ino);
        } else if !gone && dirty && opened.write && !self.is_unnamed(opened.ino) {
            publish(self.ring(), opened.ino, &opened.stage, Box::new(|| ()));
        }
    }

    fn publish_written(&self, ino: Ino, done: Done<(), BodyError>) {
        let stage = self.files.lock().unwrap().get(&ino).cloned();
        let dirty = stage.filter(|stage| {
            let stage = stage.lock().unwrap();
            stage.dirty && !stage.gone
        });
        match dirty {
            Some(stage) => publish(self.ring(), ino, &stage, Box::new(|| done(Ok(())))),
            None => done(Ok(())),
        }
    }

    fn seek(&self, handle: Handle, offset: u64, hole: bool, done: Done<u64, BodyError>) {
        done(self.opened(handle).and_then(|opened| {
            let whence = if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
            let stage = opened.stage.lock().unwrap();
            // Safety: plain system call on an open descriptor.
            let found = unsafe { libc::lseek(stage.file.as_raw_fd(), offset as i64, whence) };
            u64::try_from(found).map_err(|_| BodyError::NoData)
        }));
    }

    fn copy(&self, _: (Handle, u64), _: (Handle, u64), _: u64, done: Done<u64, BodyError>) {
        done(Err(BodyError::Unsupported));
    }

    fn is_open_for_writing(&self, ino: Ino) -> bool {
        let handles = self.handles.lock().unwrap();
        handles.values().any(|opened| opened.ino == ino && opened.write)
    }

    fn local_attr(&self, ino: Ino) -> Option<LocalAttr> {
        use std::os::unix::fs::MetadataExt;
        let stage = self.files.lock().unwrap().get(&ino).cloned()?;
        let stage = stage.lock().unwrap();
        (stage.dirty || stage.gone).then(|| LocalAttr {
            size: stage.len(),
            blocks: stage.file.metadata().unwrap().blocks(),
            mtime: stage.mtime,
            ctime: stage.ctime,
        })
    }

    fn residence(&self, _: Ino, _: &Inode) -> Residence {
        Residence { zones: vec!["z1".to_owned(), "z2".to_owned()], state: "held" }
    }

    fn space(&self) -> Space {
        Space { total_bytes: 1 << 40, available_bytes: 1 << 39 }
    }
}

impl OnApplied for FakeBodies {
    fn applied(&self, _: Gsn, touched: &[Touched], origin: Origin) {
        for touch in touched {
            let ino = match touch {
                Touched::Gone { ino, .. }
                | Touched::Content { ino, .. }
                | Touched::Token { ino, .. } => *ino,
                _ => continue,
            };
            let Some(stage) = self.files.lock().unwrap().get(&ino).cloned() else { continue };
            let mut stage = stage.lock().unwrap();
            match touch {
                Touched::Gone { .. } => {
                    stage.gone = true;
                    if stage.handles == 0 {
                        self.files.lock().unwrap().remove(&ino);
                    }
                }
                Touched::Content { .. } => stage.outdated |= origin != Origin::Daemon,
                Touched::Token { holder, .. } => stage.token = *holder == Some(HERE),
                _ => {}
            }
        }
    }

    fn replaced(&self, gsn: Gsn, before: &View, after: &View) {
        let files: Vec<Ino> = self.files.lock().unwrap().keys().copied().collect();
        for ino in files {
            let touched = changes(before, after, ino).expect("tables in memory can be read");
            self.applied(gsn, &touched, Origin::Elsewhere);
        }
    }
}

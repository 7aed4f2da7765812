//! The kernel adapter on a real /dev/fuse, over a ring and bodies that are test doubles: what
//! the kernel sees, and what it still believes after changes from elsewhere.

mod acls;
mod attributes;
mod content;
mod fake_bodies;
pub mod fake_ring;
mod freshness;
mod lifecycle;
mod listing;
mod locks;
mod names;
mod options;
mod orphans;
mod privileges;
mod unnamed;
mod user;
mod waiting;
mod xattrs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fusefs::kernel::{Kernel, MountOptions, Mounted};
use fusefs::ops::Fs;
use fusefs::ops::ports::{OnApplied, Origin, Ring, View};

use engine::command::{Kind, Name, Op};
use engine::ids::Ino;
use engine::namespace::Touched;
use engine::outcome::{Outcome, Refusal};
use fake_bodies::FakeBodies;
use fake_ring::{FakeRing, THERE};

/// A mounted tree with one node here, and another for which the test speaks.
struct Rig {
    ring: Arc<FakeRing>,
    bodies: Arc<FakeBodies>,
    fs: Arc<Fs>,
    kernel: Arc<Kernel>,
    mounted: Option<Mounted>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

/// Breaks the circle between the ring, which tells the kernel, and the kernel, which asks it.
#[derive(Default)]
struct Late(std::sync::OnceLock<Arc<Kernel>>);

impl OnApplied for Late {
    fn applied(&self, gsn: engine::ids::Gsn, touched: &[Touched], origin: Origin) {
        if let Some(kernel) = self.0.get() {
            kernel.applied(gsn, touched, origin);
        }
    }

    fn replaced(&self, gsn: engine::ids::Gsn, before: &View, after: &View) {
        if let Some(kernel) = self.0.get() {
            kernel.replaced(gsn, before, after);
        }
    }
}

impl Rig {
    /// `None`, loudly, where this machine has no FUSE.
    fn new() -> Option<Rig> {
        Rig::with(&MountOptions::default())
    }

    fn with(options: &MountOptions) -> Option<Rig> {
        if let Err(e) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
            let required = std::env::var_os("FUSION_REQUIRE_FUSE").is_some_and(|it| it == "1");
            assert!(!required, "FUSION_REQUIRE_FUSE=1, but /dev/fuse: {e}");
            eprintln!("SKIPPED, nothing was tested: /dev/fuse: {e}");
            return None;
        }
        let bodies = FakeBodies::new();
        let late = Arc::new(Late::default());
        let ring = FakeRing::new(|ring| {
            bodies.attach(ring);
            vec![bodies.clone(), late.clone()]
        });
        let fs = Fs::new(ring.clone(), bodies.clone());
        let kernel = Kernel::new(Arc::clone(&fs));
        assert!(late.0.set(Arc::clone(&kernel)).is_ok(), "set once");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let mounted = Some(kernel.mount(&path, options).unwrap());
        Some(Rig { ring, bodies, fs, kernel, mounted, path, _directory: directory })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The inode that a path in the tree leads to, by the tables.
    fn ino(&self, path: &str) -> Option<Ino> {
        let view = self.ring.view();
        path.split('/')
            .try_fold(Ino::ROOT, |parent, part| view.lookup(parent, &name(part)).unwrap())
    }

    /// Another node makes `path`, and gives a file's write token away.
    fn make_elsewhere(&self, path: &str, kind: Kind) -> Ino {
        let ino = self.propose_elsewhere(path, kind.clone()).expect("the name is free");
        if kind == Kind::File {
            self.ring.elsewhere(Op::ReleaseToken { ino, node: THERE });
        }
        ino
    }

    /// Another node makes the file `path`, and keeps its write token; `None` if it exists.
    fn try_make_elsewhere(&self, path: &str) -> Option<Ino> {
        self.propose_elsewhere(path, Kind::File)
    }

    fn propose_elsewhere(&self, path: &str, kind: Kind) -> Option<Ino> {
        static NEXT: AtomicU64 = AtomicU64::new(16);
        let (parent, last) = self.parent(path);
        let ino = Ino::of(THERE, NEXT.fetch_add(1, Ordering::Relaxed));
        let op = Op::Make { parent, name: last, ino, kind, mode: 0o644, exclusive: true, umask: 0 };
        match self.ring.run(THERE, op) {
            Outcome::Made { ino, created: true } => Some(ino),
            Outcome::Refused(Refusal::Exists) => None,
            other => panic!("make {path}: {other:?}"),
        }
    }

    /// Another node gives `ino` the content `text`.
    fn publish_elsewhere(&self, ino: Ino, text: &str) {
        let inode = self.ring.view().inode(ino).unwrap().unwrap();
        self.ring.elsewhere(Op::TakeToken { ino, node: THERE });
        self.ring.elsewhere(Op::Publish {
            ino,
            base: inode.version,
            body: engine::command::Body::Inline(text.as_bytes().to_vec()),
            size: text.len() as u64,
            mtime: fake_ring::clock(),
            holder: THERE,
            stored_len: text.len() as u64,
            ctime: fake_ring::clock(),
        });
        self.ring.elsewhere(Op::ReleaseToken { ino, node: THERE });
    }

    /// A command of this node's daemon.
    fn run_here(&self, op: Op) {
        assert_eq!(self.ring.run(fake_ring::HERE, op), Outcome::Done);
    }

    /// Has what is written here published, as a close would.
    fn publish_here(&self, ino: Ino) {
        self.bodies.publish(ino);
    }

    /// The kernel is told that a name changed, as if a command had done it.
    fn kernel_hears_entry(&self, parent: Ino, text: &str) {
        let touched = [Touched::Entry { parent, name: name(text) }];
        self.kernel.applied(self.ring.applied_gsn(), &touched, Origin::Elsewhere);
    }

    fn unlink_elsewhere(&self, path: &str) {
        let (parent, name) = self.parent(path);
        self.ring.elsewhere(Op::Unlink { parent, name });
    }

    fn rename_elsewhere(&self, from: &str, to: &str) {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.parent(from), self.parent(to));
        let how = engine::command::RenameHow::Replace;
        self.ring.elsewhere(Op::Rename {
            from_parent,
            from_name,
            to_parent,
            to_name,
            how,
            victim: None,
            source: None,
        });
    }

    fn parent(&self, path: &str) -> (Ino, Name) {
        match path.rsplit_once('/') {
            Some((parent, last)) => (self.ino(parent).expect("the parent exists"), name(last)),
            None => (Ino::ROOT, name(path)),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let Some(mounted) = self.mounted.take() else { return };
        let unmounted = mounted.unmount(true);
        if !std::thread::panicking() {
            unmounted.unwrap();
            mounted.join().unwrap();
        }
    }
}

/// False, loudly, where the test's user may not do what the test is about.
fn root_only(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED, nothing was tested: only root can {what}");
    }
    root
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

/// Waits until `holds`: notifications reach the kernel a moment after the command.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::yield_now();
    }
}

fn errno(result: std::io::Result<impl Sized>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

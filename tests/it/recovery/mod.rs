//! Recovery: a store after kill -9, after power loss, after damage, and after a failed write.
//!
//! Every test leaves a directory as the event leaves it, opens it again, and asks for one of
//! two answers: everything that was promised, or a refusal. Never something in between.

mod damage;
mod kill;
mod poison;
mod power_loss;
mod refusal;
mod repair;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use engine::consensus::entry::{Entry, EntryKind};
use engine::consensus::record::{Header, LogRecord, OrderRecord};
use engine::ids::{Ballot, Epoch, Gsn, Idx, LaneId, NodeId, Term, Ts, VolumeId};
use engine::namespace::tables::{Changes, Tables};
use store::{Identity, Options, Store, StoreError};

const V: VolumeId = VolumeId(1);
const LANE: LaneId = LaneId { epoch: Epoch(1), node: NodeId(1), term: Term(0) };
const CLUSTER: [u8; 16] = [1; 16];

fn options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

fn create(dir: &Path) -> Store {
    let identity = Identity::new(CLUSTER, NodeId(1)).unwrap();
    let store = Store::create(dir, &identity, &options()).unwrap();
    store.initialize(V, &Changes::new(), &header(0)).unwrap();
    store
}

fn header(gsn: u64) -> Header {
    Header { gsn: Gsn(gsn), ..Header::genesis(NodeId(1)) }
}

/// The `n`th thing that happens to a store: an accepted entry and a promise, then its apply.
/// What the store holds after `n` of them is a function of `n` alone, see [`check_prefix`].
fn write_step(store: &Store, n: u64) -> Result<(), StoreError> {
    let entry = Entry { ts: Ts(n), kind: EntryKind::Tick };
    let accepted =
        LogRecord::Accepted { lane: LANE, idx: Idx(n), ballot: Ballot(0), entry: entry.clone() };
    let promised = LogRecord::Promised { lane: LANE, ballot: Ballot(n) };
    store.append(V, &[accepted, promised])?;
    let changes = Changes::from([
        (b"newest".to_vec(), Some(n.to_be_bytes().to_vec())),
        (format!("key{n:08}").into_bytes(), Some(value(n))),
    ]);
    let order = OrderRecord { gsn: Gsn(n), lane: LANE, idx: Idx(n), entry };
    store.apply(V, &changes, &header(n), &[order.into()])
}

/// A few hundred bytes that do not compress to nothing.
fn value(n: u64) -> Vec<u8> {
    let mut value = vec![0; 300];
    let mut state = n;
    for byte in &mut value {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *byte = (state >> 56) as u8;
    }
    value
}

/// Reads everything that [`write_step`] wrote. The store must hold a prefix of the steps: log
/// and tables of the same `n`, except that a step's log may be there without its apply.
/// Returns the applied `n`.
fn check_prefix(store: &Store) -> Result<u64, StoreError> {
    let recovered = store.recover(V)?;
    let applied = recovered.header.gsn.0;
    assert_eq!(recovered.header, header(applied));
    let accepted = recovered.accepted.get(&LANE).map_or(0, |entries| {
        assert!(entries.keys().map(|idx| idx.0).eq(1..=entries.len() as u64), "no hole in the log");
        entries.len() as u64
    });
    assert!(
        accepted == applied || accepted == applied + 1,
        "{accepted} accepted, {applied} applied"
    );
    let promised = recovered.promised.get(&LANE).map_or(0, |ballot| ballot.0);
    assert_eq!(promised, accepted, "the promise of a step comes with its entry");

    let mut expected = 1;
    let read = |error: engine::namespace::tables::TablesError| StoreError::Damaged {
        what: "tables".to_owned(),
        detail: error.0,
    };
    let tables = store.tables(V);
    tables
        .scan(b"key", b"", &mut |key, found| {
            assert_eq!(key, format!("key{expected:08}").as_bytes());
            assert_eq!(found, value(expected));
            expected += 1;
            true
        })
        .map_err(read)?;
    assert_eq!(expected, applied + 1, "tables and header agree");
    let newest = tables.get(b"newest").map_err(read)?;
    assert_eq!(newest, (applied > 0).then(|| applied.to_be_bytes().to_vec()));
    let order = store.order(V, Gsn(1), usize::MAX)?;
    assert_eq!(order.len() as u64, applied, "order and header agree");
    Ok(applied)
}

/// Copies a store's directory, as it is now.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The database's files whose names end with `suffix`, sorted.
fn db_files(store_dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(store_dir.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect();
    files.sort();
    files
}

/// Starts the ignored test `name` of this binary as a process of its own, which works on the
/// store in `dir` ([`child_dir`]) until it is killed or done.
fn spawn_child(name: &str, dir: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

const CHILD_DIR: &str = "FUSION_RECOVERY_DIR";

/// The directory that a child works on; `None` when somebody runs the ignored tests by hand.
fn child_dir() -> Option<PathBuf> {
    std::env::var_os(CHILD_DIR).map(PathBuf::from)
}

/// A child says `done N`; the next such number, or `None` when the child is gone.
fn next_done(lines: &mut BufReader<ChildStdout>) -> Option<u64> {
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        // The test runner's own words may precede it on the line.
        if let Some((_, number)) = line.trim_end().rsplit_once("done ")
            && let Ok(number) = number.parse()
        {
            return Some(number);
        }
    }
}

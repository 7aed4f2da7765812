//! Names that all zones fight for, while daemons are killed and zones are cut off: every answer
//! must be explained by one order of the calls.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, XattrFlags};
use rustix::io::Errno;
use tests::cluster::{Cluster, Wishes};
use tests::linearizable::{Action, Answer, Call, Rename, Set, Violation, check, goes_wrong_us};
use tests::random::Random;
use tests::wait::{wait_for, wait_until};

const ZONES: [&str; 3] = ["z1", "z2", "z3"];
const ROUND_TRIPS_MS: [f64; 3] = [4.0, 10.0, 12.0];
/// Pairs of names, each in a directory of its own, since the kernel changes a directory by one
/// call at a time.
const KINDS: [Kind; 6] =
    [Kind::Link, Kind::Link, Kind::File, Kind::Directory, Kind::Register, Kind::Register];
/// Without FUSION_TEST_MINUTES.
const DEFAULT_MINUTES: f64 = 0.6;
/// Calls between two disturbances, so that each meets work.
const MEANWHILE: u64 = 150;

/// What the names of a pair stand for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Its target is its value, from the beginning.
    Link,
    /// There or not.
    File,
    Directory,
    /// A file that stays, and whose extended attribute is its value. Names and values are not
    /// fought for at once: a call by name finds the inode first, from what its zone knows, and
    /// then acts on that, whatever the name leads to by then (docs/SEMANTICS.md).
    Register,
}

#[test]
fn every_answer_is_explained_by_one_order() {
    let wishes = Wishes { round_trips_ms: ROUND_TRIPS_MS.to_vec(), ..Wishes::default() };
    let Some(cluster) = Cluster::start_with(&wishes) else { return };
    let mut random = Random::announced("linearizable");
    for (pair, kind) in KINDS.iter().enumerate() {
        let directory = cluster.mount("z1").join(format!("pair{pair}"));
        fs::create_dir(&directory).expect("a directory");
        if matches!(kind, Kind::Register) {
            NAMES.iter().for_each(|name| drop(File::create_new(directory.join(name)).expect(name)));
        }
    }
    cluster.wait_for_equal_state();
    let fight = Fight::start(&cluster, &mut random);
    let end = Instant::now() + minutes();
    let (mut kills, mut cuts) = (0, 0);
    while Instant::now() < end || kills == 0 || cuts == 0 {
        fight.wait_for_more(MEANWHILE);
        let zone = ZONES[random.below(3) as usize];
        if random.below(2) == 0 {
            cluster.kill(zone);
            kills += 1;
            fight.wait_for_more(1 + random.below(MEANWHILE));
            cluster.start_missing();
        } else {
            cluster.cut(zone);
            cuts += 1;
            fight.wait_for_more(1 + random.below(MEANWHILE));
            cluster.heal();
        }
    }
    let start = fight.start;
    let histories = fight.stop();
    cluster.wait_for_equal_state();
    let (mut calls, mut unanswered, mut undecided) = (0, 0, 0);
    for (pair, mut history) in histories.into_iter().enumerate() {
        // In the end all zones agree, also about what happened to unanswered calls.
        for (client, zone) in ZONES.iter().enumerate() {
            let directory = cluster.mount(zone).join(format!("pair{pair}"));
            let client = Client { number: client, kind: KINDS[pair], directory, start };
            history.extend([0, 1].map(|name| client.call(Action::ReadFresh { name })));
        }
        calls += history.len();
        unanswered += history.iter().filter(|call| call.answer == Answer::Unknown).count();
        match check(&history) {
            Ok(()) => {}
            Err(Violation::Undecided) => undecided += 1,
            Err(violation) => {
                panic!("pair {pair} ({:?}): {}", KINDS[pair], told(&violation, &history));
            }
        }
    }
    println!(
        "linearizable: {calls} calls on {} pairs of names, {unanswered} without an answer, {kills} \
         kills, {cuts} cuts: explained, but {undecided} pairs with too many orders to try",
        KINDS.len()
    );
    assert!(undecided <= 2, "{undecided} pairs are not checked");
}

/// All zones at all pairs, until [`Fight::stop`].
struct Fight {
    start: Instant,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    /// By pair and zone.
    threads: Vec<Vec<JoinHandle<Vec<Call>>>>,
}

impl Fight {
    fn start(cluster: &Cluster, random: &mut Random) -> Fight {
        let (start, stop, calls) = (Instant::now(), Arc::default(), Arc::default());
        let mut fight = Fight { start, stop, calls, threads: Vec::new() };
        for (pair, kind) in KINDS.into_iter().enumerate() {
            let mut threads = Vec::new();
            for (number, zone) in ZONES.iter().enumerate() {
                let directory = cluster.mount(zone).join(format!("pair{pair}"));
                let client = Client { number, kind, directory, start };
                let random = Random::new(random.number());
                let (stop, calls) = (fight.stop.clone(), fight.calls.clone());
                threads.push(std::thread::spawn(move || client.run(random, &stop, &calls)));
            }
            fight.threads.push(threads);
        }
        fight
    }

    /// Waits until so many more calls have ended, in whichever zones they can.
    #[track_caller]
    fn wait_for_more(&self, more: u64) {
        let goal = self.calls.load(Ordering::Relaxed) + more;
        wait_until("calls end", || self.calls.load(Ordering::Relaxed) >= goal);
    }

    /// Each pair's history.
    fn stop(self) -> Vec<Vec<Call>> {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Vec<Call>>| thread.join().expect("a client does not panic");
        let pair = |threads: Vec<JoinHandle<_>>| threads.into_iter().flat_map(join).collect();
        self.threads.into_iter().map(pair).collect()
    }
}

/// One zone's part in the fight for one pair.
struct Client {
    number: usize,
    kind: Kind,
    directory: PathBuf,
    start: Instant,
}

impl Client {
    fn run(self, mut random: Random, stop: &AtomicBool, calls: &AtomicU64) -> Vec<Call> {
        let mut history = self.before();
        let mut value = self.number as u32;
        while !stop.load(Ordering::Relaxed) {
            value += ZONES.len() as u32;
            let call = self.call(self.choose(&mut random, value));
            calls.fetch_add(1, Ordering::Relaxed);
            let died = call.answer == Answer::Unknown;
            history.push(call);
            if died {
                self.wait_for_mount(stop);
            }
        }
        history
    }

    /// What was made before the fight.
    fn before(&self) -> Vec<Call> {
        match (self.kind, self.number) {
            (Kind::Register, 0) => [0, 1].map(|name| self.made(name)).into(),
            _ => Vec::new(),
        }
    }

    fn made(&self, name: usize) -> Call {
        let action = Action::Make { name, value: None };
        Call { client: self.number, began_us: 0, ended_us: 0, action, answer: Answer::Done }
    }

    fn choose(&self, random: &mut Random, value: u32) -> Action {
        let name = random.below(2) as usize;
        let is_link = matches!(self.kind, Kind::Link);
        if matches!(self.kind, Kind::Register) {
            let hows = [Set::Any, Set::Create, Set::Replace];
            return match random.below(2) {
                0 => Action::Set { name, value, how: hows[random.below(3) as usize] },
                _ => Action::Read { name },
            };
        }
        match random.below(8) {
            0..=2 => Action::Make { name, value: is_link.then_some(value) },
            3 | 4 => Action::Remove { name },
            5 => {
                let hows = [Rename::Replace, Rename::NoReplace, Rename::Exchange];
                Action::Rename { from: name, how: hows[random.below(3) as usize] }
            }
            _ => Action::Read { name },
        }
    }

    fn call(&self, action: Action) -> Call {
        let began_us = self.now_us();
        let result = self.act(action);
        let ended_us = self.now_us();
        let answer = match result {
            Ok(answer) => answer,
            Err(Errno::EXIST) => Answer::Exists,
            Err(Errno::NOENT) if self.directory_is_there() => Answer::Missing,
            Err(Errno::NODATA) => Answer::NoValue,
            Err(_) => Answer::Unknown,
        };
        Call { client: self.number, began_us, ended_us, action, answer }
    }

    fn act(&self, action: Action) -> Result<Answer, Errno> {
        match action {
            Action::Make { name, value } => self.make(&self.path(name), value)?,
            Action::Remove { name } => match self.kind {
                Kind::Directory => rustix::fs::rmdir(self.path(name))?,
                Kind::Link | Kind::File | Kind::Register => {
                    rustix::fs::unlink(self.path(name))?;
                }
            },
            Action::Rename { from, how } => {
                let flags = match how {
                    Rename::Replace => RenameFlags::empty(),
                    Rename::NoReplace => RenameFlags::NOREPLACE,
                    Rename::Exchange => RenameFlags::EXCHANGE,
                };
                let (from, to) = (self.path(from), self.path(1 - from));
                rustix::fs::renameat_with(CWD, from, CWD, to, flags)?;
            }
            Action::Set { name, value, how } => {
                let flags = match how {
                    Set::Any => XattrFlags::empty(),
                    Set::Create => XattrFlags::CREATE,
                    Set::Replace => XattrFlags::REPLACE,
                };
                let value = value.to_string();
                rustix::fs::setxattr(self.path(name), VALUE, value.as_bytes(), flags)?;
            }
            Action::Read { name } | Action::ReadFresh { name } => return self.read(name),
        }
        Ok(Answer::Done)
    }

    fn make(&self, path: &Path, value: Option<u32>) -> Result<(), Errno> {
        match self.kind {
            Kind::Link => {
                let value = value.expect("a link has a value from the beginning");
                rustix::fs::symlink(value.to_string(), path)
            }
            Kind::File | Kind::Register => File::create_new(path).map(drop).map_err(errno),
            Kind::Directory => rustix::fs::mkdir(path, 0o755.into()),
        }
    }

    fn read(&self, name: usize) -> Result<Answer, Errno> {
        let mut bytes = [0; 16];
        let path = self.path(name);
        let bytes = match self.kind {
            Kind::Link => fs::read_link(path).map_err(errno)?.as_os_str().as_bytes().to_vec(),
            Kind::File | Kind::Directory => {
                rustix::fs::lstat(path)?;
                return Ok(Answer::NoValue);
            }
            Kind::Register => {
                let length = rustix::fs::getxattr(path, VALUE, &mut bytes[..])?;
                bytes[..length].to_vec()
            }
        };
        let text = String::from_utf8(bytes).expect("values are digits");
        Ok(Answer::Value(text.parse().expect("values are digits")))
    }

    fn path(&self, name: usize) -> PathBuf {
        self.directory.join(NAMES[name])
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).expect("a test does not last for ever")
    }

    /// After a daemon's death the bare mount point shows, where the directory is missing.
    fn directory_is_there(&self) -> bool {
        rustix::fs::statfs(&self.directory).is_ok()
    }

    fn wait_for_mount(&self, stop: &AtomicBool) {
        let what = format!("{} is usable, or it is over", self.directory.display());
        wait_for(&what, || {
            (stop.load(Ordering::Relaxed) || self.directory_is_there()).then_some(())
        });
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// What went wrong, and the calls around it.
fn told(violation: &Violation, history: &[Call]) -> String {
    let Violation::NoOrder { explained, state, .. } = violation else {
        return "too many orders to try".to_owned();
    };
    let wrong_us = goes_wrong_us(history);
    let mut near: Vec<&Call> = history
        .iter()
        .filter(|call| call.began_us <= wrong_us)
        .filter(|call| call.ended_us + AROUND_US >= wrong_us || call.answer == Answer::Unknown)
        .collect();
    near.sort_by_key(|call| call.began_us);
    let mut text = format!(
        "up to {explained} calls explained, then {state:?}; wrong with the call that ends at \
         {wrong_us}:\n"
    );
    near.iter().for_each(|call| text += &format!("  {call:?}\n"));
    text
}

fn minutes() -> Duration {
    let given = std::env::var("FUSION_TEST_MINUTES").ok();
    let given = given.map(|text| text.parse().expect("FUSION_TEST_MINUTES is a number"));
    Duration::from_secs_f64(given.unwrap_or(DEFAULT_MINUTES) * 60.0)
}

const NAMES: [&str; 2] = ["a", "b"];
const VALUE: &str = "user.value";

/// Enough to see what the calls that are stuck met.
const AROUND_US: u64 = 200_000;

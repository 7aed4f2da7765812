//! Work in all zones at once, with an account of what was acknowledged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::random::Random;
use tests::wait::{wait_for_ok, wait_until};

/// What an acknowledged operation has promised about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Directory,
    /// A file whose name is agreed; its content may not be.
    File,
    /// A file with the content of this number, fsynced.
    Content(u64),
    Gone,
    /// An operation on it was not answered: it has happened or not.
    Unknown,
}

/// One writer per zone, each in a directory of its own, until [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<(String, Arc<Progress>, JoinHandle<Account>)>,
}

#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    longest_us: AtomicU64,
}

/// What a zone's writer was promised, by names in its directory.
pub struct Account {
    zone: String,
    fates: BTreeMap<String, Fate>,
    /// Errors by their text.
    pub errors: BTreeMap<String, u64>,
    pub acknowledged: u64,
}

impl Load {
    /// Starts a writer in each of these zones.
    pub fn start(cluster: &Cluster, zones: &[&str]) -> Load {
        for zone in zones {
            fs::create_dir(cluster.mount(zone).join(format!("load-{zone}"))).expect("a directory");
        }
        cluster.wait_for_equal_state();
        let stop = Arc::new(AtomicBool::new(false));
        let workers = zones
            .iter()
            .map(|zone| {
                let progress = Arc::new(Progress::default());
                let worker = Worker {
                    directory: cluster.mount(zone).join(format!("load-{zone}")),
                    progress: progress.clone(),
                    stop: stop.clone(),
                    account: Account {
                        zone: (*zone).to_owned(),
                        fates: BTreeMap::new(),
                        errors: BTreeMap::new(),
                        acknowledged: 0,
                    },
                };
                let thread = std::thread::spawn(move || worker.run());
                ((*zone).to_owned(), progress, thread)
            })
            .collect();
        Load { stop, workers }
    }

    fn progress(&self, zone: &str) -> &Progress {
        let worker = self.workers.iter().find(|worker| worker.0 == zone);
        &worker.expect("the zone has a writer").1
    }

    /// Waits until a zone's writer has got `more` acknowledgements from now on.
    #[track_caller]
    pub fn wait_for_more(&self, zone: &str, more: u64) -> Duration {
        let acknowledged = &self.progress(zone).acknowledged;
        let goal = acknowledged.load(Ordering::Relaxed) + more;
        wait_until(&format!("{more} more operations in {zone} are acknowledged"), || {
            acknowledged.load(Ordering::Relaxed) >= goal
        })
    }

    /// The longest operation of a zone that ended since the last call.
    pub fn longest(&self, zone: &str) -> Duration {
        Duration::from_micros(self.progress(zone).longest_us.swap(0, Ordering::Relaxed))
    }

    /// Lets every writer finish what it does, and returns what they were promised.
    pub fn stop(mut self) -> Vec<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let workers = std::mem::take(&mut self.workers);
        workers
            .into_iter()
            .map(|worker| worker.2.join().expect("a writer does not panic"))
            .collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    directory: PathBuf,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    account: Account,
}

impl Worker {
    fn run(mut self) -> Account {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if self.cycle(number).is_none() {
                self.wait_for_mount();
            }
        }
        self.account
    }

    /// One of each; `None` after the first error.
    fn cycle(&mut self, number: u64) -> Option<()> {
        let [d, f, g, l, t] = ["d", "f", "g", "l", "t"].map(|kind| format!("{kind}{number}"));
        self.step(&[(&d, Fate::Directory)], |at| fs::create_dir(at.join(&d)))?;
        let file = self.step(&[(&f, Fate::File)], |at| File::create_new(at.join(&f)))?;
        let bytes = content(&self.account.zone, number);
        self.step(&[(&f, Fate::Content(number))], |_| {
            (&file).write_all(&bytes)?;
            file.sync_all()
        })
        .or_else(|| {
            // Its name was acknowledged before.
            self.account.fates.insert(f.clone(), Fate::File);
            None
        })?;
        drop(file);
        // Comes and goes: if an operation were done twice, it would come back.
        self.step(&[(&t, Fate::Directory)], |at| fs::create_dir(at.join(&t)))?;
        self.step(&[(&t, Fate::Gone)], |at| fs::remove_dir(at.join(&t)))?;
        let renamed = [(f.as_str(), Fate::Gone), (&g, Fate::Content(number))];
        self.step(&renamed, |at| fs::rename(at.join(&f), at.join(&g)))?;
        let linked = (l.as_str(), Fate::Content(number));
        self.step(&[linked], |at| fs::hard_link(at.join(&g), at.join(&l)))?;
        if number % 2 == 1 {
            self.step(&[(&g, Fate::Gone)], |at| fs::remove_file(at.join(&g)))?;
        }
        Some(())
    }

    /// Runs one operation that gives these names these fates.
    fn step<T>(
        &mut self,
        fates: &[(&str, Fate)],
        operation: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Option<T> {
        let start = Instant::now();
        let result = operation(&self.directory);
        let took = start.elapsed();
        for (name, fate) in fates {
            let fate = if result.is_ok() { *fate } else { Fate::Unknown };
            self.account.fates.insert((*name).to_owned(), fate);
        }
        match result {
            Ok(value) => {
                let longest = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.progress.longest_us.fetch_max(longest, Ordering::Relaxed);
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.account.acknowledged += 1;
                Some(value)
            }
            Err(error) => {
                let names: Vec<&str> = fates.iter().map(|(name, _)| &name[..1]).collect();
                *self.account.errors.entry(format!("{names:?} {error}")).or_default() += 1;
                None
            }
        }
    }

    /// After an error: the daemon may be dead, and its mount with it.
    fn wait_for_mount(&self) {
        wait_until(&format!("{} is usable, or it is over", self.directory.display()), || {
            // Not stat or readdir, which the kernel answers from its caches, and not on the
            // bare mount point, where the directory is missing.
            self.stop.load(Ordering::Relaxed) || rustix::fs::statfs(&self.directory).is_ok()
        });
    }
}

/// The bytes of a zone's file: a few hundred, or a few ten thousand.
fn content(zone: &str, number: u64) -> Vec<u8> {
    let zone = zone.bytes().fold(0, |hash, byte| hash * 31 + u64::from(byte));
    let mut random = Random::new(zone << 32 | number);
    let length =
        if number.is_multiple_of(4) { random.below(300 << 10) } else { random.below(2 << 10) };
    random.bytes(length as usize)
}

impl Account {
    /// Checks that `tree`, a zone's mount, keeps all promises; names the first that it doesn't.
    ///
    /// Without `contents` only what was agreed counts: names, not the bytes of files, which
    /// may be in a zone that cannot be reached.
    fn check_all(&self, tree: &Path, contents: bool) -> Result<(), String> {
        let directory = tree.join(format!("load-{}", self.zone));
        for (name, fate) in &self.fates {
            let fate = match fate {
                Fate::Content(_) if !contents => Fate::File,
                other => *other,
            };
            self.check(&directory.join(name), fate)
                .map_err(|found| format!("{name} should be {fate:?}, but {found}"))?;
        }
        let mut listed: Vec<String> = fs::read_dir(&directory)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect())
            .map(|names: Vec<_>| names.iter().map(|name| name.to_string_lossy().into()).collect())
            .map_err(|error| error.to_string())?;
        listed.sort();
        if let Some(pair) = listed.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("{} is listed twice", pair[0]));
        }
        let expected = |name: &String| !matches!(self.fates.get(name), None | Some(Fate::Gone));
        match listed.iter().find(|name| !expected(name)) {
            Some(name) => Err(format!("{name} is there")),
            None => Ok(()),
        }
    }

    fn check(&self, path: &Path, fate: Fate) -> Result<(), String> {
        let found = path.symlink_metadata();
        let told = |found: io::Error| found.to_string();
        match fate {
            Fate::Unknown => Ok(()),
            Fate::Gone => match found {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => Err(format!("{other:?}")),
            },
            Fate::Directory => match found.map_err(told)?.is_dir() {
                true => Ok(()),
                false => Err("it is no directory".to_owned()),
            },
            Fate::File => match found.map_err(told)?.is_file() {
                true => Ok(()),
                false => Err("it is no file".to_owned()),
            },
            Fate::Content(number) => {
                let mut bytes = Vec::new();
                File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(told)?;
                let expected = content(&self.zone, number);
                if bytes == expected {
                    return Ok(());
                }
                Err(format!("it has {} other bytes, not {}", bytes.len(), expected.len()))
            }
        }
    }
}

/// Waits until each of these zones keeps all promises that were made in any.
#[track_caller]
pub fn wait_until_kept(cluster: &Cluster, accounts: &[Account], zones: &[&str]) {
    for zone in zones {
        for account in accounts {
            let what = format!("{zone} keeps the promises made in {}", account.zone);
            wait_for_ok(&what, || account.check_all(&cluster.mount(zone), true));
        }
    }
}

/// Waits until `zone` knows every agreed promise of this account.
#[track_caller]
pub fn wait_until_agreed(cluster: &Cluster, account: &Account, zone: &str) {
    let what = format!("{zone} knows what was agreed in {}", account.zone);
    wait_for_ok(&what, || account.check_all(&cluster.mount(zone), false));
}

//! Which bodies this node should hold and does not hold yet, in the order of fetching:
//! asked-for first, small first, then by the agreement that published them.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use engine::ids::{BodyId, Gsn, Ino, NodeId, Version};

/// One version that should come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub ino: Ino,
    pub version: Version,
    /// The agreement that made it current, or one shortly before that. Versions may run ahead
    /// of agreements.
    pub agreed: Gsn,
    pub id: BodyId,
    /// Bytes of the body.
    pub len: u64,
    /// Who published it.
    pub holder: Option<NodeId>,
    /// Kept for handles open here; not part of what the node should hold.
    pub pinned: bool,
}

/// The list, bounded: what does not fit is remembered as "everything from this agreement on",
/// and found again in the tables when there is room.
#[derive(Debug)]
pub struct WantList {
    wants: HashMap<Ino, Entry>,
    /// Those that nobody fetches and that need not wait.
    ready: BTreeSet<(Rank, Ino)>,
    /// Those that wait after a failure, by when they may go on.
    waiting: BTreeSet<(Instant, Ino)>,
    /// For the watermark.
    missing: BTreeSet<(Gsn, Ino)>,
    missing_bytes: u64,
    overflow: Option<Gsn>,
    scanning: Option<Gsn>,
    count_max: usize,
}

#[derive(Debug)]
struct Entry {
    want: Want,
    asked: bool,
    fetching: bool,
    failures: u32,
    not_before: Option<Instant>,
    since: Instant,
}

type Rank = (bool, bool, Gsn);

/// Bodies of at most this length are fetched many at a time.
pub const SMALL_BYTES_MAX: u64 = 128 << 10;

impl WantList {
    /// An empty list that must first be filled from the tables, with what was agreed from
    /// `from` on.
    pub fn new(count_max: usize, from: Gsn) -> WantList {
        WantList {
            wants: HashMap::new(),
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            missing: BTreeSet::new(),
            missing_bytes: 0,
            overflow: Some(from),
            scanning: None,
            count_max,
        }
    }

    /// Puts a version on the list, in place of an older one of the file.
    pub fn add(&mut self, want: Want) {
        let known = self.wants.get(&want.ino);
        if known.is_some_and(|entry| entry.want.version >= want.version) {
            return;
        }
        let asked = known.is_some_and(|entry| entry.asked);
        self.remove(want.ino);
        if self.wants.len() >= self.count_max && !want.pinned {
            let from = self.overflow.map_or(want.agreed, |from| from.min(want.agreed));
            self.overflow = Some(from);
            return;
        }
        if !want.pinned {
            self.missing.insert((want.agreed, want.ino));
            self.missing_bytes += want.len;
        }
        let ino = want.ino;
        let asked = asked || want.pinned;
        let since = Instant::now();
        let entry = Entry { want, asked, fetching: false, failures: 0, not_before: None, since };
        self.ready.insert((entry.rank(), ino));
        self.wants.insert(ino, entry);
    }

    /// The file's current version need not come any more: it is here, or there is none.
    pub fn remove(&mut self, ino: Ino) {
        if let Some(entry) = self.wants.remove(&ino) {
            self.unqueue(&entry, ino);
            if self.missing.remove(&(entry.want.agreed, ino)) {
                self.missing_bytes -= entry.want.len;
            }
        }
    }

    /// Those that handles need.
    pub fn take_pinned(&mut self) -> Vec<Want> {
        let pinned = self.wants.values().filter(|entry| entry.want.pinned);
        pinned.map(|entry| entry.want.clone()).collect()
    }

    /// As [`Self::remove`], unless handles need it.
    pub fn remove_unpinned(&mut self, ino: Ino) {
        if self.wants.get(&ino).is_some_and(|entry| !entry.want.pinned) {
            self.remove(ino);
        }
    }

    /// As [`Self::remove`], unless it changed meanwhile.
    pub fn done(&mut self, want: &Want) {
        if self.wants.get(&want.ino).is_some_and(|entry| entry.want.id == want.id) {
            self.remove(want.ino);
        }
    }

    /// Somebody reads the file: it goes before the others.
    pub fn ask(&mut self, ino: Ino) {
        let Some(mut entry) = self.wants.remove(&ino) else { return };
        if !entry.asked {
            self.unqueue(&entry, ino);
            entry.asked = true;
            self.queue(&entry, ino);
        }
        self.wants.insert(ino, entry);
    }

    /// The body could not be fetched: it waits, longer each time.
    pub fn failed(&mut self, want: &Want, now: Instant) {
        let Some(mut entry) = self.wants.remove(&want.ino) else { return };
        if entry.want.version == want.version {
            self.unqueue(&entry, want.ino);
            entry.fetching = false;
            let wait = RETRY_FIRST.saturating_mul(1 << entry.failures.min(8)).min(RETRY_MAX);
            entry.failures += 1;
            entry.not_before = Some(now + wait);
            self.queue(&entry, want.ino);
        }
        self.wants.insert(want.ino, entry);
    }

    /// A node that may have the missing bodies is back: nothing waits any more.
    pub fn wake(&mut self) {
        for (_, ino) in std::mem::take(&mut self.waiting) {
            let entry = self.wants.get_mut(&ino).expect("what waits is on the list");
            entry.not_before = None;
            entry.failures = 0;
            self.ready.insert((entry.rank(), ino));
        }
    }

    /// Takes the next one to fetch; with `small`, only one that [`SMALL_BYTES_MAX`] admits,
    /// and otherwise only a larger one.
    pub fn take(&mut self, small: bool, now: Instant) -> Option<Want> {
        while let Some(&(when, ino)) = self.waiting.first()
            && when <= now
        {
            self.waiting.remove(&(when, ino));
            let entry = self.wants.get_mut(&ino).expect("what waits is on the list");
            entry.not_before = None;
            self.ready.insert((entry.rank(), ino));
        }
        let next = [false, true].into_iter().find_map(|background| {
            let from = ((background, !small, Gsn(0)), Ino(0));
            let upto = ((background, !small, Gsn(u64::MAX)), Ino(u64::MAX));
            self.ready.range(from..=upto).next().copied()
        })?;
        self.ready.remove(&next);
        let entry = self.wants.get_mut(&next.1).expect("what is ready is on the list");
        entry.fetching = true;
        Some(entry.want.clone())
    }

    /// Takes this version of a file to fetch, unless somebody is at it.
    pub fn take_this(&mut self, ino: Ino, id: BodyId) -> Option<Want> {
        let mut entry = self.wants.remove(&ino)?;
        let taken = (entry.want.id == id && !entry.fetching).then(|| {
            self.unqueue(&entry, ino);
            entry.fetching = true;
            entry.not_before = None;
            entry.want.clone()
        });
        self.wants.insert(ino, entry);
        taken
    }

    /// Takes small ones that one node published, in order, for one question: at most
    /// `count_max` with at most `bytes_max` together (but at least one).
    pub fn take_small(&mut self, count_max: usize, bytes_max: u64, now: Instant) -> Vec<Want> {
        let mut taken: Vec<Want> = self.take(true, now).into_iter().collect();
        let Some(holder) = taken.first().map(|want| want.holder) else { return taken };
        let mut bytes = taken[0].len;
        let mut others = Vec::new();
        for (rank, ino) in &self.ready {
            let want = &self.wants[ino].want;
            if rank.1 || want.holder != holder {
                continue;
            }
            if 1 + others.len() >= count_max || bytes + want.len > bytes_max {
                break;
            }
            bytes += want.len;
            others.push((*rank, *ino));
        }
        for other in others {
            self.ready.remove(&other);
            let entry = self.wants.get_mut(&other.1).expect("what is ready is on the list");
            entry.fetching = true;
            taken.push(entry.want.clone());
        }
        taken
    }

    /// When the first waiting one may go on.
    pub fn next_retry(&self) -> Option<Instant> {
        self.waiting.first().map(|&(when, _)| when)
    }

    /// Every version up to this agreement is here, if those up to `seen` were put on the list.
    pub fn held_upto(&self, seen: Gsn) -> Gsn {
        let first = self.missing.first().map(|&(agreed, _)| agreed);
        let first = [first, self.overflow, self.scanning].into_iter().flatten().min();
        first.map_or(seen, |agreed| Gsn(agreed.0.saturating_sub(1)).min(seen))
    }

    /// Other bodies than before should be here: the tables must be read again from the start.
    pub fn rescan(&mut self) {
        self.overflow = Some(Gsn(0));
    }

    /// From which agreement on the tables must be read (again), when there is room for it. The
    /// watermark stays below it until [`Self::scanned`].
    pub fn begin_scan(&mut self) -> Option<Gsn> {
        if self.scanning.is_some() || self.wants.len() > self.count_max / 2 {
            return None;
        }
        self.scanning = self.overflow.take();
        self.scanning
    }

    /// The tables were read; what did not fit then is noted anew.
    pub fn scanned(&mut self) {
        self.scanning = None;
    }

    /// (files, bytes) that should come.
    pub fn missing(&self) -> (u64, u64) {
        (self.missing.len() as u64, self.missing_bytes)
    }

    /// Since when the first of the missing versions is wanted.
    pub fn oldest(&self) -> Option<Instant> {
        let (_, ino) = self.missing.first()?;
        self.wants.get(ino).map(|entry| entry.since)
    }

    pub fn contains(&self, ino: Ino) -> bool {
        self.wants.contains_key(&ino)
    }

    fn unqueue(&mut self, entry: &Entry, ino: Ino) {
        match entry.not_before {
            Some(when) => self.waiting.remove(&(when, ino)),
            None => self.ready.remove(&(entry.rank(), ino)),
        };
    }

    fn queue(&mut self, entry: &Entry, ino: Ino) {
        match entry.not_before {
            _ if entry.fetching => false,
            Some(when) => self.waiting.insert((when, ino)),
            None => self.ready.insert((entry.rank(), ino)),
        };
    }
}

impl Entry {
    fn rank(&self) -> Rank {
        (!self.asked, self.want.len > SMALL_BYTES_MAX, self.want.agreed)
    }
}

const RETRY_FIRST: Duration = Duration::from_millis(250);
/// A peer that comes up wakes everything at once, so this only bounds idle asking around.
const RETRY_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn want(ino: u64, version: u64, len: u64) -> Want {
        let id = BodyId([version as u8; 32]);
        let (ino, version, agreed) = (Ino(ino), Version(version), Gsn(version));
        Want { ino, version, agreed, id, len, holder: None, pinned: false }
    }

    fn list(count_max: usize) -> WantList {
        let mut list = WantList::new(count_max, Gsn(1));
        assert_eq!(list.held_upto(Gsn(9)), Gsn(0), "nothing is known before the first scan");
        assert_eq!(list.begin_scan(), Some(Gsn(1)));
        list.scanned();
        list
    }

    fn order(list: &mut WantList) -> Vec<u64> {
        let now = Instant::now();
        let mut taken = Vec::new();
        while let Some(want) = list.take(true, now).or_else(|| list.take(false, now)) {
            taken.push(want.version.0);
        }
        taken
    }

    #[test]
    fn small_and_asked_for_go_first() {
        let mut list = list(100);
        list.add(want(1, 1, 1 << 30));
        list.add(want(2, 2, 10));
        list.add(want(3, 3, 10));
        list.add(want(4, 4, 1 << 20));
        list.ask(Ino(3));
        list.ask(Ino(4));
        assert_eq!(order(&mut list), [3, 2, 4, 1]);
        assert_eq!(list.missing(), (4, (1 << 30) + (1 << 20) + 20));
    }

    #[test]
    fn a_superseded_version_is_skipped() {
        let mut list = list(100);
        list.add(want(1, 1, 10));
        let old = list.take(true, Instant::now()).expect("ready");
        list.add(want(1, 5, 10));
        list.done(&old);
        assert_eq!(list.held_upto(Gsn(9)), Gsn(4));
        assert_eq!(order(&mut list), [5]);
        list.done(&want(1, 5, 10));
        assert_eq!(list.held_upto(Gsn(9)), Gsn(9));
    }

    #[test]
    fn a_failed_one_waits_until_a_peer_comes() {
        let mut list = list(100);
        list.add(want(1, 1, 10));
        let now = Instant::now();
        let first = list.take(true, now).expect("ready");
        list.failed(&first, now);
        assert!(list.take(true, now).is_none());
        assert!(list.next_retry().is_some_and(|when| when > now));
        list.wake();
        assert_eq!(order(&mut list), [1]);
        list.failed(&first, now);
        assert!(list.take(true, now + RETRY_MAX).is_some());
    }

    #[test]
    fn one_that_somebody_waits_for_is_taken_once() {
        let mut list = list(100);
        list.add(want(1, 1, 1 << 30));
        list.add(want(2, 2, 1 << 30));
        let now = Instant::now();
        let first = list.take(false, now).expect("ready");
        assert_eq!(list.take_this(Ino(1), first.id), None, "it is being fetched");
        list.failed(&first, now);
        assert_eq!(list.take_this(Ino(1), first.id), Some(first.clone()), "it need not wait");
        assert_eq!(list.take_this(Ino(1), first.id), None);
        assert_eq!(list.take_this(Ino(2), first.id), None, "another version");
        assert_eq!(order(&mut list), [2]);
        list.done(&first);
        assert!(!list.contains(Ino(1)));
    }

    #[test]
    fn small_ones_of_one_publisher_go_together() {
        let mut list = list(100);
        for (ino, holder) in [(1, 7), (2, 8), (3, 7), (4, 7), (5, 7)] {
            list.add(Want { holder: Some(NodeId(holder)), ..want(ino, ino, 10) });
        }
        list.add(want(6, 6, 1 << 30));
        let mut take = |count_max, bytes_max| {
            let taken = list.take_small(count_max, bytes_max, Instant::now());
            taken.into_iter().map(|want| want.ino.0).collect::<Vec<_>>()
        };
        assert_eq!(take(3, 1000), [1, 3, 4]);
        assert_eq!(take(3, 5), [2]);
        assert_eq!(take(3, 5), [5]);
        assert!(take(3, 5).is_empty());
    }

    #[test]
    fn a_new_placement_holds_the_watermark_back_until_it_is_looked_at() {
        let mut list = list(100);
        assert_eq!(list.held_upto(Gsn(9)), Gsn(9));
        list.rescan();
        assert_eq!(list.held_upto(Gsn(9)), Gsn(0));
        assert_eq!(list.begin_scan(), Some(Gsn(0)));
        list.add(want(1, 4, 10));
        list.scanned();
        assert_eq!(list.held_upto(Gsn(9)), Gsn(3));
    }

    #[test]
    fn what_does_not_fit_holds_the_watermark_back() {
        let mut list = list(2);
        list.add(want(1, 1, 10));
        list.add(want(2, 2, 10));
        list.add(want(3, 3, 10));
        assert_eq!(list.begin_scan(), None);
        list.done(&want(1, 1, 10));
        list.done(&want(2, 2, 10));
        assert_eq!(list.held_upto(Gsn(9)), Gsn(2));
        assert_eq!(list.begin_scan(), Some(Gsn(3)));
        assert_eq!(list.held_upto(Gsn(9)), Gsn(2));
        list.scanned();
        assert_eq!(list.held_upto(Gsn(9)), Gsn(9));
    }
}

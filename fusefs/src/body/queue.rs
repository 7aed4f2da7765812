//! When which file is sealed: at once after its last writer closed it, by age while it stays
//! open, again after a failure.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use engine::ids::Ino;
use parking_lot::{Condvar, Mutex};

/// Files and the time at which each is due. Woken, never polled.
#[derive(Debug, Default)]
pub struct SealQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    due: BTreeSet<(Instant, Ino)>,
    when: HashMap<Ino, Instant>,
    stopped: bool,
}

impl SealQueue {
    /// The file is due at `when`, or earlier if it was before.
    pub fn add(&self, ino: Ino, when: Instant) {
        let mut state = self.state.lock();
        match state.when.get(&ino).copied() {
            Some(known) if known <= when => return,
            Some(known) => {
                state.due.remove(&(known, ino));
            }
            None => {}
        }
        state.when.insert(ino, when);
        state.due.insert((when, ino));
        if state.due.first() == Some(&(when, ino)) {
            self.changed.notify_one();
        }
    }

    /// Waits until something is due and takes it, with up to `count_max` that are due too.
    /// `None` when the queue was stopped.
    pub fn take(&self, count_max: usize) -> Option<Vec<Ino>> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            match state.due.first().copied() {
                Some((when, _)) if when <= now => break,
                Some((when, _)) => {
                    self.changed.wait_until(&mut state, when);
                }
                None => self.changed.wait(&mut state),
            }
        }
        let now = Instant::now();
        let mut taken = Vec::new();
        while let Some(&(when, ino)) = state.due.first()
            && when <= now
            && taken.len() < count_max
        {
            state.due.pop_first();
            state.when.remove(&ino);
            taken.push(ino);
        }
        // Another worker may take what is left.
        if !state.due.is_empty() {
            self.changed.notify_one();
        }
        Some(taken)
    }

    /// Files that wait, whether they are due or not.
    pub fn len(&self) -> usize {
        self.state.lock().due.len()
    }

    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// When a file that stays open may be sealed (again): `age` after its oldest change, and with
/// pauses of at least [`PAUSE_FACTOR`] times the last seal's duration, so that sealing a large
/// file takes a small part of the disk's time only.
pub fn due_by_age(
    since: Instant,
    age: Duration,
    last_seal: Option<(Instant, Duration)>,
) -> Instant {
    let aged = since + age;
    match last_seal {
        Some((ended, took)) => aged.max(ended + took.saturating_mul(PAUSE_FACTOR)),
        None => aged,
    }
}

const PAUSE_FACTOR: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_counts_and_each_file_comes_once() {
        let queue = SealQueue::default();
        let now = Instant::now();
        queue.add(Ino(20), now + Duration::from_secs(60));
        queue.add(Ino(21), now);
        queue.add(Ino(20), now);
        queue.add(Ino(22), now + Duration::from_secs(60));
        let mut taken = queue.take(10).expect("not stopped");
        taken.sort_unstable();
        assert_eq!(taken, [Ino(20), Ino(21)]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn a_worker_is_woken_for_what_is_due_earlier() {
        let queue = SealQueue::default();
        queue.add(Ino(20), Instant::now() + Duration::from_secs(60));
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| queue.take(1));
            queue.add(Ino(21), Instant::now());
            assert_eq!(worker.join().expect("no panic"), Some(vec![Ino(21)]));
            let worker = scope.spawn(|| queue.take(1));
            queue.stop();
            assert_eq!(worker.join().expect("no panic"), None);
        });
    }
}

//! Lets many threads share one fsync.

use parking_lot::{Condvar, Mutex};

/// Runs a sync function so that each caller gets one that *started* after its call, and
/// callers that wait meanwhile share the next one.
#[derive(Default)]
pub struct SyncGate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of the newest sync that was started; they are numbered 1, 2, 3, ...
    started: u64,
    /// Number of the newest sync that succeeded. Syncs do not overlap.
    succeeded: u64,
    running: bool,
}

impl SyncGate {
    /// Returns once a call of `sync` that began after this one has succeeded. A failed call
    /// is reported to the thread that made it; the threads that waited for it try themselves,
    /// so `sync` must keep failing once it has failed (the database is poisoned then).
    pub fn pass<E>(&self, sync: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let mut state = self.state.lock();
        // The one that runs now may have begun before this caller's writes.
        let wanted = state.started + 1;
        loop {
            if state.succeeded >= wanted {
                return Ok(());
            }
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            let mine = state.started;
            drop(state);
            let result = sync();
            state = self.state.lock();
            state.running = false;
            if result.is_ok() {
                state.succeeded = mine;
            }
            self.changed.notify_all();
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn every_caller_sees_a_sync_that_began_after_its_write() {
        let gate = SyncGate::default();
        let written = AtomicU64::new(0);
        let durable = AtomicU64::new(0);
        let syncs = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let sync = || {
                            syncs.fetch_add(1, Ordering::SeqCst);
                            let seen = written.load(Ordering::SeqCst);
                            thread::yield_now();
                            durable.fetch_max(seen, Ordering::SeqCst);
                            Ok::<(), ()>(())
                        };
                        gate.pass(sync).unwrap();
                        assert!(durable.load(Ordering::SeqCst) >= mine);
                    }
                });
            }
        });
        assert!(syncs.load(Ordering::SeqCst) <= 1600);
    }

    #[test]
    fn a_failure_is_reported_and_the_gate_stays_usable() {
        let gate = SyncGate::default();
        assert_eq!(gate.pass(|| Err("disk")), Err("disk"));
        assert_eq!(gate.pass(|| Ok::<(), &str>(())), Ok(()));
    }
}

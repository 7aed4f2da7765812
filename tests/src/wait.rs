//! Waiting for conditions, never for a time to pass.

use std::time::{Duration, Instant};

/// Long enough for a machine of two cores under the load of other builds; a test that holds
/// never waits so long.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks until `look` gives something, and returns it with the time that it took.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < PATIENCE, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until `holds` is true, and returns the time that it took.
///
/// # Panics
/// After [`PATIENCE`], naming `what`.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    wait_for(what, || holds().then_some(())).1
}

/// Looks until `look` gives `Ok`, and returns it with the time that it took.
///
/// # Panics
/// After [`PATIENCE`], naming `what` and what the last look missed.
#[track_caller]
pub fn wait_for_ok<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        let missed = match look() {
            Ok(found) => return (found, start.elapsed()),
            Err(missed) => missed,
        };
        let patience = PATIENCE.as_secs();
        assert!(start.elapsed() < PATIENCE, "waited {patience} s in vain: {what}: {missed}");
        std::thread::sleep(LOOK_EVERY);
    }
}

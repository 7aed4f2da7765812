//! The node's clocks: the only place of the daemon that asks the system for the time that
//! goes into commands.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use engine::time::Timestamp;

/// Microseconds since the Unix epoch that never run backwards while the process lives.
#[derive(Default)]
pub struct Clock {
    last_us: AtomicU64,
}

impl Clock {
    /// CLOCK_REALTIME, or the last value given if the system's clock was set back.
    pub fn now_us(&self) -> u64 {
        let real_us = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
            Err(_) => 0, // a clock before 1970: the last value wins
        };
        self.last_us.fetch_max(real_us, Ordering::Relaxed).max(real_us)
    }
}

/// CLOCK_REALTIME as files carry it.
pub fn timestamp() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp::new(
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            since.subsec_nanos(),
        ),
        Err(before) => Timestamp::new(
            -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX) - 1,
            999_999_999 - before.duration().subsec_nanos().min(999_999_999),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_runs_backwards() {
        let clock = Clock::default();
        let future_us = clock.now_us() + 3_600_000_000;
        clock.last_us.store(future_us, Ordering::Relaxed);
        assert_eq!(clock.now_us(), future_us);
    }
}

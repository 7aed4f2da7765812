//! The node's clocks: the only place of the daemon that asks the system for the time that
//! goes into commands.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::time::Timestamp;
use rustix::time::ClockId;

/// Microseconds since the Unix epoch: the system's clock when the process started, and from
/// there the time that passed. A step of the system's clock does not reach it: the replicas
/// agree on a group time by themselves, and their timers must run on.
pub struct Clock {
    started: Instant,
    started_us: u64,
}

impl Default for Clock {
    fn default() -> Clock {
        let started_us = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2),
            Err(_) => 0, // a clock before 1970: group time corrects it
        };
        Clock { started: Instant::now(), started_us }
    }
}

impl Clock {
    /// Never runs backwards.
    pub fn now_us(&self) -> u64 {
        self.started_us + u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0)
    }
}

/// Time since the machine started, that in which it was suspended included.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// CLOCK_REALTIME as files carry it.
pub fn timestamp() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => {
            Timestamp::new(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
        }
        Err(before) => Timestamp::new(
            -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX) - 1,
            999_999_999 - before.duration().subsec_nanos().min(999_999_999),
        ),
    }
}

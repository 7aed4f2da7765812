//! Keeps background transfers from filling the queues that consensus and reads have to pass.
//!
//! cubic sends faster until a queue somewhere overflows, and a queue before a slow link holds
//! 100 ms or more. The side that receives sees the round trip grow with the queue, and grants
//! less (QUIC flow control) until it shrinks: the idea of LEDBAT (RFC 6817), at the receiver.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::{Connection, VarInt};

/// One background connection's grant.
#[derive(Default)]
pub(crate) struct Pace {
    state: Mutex<Option<State>>,
}

struct State {
    connection: usize,
    window_bytes: u64,
    since: Instant,
    received_bytes: u64,
}

/// A new connection's grant: two long streams' worth, before the link is known.
pub(crate) const WINDOW_INITIAL_BYTES: u32 = 2_500_000;
const WINDOW_MAX_BYTES: u64 = super::transport::CONNECTION_WINDOW_BYTES as u64;
/// Progress is never given up, whoever fills the queue.
const WINDOW_MIN_BYTES: u64 = 256 << 10;
/// The queue that may stand: this, and an eighth of the round trip without any queue. Less
/// would take scheduling noise for a queue.
const QUEUE_TARGET: Duration = Duration::from_millis(4);
/// Decisions are a round trip apart, to see the last one's effect, but not closer than this.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

impl Pace {
    /// Notes bytes that arrived on `connection`; from time to time changes its grant.
    pub(crate) fn received(&self, connection: &Connection, bytes: usize) {
        let mut state = self.state.lock();
        let id = connection.stable_id();
        let state = match &mut *state {
            Some(state) if state.connection == id => state,
            other => other.insert(State {
                connection: id,
                window_bytes: WINDOW_INITIAL_BYTES.into(),
                since: Instant::now(),
                received_bytes: 0,
            }),
        };
        state.received_bytes += bytes as u64;
        let (rtt, elapsed) = (connection.rtt(), state.since.elapsed());
        if elapsed < rtt.max(INTERVAL_MIN) {
            return;
        }
        let per_rtt = state.received_bytes as f64 * (rtt.as_secs_f64() / elapsed.as_secs_f64());
        let queue = rtt.saturating_sub(connection.min_rtt());
        let target = QUEUE_TARGET + connection.min_rtt() / 8;
        state.window_bytes = decide(state.window_bytes, per_rtt as u64, queue, target);
        (state.since, state.received_bytes) = (Instant::now(), 0);
        let window = u32::try_from(state.window_bytes).expect("at most 64 MiB");
        connection.set_receive_window(VarInt::from_u32(window));
    }
}

/// The next grant, from the last one, the bytes that came in the last round trip, and the queue.
fn decide(window: u64, per_rtt: u64, queue: Duration, target: Duration) -> u64 {
    let next = if queue > target * 2 {
        window * 3 / 4
    } else if queue > target {
        window - window / 16
    } else {
        // Not far beyond what is used: a grant that nobody needs now is a burst later.
        (window + window / 4).min((2 * per_rtt).max(WINDOW_INITIAL_BYTES.into()))
    };
    next.clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(10);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_grant_grows_without_a_queue_and_shrinks_with_one() {
        let mut window = u64::from(WINDOW_INITIAL_BYTES);
        for _ in 0..40 {
            window = decide(window, window, ms(1), TARGET);
        }
        assert_eq!(window, WINDOW_MAX_BYTES);
        for _ in 0..40 {
            window = decide(window, window, ms(50), TARGET);
        }
        assert_eq!(window, WINDOW_MIN_BYTES);
    }

    #[test]
    fn an_idle_connection_keeps_a_small_grant() {
        assert_eq!(decide(WINDOW_MAX_BYTES, 1000, ms(0), TARGET), WINDOW_INITIAL_BYTES.into());
    }
}

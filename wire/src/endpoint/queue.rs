//! Ring messages that wait for one peer: bounded, and nobody who adds one waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::ids::VolumeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) struct RingQueue {
    state: Mutex<State>,
    /// Woken when a message was added.
    pub(crate) added: Notify,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    connected: bool,
}

pub(crate) struct Frame {
    pub(crate) volume: VolumeId,
    pub(crate) message: Bytes,
    queued: Instant,
}

/// What is kept for a peer without a connection: enough for the time of a handshake. More
/// would be stale when it arrives, and consensus sends anew what matters.
const DISCONNECTED_MAX_BYTES: usize = 1 << 20;
const DISCONNECTED_MAX_AGE: Duration = Duration::from_secs(1);
/// A message costs this much beside its bytes, so that a million empty ones are bounded too.
const OVERHEAD_BYTES: usize = 64;

impl RingQueue {
    pub(crate) fn new(max_bytes: usize) -> RingQueue {
        RingQueue { state: Mutex::default(), added: Notify::new(), max_bytes }
    }

    /// Adds a message; returns how many were dropped. With a connection a full queue drops
    /// the new one (those before it are on their way); without one it drops the oldest.
    pub(crate) fn push(&self, volume: VolumeId, message: Bytes) -> usize {
        let cost = message.len() + OVERHEAD_BYTES;
        let mut state = self.state.lock();
        let mut dropped = 0;
        if state.connected {
            if state.bytes + cost > self.max_bytes {
                return 1;
            }
        } else {
            let limit = DISCONNECTED_MAX_BYTES.min(self.max_bytes);
            while state.bytes + cost > limit && state.pop().is_some() {
                dropped += 1;
            }
        }
        state.bytes += cost;
        state.frames.push_back(Frame { volume, message, queued: Instant::now() });
        drop(state);
        self.added.notify_one();
        dropped
    }

    /// The oldest messages, about `batch_max_bytes` of them.
    pub(crate) fn take(&self, batch_max_bytes: usize) -> Vec<Frame> {
        let mut state = self.state.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < batch_max_bytes
            && let Some(frame) = state.pop()
        {
            bytes += frame.message.len() + OVERHEAD_BYTES;
            batch.push(frame);
        }
        batch
    }

    /// Notes that messages leave from now on; returns how many were too old for that.
    pub(crate) fn connect(&self) -> usize {
        let mut state = self.state.lock();
        state.connected = true;
        let mut dropped = 0;
        while state.frames.front().is_some_and(|f| f.queued.elapsed() > DISCONNECTED_MAX_AGE) {
            state.pop();
            dropped += 1;
        }
        dropped
    }

    /// Notes that there is no connection; returns how many messages were dropped with it.
    pub(crate) fn disconnect(&self) -> usize {
        let mut state = self.state.lock();
        state.connected = false;
        let dropped = state.frames.len();
        state.frames.clear();
        state.bytes = 0;
        dropped
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().frames.is_empty()
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

impl State {
    fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.message.len() + OVERHEAD_BYTES;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8) -> Bytes {
        Bytes::from(vec![tag; 1000])
    }

    #[test]
    fn a_full_queue_drops_the_newest_when_connected_and_the_oldest_when_not() {
        let queue = RingQueue::new(5 * (1000 + OVERHEAD_BYTES));
        let tags = |batch: Vec<Frame>| batch.iter().map(|f| f.message[0]).collect::<Vec<_>>();
        let dropped: usize = (0..7).map(|tag| queue.push(VolumeId(1), message(tag))).sum();
        assert_eq!((dropped, tags(queue.take(usize::MAX))), (2, vec![2, 3, 4, 5, 6]));
        assert_eq!(queue.connect(), 0);
        let dropped: usize = (0..7).map(|tag| queue.push(VolumeId(1), message(tag))).sum();
        assert_eq!((dropped, tags(queue.take(usize::MAX))), (2, vec![0, 1, 2, 3, 4]));
        assert_eq!(queue.queued_bytes(), 0);
        queue.push(VolumeId(1), message(0));
        assert_eq!(queue.disconnect(), 1);
        assert!(queue.is_empty());
    }
}

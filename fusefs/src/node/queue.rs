//! Queues between the threads of a node: bounded by what they hold, so that a slow disk costs
//! time and not memory.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// The sending side of a bounded queue. Who sends waits while it is full.
pub struct QueueSender<T>(Arc<Queue<T>>);

/// The receiving side. When it is dropped, what is sent vanishes.
pub struct QueueReceiver<T>(Arc<Queue<T>>);

struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
    bytes_max: usize,
}

struct State<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    /// Nobody sends any more.
    finished: bool,
    /// Nobody receives any more.
    abandoned: bool,
}

/// Makes a queue of about `bytes_max` bytes; one item is let in whatever its size.
pub fn bounded<T>(bytes_max: usize) -> (QueueSender<T>, QueueReceiver<T>) {
    let state = State { items: VecDeque::new(), bytes: 0, finished: false, abandoned: false };
    let queue = Arc::new(Queue {
        state: Mutex::new(state),
        filled: Condvar::new(),
        drained: Condvar::new(),
        bytes_max,
    });
    (QueueSender(queue.clone()), QueueReceiver(queue))
}

/// What an item costs beside its own bytes.
const ITEM_BYTES: usize = 256;

impl<T> QueueSender<T> {
    /// Adds an item of about `bytes`, when there is room for it.
    pub fn send(&self, bytes: usize, item: T) {
        let queue = &self.0;
        let bytes = bytes + ITEM_BYTES;
        let mut state = queue.state.lock();
        while state.bytes > 0 && state.bytes + bytes > queue.bytes_max && !state.abandoned {
            queue.drained.wait(&mut state);
        }
        if state.abandoned {
            return;
        }
        state.bytes += bytes;
        state.items.push_back((bytes, item));
        queue.filled.notify_one();
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.0.state.lock().bytes
    }
}

impl<T> QueueReceiver<T> {
    /// The next item, when there is one; `None` when none will come any more.
    pub fn recv(&self) -> Option<T> {
        let queue = &self.0;
        let mut state = queue.state.lock();
        loop {
            if let Some(item) = queue.take(&mut state) {
                return Some(item);
            }
            if state.finished {
                return None;
            }
            queue.filled.wait(&mut state);
        }
    }

    /// The next item, if it is there and `wanted`.
    pub fn next_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let queue = &self.0;
        let mut state = queue.state.lock();
        match state.items.front() {
            Some((_, item)) if wanted(item) => queue.take(&mut state),
            _ => None,
        }
    }
}

impl<T> Queue<T> {
    fn take(&self, state: &mut State<T>) -> Option<T> {
        let (bytes, item) = state.items.pop_front()?;
        state.bytes -= bytes;
        self.drained.notify_all();
        Some(item)
    }
}

impl<T> Drop for QueueSender<T> {
    fn drop(&mut self) {
        self.0.state.lock().finished = true;
        self.0.filled.notify_all();
    }
}

impl<T> Drop for QueueReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.abandoned = true;
        state.items.clear();
        state.bytes = 0;
        self.0.drained.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_holds_its_sender_up_until_there_is_room() {
        let (sender, receiver) = bounded(4 * ITEM_BYTES);
        let (told, heard) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            for number in 0..10 {
                sender.send(0, number);
                told.send((number, sender.bytes())).unwrap();
            }
        });
        let mut expected = 0;
        while let Some(number) = receiver.recv() {
            assert_eq!(number, expected);
            expected += 1;
        }
        thread.join().unwrap();
        assert_eq!(expected, 10);
        assert!(heard.iter().all(|(_, bytes)| bytes <= 4 * ITEM_BYTES));
    }

    #[test]
    fn one_item_gets_in_whatever_its_size() {
        let (sender, receiver) = bounded(10);
        sender.send(1 << 20, 7);
        assert_eq!(receiver.next_if(|_| false), None);
        assert_eq!(receiver.next_if(|item| *item == 7), Some(7));
    }

    #[test]
    fn without_a_receiver_nobody_waits() {
        let (sender, receiver) = bounded(1);
        drop(receiver);
        sender.send(100, 1);
        sender.send(100, 2);
        assert_eq!(sender.bytes(), 0);
    }
}

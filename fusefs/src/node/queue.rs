//! Queues between the threads of a node, measured. Where what waits is large they are bounded by
//! what they hold, so that a slow disk costs time and not memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::stage::Stage;

/// The sending side of a queue whose senders bound it themselves: they wait for an answer, or
/// have taken a place elsewhere.
pub struct Outgoing<T> {
    sender: mpsc::Sender<(Instant, T)>,
    stage: Arc<Stage>,
}

/// The receiving side.
pub struct Incoming<T> {
    receiver: mpsc::Receiver<(Instant, T)>,
    stage: Arc<Stage>,
}

/// Makes a queue in front of `stage`.
pub fn queue<T>(stage: &Arc<Stage>) -> (Outgoing<T>, Incoming<T>) {
    let (sender, receiver) = mpsc::channel();
    let outgoing = Outgoing { sender, stage: stage.clone() };
    (outgoing, Incoming { receiver, stage: stage.clone() })
}

impl<T> Clone for Outgoing<T> {
    fn clone(&self) -> Outgoing<T> {
        Outgoing { sender: self.sender.clone(), stage: self.stage.clone() }
    }
}

impl<T> Outgoing<T> {
    /// Without a receiver it vanishes.
    pub fn send(&self, item: T) {
        self.stage.entered(1);
        if self.sender.send((Instant::now(), item)).is_err() {
            self.stage.left(1);
        }
    }
}

/// Something that has waited.
pub struct Taken<T> {
    pub item: T,
    pub waited: Duration,
}

impl<T> Incoming<T> {
    /// The next item, when there is one; `None` when none will come any more.
    pub fn recv(&self) -> Option<Taken<T>> {
        self.receiver.recv().ok().map(|sent| self.taken(sent))
    }

    /// The next item, if it is there.
    pub fn try_recv(&self) -> Option<Taken<T>> {
        self.receiver.try_recv().ok().map(|sent| self.taken(sent))
    }

    /// # Errors
    /// When none came in time, or none will come any more.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Taken<T>, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout).map(|sent| self.taken(sent))
    }

    fn taken(&self, (since, item): (Instant, T)) -> Taken<T> {
        let waited = since.elapsed();
        self.stage.left(1);
        self.stage.wait.observe(waited);
        Taken { item, waited }
    }
}

/// The sending side of a bounded queue. Who sends waits while it is full.
pub struct QueueSender<T>(Arc<Queue<T>>);

/// The receiving side. When it is dropped, what is sent vanishes.
pub struct QueueReceiver<T>(Arc<Queue<T>>);

/// What came of waiting for an item.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    Item(T),
    /// Not in time.
    Nothing,
    /// None will come any more.
    Finished,
}

struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
    bytes_max: usize,
    stage: Arc<Stage>,
}

struct State<T> {
    items: VecDeque<(usize, Instant, T)>,
    bytes: usize,
    /// Nobody sends any more.
    finished: bool,
    /// Nobody receives any more.
    abandoned: bool,
}

/// Makes a queue of about `bytes_max` bytes in front of `stage`; one item is let in whatever its
/// size.
pub fn bounded<T>(bytes_max: usize, stage: &Arc<Stage>) -> (QueueSender<T>, QueueReceiver<T>) {
    let state = State { items: VecDeque::new(), bytes: 0, finished: false, abandoned: false };
    let queue = Arc::new(Queue {
        state: Mutex::new(state),
        filled: Condvar::new(),
        drained: Condvar::new(),
        bytes_max,
        stage: stage.clone(),
    });
    (QueueSender(queue.clone()), QueueReceiver(queue))
}

/// What an item costs beside its own bytes.
const ITEM_BYTES: usize = 256;

impl<T> QueueSender<T> {
    /// Adds an item of about `bytes`, when there is room for it.
    pub fn send(&self, bytes: usize, item: T) {
        let queue = &self.0;
        let (bytes, since) = (bytes + ITEM_BYTES, Instant::now());
        let mut state = queue.state.lock();
        while state.bytes > 0 && state.bytes + bytes > queue.bytes_max && !state.abandoned {
            queue.drained.wait(&mut state);
        }
        if state.abandoned {
            return;
        }
        state.bytes += bytes;
        state.items.push_back((bytes, since, item));
        queue.stage.entered(1);
        queue.stage.bytes_entered(bytes);
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

    /// As [`Self::recv`], but waits no longer than `patience`.
    pub fn recv_within(&self, patience: Duration) -> Received<T> {
        let queue = &self.0;
        let deadline = Instant::now() + patience;
        let mut state = queue.state.lock();
        loop {
            if let Some(item) = queue.take(&mut state) {
                return Received::Item(item);
            }
            if state.finished {
                return Received::Finished;
            }
            if queue.filled.wait_until(&mut state, deadline).timed_out() && state.items.is_empty() {
                return if state.finished { Received::Finished } else { Received::Nothing };
            }
        }
    }

    /// The next item, if it is there and `wanted`.
    pub fn next_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let queue = &self.0;
        let mut state = queue.state.lock();
        match state.items.front() {
            Some((_, _, item)) if wanted(item) => queue.take(&mut state),
            _ => None,
        }
    }
}

impl<T> Queue<T> {
    fn take(&self, state: &mut State<T>) -> Option<T> {
        let (bytes, since, item) = state.items.pop_front()?;
        state.bytes -= bytes;
        self.stage.left(1);
        self.stage.bytes_left(bytes);
        self.stage.wait.observe(since.elapsed());
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
        self.0.stage.left(state.items.len());
        self.0.stage.bytes_left(state.bytes);
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
        let stage = Arc::default();
        let (sender, receiver) = bounded(4 * ITEM_BYTES, &stage);
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
        assert_eq!((expected, stage.length()), (10, 0));
        assert_eq!(stage.wait.read().1.iter().map(|(_, count)| count).sum::<u64>(), 10);
        assert!(heard.iter().all(|(_, bytes)| bytes <= 4 * ITEM_BYTES));
    }

    #[test]
    fn one_item_gets_in_whatever_its_size() {
        let (sender, receiver) = bounded(10, &Arc::default());
        sender.send(1 << 20, 7);
        assert_eq!(receiver.next_if(|_| false), None);
        assert_eq!(receiver.next_if(|item| *item == 7), Some(7));
    }

    #[test]
    fn a_receiver_waits_no_longer_than_it_wants() {
        let (sender, receiver) = bounded(1 << 10, &Arc::default());
        assert_eq!(receiver.recv_within(Duration::from_millis(1)), Received::Nothing);
        sender.send(0, 7);
        drop(sender);
        assert_eq!(receiver.recv_within(Duration::ZERO), Received::Item(7));
        assert_eq!(receiver.recv_within(Duration::from_secs(60)), Received::Finished);
    }

    #[test]
    fn without_a_receiver_nobody_waits() {
        let stage = Arc::default();
        let (sender, receiver) = bounded(1000, &stage);
        sender.send(100, 0);
        assert_eq!(stage.length(), 1);
        drop(receiver);
        sender.send(100, 1);
        sender.send(100, 2);
        assert_eq!((sender.bytes(), stage.length()), (0, 0));
    }
    #[test]
    fn what_was_sent_is_counted_until_it_is_taken() {
        let stage = Arc::default();
        let (sender, receiver) = queue(&stage);
        sender.send(1);
        sender.clone().send(2);
        assert_eq!(stage.length(), 2);
        assert_eq!(receiver.recv().map(|taken| taken.item), Some(1));
        assert_eq!(receiver.try_recv().map(|taken| taken.item), Some(2));
        assert!(receiver.try_recv().is_none());
        assert_eq!(stage.length(), 0);
        drop(receiver);
        sender.send(3);
        assert_eq!(stage.length(), 0);
    }
}

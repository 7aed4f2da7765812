//! What is going to happen, in order of time; at the same time, in the order in which it was
//! scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events lie still in `slots`, and only their numbers are sorted: a message takes some
/// hundred bytes, and most of a run's time would go into moving them.
pub(super) struct Queue<E> {
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { due: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), scheduled: 0 }
    }
}

impl<E> Queue<E> {
    pub fn push(&mut self, at_us: u64, event: E) {
        self.scheduled += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.due.push(Reverse((at_us, self.scheduled, slot)));
    }

    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at_us, _, slot)) = self.due.pop()?;
        self.free.push(slot);
        let event = self.slots[slot].take().expect("a scheduled event lies in its slot");
        Some((at_us, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_order_of_scheduling() {
        let mut queue = Queue::default();
        for (at_us, event) in [(5, "c"), (2, "a"), (5, "d"), (2, "b")] {
            queue.push(at_us, event);
        }
        assert_eq!(queue.pop(), Some((2, "a")));
        queue.push(3, "between");
        let rest: Vec<(u64, &str)> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, [(2, "b"), (3, "between"), (5, "c"), (5, "d")]);
    }
}

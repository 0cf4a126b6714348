//! Which record is due next.
//!
//! A retry topic holds records of mixed delays in the order of their writing. Taking them in that order would let one
//! that is due in five minutes hold back another that is due in a second; this queue hands them out by due time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::time::Timestamp;

/// Items ordered by due time, and by arrival where that is equal.
#[derive(Debug)]
pub struct DueQueue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry<T> {
    due: Timestamp,
    arrival: u64,
    item: T,
}

impl<T> DueQueue<T> {
    /// Adds an item.
    pub fn push(&mut self, due: Timestamp, item: T) {
        self.arrivals += 1;
        self.heap.push(Reverse(Entry { due, arrival: self.arrivals, item }));
    }

    /// Takes the next item that is due at `now`, with its due time; `None` when none is.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, T)> {
        self.next_due().filter(|due| *due <= now)?;
        self.heap.pop().map(|Reverse(entry)| (entry.due, entry.item))
    }

    /// When the next item is due, `None` when the queue is empty.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(entry)| entry.due)
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<T> Default for DueQueue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), arrivals: 0 }
    }
}

impl<T> Entry<T> {
    fn rank(&self) -> (Timestamp, u64) {
        (self.due, self.arrival)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_due_later_does_not_hold_back_one_due_sooner() {
        let mut queue = DueQueue::default();
        queue.push(Timestamp(300_000), "in five minutes");
        queue.push(Timestamp(1_000), "in a second");
        assert_eq!(queue.next_due(), Some(Timestamp(1_000)));
        assert_eq!(queue.pop_due(Timestamp(1_000)), Some((Timestamp(1_000), "in a second")));
        assert_eq!(queue.pop_due(Timestamp(299_999)), None);
        assert_eq!(queue.len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_comes_early_nothing_is_lost_and_equals_keep_their_order(
            dues in proptest::collection::vec(0i64..50, 0..200),
        ) {
            let mut queue = DueQueue::default();
            for (arrival, due) in dues.iter().enumerate() {
                queue.push(Timestamp(*due), arrival);
            }
            let mut out = vec![];
            for now in 0..50 {
                while let Some((due, arrival)) = queue.pop_due(Timestamp(now)) {
                    prop_assert_eq!(due, Timestamp(now), "neither early nor left behind");
                    out.push((due, arrival));
                }
            }
            prop_assert_eq!(out.len(), dues.len());
            prop_assert!(out.is_sorted());
        }
    }
}

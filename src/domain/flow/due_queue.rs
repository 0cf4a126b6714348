//! Which record is due next.
//!
//! A retry topic holds records of mixed delays in the order of their writing. Taking them in that order would let one
//! that is due in five minutes hold back another that is due in a second; this queue hands them out by due time.

use std::collections::BTreeMap;

use crate::domain::time::Timestamp;

/// Items ordered by due time, and by offset where that is equal: the lower one holds back the commit.
#[derive(Debug)]
pub struct DueQueue<T> {
    items: BTreeMap<(Timestamp, i64), T>,
}

impl<T> DueQueue<T> {
    /// Adds the item of an offset, and returns the one that it takes the place of.
    pub fn push(&mut self, due: Timestamp, offset: i64, item: T) -> Option<T> {
        self.items.insert((due, offset), item)
    }

    /// Takes the next item that is due at `now`, with its due time; `None` when none is.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, T)> {
        self.next_due().filter(|due| *due <= now)?;
        self.items.pop_first().map(|((due, _), item)| (due, item))
    }

    /// Takes the item that is due last, with its due time; `None` when the queue is empty.
    pub fn pop_last(&mut self) -> Option<(Timestamp, T)> {
        self.items.pop_last().map(|((due, _), item)| (due, item))
    }

    /// When the next item is due, `None` when the queue is empty.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.items.first_key_value().map(|((due, _), _)| *due)
    }

    /// When the item is due that is due last, `None` when the queue is empty.
    pub fn last_due(&self) -> Option<Timestamp> {
        self.items.last_key_value().map(|((due, _), _)| *due)
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<T> Default for DueQueue<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_due_later_does_not_hold_back_one_due_sooner() {
        let mut queue = DueQueue::default();
        queue.push(Timestamp(300_000), 0, "in five minutes");
        queue.push(Timestamp(1_000), 1, "in a second");
        assert_eq!(queue.next_due(), Some(Timestamp(1_000)));
        assert_eq!(queue.pop_due(Timestamp(1_000)), Some((Timestamp(1_000), "in a second")));
        assert_eq!(queue.pop_due(Timestamp(299_999)), None);
        assert_eq!(queue.pop_last(), Some((Timestamp(300_000), "in five minutes")));
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_comes_early_nothing_is_lost_and_equals_come_by_offset(
            dues in proptest::collection::vec(0i64..50, 0..200),
        ) {
            let mut queue = DueQueue::default();
            for (offset, due) in dues.iter().enumerate().rev() {
                queue.push(Timestamp(*due), offset as i64, offset);
            }
            let mut out = vec![];
            for now in 0..50 {
                while let Some((due, offset)) = queue.pop_due(Timestamp(now)) {
                    prop_assert_eq!(due, Timestamp(now), "neither early nor left behind");
                    out.push((due, offset));
                }
            }
            prop_assert_eq!(out.len(), dues.len());
            prop_assert!(out.is_sorted());
        }
    }
}

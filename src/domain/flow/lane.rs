//! Which records of a partition may be processed at the same time.
//!
//! Records that share a lane are processed one after the other, in the order in which they were admitted; records of
//! different lanes, and those that have none, are free of each other.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The order in which the records of a partition are processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// One after the other.
    Partition,
    /// One after the other within a key; keys side by side. Records without a key have no order.
    Key,
    /// In no order.
    Unordered,
}

impl Ordering {
    /// The lane of a record with this key, `None` when it waits for nobody.
    ///
    /// A key is known by its hash: two keys that collide merely share a lane.
    pub fn lane_of(self, key: Option<&[u8]>) -> Option<LaneId> {
        match self {
            Self::Partition => Some(LaneId(0)),
            Self::Unordered => None,
            Self::Key => key.map(|key| {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                LaneId(hasher.finish())
            }),
        }
    }
}

/// Names a lane within a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(u64);

/// The lanes of one partition: what may start, and what waits behind what.
#[derive(Debug)]
pub struct Lanes<T> {
    /// Those that were put aside and may start again, before all others.
    resumed: VecDeque<(Option<LaneId>, T)>,
    ready: VecDeque<(Option<LaneId>, T)>,
    /// A lane is here from the moment that its first item is ready until its last one is released.
    waiting: HashMap<LaneId, VecDeque<T>>,
}

impl<T> Lanes<T> {
    /// Admits an item to its lane, behind all that were admitted to it before.
    pub fn admit(&mut self, lane: Option<LaneId>, item: T) {
        let Some(id) = lane else { return self.ready.push_back((None, item)) };
        if let Some(queue) = self.waiting.get_mut(&id) {
            return queue.push_back(item);
        }
        self.waiting.insert(id, VecDeque::new());
        self.ready.push_back((lane, item));
    }

    /// Takes the next item that may start. Its lane is taken until it is [released](Self::release).
    pub fn take_ready(&mut self) -> Option<(Option<LaneId>, T)> {
        give_back(&mut self.resumed);
        give_back(&mut self.ready);
        self.resumed.pop_front().or_else(|| self.ready.pop_front())
    }

    /// Whether some item may start.
    pub fn has_ready(&self) -> bool {
        !(self.resumed.is_empty() && self.ready.is_empty())
    }

    /// Lets an item start again that was taken and put aside, and whose lane is still taken. It has waited its turn, so it
    /// comes before all that are ready, and behind those that were resumed before it.
    pub fn resume(&mut self, lane: Option<LaneId>, item: T) {
        self.resumed.push_back((lane, item));
    }

    /// Says that the item which was taken from this lane is settled, so that the next one may start.
    pub fn release(&mut self, lane: Option<LaneId>) {
        let Some(id) = lane else { return };
        match self.waiting.get_mut(&id).and_then(|queue| {
            give_back(queue);
            queue.pop_front()
        }) {
            Some(item) => self.ready.push_back((lane, item)),
            None => drop(self.waiting.remove(&id)),
        }
    }

    /// Forgets every item that has not started.
    pub fn clear(&mut self) {
        self.resumed.clear();
        self.ready.clear();
        self.waiting.clear();
    }
}

/// Gives memory back that a queue took when it was longer. A queue that is full again soon does not grow anew each time.
pub fn give_back<T>(queue: &mut VecDeque<T>) {
    const KEPT: usize = 256;
    if queue.capacity() > KEPT && queue.len() < queue.capacity() / 4 {
        queue.shrink_to((queue.len() * 2).max(KEPT));
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { resumed: VecDeque::new(), ready: VecDeque::new(), waiting: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn admit(lanes: &mut Lanes<u32>, ordering: Ordering, key: Option<&str>, item: u32) {
        lanes.admit(ordering.lane_of(key.map(str::as_bytes)), item);
    }

    fn started(lanes: &mut Lanes<u32>) -> Vec<u32> {
        std::iter::from_fn(|| lanes.take_ready()).map(|(_, item)| item).collect()
    }

    #[test]
    fn partition_ordering_starts_one_record_at_a_time() {
        let mut lanes = Lanes::default();
        admit(&mut lanes, Ordering::Partition, Some("a"), 1);
        admit(&mut lanes, Ordering::Partition, None, 2);
        assert_eq!(started(&mut lanes), [1]);
        lanes.release(Ordering::Partition.lane_of(None));
        assert_eq!(started(&mut lanes), [2]);
    }

    #[test]
    fn key_ordering_holds_back_only_the_same_key() {
        let mut lanes = Lanes::default();
        for (key, item) in [(Some("a"), 1), (Some("a"), 2), (Some("b"), 3), (None, 4), (None, 5)] {
            admit(&mut lanes, Ordering::Key, key, item);
        }
        assert_eq!(started(&mut lanes), [1, 3, 4, 5]);
        lanes.release(Ordering::Key.lane_of(Some(b"b")));
        assert!(started(&mut lanes).is_empty());
        lanes.release(Ordering::Key.lane_of(Some(b"a")));
        assert_eq!(started(&mut lanes), [2]);
    }

    #[test]
    fn unordered_holds_back_nothing() {
        let mut lanes = Lanes::default();
        for item in 1..=3 {
            admit(&mut lanes, Ordering::Unordered, Some("a"), item);
        }
        assert_eq!(started(&mut lanes), [1, 2, 3]);
    }

    #[test]
    fn what_was_put_aside_starts_before_all_others_and_in_the_order_in_which_it_was_resumed() {
        let mut lanes = Lanes::default();
        (1..=3).for_each(|item| admit(&mut lanes, Ordering::Unordered, None, item));
        (7..=9).for_each(|item| lanes.resume(None, item));
        assert_eq!(started(&mut lanes), [7, 8, 9, 1, 2, 3]);
        assert!(!lanes.has_ready());
    }

    proptest! {
        #[test]
        fn every_record_is_finished_in_the_order_of_its_key_and_never_runs_beside_its_key(
            keys in proptest::collection::vec(0u8..5, 1..100),
            choices in proptest::collection::vec((any::<proptest::sample::Index>(), proptest::bool::weighted(0.3)), 1_000),
        ) {
            let mut lanes = Lanes::default();
            for (item, key) in keys.iter().enumerate() {
                lanes.admit(Ordering::Key.lane_of(Some(&[*key])), item);
            }
            let (mut running, mut finished, mut aside) = (vec![], vec![], vec![]);
            for (choice, fails) in choices {
                running.extend(std::iter::from_fn(|| lanes.take_ready()));
                let mut busy: Vec<u8> = running.iter().chain(&aside).map(|(_, item): &(_, usize)| keys[*item]).collect();
                busy.sort_unstable();
                busy.dedup();
                prop_assert_eq!(busy.len(), running.len() + aside.len(), "one record a key at a time");
                if running.is_empty() {
                    break;
                }
                let (lane, item) = running.swap_remove(choice.index(running.len()));
                if fails {
                    aside.push((lane, item));
                } else {
                    finished.push(item);
                    lanes.release(lane);
                }
                // Some are due again now and then, at the latest when nothing else runs.
                if choice.index(3) == 0 || running.is_empty() {
                    aside.drain(..).for_each(|(lane, item)| lanes.resume(lane, item));
                }
            }
            prop_assert_eq!(finished.len(), keys.len());
            for key in 0..5 {
                prop_assert!(finished.iter().filter(|item| keys[**item] == key).is_sorted());
            }
        }
    }
}

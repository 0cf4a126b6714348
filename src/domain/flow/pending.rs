//! Records that wait to become due, with their bytes in memory as far as they may take it.
//!
//! What is due last is let go of first: of it only the place, the size and the due time stay, and it is asked for again
//! when there is room, or a little before it is due.

use std::collections::BTreeMap;
use std::time::Duration;

use super::due_queue::DueQueue;
use crate::domain::time::Timestamp;

/// How long before it is due a record is asked for, at the latest.
const LEAD: Duration = Duration::from_secs(5);

/// Records of one partition that wait to become due.
#[derive(Debug)]
pub struct Pending<T> {
    /// Those in memory.
    held: DueQueue<Held<T>>,
    held_bytes: usize,
    /// Those that were let go of.
    away: DueQueue<Place>,
    /// Those that were asked for and have not come yet, by offset.
    asked: BTreeMap<i64, (Timestamp, usize)>,
    /// When the first of them is due, `None` when all have come.
    asked_due: Option<Timestamp>,
}

#[derive(Debug)]
struct Held<T> {
    place: Place,
    item: T,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: i64,
    bytes: usize,
}

impl<T> Pending<T> {
    /// Adds a record that takes so many bytes, or puts one back that was asked for: that one is due when it was before. Then lets
    /// go of what is due last until no more than `limit` bytes are held. One record is always held.
    pub fn push(&mut self, due: Timestamp, offset: i64, bytes: usize, item: T, limit: usize) {
        let due = self.asked.get(&offset).map_or(due, |(due, _)| *due);
        self.forget(offset);
        let before = self.held.push(due, offset, Held { place: Place { offset, bytes }, item });
        self.held_bytes = self.held_bytes + bytes - before.map_or(0, |held| held.place.bytes);
        self.shrink(limit);
    }

    /// Keeps no more than `limit` bytes in memory: those of the records that are due last are dropped.
    fn shrink(&mut self, limit: usize) {
        while self.held_bytes > limit && self.held.len() > 1 {
            let Some((due, last)) = self.held.pop_last() else { break };
            self.held_bytes -= last.place.bytes;
            self.away.push(due, last.place.offset, last.place);
        }
    }

    /// Takes the next record that is due at `now`; `None` when none is that is in memory.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<T> {
        let (_, Held { place, item }) = self.held.pop_due(now)?;
        self.held_bytes -= place.bytes;
        Some(item)
    }

    /// The records to ask for now, in ascending order of their offsets. That is the next ones due as soon as half of the
    /// `limit` bytes is free, so that many are read at once; and shortly before they are due those that take the place of
    /// others which are due later. None while others that were asked for have not come. Where the limit has become less, the
    /// bytes above it are dropped first.
    pub fn ask(&mut self, now: Timestamp, limit: usize) -> Vec<i64> {
        self.shrink(limit);
        let room = limit.saturating_sub(self.held_bytes);
        let latest = match self.held.last_due() {
            _ if !self.asked.is_empty() => return vec![],
            Some(last_held) if room < limit.div_ceil(2) => Timestamp(last_held.0 - 1).min(now.after(LEAD)),
            _ => Timestamp(i64::MAX),
        };
        let mut room = room.max(limit / 4);
        while let Some((due, place)) = self.away.pop_due(latest) {
            self.asked.insert(place.offset, (due, place.bytes));
            self.asked_due = Some(self.asked_due.map_or(due, |first| first.min(due)));
            room = room.saturating_sub(place.bytes);
            if room == 0 {
                break;
            }
        }
        self.asked.keys().copied().collect()
    }

    /// Forgets a record that was to be read again and is no longer in the log.
    pub fn forget(&mut self, offset: i64) {
        self.asked.remove(&offset);
        if self.asked.is_empty() {
            self.asked_due = None;
        }
    }

    /// Ends the request for what was to be read again: what has not come can be requested again.
    pub fn give_up_asking(&mut self) {
        for (offset, (due, bytes)) in std::mem::take(&mut self.asked) {
            self.away.push(due, offset, Place { offset, bytes });
        }
        self.asked_due = None;
    }

    /// When there is something to do next: a record is due, or has to be asked for. `None` when nothing waits but for what
    /// was asked for.
    pub fn next(&self) -> Option<Timestamp> {
        self.held.next_due().into_iter().chain(self.next_to_ask()).min()
    }

    /// When the next record is due that is in memory.
    pub fn next_held(&self) -> Option<Timestamp> {
        self.held.next_due()
    }

    /// When there is something to ask for.
    pub fn next_to_ask(&self) -> Option<Timestamp> {
        let earlier = |due: &Timestamp| self.held.last_due().is_none_or(|last_held| *due < last_held);
        let to_ask = self.away.next_due().filter(|due| self.asked.is_empty() && earlier(due));
        to_ask.map(|due| Timestamp(due.0.saturating_sub(LEAD.as_millis() as i64)))
    }

    /// When the next record is due, in memory or not. While some that were asked for have come and others not, it may be that of
    /// one that has come.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.held.next_due().into_iter().chain(self.away.next_due()).chain(self.asked_due).min()
    }

    /// How many records wait.
    pub fn len(&self) -> usize {
        self.held.len() + self.away.len() + self.asked.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            held: DueQueue::default(),
            held_bytes: 0,
            away: DueQueue::default(),
            asked: BTreeMap::new(),
            asked_due: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_waits_takes_no_more_memory_than_it_may_when_that_becomes_less() {
        let mut pending = Pending::default();
        (0..10).for_each(|offset| pending.push(Timestamp(60_000 + offset), offset, 10, offset, 100));
        assert_eq!(pending.ask(Timestamp(0), 40), [0i64; 0]);
        assert_eq!((pending.len(), pending.held_bytes()), (10, 40));
    }

    #[test]
    fn what_is_due_last_is_let_go_of_and_asked_for_when_there_is_room() {
        let mut pending = Pending::default();
        for (offset, due) in [(0, 300_000), (1, 100_000), (2, 200_000)] {
            pending.push(Timestamp(due), offset, 10, offset, 20);
        }
        assert_eq!((pending.len(), pending.held_bytes()), (3, 20));
        assert_eq!(pending.ask(Timestamp(0), 20), [0i64; 0], "no room, and time enough");
        assert_eq!(pending.pop_due(Timestamp(100_000)), Some(1));
        assert_eq!(pending.ask(Timestamp(100_000), 20), [0]);
        assert_eq!(pending.ask(Timestamp(100_000), 20), [0i64; 0], "it was asked for");
        pending.push(Timestamp(300_000), 0, 10, 0, 20);
        assert_eq!(pending.pop_due(Timestamp(300_000)), Some(2));
        assert_eq!(pending.pop_due(Timestamp(300_000)), Some(0));
        assert!(pending.is_empty());
    }

    #[test]
    fn what_is_due_soon_takes_the_place_of_what_is_due_later() {
        let mut pending = Pending::default();
        pending.push(Timestamp(10_000), 0, 10, 0, 20);
        pending.push(Timestamp(20_000), 1, 10, 1, 20);
        pending.push(Timestamp(30_000), 2, 10, 2, 20);
        pending.pop_due(Timestamp(10_000));
        pending.push(Timestamp(90_000), 3, 10, 3, 20);
        assert_eq!(pending.next(), Some(Timestamp(20_000)));
        pending.pop_due(Timestamp(20_000));
        pending.push(Timestamp(91_000), 4, 10, 4, 20);
        assert_eq!(pending.next(), Some(Timestamp(25_000)), "five seconds before it is due");
        assert_eq!(pending.ask(Timestamp(24_999), 20), [0i64; 0]);
        assert_eq!(pending.ask(Timestamp(25_000), 20), [2]);
        pending.give_up_asking();
        assert_eq!(pending.ask(Timestamp(25_000), 20), [2], "it did not come");
        pending.push(Timestamp(30_000), 2, 10, 2, 20);
        assert_eq!(pending.ask(Timestamp(87_000), 20), [0i64; 0], "the next one would only take its own place again");
    }

    #[test]
    fn of_records_that_are_due_together_the_lower_offset_comes_first_also_when_it_was_let_go_of() {
        let mut pending = Pending::default();
        (0..10).for_each(|offset| pending.push(Timestamp(100), offset, 10, offset, 50));
        // Less memory: some are let go of that have come before others.
        assert_eq!(pending.ask(Timestamp(0), 20), [0i64; 0]);
        let mut out = vec![];
        for _ in 0..20 {
            out.extend(std::iter::from_fn(|| pending.pop_due(Timestamp(100))));
            let asked = pending.ask(Timestamp(100), 20);
            asked.into_iter().for_each(|offset| pending.push(Timestamp(100), offset, 10, offset, 20));
        }
        assert_eq!(out, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_due_time_does_not_move_when_the_record_is_read_again() {
        let mut pending = Pending::default();
        (0..2).for_each(|offset| pending.push(Timestamp(100), offset, 10, offset, 10));
        assert_eq!(pending.pop_due(Timestamp(100)), Some(0));
        assert_eq!(pending.ask(Timestamp(100), 10), [1]);
        pending.push(Timestamp(9_000), 1, 10, 1, 10);
        assert_eq!(pending.pop_due(Timestamp(100)), Some(1));
    }

    proptest! {
        #[test]
        fn nothing_is_early_nothing_is_lost_and_memory_is_bounded(
            dues in proptest::collection::vec((0i64..60_000, 1usize..40), 1..200),
            limit in 1usize..400,
            unanswered in proptest::collection::btree_set(0u32..100, 0..30),
        ) {
            let mut pending = Pending::default();
            let (mut out, mut asks) = (vec![], 0);
            let mut arrivals = dues.iter().enumerate();
            let mut now = Timestamp(0);
            loop {
                if let Some((offset, (due, bytes))) = arrivals.next() {
                    pending.push(Timestamp(*due), offset as i64, *bytes, offset, limit);
                } else if pending.is_empty() {
                    break;
                } else {
                    now = pending.next().expect("something waits").max(now);
                }
                let asked = pending.ask(now, limit);
                prop_assert!(asked.is_sorted());
                asks += u32::from(!asked.is_empty());
                prop_assert!(asks < 100 + 4 * dues.len() as u32, "nothing is asked for again and again");
                if !asked.is_empty() && unanswered.contains(&asks) {
                    pending.give_up_asking();
                    continue;
                }
                for offset in asked {
                    let (due, bytes) = dues[offset as usize];
                    pending.push(Timestamp(due), offset, bytes, offset as usize, limit);
                }
                prop_assert!(pending.held_bytes() <= limit.max(40));
                while let Some(offset) = pending.pop_due(now) {
                    prop_assert!(Timestamp(dues[offset].0) <= now);
                    out.push(offset);
                }
            }
            out.sort_unstable();
            prop_assert!(out.iter().copied().eq(0..dues.len()), "{} of {}", out.len(), dues.len());
        }
    }
}

//! How much of a topic is not processed yet.
//!
//! The distance from the committed offset to the log's end misleads: records finish out of order, transaction markers take
//! offsets, and a retry topic is full of records whose time has not come. So a worker is asked what it holds, and offsets
//! speak only for what no worker has read yet.

use std::ops::Range;

use crate::domain::commit::offsets::Position;

/// How many offsets behind what a worker has read may be markers. It learns that they are half a second later, when Kafka has
/// nothing more for it, and until then each would count as a record.
const MARKERS: u64 = 4;

/// What is known of one partition of a stage's topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionView {
    /// From the first offset that is left to the end of what may be read (the last stable offset).
    pub log: Range<i64>,
    /// What the stage's group has committed.
    pub committed: Option<Position>,
    /// What the worker says that reads it.
    pub held: Option<HeldView>,
    /// Whether nothing is known from the committed offset on that wants to be processed: only markers of transactions, which
    /// whoever commits the offset after each record never commits, or what was there before the group began.
    pub is_blank: bool,
}

/// What a worker says of a partition that it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldView {
    /// There is nothing below this offset that it has not read.
    pub read_up_to: i64,
    /// The records that it holds, those that wait included.
    pub records: u64,
    /// Of these, those that wait to become due.
    pub pending: u64,
}

impl PartitionView {
    /// Records that are not processed. Without a worker it is an upper bound: markers and gaps count.
    pub fn unprocessed(&self) -> u64 {
        match &self.held {
            Some(held) => held.records + distance(held.read_up_to.max(self.log.start), self.log.end),
            None if self.is_blank => 0,
            None => self.committed_lag() - self.finished(),
        }
    }

    /// Records that could be processed now: due, and not processed. Of those that nobody has read it is not known whether
    /// they are due; they count.
    pub fn ready(&self) -> u64 {
        self.unprocessed() - self.held.map_or(0, |held| held.pending.min(held.records))
    }

    /// The distance from the committed offset to the end, as `kafka-consumer-groups` shows it.
    pub fn committed_lag(&self) -> u64 {
        let committed = self.committed.as_ref().map_or(self.log.start, |position| position.committed);
        distance(committed.max(self.log.start), self.log.end)
    }

    /// The lowest offset that is not finished, if there is one.
    pub fn blocked_at(&self) -> Option<i64> {
        let committed = self.committed.as_ref().map_or(self.log.start, |position| position.committed);
        Some(committed.max(self.log.start)).filter(|offset| *offset < self.log.end && !self.is_blank)
    }

    /// What lies behind all that a worker has read, where that is so little that it may be the markers of transactions alone.
    pub fn possible_markers(&self) -> Option<Range<i64>> {
        let rest = self.held?.read_up_to.max(self.log.start)..self.log.end;
        (1..=MARKERS).contains(&distance(rest.start, rest.end)).then_some(rest)
    }

    /// How many offsets above the committed one are finished.
    fn finished(&self) -> u64 {
        let Some(Position { committed, finished }) = &self.committed else { return 0 };
        let low = self.log.start.max(*committed);
        let within = |range: &Range<i64>| distance(range.start.max(low), range.end.min(self.log.end));
        finished.iter().map(within).sum()
    }
}

fn distance(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;
    use crate::domain::commit::offsets::Finished;
    use proptest::prelude::*;

    fn committed(committed: i64, finished: Finished) -> Option<Position> {
        Some(Position { committed, finished })
    }

    #[test]
    fn without_a_worker_offsets_speak() {
        let view =
            PartitionView { log: 100..150, committed: committed(120, vec![130..140]), ..PartitionView::default() };
        assert_eq!((view.unprocessed(), view.ready(), view.committed_lag()), (20, 20, 30));
        let retained = PartitionView { log: 145..150, ..view };
        assert_eq!((retained.unprocessed(), retained.blocked_at()), (5, Some(145)), "retention took what was behind");
        let new = PartitionView { log: 0..7, ..PartitionView::default() };
        assert_eq!(new.committed_lag(), 7);
        let done = PartitionView { log: 0..7, committed: committed(7, vec![]), ..PartitionView::default() };
        assert_eq!((done.unprocessed(), done.blocked_at()), (0, None));
        let marker = PartitionView { log: 0..7, committed: committed(6, vec![]), is_blank: true, held: None };
        assert_eq!((marker.unprocessed(), marker.blocked_at(), marker.committed_lag()), (0, None, 1));
    }

    #[test]
    fn with_one_what_it_holds_counts_and_what_waits_is_not_ready() {
        let held = Some(HeldView { read_up_to: 149, records: 10, pending: 8 });
        let view = PartitionView { log: 0..150, committed: committed(5, vec![]), held, is_blank: false };
        assert_eq!((view.unprocessed(), view.ready(), view.committed_lag()), (11, 3, 145));
    }

    #[test]
    fn only_a_few_offsets_behind_what_was_read_may_be_markers() {
        let behind = |log: Range<i64>, read_up_to| {
            let held = Some(HeldView { read_up_to, records: 1, pending: 1 });
            PartitionView { log, held, ..PartitionView::default() }.possible_markers()
        };
        assert_eq!(behind(0..10, 9), Some(9..10));
        assert_eq!(behind(0..10, 6), Some(6..10));
        assert_eq!(behind(8..10, 2), Some(8..10), "retention took what was before");
        for (log, read_up_to) in [(0..10, 10), (0..10, 12), (0..10, 5), (0..0, 0)] {
            assert_eq!(behind(log, read_up_to), None);
        }
        assert_eq!(PartitionView { log: 0..1, ..PartitionView::default() }.possible_markers(), None, "nobody reads");
    }

    proptest! {
        #[test]
        fn no_view_is_absurd(
            start in 0i64..50, length in 0i64..50, offset in -5i64..120, low in 0i64..120, width in 0i64..50,
            held in proptest::option::of((0i64..150, 0u64..9, 0u64..12)), is_blank: bool,
        ) {
            let held = held.map(|(read_up_to, records, pending)| HeldView { read_up_to, records, pending });
            let finished = std::iter::once(low..low + width).collect();
            let view = PartitionView { log: start..start + length, committed: committed(offset, finished), held, is_blank };
            prop_assert!(view.ready() <= view.unprocessed());
            prop_assert!(view.committed_lag() <= length as u64);
            prop_assert!(view.held.is_some() || view.unprocessed() <= view.committed_lag());
        }
    }
}

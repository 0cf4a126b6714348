//! Which offset of a partition is safe to commit.
//!
//! Records of one partition finish out of order. Kafka keeps a single number per partition, so committing the highest
//! finished offset would lose every record still in flight below it, and committing the lowest unfinished one alone
//! would process every record above it again after a restart. So the lowest unfinished offset is committed, and the
//! set of finished ones above it travels beside it (see [`super::commit_metadata`]).
//!
//! Offsets have gaps: compaction removes records and transaction markers take offsets. A gap never holds anything back.

use std::collections::VecDeque;
use std::ops::Range;

use crate::domain::flow::lane::give_back;

/// Finished offsets above a committed one: ranges in ascending order that neither touch nor overlap.
pub type Finished = Vec<Range<i64>>;

/// Finished offsets one after the other, above a committed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The offsets.
    pub offsets: Range<i64>,
    /// From the first to the last of them that was written to another topic, as far as is known, `None` when none was. What is
    /// forgotten of these is written once more; what was only processed may be forgotten, and is processed again.
    pub routed: Option<Range<i64>>,
}

/// What may be committed for a partition, and what beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Every record below this offset is finished.
    pub committed: i64,
    /// What is finished above it, in ascending order.
    pub runs: Vec<Run>,
}

/// What may be committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Every record below this offset is finished.
    pub committed: i64,
    /// The finished offsets above it.
    pub finished: Finished,
}

/// What is in flight and what is finished in one partition.
#[derive(Debug, Default)]
pub struct Offsets {
    /// Every record from the lowest unfinished one on, in offset order.
    slots: VecDeque<Slot>,
    /// One past the highest offset seen, `None` before the first when nothing was committed either.
    next: Option<i64>,
    /// Finished before a restart, as the commit said it. What of it was routed is not known any more: all of it counts as that,
    /// and stays as it was said, whether its records were seen again or not, or it might take more room than it had.
    restored: VecDeque<Range<i64>>,
    in_flight: usize,
}

#[derive(Debug)]
struct Slot {
    offset: i64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    Processed,
    Routed,
}

/// Whether a record that was read is to be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is in flight from now on.
    InFlight,
    /// It was finished before, or is in flight already: it is not to be processed.
    Known,
}

impl Run {
    fn at(start: i64) -> Self {
        Self { offsets: start..start, routed: None }
    }

    fn up_to(mut self, end: i64) -> Self {
        self.offsets.end = end;
        self
    }

    fn add_routed(&mut self, offsets: &Range<i64>) {
        let start = self.routed.as_ref().map_or(offsets.start, |routed| routed.start);
        self.routed = Some(start..offsets.end);
    }
}

impl Offsets {
    /// Starts at a committed offset, with the offsets above it that were finished already.
    pub fn resume(committed: i64, finished: Finished) -> Self {
        Self { next: Some(committed), restored: finished.into(), ..Self::default() }
    }

    /// Takes note that a record was read. Records come in ascending offset order.
    pub fn begin(&mut self, offset: i64) -> Begun {
        if self.next.is_some_and(|next| offset < next) {
            return Begun::Known;
        }
        self.next = Some(offset + 1);
        let restored = self.restored.partition_point(|range| range.end <= offset);
        if self.restored.get(restored).is_some_and(|range| range.start <= offset) {
            return Begun::Known;
        }
        self.slots.push_back(Slot { offset, state: State::InFlight });
        self.in_flight += 1;
        Begun::InFlight
    }

    /// Takes note that a record is settled, and that it does no harm to settle it once more. Returns whether it was in flight.
    pub fn finish(&mut self, offset: i64) -> bool {
        self.settle(offset, State::Processed)
    }

    /// Takes note that a record is settled by having been written to another topic. Returns whether it was in flight.
    pub fn route(&mut self, offset: i64) -> bool {
        self.settle(offset, State::Routed)
    }

    fn settle(&mut self, offset: i64, state: State) -> bool {
        let Ok(index) = self.slots.binary_search_by_key(&offset, |slot| slot.offset) else { return false };
        let slot = &mut self.slots[index];
        if slot.state != State::InFlight {
            return false;
        }
        slot.state = state;
        self.in_flight -= 1;
        while self.slots.front().is_some_and(|slot| slot.state != State::InFlight) {
            self.slots.pop_front();
        }
        give_back(&mut self.slots);
        let low = self.slots.front().map(|slot| slot.offset).or(self.next).unwrap_or(i64::MIN);
        while self.restored.front().is_some_and(|range| range.end <= low) {
            self.restored.pop_front();
        }
        true
    }

    /// The offset that may be committed: every record below it is finished. `None` when nothing is known yet.
    pub fn watermark(&self) -> Option<i64> {
        Some(self.ahead(&[])?.committed)
    }

    /// The finished offsets above the watermark. A gap between two finished records counts as finished.
    pub fn finished(&self) -> Finished {
        self.position().map(|position| position.finished).unwrap_or_default()
    }

    /// What may be committed. `None` when nothing is known yet.
    pub fn position(&self) -> Option<Position> {
        let Ahead { committed, runs } = self.ahead(&[])?;
        Some(Position { committed, finished: runs.into_iter().map(|run| run.offsets).collect() })
    }

    /// What may be committed once `routing`, in ascending order, are routed. `None` when nothing is known yet.
    pub fn ahead(&self, routing: &[i64]) -> Option<Ahead> {
        let next = self.next?;
        let mut routing = routing.iter().copied().peekable();
        let mut restored = self.restored.iter().peekable();
        let mut watermark = None;
        let mut runs: Vec<Run> = vec![];
        // The run that reaches up to here.
        let mut open: Option<Run> = None;
        for slot in &self.slots {
            while routing.next_if(|offset| *offset < slot.offset).is_some() {}
            while let Some(range) = restored.next_if(|range| range.start < slot.offset) {
                if watermark.is_some() {
                    open.get_or_insert(Run::at(range.start)).add_routed(range);
                }
            }
            let state = match slot.state {
                State::InFlight if routing.peek() == Some(&slot.offset) => State::Routed,
                state => state,
            };
            if state == State::InFlight {
                watermark.get_or_insert(slot.offset);
                runs.extend(open.take().map(|run| run.up_to(slot.offset)));
            } else if watermark.is_some() {
                // What is finished up to here lies above the watermark.
                let run = open.get_or_insert(Run::at(slot.offset));
                if state == State::Routed {
                    run.add_routed(&(slot.offset..slot.offset + 1));
                }
            }
        }
        // What was restored and read since, up to where more has to be read to know.
        let mut reached = next;
        while let Some(range) = restored.next_if(|range| range.start <= reached) {
            reached = reached.max(range.end);
            if watermark.is_some() {
                open.get_or_insert(Run::at(range.start)).add_routed(range);
            }
        }
        runs.extend(open.map(|run| run.up_to(reached)));
        let committed = watermark.unwrap_or(reached);
        runs.extend(restored.map(|range| Run { offsets: range.clone(), routed: Some(range.clone()) }));
        Some(Ahead { committed, runs })
    }

    /// Whether some of what was finished before a restart has not been seen again.
    pub fn is_catching_up(&self) -> bool {
        self.restored.back().is_some_and(|range| self.next.is_none_or(|next| next < range.end))
    }

    /// How many records are remembered: those in flight, and those finished above the lowest one in flight.
    pub fn window(&self) -> usize {
        self.slots.len()
    }

    /// How many records are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn begun(offsets: impl IntoIterator<Item = i64>) -> Offsets {
        let mut tracker = Offsets::default();
        for offset in offsets {
            assert_eq!(tracker.begin(offset), Begun::InFlight);
        }
        tracker
    }

    #[test]
    fn the_lowest_unfinished_offset_is_what_may_be_committed() {
        let mut tracker = begun(0..5);
        assert_eq!(tracker.watermark(), Some(0));
        assert!(tracker.finish(2));
        assert_eq!((tracker.watermark(), tracker.finished()), (Some(0), vec![2..3]));
        assert!(tracker.finish(0));
        assert_eq!((tracker.watermark(), tracker.finished()), (Some(1), vec![2..3]));
        assert!(tracker.finish(1));
        assert_eq!((tracker.watermark(), tracker.finished()), (Some(3), vec![]));
        assert_eq!(tracker.in_flight(), 2);
    }

    #[test]
    fn before_anything_is_known_nothing_is_committed() {
        assert_eq!(Offsets::default().watermark(), None);
        assert_eq!(begun([100]).watermark(), Some(100));
        assert_eq!(Offsets::resume(7, vec![]).watermark(), Some(7));
    }

    #[test]
    fn a_gap_never_stops_the_watermark() {
        let mut tracker = begun([3, 7, 20]);
        assert_eq!(tracker.watermark(), Some(3));
        tracker.finish(3);
        assert_eq!(tracker.watermark(), Some(7));
        tracker.finish(20);
        assert_eq!(tracker.finished(), [20..21]);
        tracker.finish(7);
        assert_eq!(tracker.watermark(), Some(21));
    }

    #[test]
    fn finishing_what_is_not_in_flight_changes_nothing() {
        let mut tracker = begun([1, 2]);
        assert!(tracker.finish(1));
        assert!(!tracker.finish(1), "twice");
        assert!(!tracker.finish(9), "never begun");
        assert_eq!((tracker.watermark(), tracker.in_flight()), (Some(2), 1));
    }

    #[test]
    fn a_record_that_is_delivered_again_is_known() {
        let mut tracker = begun([1, 2]);
        assert_eq!(tracker.begin(2), Begun::Known);
        assert_eq!(tracker.begin(1), Begun::Known);
        assert_eq!(tracker.in_flight(), 2);
    }

    #[test]
    fn what_was_finished_before_a_restart_is_skipped_and_not_forgotten_by_the_next_commit() {
        let mut tracker = Offsets::resume(10, vec![11..13, 20..21]);
        assert_eq!(tracker.begin(10), Begun::InFlight);
        assert_eq!((tracker.watermark(), tracker.finished()), (Some(10), vec![11..13, 20..21]));
        assert_eq!(tracker.begin(11), Begun::Known);
        assert_eq!(tracker.finished(), [11..13, 20..21]);
        tracker.finish(10);
        assert_eq!((tracker.watermark(), tracker.finished()), (Some(13), vec![20..21]));
    }

    #[test]
    fn until_all_that_was_finished_before_a_restart_was_seen_it_catches_up() {
        let mut tracker = Offsets::resume(10, vec![11..13, 20..21]);
        assert!(tracker.is_catching_up());
        for offset in 10..20 {
            tracker.begin(offset);
        }
        assert!(tracker.is_catching_up());
        assert_eq!(tracker.begin(20), Begun::Known);
        assert!(!tracker.is_catching_up() && !Offsets::resume(10, vec![]).is_catching_up());
    }

    #[test]
    fn what_was_restored_is_said_as_it_was_also_when_it_was_read_again() {
        let mut tracker = Offsets::resume(10, vec![12..20, 30..31]);
        tracker.begin(10);
        // 13 to 16 hold no record any more, and 19 is a marker.
        for offset in [12, 17, 18, 22] {
            tracker.begin(offset);
        }
        let run = |offsets: Range<i64>, routed: Range<i64>| Run { offsets, routed: Some(routed) };
        let runs = vec![run(12..22, 12..20), run(30..31, 30..31)];
        assert_eq!(tracker.ahead(&[]), Some(Ahead { committed: 10, runs }));
        tracker.finish(10);
        assert_eq!(tracker.ahead(&[]), Some(Ahead { committed: 22, runs: vec![run(30..31, 30..31)] }));
    }

    #[test]
    fn what_is_about_to_be_finished_can_be_looked_at_beforehand() {
        let mut tracker = begun([1, 2, 3, 5, 8]);
        tracker.finish(3);
        let ahead = |committed, runs: &[(Range<i64>, Option<Range<i64>>)]| {
            let run =
                |(offsets, routed): &(_, Option<_>)| Run { offsets: Range::clone(offsets), routed: routed.clone() };
            Some(Ahead { committed, runs: runs.iter().map(run).collect() })
        };
        assert_eq!(tracker.ahead(&[]), ahead(1, &[(3..5, None)]));
        assert_eq!(tracker.ahead(&[1, 8]), ahead(2, &[(3..5, None), (8..9, Some(8..9))]));
        assert_eq!(tracker.ahead(&[1, 5]), ahead(2, &[(3..8, Some(5..6))]));
        assert_eq!(tracker.ahead(&[1, 2]), ahead(5, &[]));
        assert_eq!(tracker.ahead(&[0, 1, 2, 4, 5, 8]), ahead(9, &[]), "what is not in flight changes nothing");
        assert_eq!(tracker.watermark(), Some(1));
    }

    proptest! {
        #[test]
        fn looking_beforehand_shows_what_comes_of_it(
            gaps in proptest::collection::vec(1i64..4, 1..60),
            finished in proptest::collection::btree_set(0i64..120, 0..60),
            finishing in proptest::collection::btree_set(0i64..120, 0..60),
            restored in proptest::collection::vec((1i64..20, 1i64..5), 0..4),
        ) {
            let mut at = 0;
            let restored = restored.into_iter().map(|(skip, len)| { at += skip + len; at - len..at }).collect();
            let mut tracker = Offsets::resume(0, restored);
            let mut at = -1;
            for gap in gaps {
                at += gap;
                tracker.begin(at);
            }
            for offset in finished {
                tracker.finish(offset);
            }
            let finishing: Vec<_> = finishing.into_iter().collect();
            let before = tracker.ahead(&finishing);
            for offset in finishing {
                tracker.route(offset);
            }
            prop_assert_eq!(before, tracker.ahead(&[]));
        }

        /// A model of one partition: records at any offsets, finished in any order, with crashes in between after which
        /// everything is read again from what was committed.
        #[test]
        fn nothing_unfinished_is_ever_committed_and_nothing_finished_is_ever_processed_again(
            gaps in proptest::collection::vec(1i64..4, 1..60),
            steps in proptest::collection::vec((0u8..10, any::<proptest::sample::Index>()), 0..200),
        ) {
            let records: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut done = BTreeSet::new();
            let mut tracker = Offsets::default();
            let mut unread: VecDeque<i64> = records.iter().copied().collect();
            let mut in_flight = vec![];
            for (step, index) in steps {
                match step {
                    0..=4 => if let Some(offset) = unread.pop_front() {
                        match tracker.begin(offset) {
                            Begun::InFlight => {
                                prop_assert!(!done.contains(&offset), "{offset} processed twice");
                                in_flight.push(offset);
                            }
                            Begun::Known => prop_assert!(done.contains(&offset), "{offset} skipped but not done"),
                        }
                    },
                    5..=8 => if !in_flight.is_empty() {
                        let offset = in_flight.swap_remove(index.index(in_flight.len()));
                        prop_assert!(tracker.finish(offset));
                        done.insert(offset);
                    },
                    _ => {
                        let (committed, finished) = (tracker.watermark().unwrap_or(0), tracker.finished());
                        prop_assert!(records.iter().filter(|o| **o < committed).all(|o| done.contains(o)));
                        tracker = Offsets::resume(committed, finished);
                        unread = records.iter().copied().filter(|o| *o >= committed).collect();
                        in_flight.clear();
                    }
                }
                let finished = tracker.finished();
                prop_assert!(finished.iter().all(|r| r.start < r.end && Some(r.start) > tracker.watermark()));
                prop_assert!(finished.windows(2).all(|pair| pair[0].end < pair[1].start));
                for offset in &records {
                    if finished.iter().any(|r| r.contains(offset)) {
                        prop_assert!(done.contains(offset));
                    }
                }
                prop_assert_eq!(tracker.in_flight(), in_flight.len());
            }
        }
    }
}

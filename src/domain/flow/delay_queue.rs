//! Records of one partition that wait until they are due: which is next, and when there is something to do.
//!
//! A record that is due is handed out as long as there is room for it. Without room it goes on waiting where the memory that
//! it takes is bounded: an endpoint that is slow, a rate limit or a topic that takes nothing let in no more than that.

use super::due_queue::DueQueue;
use super::lane::LaneId;
use super::pending::Pending;
use crate::domain::time::Timestamp;

/// Records of one partition that wait until they are due.
#[derive(Debug)]
pub struct DelayQueue<T> {
    /// Those that have not been in a lane yet.
    pending: Pending<T>,
    /// Those that failed and wait in their lane, so that what comes behind them waits too. They are in memory.
    in_lane: DueQueue<(Option<LaneId>, T)>,
    /// The next one is due, and there was no room for it.
    is_stuck: bool,
}

/// A record that is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due<T> {
    /// It goes to its lane.
    New(T),
    /// It goes on in its lane, which is still taken.
    InLane(Option<LaneId>, T),
}

impl<T> DelayQueue<T> {
    /// Lets a record wait that takes so many bytes, in memory as long as all that wait take no more than `limit`.
    pub fn wait(&mut self, due: Timestamp, offset: i64, bytes: usize, item: T, limit: usize) {
        self.pending.push(due, offset, bytes, item, limit);
    }

    /// Lets a record wait in its lane.
    pub fn hold(&mut self, due: Timestamp, offset: i64, lane: Option<LaneId>, item: T) {
        self.in_lane.push(due, offset, (lane, item));
    }

    /// Takes the next record that is due. One that comes from a lane takes no more than it did; of the others none, unless there
    /// is room.
    pub fn take_due(&mut self, now: Timestamp, has_room: bool) -> Option<Due<T>> {
        if let Some((_, (lane, item))) = self.in_lane.pop_due(now) {
            return Some(Due::InLane(lane, item));
        }
        self.is_stuck = !has_room && self.pending.next_held().is_some_and(|due| due <= now);
        has_room.then(|| self.pending.pop_due(now)).flatten().map(Due::New)
    }

    /// The records that are to be read again now, see [`Pending::ask`].
    pub fn ask(&mut self, now: Timestamp, limit: usize) -> Vec<i64> {
        self.pending.ask(now, limit)
    }

    /// Forgets a record that was to be read again and is no longer in the log.
    pub fn forget(&mut self, offset: i64) {
        self.pending.forget(offset);
    }

    /// Ends the request for what was to be read again: what has not come can be requested again.
    pub fn give_up_asking(&mut self) {
        self.pending.give_up_asking();
    }

    /// When there is something to do next; `None` when there is nothing before something happens, and while
    /// [`is_stuck`](Self::is_stuck) nothing that only room would let start.
    pub fn next(&self) -> Option<Timestamp> {
        let pending = if self.is_stuck { self.pending.next_to_ask() } else { self.pending.next() };
        pending.into_iter().chain(self.in_lane.next_due()).min()
    }

    /// Whether the next record is due, and there was no room for it.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// When the next record is due, in memory or not.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.pending.next_due().into_iter().chain(self.in_lane.next_due()).min()
    }

    /// How many records wait outside of a lane, how many in one, and the bytes that the first take.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.pending.len(), self.in_lane.len(), self.pending.held_bytes())
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.in_lane.is_empty()
    }
}

impl<T> Default for DelayQueue<T> {
    fn default() -> Self {
        Self { pending: Pending::default(), in_lane: DueQueue::default(), is_stuck: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_waits_for_room_where_its_memory_is_bounded() {
        let mut queue = DelayQueue::default();
        (0..10).for_each(|offset| queue.wait(Timestamp(100 + offset), offset, 10, offset, 50));
        let now = Timestamp(1_000);
        assert_eq!(queue.take_due(now, true), Some(Due::New(0)));
        assert_eq!(queue.take_due(now, false), None);
        assert!(queue.is_stuck());
        assert_eq!((queue.next(), queue.sizes()), (None, (9, 0, 40)), "nothing to do, and most of it is not in memory");
        assert_eq!(queue.take_due(now, true), Some(Due::New(1)));
        assert!(!queue.is_stuck());
    }

    #[test]
    fn what_is_due_in_its_lane_goes_on_without_room() {
        let mut queue = DelayQueue::default();
        queue.wait(Timestamp(1), 7, 10, 7, 100);
        queue.hold(Timestamp(2), 8, None, 8);
        assert_eq!(queue.next(), Some(Timestamp(1)));
        assert_eq!(queue.take_due(Timestamp(2), false), Some(Due::InLane(None, 8)));
        assert_eq!(queue.take_due(Timestamp(2), false), None);
        assert_eq!(queue.take_due(Timestamp(2), true), Some(Due::New(7)));
        assert!(queue.is_empty() && queue.next_due().is_none());
    }
}

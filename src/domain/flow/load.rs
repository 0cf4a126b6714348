//! What a partition's records cost in memory, and whether it may take in more.
//!
//! librdkafka hands over records as fast as the network brings them. The source pauses a partition whose records take
//! more than its share and resumes it when half of that is free again; the gap keeps it from flapping, because each
//! pause throws away what was fetched ahead.
//!
//! Records that wait to become due are bounded by their number alone: where they take too much memory, their bytes are let
//! go of (see [`super::pending`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};

use crate::domain::time::Timestamp;

/// The memory that the records of one stage may take, over all its partitions, besides those that wait to become due.
pub const STAGE_BYTES: usize = 64 << 20;

/// The part of it that records may take which were due. They have waited where they take memory, too.
pub const DUE_BYTES: usize = STAGE_BYTES / 4;

/// What the partitions of a stage hold together, and what each may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// The memory that one partition may take.
    share: usize,
    /// The memory that all of them take.
    held: usize,
}

impl Intake {
    /// Of a stage that has these partitions.
    pub fn of<'a>(partitions: impl IntoIterator<Item = &'a Load>) -> Self {
        let (count, held) = partitions.into_iter().fold((0, 0), |(n, held), load| (n + 1, held + load.charged()));
        Self { share: STAGE_BYTES / count.max(1), held }
    }

    /// The memory that one partition may take.
    pub fn share(&self) -> usize {
        self.share
    }

    /// Why a partition has to be paused; `None` when it need not be. A stage that takes all that it may reads of those partitions
    /// only that hold nothing, and when it takes twice as much, of none.
    pub fn is_over(&self, load: &Load) -> Option<Pause> {
        let is_full = self.held > 2 * STAGE_BYTES || (self.held > STAGE_BYTES && load.charged() > 0);
        load.is_over(self.share).or(is_full.then_some(Pause::Memory))
    }

    /// Whether enough is free again for a partition to go on. One that holds nothing does not wait for the others.
    pub fn has_room(&self, load: &Load) -> bool {
        let limit = if load.charged() == 0 { 2 * STAGE_BYTES } else { STAGE_BYTES / 4 * 3 };
        load.has_room(self.share) && self.held <= limit
    }
}

/// What one assigned partition holds.
#[derive(Debug)]
pub struct Load {
    /// The records that it may hold, waiting ones included.
    limit: usize,
    bytes: AtomicUsize,
    records: AtomicUsize,
    window: AtomicUsize,
    ahead_percent: AtomicUsize,
    pending: AtomicUsize,
    /// Of the records that are held, those that wait in their lane.
    in_lane: AtomicUsize,
    pending_bytes: AtomicUsize,
    next_due: AtomicI64,
    paused: AtomicUsize,
    next_offset: AtomicI64,
    at_end: AtomicBool,
}

/// Why no more of a partition is read for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pause {
    /// Most calls of the processor fail.
    CircuitOpen,
    /// Its records take all the memory that they may.
    Memory,
    /// As many records are held as may be; in the retry stage that is `retry.pendingRecords`.
    Records,
    /// So many records are finished ahead of one that is not that the commit has no room left for them.
    FinishedAhead,
}

impl Pause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::CircuitOpen, Self::Memory, Self::Records, Self::FinishedAhead];
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// No more is read once what is finished ahead takes more than this percentage of the room beside the commit; the rest is for what
/// is in flight already.
const AHEAD_PERCENT: usize = 75;

const NEVER: i64 = i64::MAX;

/// Stands for the offset after the last record that was read before there was one.
const UNREAD: i64 = -1;

impl Load {
    /// Nothing, of a partition that may hold so many records.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: AtomicUsize::new(0),
            records: AtomicUsize::new(0),
            window: AtomicUsize::new(0),
            ahead_percent: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            in_lane: AtomicUsize::new(0),
            pending_bytes: AtomicUsize::new(0),
            next_due: AtomicI64::new(NEVER),
            paused: AtomicUsize::new(0),
            next_offset: AtomicI64::new(UNREAD),
            at_end: AtomicBool::new(false),
        }
    }

    /// Charges a record of so many bytes, until the charge is dropped.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.bytes.fetch_add(bytes, Relaxed);
        self.records.fetch_add(1, Relaxed);
        Charge { load: self.clone(), bytes }
    }

    /// Why the partition has to be paused, where its share is so many `bytes`; `None` when it need not be.
    pub fn is_over(&self, bytes: usize) -> Option<Pause> {
        self.exceeds(bytes, self.limit, AHEAD_PERCENT)
    }

    /// Whether enough is free again to go on.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.exceeds(bytes / 2, self.limit / 2, AHEAD_PERCENT / 2).is_none()
    }

    fn exceeds(&self, bytes: usize, records: usize, ahead_percent: usize) -> Option<Pause> {
        let held = self.records.load(Relaxed) + self.pending.load(Relaxed);
        if self.bytes.load(Relaxed) > bytes {
            Some(Pause::Memory)
        } else if held > records {
            Some(Pause::Records)
        } else {
            let is_full = self.ahead_percent.load(Relaxed) > ahead_percent || self.window.load(Relaxed) > 2 * records;
            is_full.then_some(Pause::FinishedAhead)
        }
    }

    /// Says how much is finished above a record that is not: so many offsets are remembered, and what is said of them takes this
    /// percentage of the room beside the commit.
    pub fn set_finished_ahead(&self, window: usize, percent: usize) {
        self.window.store(window, Relaxed);
        self.ahead_percent.store(percent, Relaxed);
    }

    /// Says how many records wait to become due, the memory that they take, and when the next one is due. Those that wait
    /// in their lane are charged for, the others are not.
    pub fn set_pending(&self, pending: usize, in_lane: usize, bytes: usize, next_due: Option<Timestamp>) {
        self.pending.store(pending, Relaxed);
        self.in_lane.store(in_lane, Relaxed);
        self.pending_bytes.store(bytes, Relaxed);
        self.next_due.store(next_due.map_or(NEVER, |due| due.0), Relaxed);
    }

    /// Says why the partition is paused, if it is.
    pub fn set_paused(&self, paused: Option<Pause>) {
        self.paused.store(paused.map_or(0, |pause| 1 + pause as usize), Relaxed);
    }

    /// Why the partition is paused, `None` while it is read.
    pub fn paused(&self) -> Option<Pause> {
        self.paused.load(Relaxed).checked_sub(1).map(|index| Pause::ALL[index])
    }

    /// Says that everything below this offset was read.
    pub fn set_read(&self, next_offset: i64) {
        self.at_end.store(false, Relaxed);
        self.next_offset.store(next_offset, Relaxed);
    }

    /// Says that there is nothing more to read for now.
    pub fn set_at_end(&self) {
        self.at_end.store(true, Relaxed);
    }

    /// The offset after the last record that was read, `None` before the first.
    pub fn next_offset(&self) -> Option<i64> {
        Some(self.next_offset.load(Relaxed)).filter(|offset| *offset != UNREAD)
    }

    /// Whether there was nothing more to read when it was last looked for.
    pub fn is_at_end(&self) -> bool {
        self.at_end.load(Relaxed) && self.paused().is_none()
    }

    /// Records held, or waiting to become due.
    pub fn records(&self) -> usize {
        self.records.load(Relaxed) + self.pending.load(Relaxed)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed) + self.pending_bytes.load(Relaxed)
    }

    /// Bytes held, without those of records that wait to become due.
    pub fn charged(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Records that wait to become due.
    pub fn pending(&self) -> usize {
        self.pending.load(Relaxed) + self.in_lane.load(Relaxed)
    }

    /// When the next record becomes due.
    pub fn next_due(&self) -> Option<Timestamp> {
        Some(self.next_due.load(Relaxed)).filter(|due| *due != NEVER).map(Timestamp)
    }
}

/// One record's share of a [`Load`], given back when dropped.
#[derive(Debug)]
pub struct Charge {
    load: Arc<Load>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.load.bytes.fetch_sub(self.bytes, Relaxed);
        self.load.records.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_over_its_share_goes_on_only_when_half_of_it_is_free() {
        let load = Arc::new(Load::new(100_000));
        let charges: Vec<_> = (0..11).map(|_| load.charge(10)).collect();
        assert_eq!(load.is_over(100), Some(Pause::Memory));
        let rest: Vec<_> = charges.into_iter().skip(5).collect();
        assert!(load.is_over(100).is_none() && !load.has_room(100), "60 of 100 bytes");
        drop(rest);
        assert!(load.has_room(100));
        assert_eq!((load.bytes(), load.records()), (0, 0));
    }

    #[test]
    fn a_stage_that_is_full_reads_only_of_partitions_that_hold_nothing_and_then_of_none() {
        let loads: Vec<_> = (0..100).map(|_| Arc::new(Load::new(100_000))).collect();
        let intake = || Intake::of(loads.iter().map(|load| &**load));
        // One record each is more than its share.
        let mut charges: Vec<_> = loads[..6].iter().map(|load| load.charge(10 << 20)).collect();
        assert_eq!(intake().is_over(&loads[0]), Some(Pause::Memory), "its share");
        assert_eq!(intake().is_over(&loads[50]), None);
        let _small = loads[50].charge(1);
        charges.push(loads[6].charge(10 << 20));
        assert_eq!(intake().is_over(&loads[50]), Some(Pause::Memory), "the stage is full");
        assert!(intake().is_over(&loads[51]).is_none() && intake().has_room(&loads[51]), "it holds nothing");
        charges.extend(loads[7..13].iter().map(|load| load.charge(10 << 20)));
        assert!(intake().is_over(&loads[51]) == Some(Pause::Memory) && !intake().has_room(&loads[51]));
        charges.truncate(4);
        assert!(intake().has_room(&loads[50]));
    }

    #[test]
    fn records_that_wait_count_by_their_number_alone() {
        let load = Arc::new(Load::new(10));
        load.set_pending(10, 0, 1 << 30, None);
        assert_eq!(load.is_over(100), None);
        let _one_more = load.charge(1);
        assert_eq!(load.is_over(100), Some(Pause::Records));
        load.set_pending(4, 0, 0, None);
        assert!(load.has_room(100));
    }

    #[test]
    fn too_much_that_is_finished_ahead_stops_the_intake_however_little_is_held() {
        let load = Load::new(100);
        load.set_finished_ahead(0, 100);
        assert!(load.is_over(100) == Some(Pause::FinishedAhead) && !load.has_room(100));
        load.set_finished_ahead(0, 50);
        assert!(load.is_over(100).is_none() && !load.has_room(100), "it goes on only when there is much room");
        load.set_finished_ahead(0, 25);
        assert!(load.has_room(100));
        load.set_finished_ahead(201, 0);
        assert_eq!(load.is_over(100), Some(Pause::FinishedAhead));
        load.set_finished_ahead(100, 0);
        assert!(load.has_room(100));
    }

    #[test]
    fn the_reason_of_a_pause_is_told_as_it_was_set() {
        let load = Load::new(100);
        for pause in Pause::ALL.map(Some).into_iter().chain([None]) {
            load.set_paused(pause);
            assert_eq!(load.paused(), pause);
        }
    }
}

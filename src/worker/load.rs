//! What a partition's records cost in memory, and whether it may take in more.
//!
//! librdkafka hands over records as fast as the network brings them. The source pauses a partition whose records take
//! more than its share and resumes it when half of that is free again; the gap keeps it from flapping, because each
//! pause throws away what was fetched ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};

use crate::domain::time::Timestamp;

/// The memory that the records of one stage may take, over all its partitions.
pub const STAGE_BYTES: usize = 64 << 20;

/// The records that one partition may hold, waiting ones included.
pub const PARTITION_RECORDS: usize = 100_000;

/// What one assigned partition holds.
#[derive(Debug)]
pub struct Load {
    bytes: AtomicUsize,
    records: AtomicUsize,
    window_is_full: AtomicBool,
    pending: AtomicUsize,
    next_due: AtomicI64,
}

const NEVER: i64 = i64::MAX;

impl Default for Load {
    fn default() -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            records: AtomicUsize::new(0),
            window_is_full: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            next_due: AtomicI64::new(NEVER),
        }
    }
}

impl Load {
    /// Charges a record of so many bytes, until the charge is dropped.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.bytes.fetch_add(bytes, Relaxed);
        self.records.fetch_add(1, Relaxed);
        Charge { load: self.clone(), bytes }
    }

    /// Whether the partition holds more than its share of `bytes`.
    pub fn is_over(&self, bytes: usize) -> bool {
        self.exceeds(bytes, PARTITION_RECORDS)
    }

    /// Whether enough is free again to go on.
    pub fn has_room(&self, bytes: usize) -> bool {
        !self.exceeds(bytes / 2, PARTITION_RECORDS / 2)
    }

    fn exceeds(&self, bytes: usize, records: usize) -> bool {
        self.bytes.load(Relaxed) > bytes || self.records.load(Relaxed) > records || self.window_is_full.load(Relaxed)
    }

    /// Says whether too much is finished above a record that is not, to be remembered or to fit beside the commit.
    pub fn set_window_is_full(&self, full: bool) {
        self.window_is_full.store(full, Relaxed);
    }

    /// Says how many records wait to become due, and when the next one does.
    pub fn set_pending(&self, pending: usize, next_due: Option<Timestamp>) {
        self.pending.store(pending, Relaxed);
        self.next_due.store(next_due.map_or(NEVER, |due| due.0), Relaxed);
    }

    /// Records held.
    pub fn records(&self) -> usize {
        self.records.load(Relaxed)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Records that wait to become due.
    pub fn pending(&self) -> usize {
        self.pending.load(Relaxed)
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
        let load = Arc::new(Load::default());
        let charges: Vec<_> = (0..11).map(|_| load.charge(10)).collect();
        assert!(load.is_over(100));
        let rest: Vec<_> = charges.into_iter().skip(5).collect();
        assert!(!load.is_over(100) && !load.has_room(100), "60 of 100 bytes");
        drop(rest);
        assert!(load.has_room(100));
        assert_eq!((load.bytes(), load.records()), (0, 0));
    }

    #[test]
    fn a_full_window_stops_the_intake_however_little_is_held() {
        let load = Load::default();
        load.set_window_is_full(true);
        assert!(load.is_over(100) && !load.has_room(100));
    }
}

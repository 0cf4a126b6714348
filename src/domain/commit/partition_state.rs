//! What is known of one assigned partition: which of its records are settled, and what it holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::commit_metadata::MAX_BYTES;
use super::offsets::Offsets;
use super::round::{Share, share};
use crate::domain::flow::load::Load;
use crate::domain::pipeline::Delivery;

/// What is known of one assigned partition. Reading, processing, settling and the stats share it.
#[derive(Debug)]
pub struct PartitionState {
    /// What its records take, and whether more may be read.
    pub load: Arc<Load>,
    offsets: Mutex<Offsets>,
}

impl PartitionState {
    /// A partition that is read from where these offsets begin, and may hold so many records.
    pub fn new(offsets: Offsets, records: usize) -> Self {
        let load = Arc::new(Load::new(records));
        offsets.watermark().into_iter().for_each(|next| load.set_read(next));
        Self { load, offsets: Mutex::new(offsets) }
    }

    /// Which of its records are in flight, and which are settled.
    pub fn offsets(&self) -> MutexGuard<'_, Offsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that a record was written to another topic.
    pub fn route(&self, offset: i64, delivery: Delivery) {
        match delivery {
            Delivery::ExactlyOnce => self.offsets().route(offset),
            // Its commit comes later, and may be too late anyway.
            Delivery::AtLeastOnce => self.offsets().finish(offset),
        };
    }

    /// What may be routed of these records and committed with it, `None` when nothing is known of the partition yet. Says, too,
    /// how little room is left for more to be read.
    pub fn share(&self, routing: &[i64], delivery: Delivery) -> Option<Share> {
        let (share, window, is_catching_up) = {
            let offsets = self.offsets();
            offsets.watermark()?;
            let share = match delivery {
                Delivery::ExactlyOnce => share(&offsets, routing),
                // What is written is finished afterwards, and committed in a later round.
                Delivery::AtLeastOnce => share(&offsets, &[]).map(|share| Share { routed: routing.len(), ..share }),
            };
            (share, offsets.window(), offsets.is_catching_up())
        };
        let metadata = match (&share, delivery) {
            // What has no room is processed or routed again after a restart, as this delivery allows.
            (_, Delivery::AtLeastOnce) => 0,
            // Only what lies between is read until there: the more of it, the less there is to say.
            _ if is_catching_up => 0,
            (share, Delivery::ExactlyOnce) => share.as_ref().map_or(MAX_BYTES, |share| share.bytes),
        };
        self.load.set_finished_ahead(window, (metadata * 100).div_ceil(MAX_BYTES));
        share
    }
}

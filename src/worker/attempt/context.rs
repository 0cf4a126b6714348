//! What the rooms of one stage share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::flow::load::{DUE_BYTES, STAGE_BYTES};
use crate::domain::pipeline::Pipeline;
use crate::domain::record::Record;
use crate::domain::record::provenance::{Provenance, Stage};
use crate::domain::record::topic_id::TopicId;
use crate::domain::time::Timestamp;
use crate::worker::attempt::processor::Processor;
use crate::worker::attempt::refetch::Refetch;
use crate::worker::attempt::spans::Spans;
use crate::worker::attempt::throttle::Throttle;
use crate::worker::metrics::StageMetrics;
use crate::worker::work::ToSettle;

/// The records that one partition of the main topic may hold.
const MAIN_RECORDS: usize = 100_000;

/// What the rooms of one stage share.
pub struct Context {
    pub pipeline: Arc<Pipeline>,
    pub stage: Stage,
    pub processor: Processor,
    pub spans: Spans,
    /// What the processor is asked to bear, over all partitions.
    pub throttle: Throttle,
    pub metrics: Arc<StageMetrics>,
    pub to_settle: mpsc::UnboundedSender<ToSettle>,
    /// Reads records again whose bytes were let go of.
    pub refetch: Refetch,
    /// How many partitions have something to call the processor with.
    pub busy: AtomicUsize,
    /// Whether a partition was given up at the stop with something that could not be written or committed.
    pub unsettled: Arc<AtomicBool>,
    /// Cancelled when the stage is to stop.
    pub stop: CancellationToken,
    /// Cancelled when the stage cannot go on.
    pub failed: CancellationToken,
    /// The longest delay that the policy has.
    pub longest_delay: Duration,
}

impl Context {
    /// The records that one partition may hold, waiting ones included.
    pub fn partition_records(&self) -> usize {
        match self.stage {
            Stage::Main => MAIN_RECORDS,
            Stage::Retry => self.pipeline.pending.records,
        }
    }

    /// The memory that the records of one partition may take, besides those that wait to become due.
    pub fn partition_bytes(&self) -> usize {
        let bytes = if self.stage == Stage::Main { STAGE_BYTES } else { DUE_BYTES };
        bytes / self.metrics.partitions()
    }

    /// The memory that the records of one partition may take which wait to become due.
    pub fn pending_bytes(&self) -> usize {
        self.pipeline.pending.bytes / self.metrics.partitions()
    }

    /// The past of a record that was just read from the stage's topic, which has this id.
    pub fn past_of(&self, record: &Record, topic_id: Option<TopicId>, now: Timestamp) -> Provenance {
        match self.stage {
            Stage::Main => Provenance::fresh(record, topic_id),
            Stage::Retry => Provenance::of_retry(record, topic_id, self.longest_delay, now),
        }
    }

    /// Hands something to the settle loop. It is only ever gone when the stage has ended, and so has whoever calls this.
    pub fn settle(&self, message: ToSettle) {
        let _ = self.to_settle.send(message);
    }
}

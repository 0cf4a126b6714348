//! What the rooms of one stage share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::metrics::StageMetrics;
use super::processor::Processor;
use super::throttle::Throttle;
use super::work::ToSettle;
use crate::domain::pipeline::Pipeline;
use crate::domain::provenance::{Provenance, Stage};
use crate::domain::record::Record;
use crate::domain::time::Timestamp;

/// What the rooms of one stage share.
pub(super) struct Context {
    pub pipeline: Arc<Pipeline>,
    pub stage: Stage,
    pub processor: Processor,
    /// What the processor is asked to bear, over all partitions.
    pub throttle: Throttle,
    pub metrics: Arc<StageMetrics>,
    pub to_settle: mpsc::UnboundedSender<ToSettle>,
    /// Cancelled when the stage cannot go on.
    pub failed: CancellationToken,
    longest_delay: Duration,
}

impl Context {
    pub fn new(
        pipeline: Arc<Pipeline>,
        stage: Stage,
        processor: Processor,
        metrics: Arc<StageMetrics>,
        to_settle: mpsc::UnboundedSender<ToSettle>,
        failed: CancellationToken,
    ) -> Self {
        let throttle = Throttle::new(&pipeline.throttle, metrics.clone());
        let longest_delay = pipeline.policy.longest_delay();
        Self { pipeline, stage, processor, throttle, metrics, to_settle, failed, longest_delay }
    }

    /// The past of a record that was just read.
    pub fn past_of(&self, record: &Record, now: Timestamp) -> Provenance {
        match self.stage {
            Stage::Main => Provenance::fresh(record),
            Stage::Retry => Provenance::of_retry(record, self.longest_delay, now),
        }
    }

    /// Hands something to the settle loop. It is only ever gone when the stage has ended, and so has whoever calls this.
    pub fn settle(&self, message: ToSettle) {
        let _ = self.to_settle.send(message);
    }
}

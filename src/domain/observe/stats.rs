//! What a worker says of itself: what its stages did and hold. A worker writes it; the operator and the other workers
//! read it.

pub mod total;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::time::Timestamp;

/// Error types that are counted under their own name; the rarer ones are counted as [`OTHER`]. The types come from users'
/// processors, so there may be any number.
pub const ERROR_TYPES: usize = 50;

/// What is counted of all error types that have no count of their own.
pub const OTHER: &str = "other";

/// What one worker did since it started, and what it holds now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStats {
    /// The name of this process: in Kubernetes its pod's.
    pub worker: String,
    /// Different for each process and each start of one. A worker that is reached at two addresses says the same at both.
    /// Empty when the worker is of a release that does not say it.
    #[serde(default)]
    #[schema(required)]
    pub instance: String,
    /// Whether every attempt is made to fail.
    pub simulate_transient_error: bool,
    /// The sums over the stages.
    #[serde(flatten)]
    pub totals: Counts,
    /// The stages of this process, one by one.
    pub stages: Vec<StageStats>,
}

/// What one stage did since its workers started, and what they hold now: of one worker, or of all.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStats {
    /// The pipeline.
    pub pipeline: String,
    /// `main` or `retry`.
    #[schema(example = "main")]
    pub stage: String,
    /// The topic that it reads.
    pub topic: String,
    /// The consumer group as which it reads.
    pub group_id: String,
    #[serde(flatten)]
    pub counts: Counts,
    /// The records that it holds.
    pub buffered: Buffered,
    /// What the circuit breaker does, null where the pipeline has none. Each worker has its own: of several workers this is one
    /// that is open, else one that is half open, where there is one.
    #[schema(required)]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How late retries started, null before the first. Of several workers, each number is the highest of theirs.
    #[schema(required)]
    pub lateness_ms: Option<LatenessMs>,
    /// The partitions that it reads. Each is read by one worker; while one moves, the worker that has read further is told of.
    pub partitions: Vec<PartitionStats>,
}

/// What a stage holds of one partition.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartitionStats {
    /// The partition.
    pub partition: i32,
    /// The offset after the last record that was read, null before the first.
    #[schema(required)]
    pub next_offset: Option<i64>,
    /// Whether there was nothing more to read when it was last looked for.
    pub at_end: bool,
    /// The records that are held, those that wait to become due included.
    pub records: u64,
    /// Of these, those that wait to become due.
    pub pending: u64,
    /// Why no more is read for now: `CircuitOpen`, `Memory`, `Records` (as many are held as may be) or `FinishedAhead` (too
    /// many are finished ahead of one that is not); null while it is read.
    #[schema(required)]
    pub paused: Option<String>,
}

/// Counts of one stage or of several, of one worker or of several.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Records that were processed.
    pub processed: u64,
    /// Failed attempts after which the record was written to the retry topic.
    pub retried: u64,
    /// Records that were written to a dead letter topic.
    pub dead_lettered: u64,
    /// The same by the type of the last error; the rarer types beyond the first 50 are counted as `other`.
    pub dead_lettered_by_error_type: BTreeMap<String, u64>,
    /// Records that the processor dropped.
    pub dropped: u64,
    /// Records that had been finished before a restart.
    pub skipped: u64,
    /// Attempts that failed, whatever became of the record.
    pub failed_attempts: u64,
    /// Processor calls that are under way.
    pub in_flight: u64,
    /// Records that wait to become due.
    pub pending: u64,
    /// When the next of them becomes due, null when none waits.
    #[serde(with = "rfc_3339")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub next_due: Option<Timestamp>,
    /// Rebalances that changed a worker's partitions. One that changed those of two workers counts for each of them.
    pub rebalances: u64,
}

/// Records that are held.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Buffered {
    /// How many, those that wait to become due included.
    pub records: usize,
    /// The memory that they take, in bytes. Of some that wait only the place is held.
    pub bytes: usize,
}

/// Whether records are processed, or kept from a processor that fails most of them.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// `closed` while all is well, `open` while nothing is processed, `halfOpen` while a few records are tried.
    pub state: BreakerState,
    /// Why it opened, null while it is closed.
    #[schema(required, example = "80 of 120 calls failed within 60s; the last: ValidationException")]
    pub reason: Option<String>,
    /// When the next record is tried, null unless it is open.
    #[serde(with = "rfc_3339")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub next_probe: Option<Timestamp>,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum BreakerState {
    /// Everything is let through.
    Closed,
    /// Nothing is let through.
    Open,
    /// A few records are let through, as probes.
    HalfOpen,
}

/// How late retries started, in milliseconds after they were due.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LatenessMs {
    /// Half of them started within this.
    pub p50: u64,
    /// All but one in a hundred started within this.
    pub p99: u64,
    /// The latest.
    pub max: u64,
}

impl Counts {
    /// Adds what another stage or another worker did.
    pub fn add(&mut self, other: &Self) {
        // What another worker says may be any number.
        let add = |sum: &mut u64, number: u64| *sum = sum.saturating_add(number);
        add(&mut self.processed, other.processed);
        add(&mut self.retried, other.retried);
        add(&mut self.dead_lettered, other.dead_lettered);
        for (error_type, count) in &other.dead_lettered_by_error_type {
            add(self.dead_lettered_by_error_type.entry(error_type.clone()).or_default(), *count);
        }
        add(&mut self.dropped, other.dropped);
        add(&mut self.skipped, other.skipped);
        add(&mut self.failed_attempts, other.failed_attempts);
        add(&mut self.in_flight, other.in_flight);
        add(&mut self.pending, other.pending);
        self.next_due = self.next_due.into_iter().chain(other.next_due).min();
        add(&mut self.rebalances, other.rebalances);
    }
}

/// An instant as RFC 3339 text, or null.
mod rfc_3339 {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Timestamp;

    pub fn serialize<S: Serializer>(instant: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match instant {
            Some(instant) => serializer.collect_str(instant),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let instant: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(Some(Timestamp(instant.as_millisecond())))
    }
}

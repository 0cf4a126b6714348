//! What the stages of this process did and hold, for people and for the operator.
//!
//! The totals are the sums of what the same answer says of the stages, so the two cannot disagree.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::{Api, StageView};
use crate::domain::time::Timestamp;
use crate::worker::load::Load;
use crate::worker::metrics::BreakerView;

/// What this process did since it started, and what it holds now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// The name of this process.
    worker: String,
    /// Whether every attempt is made to fail.
    simulate_transient_error: bool,
    /// The sums over the stages.
    #[serde(flatten)]
    totals: Counts,
    /// The stages of this process, one by one.
    stages: Vec<StageStats>,
}

/// What one stage did since the process started, and what it holds now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageStats {
    /// The pipeline.
    pipeline: String,
    /// `main` or `retry`.
    #[schema(example = "main")]
    stage: String,
    /// The topic that it reads.
    topic: String,
    /// The consumer group as which it reads.
    group_id: String,
    #[serde(flatten)]
    counts: Counts,
    /// The records that it holds.
    buffered: Buffered,
    /// What the circuit breaker does, null where the pipeline has none.
    #[schema(required)]
    circuit_breaker: Option<CircuitBreaker>,
    /// How late retries started, null before the first.
    #[schema(required)]
    lateness_ms: Option<LatenessMs>,
    /// The partitions that it reads.
    assignment: Vec<i32>,
    /// Those of which it reads no more for now, and why: `CircuitOpen`, `Memory`, `Records` (as many are held as may be) or
    /// `FinishedAhead` (too many are finished ahead of one that is not).
    paused: BTreeMap<i32, String>,
}

/// Counts of one stage, or of all.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Records that were processed.
    processed: u64,
    /// Failed attempts after which the record was written to the retry topic.
    retried: u64,
    /// Records that were written to a dead letter topic.
    dead_lettered: u64,
    /// The same by the type of the last error; the rarer types beyond the first 50 are counted as `other`.
    dead_lettered_by_error_type: BTreeMap<String, u64>,
    /// Records that the processor dropped.
    dropped: u64,
    /// Records that had been finished before a restart.
    skipped: u64,
    /// Attempts that failed, whatever became of the record.
    failed_attempts: u64,
    /// Processor calls that are under way.
    in_flight: u64,
    /// Records that wait to become due.
    pending: u64,
    /// When the next of them becomes due, null when none waits.
    #[serde(serialize_with = "rfc_3339")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    next_due: Option<Timestamp>,
    /// Rebalances that changed this worker's partitions.
    rebalances: u64,
}

/// Records that are held.
#[derive(Debug, Serialize, ToSchema)]
pub struct Buffered {
    /// How many, those that wait to become due included.
    records: usize,
    /// The memory that they take, in bytes. Of some that wait only the place is held.
    bytes: usize,
}

/// Whether records are processed, or kept from a processor that fails most of them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// `closed` while all is well, `open` while nothing is processed, `halfOpen` while a few records are tried.
    state: BreakerState,
    /// Why it opened, null while it is closed.
    #[schema(required, example = "80 of 120 calls failed within 60s; the last: ValidationException")]
    reason: Option<String>,
    /// When the next record is tried, null unless it is open.
    #[serde(serialize_with = "rfc_3339")]
    #[schema(required, value_type = Option<String>, format = DateTime)]
    next_probe: Option<Timestamp>,
}

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
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
#[derive(Debug, Serialize, ToSchema)]
pub struct LatenessMs {
    /// Half of them started within this.
    p50: u64,
    /// All but one in a hundred started within this.
    p99: u64,
    /// The latest.
    max: u64,
}

/// Shows what the stages of this process did and hold.
#[utoipa::path(get, path = "/api/v1/stats", tag = "counts", responses(
    (status = 200, body = Stats, description = "The counts, since the process started."),
))]
pub async fn stats(State(api): State<Arc<Api>>) -> Json<Stats> {
    let stages: Vec<_> = api.stages.iter().map(StageStats::of).collect();
    let mut totals = Counts::default();
    stages.iter().for_each(|stage| totals.add(&stage.counts));
    Json(Stats { worker: api.worker.clone(), simulate_transient_error: api.fault.is_on(), totals, stages })
}

impl StageStats {
    fn of(view: &StageView) -> Self {
        let source = view.pipeline.source(view.stage);
        let assignment = view.metrics.assignment();
        let sum = |of: fn(&Load) -> usize| assignment.values().map(|load| of(load)).sum();
        Self {
            pipeline: view.pipeline.name.clone(),
            stage: view.stage.to_string(),
            topic: source.topic.to_string(),
            group_id: source.group_id.clone(),
            counts: Counts::of(view, &assignment),
            buffered: Buffered { records: sum(Load::records), bytes: sum(Load::bytes) },
            circuit_breaker: view.pipeline.throttle.breaker.as_ref().map(|_| view.metrics.breaker().into()),
            lateness_ms: view.metrics.lateness().map(|late| LatenessMs { p50: late.p50, p99: late.p99, max: late.max }),
            paused: assignment
                .iter()
                .filter_map(|(partition, load)| Some((*partition, load.paused()?.to_string())))
                .collect(),
            assignment: assignment.into_keys().collect(),
        }
    }
}

impl Counts {
    fn of(view: &StageView, assignment: &BTreeMap<i32, Arc<Load>>) -> Self {
        let metrics = &view.metrics;
        let dead_lettered_by_error_type = metrics.dead_lettered_by_error_type();
        Self {
            processed: metrics.processed.get(),
            retried: metrics.retried.get(),
            dead_lettered: dead_lettered_by_error_type.values().sum(),
            dead_lettered_by_error_type,
            dropped: metrics.dropped.get(),
            skipped: metrics.skipped.get(),
            failed_attempts: metrics.failed_attempts.get(),
            in_flight: u64::try_from(metrics.in_flight.get()).unwrap_or(0),
            pending: assignment.values().map(|load| load.pending() as u64).sum(),
            next_due: assignment.values().filter_map(|load| load.next_due()).min(),
            rebalances: metrics.rebalances.get(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.processed += other.processed;
        self.retried += other.retried;
        self.dead_lettered += other.dead_lettered;
        for (error_type, count) in &other.dead_lettered_by_error_type {
            *self.dead_lettered_by_error_type.entry(error_type.clone()).or_default() += count;
        }
        self.dropped += other.dropped;
        self.skipped += other.skipped;
        self.failed_attempts += other.failed_attempts;
        self.in_flight += other.in_flight;
        self.pending += other.pending;
        self.next_due = self.next_due.into_iter().chain(other.next_due).min();
        self.rebalances += other.rebalances;
    }
}

impl From<BreakerView> for CircuitBreaker {
    fn from(view: BreakerView) -> Self {
        let (state, reason, next_probe) = match view {
            BreakerView::Closed => (BreakerState::Closed, None, None),
            BreakerView::Open { reason, next_probe } => (BreakerState::Open, Some(reason), Some(next_probe)),
            BreakerView::HalfOpen { reason } => (BreakerState::HalfOpen, Some(reason), None),
        };
        Self { state, reason, next_probe }
    }
}

fn rfc_3339<S: Serializer>(instant: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match instant {
        Some(instant) => serializer.collect_str(instant),
        None => serializer.serialize_none(),
    }
}

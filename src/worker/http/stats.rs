//! What the stages of this process did and hold, for people and for the operator.
//!
//! The totals are the sums of what the same answer says of the stages, so the two cannot disagree.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::{Api, StageView};
use crate::domain::load::Load;
use crate::domain::stats::{
    BreakerState, Buffered, CircuitBreaker, Counts, LatenessMs, PartitionStats, StageStats, Stats,
};
use crate::worker::metrics::BreakerView;

/// Shows what the stages of this process did and hold.
#[utoipa::path(get, path = "/api/v1/stats", tag = "counts", responses(
    (status = 200, body = Stats, description = "The counts, since the process started."),
))]
pub async fn stats(State(api): State<Arc<Api>>) -> Json<Stats> {
    let stages: Vec<_> = api.stages.iter().map(stage).collect();
    let mut totals = Counts::default();
    stages.iter().for_each(|stage| totals.add(&stage.counts));
    Json(Stats { worker: api.worker.clone(), simulate_transient_error: api.fault.is_on(), totals, stages })
}

fn stage(view: &StageView) -> StageStats {
    let source = view.pipeline.source(view.stage);
    let assignment = view.metrics.assignment();
    let sum = |of: fn(&Load) -> usize| assignment.values().map(|load| of(load)).sum();
    StageStats {
        pipeline: view.pipeline.name.clone(),
        stage: view.stage.to_string(),
        topic: source.topic.to_string(),
        group_id: source.group_id.clone(),
        counts: counts(view, &assignment),
        buffered: Buffered { records: sum(Load::records), bytes: sum(Load::bytes) },
        circuit_breaker: view.pipeline.throttle.breaker.as_ref().map(|_| circuit_breaker(view.metrics.breaker())),
        lateness_ms: view.metrics.lateness().map(|late| LatenessMs { p50: late.p50, p99: late.p99, max: late.max }),
        partitions: assignment.iter().map(|(partition, load)| partition_stats(*partition, load)).collect(),
    }
}

fn partition_stats(partition: i32, load: &Load) -> PartitionStats {
    PartitionStats {
        partition,
        next_offset: load.next_offset(),
        at_end: load.is_at_end(),
        records: load.records() as u64,
        pending: load.pending() as u64,
        paused: load.paused().map(|pause| pause.to_string()),
    }
}

fn counts(view: &StageView, assignment: &BTreeMap<i32, Arc<Load>>) -> Counts {
    let metrics = &view.metrics;
    let dead_lettered_by_error_type = metrics.dead_lettered_by_error_type();
    Counts {
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

fn circuit_breaker(view: BreakerView) -> CircuitBreaker {
    let (state, reason, next_probe) = match view {
        BreakerView::Closed => (BreakerState::Closed, None, None),
        BreakerView::Open { reason, next_probe } => (BreakerState::Open, Some(reason), Some(next_probe)),
        BreakerView::HalfOpen { reason } => (BreakerState::HalfOpen, Some(reason), None),
    };
    CircuitBreaker { state, reason, next_probe }
}

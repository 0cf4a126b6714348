//! What the stages did and hold, for people, for the operator, and for the other workers.
//!
//! Whoever asks gets the total over all workers of the pipelines, wherever the question arrives. Who wants one worker says
//! so; so does each worker that asks another, and nobody who is asked so asks further. The totals are the sums of what the
//! same answer says of the stages, so the two cannot disagree.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use super::{Api, StageView};
use crate::domain::flow::load::Load;
use crate::domain::observe::stats::total::PipelineStats;
use crate::domain::observe::stats::{
    BreakerState, Buffered, CircuitBreaker, Counts, LatenessMs, PartitionStats, StageStats, WorkerStats,
};
use crate::worker::metrics::BreakerView;

/// Of whom.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Asked {
    /// `pipeline` (default): of all workers. `worker`: of the one that answers.
    #[serde(default)]
    #[param(inline)]
    scope: Scope,
}

/// Of whom.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Scope {
    /// Of all workers of the pipelines.
    #[default]
    Pipeline,
    /// Of the worker that answers.
    Worker,
}

/// The counts, of all workers or of one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stats {
    /// Of all workers of the pipelines.
    Pipeline(PipelineStats),
    /// Of the worker that answers.
    Worker(WorkerStats),
}

/// Shows what the stages did and hold: of all workers of the pipelines together and of each of them, or of one.
///
/// The other workers are those that `--peers` names. They are asked at most once a second; what a worker that did not
/// answer within a second did is missing in the sums, and `unreachable` names it.
#[utoipa::path(get, path = "/api/v1/stats", tag = "counts", params(Asked), responses(
    (status = 200, body = Stats, description = "The counts, since each worker started."),
    (status = 400, body = Problem, content_type = "application/problem+json",
        description = "`scope` is neither `pipeline` nor `worker`."),
))]
pub async fn stats(
    State(api): State<Arc<Api>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Stats>, Problem> {
    let Ok(Query(Asked { scope })) = asked else {
        let detail = "say `?scope=pipeline` (default) or `?scope=worker`";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    let stats = match (scope, &api.peers) {
        (Scope::Worker, _) => Stats::Worker(own(&api)),
        (Scope::Pipeline, None) => Stats::Pipeline(PipelineStats::of(own(&api), vec![], vec![])),
        (Scope::Pipeline, Some(peers)) => {
            let asked = peers.stats().await;
            Stats::Pipeline(PipelineStats::of(own(&api), asked.answers.clone(), asked.unreachable.clone()))
        }
    };
    Ok(Json(stats))
}

/// What this process did.
fn own(api: &Api) -> WorkerStats {
    let stages: Vec<_> = api.stages.iter().map(stage).collect();
    let mut totals = Counts::default();
    stages.iter().for_each(|stage| totals.add(&stage.counts));
    WorkerStats {
        worker: api.worker.clone(),
        instance: api.instance.clone(),
        simulate_transient_error: api.fault.is_on(),
        totals,
        stages,
    }
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

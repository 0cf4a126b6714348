//! How many dead letters there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;

/// The records in the dead letter topics of this process's pipelines.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterCount {
    /// How many there are in all.
    count: u64,
    /// How many there are in each topic.
    topics: BTreeMap<String, u64>,
}

/// Counts the records in the dead letter topics, whoever wrote them.
#[utoipa::path(get, path = "/api/v1/dlt/count", tag = "counts", responses(
    (status = 200, body = DeadLetterCount, description = "The number of dead letters."),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "Kafka does not answer.",
        headers(("Retry-After" = u64, description = "Seconds after which to ask again."))),
))]
pub async fn count_dead_letters(State(api): State<Arc<Api>>) -> Result<Json<DeadLetterCount>, Problem> {
    let topics: BTreeSet<_> = api.pipelines().flat_map(|pipeline| pipeline.policy.dead_letter_topics()).collect();
    let topics = api.counter.count(topics.into_iter().collect()).await.map_err(|error| {
        let detail = format!("Kafka at {} does not answer: {error}", api.bootstrap_servers);
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    Ok(Json(DeadLetterCount { count: topics.values().sum(), topics }))
}

//! How many dead letters there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;
use crate::worker::serve::kept_count::CountError;

/// The records in the dead letter topics of this process's pipelines.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterCount {
    /// How many there are in all.
    count: u64,
    /// How many there are in each topic.
    topics: BTreeMap<String, u64>,
    /// When that was. Usually it is a second ago at most.
    #[schema(format = DateTime)]
    counted_at: String,
}

/// Says how many records there are in the dead letter topics, whoever wrote them.
///
/// One reader keeps the number, however many ask; what came since it last looked is read first.
#[utoipa::path(get, path = "/api/v1/dlt/count", tag = "counts", responses(
    (status = 200, body = DeadLetterCount, description = "The number of dead letters."),
    (status = 503, body = Problem, content_type = "application/problem+json",
        description = "Kafka does not answer, or there are so many that they are still being read.",
        headers(("Retry-After" = u64, description = "Seconds after which to ask again."))),
))]
pub async fn count_dead_letters(State(api): State<Arc<Api>>) -> Result<Json<DeadLetterCount>, Problem> {
    let count = api.dead_letters.get().await.map_err(|error| {
        let detail = match &error {
            CountError::Kafka { .. } => format!("Kafka at {} does not answer: {error}", api.bootstrap_servers),
            CountError::Counting => format!("{error}: ask again"),
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    Ok(Json(DeadLetterCount { count: count.total(), topics: count.topics, counted_at: count.at.to_string() }))
}

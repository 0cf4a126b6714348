//! Whether this process lives, and whether it can work.
//!
//! Liveness does not depend on Kafka: a restart would not bring a broker back.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;
use crate::kafka::observer::Reachability;

/// How the process is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `UP` when Kafka can be reached.
    status: Status,
    /// Whether Kafka can be reached.
    kafka: KafkaState,
    /// Where Kafka is looked for.
    bootstrap_servers: String,
    /// Why Kafka cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The health of the process in one word.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    /// It can work.
    Up,
    /// It cannot.
    Down,
}

/// The state of Kafka in one word.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum KafkaState {
    /// It has not answered yet.
    Unknown,
    /// It answers.
    Reachable,
    /// It does not answer.
    Unreachable,
}

/// Says whether the worker can work, and if not, which Kafka it cannot reach and why.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, body = Health, description = "Kafka can be reached."),
    (status = 503, body = Health, description = "Kafka cannot be reached, or has not answered yet."),
))]
pub async fn health(State(api): State<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let (code, status, kafka, error) = match api.kafka.borrow().clone() {
        Reachability::Reachable => (StatusCode::OK, Status::Up, KafkaState::Reachable, None),
        Reachability::Unknown => (StatusCode::SERVICE_UNAVAILABLE, Status::Down, KafkaState::Unknown, None),
        Reachability::Unreachable { error } => {
            (StatusCode::SERVICE_UNAVAILABLE, Status::Down, KafkaState::Unreachable, Some(error))
        }
    };
    (code, Json(Health { status, kafka, bootstrap_servers: api.bootstrap_servers.clone(), error }))
}

/// Says that the process serves requests.
#[utoipa::path(get, path = "/healthz", tag = "health", responses(
    (status = 200, body = String, content_type = "text/plain", description = "It does."),
))]
pub async fn liveness() -> &'static str {
    "ok"
}

/// Says whether the worker is ready to take part: Kafka was reached, and still is; and where failures can be injected, the
/// other workers could be found.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = String, content_type = "text/plain", description = "It is."),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "It is not."),
))]
pub async fn readiness(State(api): State<Arc<Api>>) -> Result<&'static str, Problem> {
    // Only the fault switch needs them: a worker that cannot ask the others what they did still does its own work.
    let needs_peers = api.pipelines().any(|pipeline| pipeline.fault_injection);
    let alone = api.peers.as_ref().filter(|peers| needs_peers && !peers.were_found());
    let alone = alone.map(|_| "the name of the other workers does not resolve yet".to_owned());
    match away(&api).or(alone) {
        None => Ok("ok"),
        Some(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

/// Why Kafka cannot be worked with, as far as is known; `None` when it can.
pub fn away(api: &Api) -> Option<String> {
    let servers = &api.bootstrap_servers;
    match &*api.kafka.borrow() {
        Reachability::Reachable => None,
        Reachability::Unknown => Some(format!("Kafka at {servers} has not answered yet")),
        Reachability::Unreachable { error } => Some(format!("Kafka at {servers} cannot be reached: {error}")),
    }
}

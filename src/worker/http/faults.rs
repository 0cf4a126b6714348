//! Turns injected failures on and off, where a pipeline allows it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::problem::Problem;
use crate::worker::clock;

/// What is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Switch {
    /// Whether every attempt is to fail with a transient error.
    enabled: bool,
}

/// What holds now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Switched {
    /// Whether every attempt is made to fail with a transient error.
    simulate_transient_error: bool,
}

/// Makes every attempt in this process fail with a transient error, or ends that.
///
/// Only pipelines with `spec.faultInjection.enabled` take part.
#[utoipa::path(post, path = "/api/v1/config/simulate-transient-error", tag = "faults", params(Switch), responses(
    (status = 200, body = Switched, description = "It is so now."),
    (status = 400, body = Problem, content_type = "application/problem+json",
        description = "`enabled` is missing, or neither true nor false."),
    (status = 404, body = Problem, content_type = "application/problem+json",
        description = "No pipeline of this process allows injected failures."),
))]
pub async fn simulate_transient_error(
    State(api): State<Arc<Api>>,
    switch: Result<Query<Switch>, QueryRejection>,
) -> Result<Json<Switched>, Problem> {
    if !api.pipelines().any(|pipeline| pipeline.fault_injection) {
        let detail = "no pipeline here allows injected failures: set `spec.faultInjection.enabled: true`";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let Ok(Query(Switch { enabled })) = switch else {
        let detail = "say `?enabled=true` or `?enabled=false`";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    api.fault.set(enabled, clock::now());
    info!(enabled, "simulated transient errors switched");
    Ok(Json(Switched { simulate_transient_error: enabled }))
}

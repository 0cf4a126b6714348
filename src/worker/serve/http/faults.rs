//! Turns injected failures on and off, where a pipeline allows it, and says whether they are on.
//!
//! Whoever asks here reaches one worker, which tells the others. A request that names the time of the setting comes from
//! one that does so, and is not passed on.

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
use crate::domain::switch::Setting;
use crate::domain::time::Timestamp;
use crate::worker::clock;

/// What is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Switch {
    /// Whether every attempt is to fail with a transient error.
    enabled: bool,
    /// Only between workers: when that was asked for, in milliseconds since the Unix epoch. It is then done where
    /// nothing newer is known, and no other worker is told.
    at: Option<i64>,
}

/// What holds now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Switched {
    /// Whether every attempt is made to fail with a transient error.
    simulate_transient_error: bool,
    /// The workers that do the same now, this one included where it is among its own peers; absent where the worker
    /// knows of no peers, or was told by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    peers: Option<usize>,
    /// The workers that could not be told, which the log names; absent where there are none. Those that live learn of
    /// it within seconds, by asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    peers_missed: Option<usize>,
}

/// What holds now, and since when.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Whether every attempt is made to fail with a transient error.
    simulate_transient_error: bool,
    /// When that was set, in milliseconds since the Unix epoch; 0 when nobody has.
    at: i64,
}

/// Makes every attempt fail with a transient error, or ends that: in this process and in all that are its peers.
///
/// Only pipelines with `spec.faultInjection.enabled` take part.
#[utoipa::path(post, path = "/api/v1/config/simulate-transient-error", tag = "faults", params(Switch), responses(
    (status = 200, body = Switched, description = "It is so now."),
    (status = 400, body = Problem, content_type = "application/problem+json",
        description = "`enabled` is missing, or neither true nor false; or `at` is no time, or one that is yet to come."),
    (status = 404, body = Problem, content_type = "application/problem+json",
        description = "No pipeline of this process allows injected failures."),
))]
pub async fn simulate_transient_error(
    State(api): State<Arc<Api>>,
    switch: Result<Query<Switch>, QueryRejection>,
) -> Result<Json<Switched>, Problem> {
    refuse_unless_allowed(&api)?;
    let Ok(Query(Switch { enabled, at })) = switch else {
        let detail = "say `?enabled=true` or `?enabled=false`; `at`, if any, in milliseconds since the Unix epoch";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    if let Some(at) = at {
        return take_over(&api, Setting { at: Timestamp(at), enabled });
    }
    let setting = api.fault.set(enabled, clock::now());
    info!(enabled, "simulated transient errors switched");
    let told = match &api.peers {
        Some(peers) => Some(peers.tell(setting).await),
        None => None,
    };
    let (peers, missed) = (told.map(|told| told.told), told.map(|told| told.missed));
    Ok(Json(Switched { simulate_transient_error: enabled, peers, peers_missed: missed.filter(|missed| *missed > 0) }))
}

/// Says whether every attempt in this process is made to fail with a transient error, and since when.
#[utoipa::path(get, path = "/api/v1/config/simulate-transient-error", tag = "faults", responses(
    (status = 200, body = Held, description = "What holds now."),
    (status = 404, body = Problem, content_type = "application/problem+json",
        description = "No pipeline of this process allows injected failures."),
))]
pub async fn simulated_transient_error(State(api): State<Arc<Api>>) -> Result<Json<Held>, Problem> {
    refuse_unless_allowed(&api)?;
    let Setting { at, enabled } = api.fault.setting();
    Ok(Json(Held { simulate_transient_error: enabled, at: at.0 }))
}

/// Does as a peer says, unless something newer is known here.
fn take_over(api: &Api, setting: Setting) -> Result<Json<Switched>, Problem> {
    // It would outlast whatever else is set until its time has come.
    if !setting.is_credible(clock::now()) {
        let detail = format!("`at` is {}, more than a minute ahead of the clock here", setting.at);
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    if api.fault.take(setting) {
        info!(enabled = setting.enabled, "simulated transient errors switched, as a peer says");
    }
    Ok(Json(Switched { simulate_transient_error: api.fault.is_on(), peers: None, peers_missed: None }))
}

fn refuse_unless_allowed(api: &Api) -> Result<(), Problem> {
    if api.pipelines().any(|pipeline| pipeline.fault_injection) {
        return Ok(());
    }
    let detail = "no pipeline here allows injected failures: set `spec.faultInjection.enabled: true`";
    Err(Problem::new(StatusCode::NOT_FOUND, detail))
}

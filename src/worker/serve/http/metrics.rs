//! The metrics for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use prometheus_client::encoding::text;

use super::Api;
use crate::telemetry::OPEN_METRICS;

/// Shows the metrics in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "counts", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text", description = "The metrics."),
))]
pub async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    for view in &api.stages {
        view.metrics.refresh();
    }
    let mut body = String::new();
    text::encode(&mut body, &api.registry).expect("writing to a string cannot fail");
    ([(CONTENT_TYPE, OPEN_METRICS)], body)
}

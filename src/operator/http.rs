//! Health and metrics of the operator, over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tracing::{error, info};

use super::OperatorError;
use super::lease::Lease;
use super::metrics::Metrics;
use crate::telemetry::OPEN_METRICS;

/// Listens, and returns what serves. A replica that stands by is ready too: it can take over.
pub async fn listen(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    lease: Arc<Lease>,
) -> Result<impl Future<Output = ()>, OperatorError> {
    let failed = |source| OperatorError::Listen { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    info!(%address, "listening");
    let shown = move || async move { ([(CONTENT_TYPE, OPEN_METRICS)], metrics.encode(lease.is_held())) };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/metrics", get(shown));
    Ok(async move {
        if let Err(source) = axum::serve(listener, router).await {
            error!(error = %source, "the HTTP API ended");
        }
    })
}

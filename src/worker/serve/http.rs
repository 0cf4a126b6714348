//! The worker's HTTP API: health, metrics, counts, and where a pipeline allows it, records in and failures on demand.
//!
//! ```text
//! GET  /health  /healthz  /readyz     health         POST      /api/v1/{topic}                           ingress
//! GET  /metrics                       metrics        GET POST  /api/v1/config/simulate-transient-error   faults
//! GET  /api/v1/stats                  stats          GET       /api/v1/dlt/count                         dead_letters
//! ```
//!
//! The OpenAPI document at `GET /openapi.json` is made from the handlers. Every error is a problem as in RFC 9457; only
//! `/health` says it in its own words. These modules show what the engine counted and write records like any other
//! producer would; they never touch a consumer or an offset. They ask nobody who they are: who may connect is for the
//! network to say.

mod dead_letters;
mod faults;
mod health;
mod ingress;
mod metrics;
mod problem;
mod stats;

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use rdkafka::producer::FutureProducer;
use tokio::sync::watch;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::kept_count::KeptCount;
use super::peers::Peers;
use crate::domain::pipeline::Pipeline;
use crate::domain::record::provenance::Stage;
use crate::kafka::connection::LogContext;
use crate::kafka::observer::{Observer, Reachability};
use crate::worker::attempt::processor::FaultSwitch;
use crate::worker::metrics::StageMetrics;

/// One stage that runs in this process.
#[derive(Clone, Debug)]
pub struct StageView {
    /// The pipeline that it belongs to.
    pub pipeline: Arc<Pipeline>,
    /// Which of its stages it is.
    pub stage: Stage,
    /// What it counts.
    pub metrics: Arc<StageMetrics>,
}

/// What the API shows, and what it acts on.
pub struct Api {
    /// The stages of this process: one in a worker, both of every pipeline on a laptop.
    pub stages: Vec<StageView>,
    /// Makes attempts fail. Whoever runs the stages hands it only to processors whose pipeline allows that.
    pub fault: FaultSwitch,
    /// The other workers: who are asked what they did, and who follow when failures are switched on or off.
    pub peers: Option<Peers>,
    /// What `/metrics` shows; the stages' metrics are registered in it.
    pub registry: Arc<Registry>,
    /// Whether Kafka answers; somebody else asks it, at intervals.
    pub kafka: watch::Receiver<Reachability>,
    /// Where Kafka is, to be named when it does not answer.
    pub bootstrap_servers: String,
    /// Tells why a record could not be written.
    pub observer: Observer,
    /// How many dead letters there are.
    pub dead_letters: KeptCount,
    /// Writes what is posted. Its delivery timeout bounds how long a client waits.
    pub producer: FutureProducer<LogContext>,
    /// The name of this process.
    pub worker: String,
    /// What tells it from another of that name.
    pub instance: String,
}

impl Api {
    /// The pipelines of this process; one whose both stages run here comes twice.
    fn pipelines(&self) -> impl Iterator<Item = &Pipeline> {
        self.stages.iter().map(|view| &*view.pipeline)
    }
}

/// The routes, ready to be served.
pub fn router(api: Api) -> Router {
    let (router, document) = documented_routes().split_for_parts();
    // A topic may be called `stats`: to write to it takes another method than to read the counts.
    let write_to_stats =
        |api: State<Arc<Api>>, request: Request| ingress::write(api, Ok(Path("stats".into())), request);
    router
        .route("/api/v1/stats", post(write_to_stats))
        .route("/openapi.json", get(|| async { Json(document) }))
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::unknown_method)
        .with_state(Arc::new(api))
}

/// The OpenAPI document that describes the routes.
pub fn openapi() -> OpenApi {
    documented_routes().into_openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Lazaret worker",
    description = "Health, counts, ingress and fault injection of one worker, and the counts of all."
))]
struct Document;

fn documented_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::liveness))
        .routes(routes!(health::readiness))
        .routes(routes!(metrics::metrics))
        .routes(routes!(stats::stats))
        .routes(routes!(dead_letters::count_dead_letters))
        .routes(routes!(ingress::write))
        .routes(routes!(faults::simulated_transient_error, faults::simulate_transient_error))
}

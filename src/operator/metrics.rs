//! What the operator counts, as Prometheus reads it.

use std::sync::Arc;

use kube::client::Body;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tower::util::MapRequestLayer;

use super::lookout::metrics::Seen;

/// What the operator counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Reconciles, by how they ended.
    reconciles: Family<OutcomeLabel, Counter>,
    /// Requests to the API server.
    api_requests: Family<MethodLabel, Counter>,
    /// What is seen of records.
    pub seen: Seen,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabel {
    method: String,
}

impl Metrics {
    /// Counts a reconcile. `outcome`: `applied`, `invalid`, or the reason of an error.
    pub fn reconciled(&self, outcome: &'static str) {
        self.reconciles.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// All of them in Prometheus' text format; `held` is whether this replica acts.
    pub fn encode(&self, held: bool) -> String {
        let mut all = Registry::with_prefix("lazaret");
        let registry = all.sub_registry_with_prefix("operator");
        registry.register("reconciles", "Reconciles, by how they ended", self.reconciles.clone());
        registry.register("api_requests", "Requests to the API server, watches among them", self.api_requests.clone());
        let acts = prometheus_client::metrics::gauge::ConstGauge::new(i64::from(held));
        registry.register("is_leader", "1 if this replica acts, 0 if it stands by", acts);
        self.seen.register(&mut all);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &all);
        text
    }
}

/// A layer of the client that counts its requests.
pub fn count_requests(
    metrics: &Arc<Metrics>,
) -> MapRequestLayer<impl Fn(axum::http::Request<Body>) -> axum::http::Request<Body> + Clone + use<>> {
    let requests = metrics.api_requests.clone();
    MapRequestLayer::new(move |request: axum::http::Request<Body>| {
        requests.get_or_create(&MethodLabel { method: request.method().to_string() }).inc();
        request
    })
}

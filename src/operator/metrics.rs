//! What the operator counts, as Prometheus reads it.

mod seen;

use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use kube::client::Body;
use kube::runtime::reflector::Store;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use tower::util::MapRequestLayer;

use super::dereference::Stored;
use seen::Seen;

/// What the operator counts.
#[derive(Default)]
pub struct Metrics {
    /// Reconciles, by how they ended.
    reconciles: Family<OutcomeLabel, Counter>,
    /// Requests to the API server.
    api_requests: Family<MethodLabel, Counter>,
    /// What is seen of records.
    pub seen: Seen,
    /// The pipelines, off whose status their conditions are read.
    pipelines: Mutex<Vec<Store<Stored>>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabel {
    method: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConditionLabels {
    pipeline_namespace: String,
    pipeline: String,
    condition: String,
}

impl Metrics {
    /// Says from now on how these pipelines are, and nothing of the past.
    pub fn watch(&self, pipelines: Vec<Store<Stored>>) {
        self.seen.retain(|_| false);
        *self.pipelines.lock().unwrap_or_else(PoisonError::into_inner) = pipelines;
    }

    /// Counts a reconcile. `outcome`: `applied`, `invalid`, or the reason of an error.
    pub fn reconciled(&self, outcome: &'static str) {
        self.reconciles.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// All of them in Prometheus' text format; `held` is whether this replica acts. One that stands by says nothing of
    /// pipelines: what it knows is of when it acted.
    pub fn encode(&self, held: bool) -> String {
        let mut all = Registry::with_prefix("lazaret");
        let registry = all.sub_registry_with_prefix("operator");
        registry.register("reconciles", "Reconciles, by how they ended", self.reconciles.clone());
        registry.register("api_requests", "Requests to the API server, watches among them", self.api_requests.clone());
        let acts = ConstGauge::new(i64::from(held));
        registry.register("is_leader", "1 if this replica acts, 0 if it stands by", acts);
        if held {
            self.seen.register(&mut all);
            all.register("condition", "1 while a condition of the pipeline's status is True", self.conditions());
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &all);
        text
    }

    fn conditions(&self) -> Family<ConditionLabels, Gauge> {
        let conditions = Family::<ConditionLabels, Gauge>::default();
        let pipelines = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        for stored in pipelines.iter().flat_map(Store::state) {
            let Ok(object) = &stored.0 else { continue };
            for condition in object.status.iter().flat_map(|status| &status.conditions) {
                let labels = ConditionLabels {
                    pipeline_namespace: object.namespace().unwrap_or_default(),
                    pipeline: object.name_any(),
                    condition: condition.type_.clone(),
                };
                conditions.get_or_create(&labels).set(i64::from(condition.status == "True"));
            }
        }
        conditions
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

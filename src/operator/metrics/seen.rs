//! What is seen of every pipeline's records, as Prometheus reads it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::operator::view::View;
use crate::operator::watched::Watched;

/// Error types that are counted under their own name; the rarer ones beyond are counted as `other`. They come from users'
/// code, and a label with unbounded values would bring down whoever scrapes it.
const ERROR_TYPES: usize = 20;

/// What was last seen of each pipeline, by its uid.
#[derive(Debug, Default)]
pub struct Seen(Mutex<BTreeMap<String, Pipeline>>);

#[derive(Debug)]
struct Pipeline {
    namespace: String,
    name: String,
    view: View,
    rebalances: u64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PipelineLabels {
    pipeline_namespace: String,
    pipeline: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    pipeline_namespace: String,
    pipeline: String,
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorTypeLabels {
    pipeline_namespace: String,
    pipeline: String,
    error_type: String,
}

impl Seen {
    /// Takes note of what was seen, and of how many rebalances so far.
    pub fn set(&self, watched: &Watched, view: View, rebalances: i64) {
        let pipeline = Pipeline {
            namespace: watched.namespace.clone(),
            name: watched.name.clone(),
            view,
            rebalances: u64::try_from(rebalances).unwrap_or(0),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(watched.uid.clone(), pipeline);
    }

    /// Forgets pipelines that are gone.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| is_there(uid));
    }

    /// Adds all of it to a registry, as it is now.
    pub fn register(&self, registry: &mut Registry) {
        let (ready, unprocessed, committed) = (Family::default(), Family::default(), Family::default());
        let (letters, by_type, oldest) = (Family::default(), Family::default(), Family::default());
        let rebalances = Family::<PipelineLabels, Counter>::default();
        for pipeline in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let labels =
                PipelineLabels { pipeline_namespace: pipeline.namespace.clone(), pipeline: pipeline.name.clone() };
            for (of, stage) in pipeline.view.stages() {
                let PipelineLabels { pipeline_namespace, pipeline } = labels.clone();
                let labels = StageLabels { pipeline_namespace, pipeline, stage: of.to_string() };
                set(&ready, &labels, stage.ready());
                set(&unprocessed, &labels, stage.unprocessed());
                set(&committed, &labels, stage.committed_lag());
            }
            if let Some(summary) = &pipeline.view.dead_letters {
                set(&letters, &labels, summary.total);
                let seconds = summary.oldest.map(|oldest| u64::try_from(oldest.0 / 1_000).unwrap_or(0));
                seconds.into_iter().for_each(|seconds| set(&oldest, &labels, seconds));
                let mut counts = BTreeMap::<&str, u64>::new();
                for cause in &summary.causes {
                    let error_type = &*cause.cause.error_type;
                    let is_known = counts.len() < ERROR_TYPES || counts.contains_key(error_type);
                    *counts.entry(if is_known { error_type } else { "other" }).or_default() += cause.count;
                }
                for (error_type, count) in counts {
                    let PipelineLabels { pipeline_namespace, pipeline } = labels.clone();
                    set(
                        &by_type,
                        &ErrorTypeLabels { pipeline_namespace, pipeline, error_type: error_type.to_owned() },
                        count,
                    );
                }
            }
            rebalances.get_or_create(&labels).inc_by(pipeline.rebalances);
        }
        registry.register("ready_records", "Records that could be processed now and are not", ready);
        registry.register("unprocessed_records", "Records that are not processed, due or not", unprocessed);
        registry.register("committed_lag", "From the committed offsets to the end of the topic", committed);
        registry.register("dead_letters", "Dead letters that are in their topics", letters);
        registry.register("dead_letters_by_error_type", "The same by the type of their error", by_type);
        let help = "When the oldest dead letter was written, since the epoch";
        registry.register_with_unit("oldest_dead_letter_timestamp", help, Unit::Seconds, oldest);
        registry.register("group_rebalances", "Rebalances that were seen in the groups", rebalances);
    }
}

fn set<L: Clone + std::hash::Hash + Eq>(family: &Family<L, Gauge>, labels: &L, value: u64) {
    family.get_or_create(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}

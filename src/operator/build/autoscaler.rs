//! The autoscaler of a stage, where one is asked for.

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::v1alpha1::Autoscaling;
use crate::domain::pipeline::workers_name;
use crate::domain::record::provenance::Stage;
use crate::operator::validate::ValidatedPipeline;

/// How long fewer records must be ready before a worker goes: each that goes moves partitions.
const CALM_SECONDS: i32 = 300;

/// A HorizontalPodAutoscaler by what the operator says is ready, which whoever serves external metrics has from Prometheus.
pub(super) fn autoscaler(validated: &ValidatedPipeline, stage: Stage) -> Option<Value> {
    let spec = &validated.object.spec;
    let Autoscaling { min_replicas, max_replicas, ready_records } = match stage {
        Stage::Main => spec.consumer.autoscaling.clone(),
        Stage::Retry => spec.retry.autoscaling.clone(),
    }?;
    let name = validated.object.name_any();
    let topic = &validated.pipeline.source(stage).topic;
    let managed = validated.pipeline.topics.iter().find(|plan| plan.name == *topic && plan.manage);
    let most = managed.map_or(max_replicas, |plan| max_replicas.min(plan.partitions));
    let deployment = workers_name(&name, stage);
    Some(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": deployment},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "minReplicas": min_replicas.min(most), "maxReplicas": most,
            "metrics": [{
                "type": "External",
                "external": {
                    "metric": {
                        "name": "lazaret_ready_records",
                        "selector": {"matchLabels": {"pipeline": name, "stage": stage.to_string()}},
                    },
                    "target": {"type": "AverageValue", "averageValue": ready_records.to_string()},
                },
            }],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": CALM_SECONDS}},
        },
    }))
}

//! The workers of a pipeline: a Deployment for each stage, and what they need.

use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::autoscaler::autoscaler;
use super::names::{common_labels, config_map_name, peers_service_name, selector, service_account_name};
use super::pod::{pod, pod_metadata, worker_port};
use crate::api::v1alpha1::{
    Consumer, ContainerProcessor, DeadLetterTopic, DeletionPolicy, ErrorHandlingPipeline, Retry, RetryTopic, Template,
    Topic,
};
use crate::domain::pipeline::workers_name;
use crate::domain::record::provenance::Stage;
use crate::operator::names::{PIPELINE_LABEL, STAGE_LABEL};
use crate::operator::validate::ValidatedPipeline;

/// The port of the Services.
const PORT: u16 = 8080;

/// Everything besides the topics, in the order in which it is applied. An external consumer has no workers.
pub fn build_workers(validated: &ValidatedPipeline, image: &str) -> Vec<DynamicObject> {
    if validated.object.is_external() {
        return vec![];
    }
    let name = validated.object.name_any();
    let config = worker_config(&validated.object);
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": service_account_name(&name)},
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": config_map_name(&name)},
            "data": {"pipeline.yaml": config},
        }),
        service(&validated.object),
        peers_service(&name, worker_port(&validated.object)),
    ];
    for stage in [Stage::Main, Stage::Retry] {
        objects.push(disruption_budget(&name, stage));
        objects.push(deployment(validated, stage, image, &config));
        objects.extend(autoscaler(validated, stage));
    }
    objects.into_iter().map(|object| owned(&validated.object, object)).collect()
}

/// Gives an object its namespace, its labels and its owner.
fn owned(pipeline: &ErrorHandlingPipeline, object: Value) -> DynamicObject {
    let mut object: DynamicObject = serde_json::from_value(object).expect("it has an apiVersion, a kind and metadata");
    object.metadata.namespace = pipeline.namespace();
    object.metadata.owner_references = pipeline.controller_owner_ref(&()).map(|owner| vec![owner]);
    let labels = object.metadata.labels.get_or_insert_default();
    labels.extend(common_labels(&pipeline.name_any()));
    object
}

/// The pipeline as its workers read it. What does not concern them is left out, or a change of it would restart them.
fn worker_config(object: &ErrorHandlingPipeline) -> String {
    let mut spec = object.spec.clone();
    let name = spec.topic.name.clone();
    let topic = json!({"name": name});
    spec.topic = serde_json::from_value::<Topic>(topic).expect("a topic needs no more than a name");
    spec.deletion_policy = DeletionPolicy::default();
    spec.consumer = Consumer { replicas: None, autoscaling: None, template: Template::default(), ..spec.consumer };
    let topic = RetryTopic { name: spec.retry.topic.name, ..RetryTopic::default() };
    spec.retry = Retry { replicas: None, autoscaling: None, template: Template::default(), topic, ..spec.retry };
    spec.dlt.topic = DeadLetterTopic { name: spec.dlt.topic.name, ..DeadLetterTopic::default() };
    spec.ingress.node_port = None;
    // Of the container beside it a worker calls the address; the rest is the pod's.
    spec.processor.container = spec.processor.container.map(|given| ContainerProcessor {
        command: vec![],
        args: vec![],
        env: vec![],
        env_from: vec![],
        resources: None,
        startup_probe: None,
        liveness_probe: None,
        readiness_probe: None,
        ..given
    });
    let pipeline = json!({
        "apiVersion": ErrorHandlingPipeline::api_version(&()), "kind": ErrorHandlingPipeline::kind(&()),
        "metadata": {"name": object.name_any()}, "spec": spec,
    });
    serde_json::to_string_pretty(&pipeline).expect("a pipeline is strings, numbers, lists and maps")
}

fn service(object: &ErrorHandlingPipeline) -> Value {
    let name = object.name_any();
    let mut port = json!({"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"});
    let kind = match object.spec.ingress.node_port {
        Some(node_port) => {
            port["nodePort"] = node_port.into();
            "NodePort"
        }
        None => "ClusterIP",
    };
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": workers_name(&name, Stage::Main)},
        "spec": {"type": kind, "selector": selector(&name, Stage::Main), "ports": [port]},
    })
}

/// It resolves to the workers of both stages. One that is not ready is among them: what it did belongs to the totals, it
/// must hear of injected failures, too, and it becomes ready only once it finds the others.
fn peers_service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": peers_service_name(name)},
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true, "selector": {PIPELINE_LABEL: name},
            "ports": [{"name": "http", "port": port, "targetPort": "http", "protocol": "TCP"}],
        },
    })
}

fn disruption_budget(name: &str, stage: Stage) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": workers_name(name, stage)},
        // Workers that are not ready hold no node back.
        "spec": {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": selector(name, stage)}},
    })
}

fn deployment(validated: &ValidatedPipeline, stage: Stage, image: &str, config: &str) -> Value {
    let object = &validated.object;
    let name = object.name_any();
    let (replicas, template) = match stage {
        Stage::Main => (object.spec.consumer.replicas, &object.spec.consumer.template),
        Stage::Retry => (object.spec.retry.replicas, &object.spec.retry.template),
    };
    let mut spec = json!({
        "selector": {"matchLabels": selector(&name, stage)},
        "template": {"metadata": pod_metadata(&name, stage, template, config), "spec": pod(validated, stage, image, template)},
    });
    // Where the user gives no number, it is nobody's of the operator: an autoscaler or `kubectl scale` may have it.
    if let Some(replicas) = replicas {
        spec["replicas"] = replicas.into();
    }
    let metadata = json!({"name": workers_name(&name, stage), "labels": {STAGE_LABEL: stage.to_string()}});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
}

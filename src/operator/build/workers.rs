//! The workers of a pipeline: a Deployment for each stage, and what they need.

use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::api::v1alpha1::{Consumer, DeletionPolicy, ErrorHandlingPipeline, Template, Topic};
use crate::domain::provenance::Stage;
use crate::operator::names::{PIPELINE_LABEL, STAGE_LABEL, hash};
use crate::operator::validate::ValidatedPipeline;

/// How much longer than its drain timeout a worker may take to end, before the kubelet ends it: for committing, leaving
/// the group and closing the HTTP API.
const STOP_GRACE_SECONDS: u64 = 30;

const PORT: u16 = 8080;

/// The name of a stage's Deployment.
pub fn deployment_name(pipeline: &str, stage: Stage) -> String {
    match stage {
        Stage::Main => format!("{pipeline}-consumer"),
        Stage::Retry => format!("{pipeline}-retry"),
    }
}

/// Everything besides the topics, in the order in which it is applied.
pub fn build_workers(validated: &ValidatedPipeline, image: &str) -> Vec<DynamicObject> {
    let name = validated.object.name_any();
    let config = worker_config(&validated.object);
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": format!("{name}-worker")},
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-worker")},
            "data": {"pipeline.yaml": config},
        }),
        service(&validated.object),
    ];
    for stage in [Stage::Main, Stage::Retry] {
        objects.push(disruption_budget(&name, stage));
        objects.push(deployment(validated, stage, image, &config));
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

fn common_labels(name: &str) -> [(String, String); 4] {
    let labels = [
        ("app.kubernetes.io/name", "lazaret"),
        ("app.kubernetes.io/instance", name),
        ("app.kubernetes.io/managed-by", "lazaret"),
        (PIPELINE_LABEL, name),
    ];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn selector(name: &str, stage: Stage) -> Value {
    json!({PIPELINE_LABEL: name, STAGE_LABEL: stage.to_string()})
}

/// The pipeline as its workers read it. What does not concern them is left out, or a change of it would restart them.
fn worker_config(object: &ErrorHandlingPipeline) -> String {
    let mut spec = object.spec.clone();
    let name = spec.topic.name.clone();
    let topic = json!({"name": name});
    spec.topic = serde_json::from_value::<Topic>(topic).expect("a topic needs no more than a name");
    spec.deletion_policy = DeletionPolicy::default();
    spec.consumer = Consumer { replicas: None, template: Template::default(), ..spec.consumer };
    spec.retry.replicas = None;
    spec.retry.template = Template::default();
    spec.ingress.node_port = None;
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
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": deployment_name(&name, Stage::Main)},
        "spec": {"type": kind, "selector": selector(&name, Stage::Main), "ports": [port]},
    })
}

fn disruption_budget(name: &str, stage: Stage) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": deployment_name(name, stage)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(name, stage)}},
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
    let metadata = json!({"name": deployment_name(&name, stage), "labels": {STAGE_LABEL: stage.to_string()}});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
}

fn pod_metadata(name: &str, stage: Stage, template: &Template, config: &str) -> Value {
    let given = &template.pod.metadata;
    let mut labels = given.labels.clone();
    labels.extend(common_labels(name));
    labels.insert(STAGE_LABEL.to_owned(), stage.to_string());
    let mut annotations = given.annotations.clone();
    annotations.insert("lazaret.dev/config-hash".to_owned(), hash(config));
    json!({"labels": labels, "annotations": annotations})
}

fn pod(validated: &ValidatedPipeline, stage: Stage, image: &str, template: &Template) -> Value {
    let name = validated.object.name_any();
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 5});
    let resources = template.container.resources.as_ref().map_or_else(
        || json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}),
        |resources| json!(resources),
    );
    let mut container = json!({
        "name": "worker",
        "image": image,
        "args": [
            "worker", "--stage", stage.to_string(), "--file", "/etc/lazaret/pipeline.yaml",
            "--bootstrap-servers", validated.bootstrap_servers, "--listen", format!("0.0.0.0:{PORT}"),
        ],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "livenessProbe": probe("/healthz"),
        "readinessProbe": probe("/readyz"),
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/lazaret", "readOnly": true}],
    });
    if !template.container.env.is_empty() {
        container["env"] = json!(template.container.env);
    }
    let drain = validated.pipeline.drain_timeout.as_secs() + STOP_GRACE_SECONDS;
    let mut pod = json!({
        "serviceAccountName": format!("{name}-worker"),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": drain,
        // No user is named: OKD gives each namespace a range of its own.
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(&name, stage)},
        }],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": format!("{name}-worker")}}],
    });
    let given = &template.pod;
    if !given.node_selector.is_empty() {
        pod["nodeSelector"] = json!(given.node_selector);
    }
    if !given.tolerations.is_empty() {
        pod["tolerations"] = json!(given.tolerations);
    }
    if let Some(affinity) = &given.affinity {
        pod["affinity"] = json!(affinity);
    }
    if !given.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(given.image_pull_secrets);
    }
    if let Some(class) = &given.priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    pod
}

//! The pods of a stage: the worker, and beside it the user's own container where the processor is one.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::names::{common_labels, config_map_name, peers_service_name, selector, service_account_name};
use crate::api::v1alpha1::{ContainerProcessor, ErrorHandlingPipeline, Template};
use crate::domain::record::provenance::Stage;
use crate::operator::names::{STAGE_LABEL, hash};
use crate::operator::validate::ValidatedPipeline;

/// How much longer than its drain timeout a worker may take to end, before the kubelet ends it: for committing, leaving
/// the group and closing the HTTP API.
const STOP_GRACE_SECONDS: u64 = 30;

/// How long a user's container may take to start: 300 looks, one a second.
const STARTUP_LOOKS: u32 = 300;

/// The port of a worker's HTTP API: 8080, unless the user's container in the same pod has that.
pub(in crate::operator) fn worker_port(object: &ErrorHandlingPipeline) -> u16 {
    match &object.spec.processor.container {
        Some(container) if container.port == 8080 => 18080,
        _ => 8080,
    }
}

/// Labels and annotations of a stage's pods. Another configuration makes other pods.
pub(super) fn pod_metadata(name: &str, stage: Stage, template: &Template, config: &str) -> Value {
    let given = &template.pod.metadata;
    let mut labels = given.labels.clone();
    labels.extend(common_labels(name));
    labels.insert(STAGE_LABEL.to_owned(), stage.to_string());
    let mut annotations = given.annotations.clone();
    annotations.insert("lazaret.dev/config-hash".to_owned(), hash(config));
    json!({"labels": labels, "annotations": annotations})
}

/// The specification of a stage's pods.
pub(super) fn pod(validated: &ValidatedPipeline, stage: Stage, image: &str, template: &Template) -> Value {
    let name = validated.object.name_any();
    let mut pod = json!({
        "serviceAccountName": service_account_name(&name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": validated.pipeline.drain_timeout.as_secs() + STOP_GRACE_SECONDS,
        // No user is named: OKD gives each namespace a range of its own.
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(&name, stage)},
        }],
        "containers": [worker(validated, stage, image, template)],
        "volumes": [{"name": "config", "configMap": {"name": config_map_name(&name)}}],
    });
    if let Some(container) = &validated.object.spec.processor.container {
        pod["initContainers"] = json!([sidecar(container)]);
    }
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

fn worker(validated: &ValidatedPipeline, stage: Stage, image: &str, template: &Template) -> Value {
    let object = &validated.object;
    let port = worker_port(object);
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 5});
    let resources = template.container.resources.as_ref().map_or_else(
        || json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}),
        |resources| json!(resources),
    );
    let (service, namespace) = (peers_service_name(&object.name_any()), object.namespace().unwrap_or_default());
    let args = [
        ["worker", "--stage", &stage.to_string(), "--file", "/etc/lazaret/pipeline.yaml"].map(str::to_owned).to_vec(),
        vec!["--bootstrap-servers".to_owned(), validated.bootstrap_servers.clone()],
        vec!["--listen".to_owned(), format!("0.0.0.0:{port}")],
        vec!["--peers".to_owned(), format!("{service}.{namespace}.svc:{port}")],
    ]
    .concat();
    let mut container = json!({
        "name": "worker",
        "image": image,
        "args": args,
        "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}],
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
    container
}

/// The user's container, as a sidecar that Kubernetes knows as one: the worker starts when it has started, and it ends
/// after the worker has drained.
fn sidecar(given: &ContainerProcessor) -> Value {
    let mut container = json!({
        "name": "processor",
        "image": given.image,
        "restartPolicy": "Always",
        "ports": [{"name": "processor", "containerPort": given.port, "protocol": "TCP"}],
        "startupProbe": {"tcpSocket": {"port": "processor"}, "periodSeconds": 1, "failureThreshold": STARTUP_LOOKS},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let lists = [
        ("command", json!(given.command)),
        ("args", json!(given.args)),
        ("env", json!(given.env)),
        ("envFrom", json!(given.env_from)),
    ];
    let probes = [
        ("startupProbe", json!(given.startup_probe)),
        ("livenessProbe", json!(given.liveness_probe)),
        ("readinessProbe", json!(given.readiness_probe)),
        ("resources", json!(given.resources)),
    ];
    for (field, value) in lists.into_iter().chain(probes) {
        let is_given = !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
        if is_given {
            container[field] = value;
        }
    }
    container
}

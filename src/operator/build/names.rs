//! What the objects of a pipeline's workers are called, and the labels by which they find each other.

use serde_json::{Value, json};

use crate::domain::record::provenance::Stage;
use crate::operator::names::{PIPELINE_LABEL, STAGE_LABEL};

/// The account of a pipeline's workers. It has no rights and no token.
pub(super) fn service_account_name(pipeline: &str) -> String {
    format!("{pipeline}-worker")
}

/// The ConfigMap with what workers read.
pub(super) fn config_map_name(pipeline: &str) -> String {
    format!("{pipeline}-worker")
}

/// The name by which workers find each other: to say what all of them did, and to tell all of injected failures.
pub(super) fn peers_service_name(pipeline: &str) -> String {
    format!("{pipeline}-workers")
}

/// The labels of everything that is built for a pipeline.
pub(super) fn common_labels(name: &str) -> [(String, String); 4] {
    let labels = [
        ("app.kubernetes.io/name", "lazaret"),
        ("app.kubernetes.io/instance", name),
        ("app.kubernetes.io/managed-by", "lazaret"),
        (PIPELINE_LABEL, name),
    ];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// What chooses the pods of a stage.
pub(super) fn selector(name: &str, stage: Stage) -> Value {
    json!({PIPELINE_LABEL: name, STAGE_LABEL: stage.to_string()})
}

//! The names of what the operator makes, and the labels by which it is found again.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::record::provenance::Stage;

/// The pipeline that an object belongs to.
pub const PIPELINE_LABEL: &str = "lazaret.dev/pipeline";

/// The stage that a worker runs: `main` or `retry`.
pub const STAGE_LABEL: &str = "lazaret.dev/stage";

/// The label selector of a stage's pods.
pub fn stage_selector(pipeline: &str, stage: Stage) -> String {
    format!("{PIPELINE_LABEL}={pipeline},{STAGE_LABEL}={stage}")
}

/// The field manager of everything that the operator wants to be so.
pub const FIELD_MANAGER: &str = "lazaret";

/// The field manager of settings that a topic had before it was ours. They stay until somebody takes them out of the
/// KafkaTopic.
pub const CARRIED_OVER: &str = "lazaret-carried-over";

/// The field manager of a number of workers that the spec once named, until somebody scales them.
pub const HANDED_OVER: &str = "lazaret-handed-over";

/// Whether a field manager has applied these fields, given as `managedFields` has them: `{"f:spec": {"f:replicas": {}}}`.
pub fn owns(entry: &ManagedFieldsEntry, manager: &str, fields: &Value) -> bool {
    fn within(fields: &Value, owned: &Value) -> bool {
        fields.as_object().into_iter().flatten().all(|(name, inner)| owned.get(name).is_some_and(|o| within(inner, o)))
    }
    let is_managers = entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply");
    is_managers && entry.fields_v1.as_ref().is_some_and(|owned| within(fields, &owned.0))
}

/// The name of a KafkaTopic: the topic's own where Kubernetes allows it, else one that is near it and unique.
///
/// `orders.DLT` becomes `orders.dlt`; where characters have to go, a hash of the name keeps two topics apart.
pub fn kafka_topic(topic: &str) -> String {
    let lower = topic.to_ascii_lowercase();
    if is_object_name(&lower) {
        return lower;
    }
    let near: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let near = near.trim_matches('-');
    let near = &near[..near.len().min(200)];
    format!("topic-{near}-{}", &hash(topic)[..8])
}

/// A DNS subdomain (RFC 1123), as the API server wants it.
fn is_object_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inside = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !label.is_empty() && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// A short text that changes whenever `text` does.
pub fn hash(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_keeps_its_name_where_kubernetes_allows_it() {
        assert_eq!(kafka_topic("orders.retry"), "orders.retry");
        assert_eq!(kafka_topic("orders.DLT"), "orders.dlt");
    }

    #[test]
    fn names_that_kubernetes_refuses_stay_apart() {
        let names = ["a_b", "a.-b", "_a-b", "a..b", &"x_".repeat(124)].map(kafka_topic);
        for name in &names {
            assert!(is_object_name(name), "{name}");
        }
        assert_eq!(std::collections::BTreeSet::from(names.clone()).len(), names.len());
    }
}

//! What the real topic operator does with a KafkaTopic, as far as that needs no I/O: what is wanted, which changes lead
//! there, and how the outcome reads in the object's status.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::{Value, json};

pub const FINALIZER: &str = "strimzi.io/topic-operator";

/// A topic as a KafkaTopic asks for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub partitions: Option<i32>,
    pub replicas: Option<i16>,
    pub config: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Debug)]
pub struct Topic {
    pub id: String,
    /// The number of replicas of each partition.
    pub replicas: Vec<(i32, usize)>,
    /// What is set on the topic itself.
    pub config: BTreeMap<String, String>,
}

/// What is said of a KafkaTopic. Each becomes one condition.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Ready,
    Unmanaged,
    Paused,
    NotReady { reason: &'static str, message: String },
}

impl Verdict {
    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::NotReady { reason: "NotSupported", message: message.into() }
    }

    pub fn kafka_error(error: impl ToString) -> Self {
        Self::NotReady { reason: "KafkaError", message: error.to_string() }
    }

    pub fn conflict(namespace: &str, name: &str) -> Self {
        let message = format!("Managed by Ref{{namespace='{namespace}', name='{name}'}}");
        Self::NotReady { reason: "ResourceConflict", message }
    }

    fn condition(&self) -> Value {
        match self {
            Self::Ready => json!({"type": "Ready", "status": "True"}),
            Self::Unmanaged => json!({"type": "Unmanaged", "status": "True"}),
            Self::Paused => json!({"type": "ReconciliationPaused", "status": "True"}),
            Self::NotReady { reason, message } => {
                json!({"type": "Ready", "status": "False", "reason": reason, "message": message})
            }
        }
    }
}

pub fn topic_name(object: &DynamicObject) -> String {
    object.data["spec"]["topicName"].as_str().map_or_else(|| object.name_any(), str::to_owned)
}

pub fn is_unmanaged(object: &DynamicObject) -> bool {
    object.annotations().get("strimzi.io/managed").is_some_and(|value| value == "false")
}

pub fn is_paused(object: &DynamicObject) -> bool {
    object.annotations().get("strimzi.io/pause-reconciliation").is_some_and(|value| value == "true")
}

/// Whether the object named another topic when it was first seen.
pub fn is_renamed(object: &DynamicObject) -> bool {
    object.data["status"]["topicName"].as_str().is_some_and(|known| known != topic_name(object))
}

pub fn wanted(object: &DynamicObject) -> Wanted {
    let spec = &object.data["spec"];
    let setting = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    };
    let config = spec["config"].as_object().into_iter().flatten();
    Wanted {
        name: topic_name(object),
        partitions: spec["partitions"].as_i64().and_then(|n| n.try_into().ok()),
        replicas: spec["replicas"].as_i64().and_then(|n| n.try_into().ok()),
        config: config.map(|(name, value)| (name.clone(), setting(value))).collect(),
    }
}

/// The settings to change. One that is set and not asked for goes: the spec is the whole truth.
pub fn config_changes(wanted: &Wanted, topic: &Topic) -> BTreeMap<String, Option<String>> {
    let gone = topic.config.keys().filter(|name| !wanted.config.contains_key(*name)).map(|name| (name.clone(), None));
    let new = wanted.config.iter().filter(|(name, value)| topic.config.get(*name) != Some(value));
    gone.chain(new.map(|(name, value)| (name.clone(), Some(value.clone())))).collect()
}

/// Why the topic cannot become what is wanted, if so.
pub fn unsupported(wanted: &Wanted, topic: &Topic) -> Option<Verdict> {
    if wanted.partitions.is_some_and(|count| count < topic.partitions()) {
        return Some(Verdict::not_supported("Decreasing partitions not supported"));
    }
    let replicas = usize::try_from(wanted.replicas?).ok()?;
    let others = topic.replicas.iter().filter(|(_, count)| *count != replicas).map(|(partition, _)| partition);
    let others: Vec<_> = others.collect();
    (!others.is_empty()).then(|| {
        Verdict::not_supported(format!(
            "Replication factor change not supported, but required for partitions {others:?}"
        ))
    })
}

impl Topic {
    pub fn partitions(&self) -> i32 {
        i32::try_from(self.replicas.len()).unwrap_or(i32::MAX)
    }
}

/// The status that says so; none when the object has it already. The time of a condition that stays is kept.
pub fn status(object: &DynamicObject, verdict: &Verdict, topic_id: Option<&str>, now: &str) -> Option<Value> {
    let known = &object.data["status"];
    let name = match verdict {
        Verdict::Unmanaged => Value::Null,
        _ if known["topicName"].is_string() => known["topicName"].clone(),
        _ => json!(topic_name(object)),
    };
    let mut condition = verdict.condition();
    let mut before = known["conditions"][0].clone();
    let since = before.as_object_mut().and_then(|before| before.remove("lastTransitionTime"));
    let same = before == condition;
    condition["lastTransitionTime"] = since.filter(|_| same).unwrap_or_else(|| json!(now));
    let status = json!({
        "conditions": [condition],
        "observedGeneration": object.metadata.generation,
        "topicName": name,
        "topicId": topic_id,
    });
    let fields = ["observedGeneration", "topicName", "topicId"];
    (!same || fields.iter().any(|field| known[field] != status[field])).then_some(status)
}

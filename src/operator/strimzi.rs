//! Strimzi's resources: which version the cluster serves, and how they are read. They have no Rust types of their own
//! here, as releases differ in all that Lazaret does not need.

use std::collections::BTreeMap;

use kube::Client;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::Value;

use crate::domain::topic::{KAFKAS_MAX_MESSAGE_BYTES, TopicShape, max_message_bytes};

/// The API group of Strimzi's resources.
const GROUP: &str = "kafka.strimzi.io";

/// The versions of its API, the preferred one first.
const VERSIONS: [&str; 2] = ["v1", "v1beta2"];

/// The label by which a KafkaTopic says to which Kafka it belongs.
pub const CLUSTER_LABEL: &str = "strimzi.io/cluster";

/// Strimzi's resources, in the newest version that the cluster serves: `v1` from release 0.49 on, else `v1beta2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strimzi {
    /// `Kafka`.
    pub kafka: ApiResource,
    /// `KafkaTopic`.
    pub kafka_topic: ApiResource,
}

/// Asks the cluster; `None` when Strimzi's CRDs are not installed.
pub async fn discover(client: &Client) -> Result<Option<Strimzi>, kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let versions = groups.into_iter().filter(|group| group.name == GROUP).flat_map(|group| group.versions);
    let versions: Vec<_> = versions.map(|version| version.version).collect();
    let version = VERSIONS.into_iter().find(|version| versions.iter().any(|served| served == version));
    Ok(version.map(Strimzi::in_version))
}

impl Strimzi {
    /// The resources in a version of the API.
    pub fn in_version(version: &str) -> Self {
        let resource = |kind: &str, plural: &str| {
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, kind), plural)
        };
        Self { kafka: resource("Kafka", "kafkas"), kafka_topic: resource("KafkaTopic", "kafkatopics") }
    }
}

/// A listener of a Kafka, as its status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in the Kafka's spec.
    pub name: String,
    /// Its type: `internal`, `nodeport`, `route`, …
    pub kind: Option<String>,
    /// Its addresses.
    pub bootstrap_servers: String,
}

/// The listeners that have an address. Releases before 0.46 call a listener's name `type`.
pub fn listeners(kafka: &DynamicObject) -> Vec<Listener> {
    let specified = kafka.data["spec"]["kafka"]["listeners"].as_array().cloned().unwrap_or_default();
    let kind_of = |name: &str| {
        let listener = specified.iter().find(|listener| listener["name"] == name)?;
        listener["type"].as_str().map(str::to_owned)
    };
    let listeners = kafka.data["status"]["listeners"].as_array().into_iter().flatten();
    let read = |listener: &Value| {
        let name = listener["name"].as_str().or(listener["type"].as_str())?.to_owned();
        let bootstrap_servers = listener["bootstrapServers"].as_str()?.to_owned();
        Some(Listener { kind: kind_of(&name), name, bootstrap_servers })
    };
    listeners.filter_map(read).collect()
}

/// What a condition of type `Ready` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is so.
    Ready,
    /// It is not so, with reason and message.
    NotReady(String, String),
    /// Nothing was said of the object as it is now.
    Unknown,
}

/// Reads what Strimzi says of an object; what it said of an older generation does not count.
pub fn readiness(object: &DynamicObject) -> Readiness {
    let status = &object.data["status"];
    if status["observedGeneration"].as_i64() < object.metadata.generation {
        return Readiness::Unknown;
    }
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    for condition in conditions {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Ready"), Some("True")) => return Readiness::Ready,
            (Some("Ready"), Some(_)) => {
                return Readiness::NotReady(text(condition, "reason"), text(condition, "message"));
            }
            (Some("ReconciliationPaused"), Some("True")) => {
                let message = "the annotation strimzi.io/pause-reconciliation keeps Strimzi from looking at it";
                return Readiness::NotReady("ReconciliationPaused".into(), message.into());
            }
            // The topic is somebody else's to make; whether it is there Strimzi does not say.
            (Some("Unmanaged"), Some("True")) => return Readiness::Ready,
            _ => {}
        }
    }
    Readiness::Unknown
}

/// What a KafkaTopic asks for.
pub fn shape(topic: &DynamicObject) -> TopicShape {
    let spec = &topic.data["spec"];
    let number = |field: &str| spec[field].as_i64().and_then(|number| i32::try_from(number).ok());
    let config = spec["config"].as_object().into_iter().flatten();
    let config: BTreeMap<_, _> = config.map(|(name, value)| (name.clone(), text(value))).collect();
    let max_message_bytes = max_message_bytes(&config);
    TopicShape { partitions: number("partitions"), replicas: number("replicas"), config, max_message_bytes }
}

/// The `max.message.bytes` of the topics of a Kafka that have none of their own: what the Kafka object sets for all brokers,
/// else Kafka's default.
pub fn default_max_message_bytes(kafka: &DynamicObject) -> i32 {
    text(&kafka.data["spec"]["kafka"]["config"]["message.max.bytes"]).parse().unwrap_or(KAFKAS_MAX_MESSAGE_BYTES)
}

/// A setting, which YAML may have as text or as a number.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The topic that a KafkaTopic stands for.
pub fn topic_name(object: &DynamicObject) -> &str {
    let own = object.metadata.name.as_deref().unwrap_or_default();
    object.data["spec"]["topicName"].as_str().unwrap_or(own)
}

//! Where records go that cannot be processed.

use std::collections::BTreeMap;

use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Adopt, topic};
use crate::api::{byte_size::ByteSize, retention::Retention};

/// Where records go that cannot be processed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct DeadLetters {
    /// The dead letter topic. It is made when it does not exist.
    pub topic: DeadLetterTopic,

    /// What a dead letter looks like. `Envelope` (default): a JSON object with the original record and the error.
    /// `Raw`: the original bytes, with the error in headers.
    pub format: DeadLetterFormat,

    /// What is kept of an error's stack trace.
    pub stack_trace: StackTrace,
}

/// The dead letter topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules()))]
pub struct DeadLetterTopic {
    /// The dead letter topic's name in Kafka. Default: the topic's name with `.dlt` added.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "topic::name")]
    pub name: Option<String>,

    /// How many partitions the dead letter topic has, 1 to 10000. Default: 3. They can be added later, never taken
    /// away.
    #[schemars(schema_with = "topic::partitions")]
    pub partitions: i32,

    /// How many brokers hold a copy of each record, at least 1. Default: when the topic is created, as many as the main topic
    /// has; where that is not known, the cluster's own default. -1 stands for the default. The replicas of a topic that exists
    /// are never changed.
    #[schemars(schema_with = "topic::replicas")]
    pub replicas: i32,

    /// How long dead letters are kept. Default: `30d`.
    pub retention: Retention,

    /// Other topic settings, by their names in Kafka. Example: `{min.insync.replicas: 2}`. Default: `max.message.bytes` is twice
    /// that of the main topic and 64 KiB more: a JSON value takes up to twice its size in an envelope. A dead letter that is
    /// larger all the same is written without its value, and says so in `valueOmitted`. On a topic that exists Lazaret only
    /// raises it, and only where it manages the topic by a KafkaTopic and nobody else has set it there.
    #[serde(deserialize_with = "topic::read_config")]
    #[schemars(schema_with = "topic::config_without_compaction")]
    pub config: BTreeMap<String, String>,

    /// What to do about a topic that exists already and differs from what is described here. `IfEqual` (default): leave
    /// it alone and say what differs. `Force`: change it.
    pub adopt: Adopt,
}

/// What a dead letter looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeadLetterFormat {
    /// A JSON object with the original record and the error.
    #[default]
    Envelope,
    /// The original bytes, with the error in headers.
    Raw,
}

/// What is kept of an error's stack trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct StackTrace {
    /// How much of a stack trace is kept; the rest is cut off. `0` keeps none. Default: `4Ki`.
    pub max_bytes: ByteSize,
}

impl Default for DeadLetterTopic {
    fn default() -> Self {
        Self {
            name: None,
            partitions: 3,
            replicas: topic::cluster_default(),
            retention: Retention::from_days(30),
            config: BTreeMap::new(),
            adopt: Adopt::default(),
        }
    }
}

impl Default for StackTrace {
    fn default() -> Self {
        Self { max_bytes: ByteSize::from_kib(4) }
    }
}

fn rules() -> [Rule; 1] {
    [Rule::new("!('retention.ms' in self.config)")
        .message("set retention instead of retention.ms in config, so that there is one truth")
        .field_path(".config")]
}

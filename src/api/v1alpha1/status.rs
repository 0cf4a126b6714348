//! What the operator says of a pipeline.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::schema;

/// How the pipeline is. The operator writes it; what others write here is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = schema::kubernetes)]
pub struct ErrorHandlingPipelineStatus {
    /// The `metadata.generation` that this status is about. An older one than the object's: the operator has not seen
    /// the last change yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready` is the sum of `TopicsReady` (the topics are as asked for) and `WorkersReady` (every worker is); reason and
    /// message of one that is not `True` say what to do. `Progressing` is `True` while a change is on its way and nothing
    /// has to be done. `Warning` is there while something is likely wrong.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The topics of the pipeline: main, retry, and all dead letter topics.
    pub topics: Vec<TopicStatus>,

    /// The workers of the main stage.
    pub consumer: StageStatus,

    /// The workers of the retry stage.
    pub retry: StageStatus,
}

/// A topic of the pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// Its name in Kafka.
    pub name: String,
    /// The KafkaTopic that stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka_topic: Option<String>,
    /// Whether it is as asked for.
    pub ready: bool,
}

/// The workers of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct StageStatus {
    /// How many there are.
    pub replicas: i32,
    /// How many of them are ready.
    pub ready_replicas: i32,
    /// The label selector of their pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

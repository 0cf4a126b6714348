//! What the operator says of a pipeline.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
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
    /// has to be done. `Warning` is there while something is likely wrong. The others say what the records are up to:
    /// `CountsCurrent` (the counts below are of now), `DeadLettersPresent`, `NewErrorType`, `ConsumerStuck`,
    /// `RebalanceStorm`, `CircuitOpen`, `RetryBacklogSaturated`, `DeadLetterTopicUnsafe`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The topics of the pipeline: main, retry, and all dead letter topics.
    pub topics: Vec<TopicStatus>,

    /// The workers of the main stage.
    pub consumer: StageStatus,

    /// The workers of the retry stage.
    pub retry: StageStatus,

    /// How many records could be processed now and are not: those of the main topic, and those of the retry topic whose time
    /// has come. It is not the distance to the committed offset, which `groups` has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// How many records are in the retry topic and not processed, whether or not their time has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrying: Option<i64>,

    /// When the next of these is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Time>,

    /// The dead letters that are in the dead letter topics, as whoever reads with `isolation.level=read_committed` would
    /// count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<DeadLettersStatus>,

    /// The consumer groups of both stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsStatus>,

    /// How often partitions moved from one worker to another, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalances: Option<RebalancesStatus>,
}

/// The dead letters of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct DeadLettersStatus {
    /// How many there are.
    pub total: i64,
    /// How many of them were written within the last hour.
    pub last_hour: i64,
    /// When the oldest one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Time>,
    /// When the newest one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
    /// What they died of, the most frequent first; at most 20.
    pub causes: Vec<CauseStatus>,
    /// How many died of something else than that.
    #[serde(skip_serializing_if = "is_zero")]
    pub of_other_causes: i64,
}

/// Dead letters of one cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct CauseStatus {
    /// The type of the error.
    pub error_type: String,
    /// Why the record was given up: `Permanent`, `AttemptsExhausted`, `Expired`, `Unreadable` or `Rejected`. A dead letter
    /// that somebody else wrote does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many there are.
    pub count: i64,
    /// When the first one was written that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Time>,
    /// When the newest one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
}

/// The consumer groups of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupsStatus {
    /// The group that reads the main topic.
    pub main: GroupStatus,
    /// The group that reads the retry topic; an external consumer has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<GroupStatus>,
}

/// A consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupStatus {
    /// Its name.
    pub group_id: String,
    /// What its coordinator says of it: `Stable` while every member has its partitions, `Empty` without members, `Dead` when
    /// there is no such group; else a rebalance is on its way.
    pub state: String,
    /// The distance from its committed offsets to the end of the topic, as `kafka-consumer-groups` shows it. Records that
    /// wait to be tried again, and the markers of transactions, count.
    pub committed_lag: i64,
    /// Who reads what; at most 50.
    pub members: Vec<MemberStatus>,
}

/// A member of a consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct MemberStatus {
    /// The name that it gives itself; a worker's is that of its pod.
    pub client: String,
    /// Its address.
    pub host: String,
    /// The partitions that it reads, as `0-2,5`.
    pub partitions: String,
}

/// How often partitions moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RebalancesStatus {
    /// How many rebalances were seen.
    pub count: i64,
    /// How many of them within the last hour.
    pub per_hour: i64,
    /// When the last one was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Time>,
    /// The last ones, the newest first; at most 10.
    pub recent: Vec<RebalanceStatus>,
}

/// A rebalance: partitions moved within a consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RebalanceStatus {
    /// When it was seen.
    pub time: Time,
    /// The group.
    pub group_id: String,
    /// `MemberTimedOut` (it was silent for too long, or did not poll), `MemberLeft`, `MemberJoined`, or `PartitionsChanged`.
    pub reason: String,
    /// Who timed out, left or joined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// How many members the group had.
    pub members_before: i32,
    /// How many it has.
    pub members_after: i32,
    /// How many partitions have another reader than before.
    pub partitions_moved: i32,
    /// For how many seconds the group was seen to be about it; the operator looks every two seconds.
    pub seconds: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
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

//! The resource itself: `ErrorHandlingPipeline`.
//!
//! Besides the spec it holds what concerns several blocks at once: the names that follow from other names, and the
//! rules that keep them apart.

use kube::{CustomResource, ResourceExt, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CircuitBreaker, Consumer, DeadLetters, ErrorHandlingPipelineStatus, FaultInjection, Ingress, Kafka, Processor,
    Retry, Topic, Tracing,
};
use crate::api::schema;

/// What the pipeline does with the records of one topic.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "lazaret.dev",
    version = "v1alpha1",
    kind = "ErrorHandlingPipeline",
    plural = "errorhandlingpipelines",
    singular = "errorhandlingpipeline",
    shortname = "ehp",
    shortname = "pipeline",
    shortname = "pipelines",
    category = "lazaret",
    namespaced,
    cel,
    derive = "PartialEq",
    doc = "The error path of one Kafka topic: how its records are processed, which failures are tried again and when, \
         and where the others go.",
    validation = Rule::new("self.metadata.name.size() <= 50 \
         && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must begin with a letter, hold only lower case letters, digits and '-', and have at \
             most 50 characters: other objects are named after it"),
    status = "ErrorHandlingPipelineStatus",
    scale(
        spec_replicas_path = ".spec.consumer.replicas",
        status_replicas_path = ".status.consumer.replicas",
        label_selector_path = ".status.consumer.selector"
    ),
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name": "Lag", "type": "integer", "jsonPath": ".status.lag"}"#,
    printcolumn = r#"{"name": "Retrying", "type": "integer", "jsonPath": ".status.retrying"}"#,
    printcolumn = r#"{"name": "DLT", "type": "integer", "jsonPath": ".status.deadLetters.total"}"#,
    printcolumn = r#"{"name": "Rebalances", "type": "integer", "jsonPath": ".status.rebalances.count"}"#,
    printcolumn = r#"{"name": "Topic", "type": "string", "jsonPath": ".spec.topic.name", "priority": 1}"#,
    printcolumn = r#"{"name": "Consumers", "type": "integer", "jsonPath": ".status.consumer.readyReplicas", "priority": 1}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::kubernetes, extend("x-kubernetes-validations" = rules()))]
pub struct ErrorHandlingPipelineSpec {
    /// Which records may be processed at the same time. `Partition`: one at a time in each partition, in strict order.
    /// `Key` (default): one at a time for each key, keys side by side. `Unordered`: any. A record that waits in the
    /// retry topic gives up its place in the order; with `retry.mode: KeepOrder` none does.
    #[serde(default)]
    pub ordering: Ordering,

    /// What is promised about records that move to the retry or dead letter topic. `ExactlyOnce` (default): each failed
    /// attempt is there exactly once for whoever reads with `isolation.level=read_committed`, whatever crashes; it is written
    /// in transactions, which take about 0.1 s. `AtLeastOnce`: none is lost, one may be there twice after a crash, and
    /// there is no such wait; for a Kafka that knows no transactions.
    #[serde(default)]
    pub delivery: Delivery,

    /// What becomes of the topics, with the records in them, when this object is deleted. `Retain` (default): they stay.
    /// `Delete`: they are deleted too. A topic that this object does not manage or no longer names always stays, and so does
    /// one that other pipelines use. A change holds once `status.observedGeneration` has caught up.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Where Kafka is. Set either `cluster` or `bootstrapServers`.
    pub kafka: Kafka,

    /// The topic whose records are processed. It is made when it does not exist.
    pub topic: Topic,

    /// What is done with each record. Set one of `http`, `container`, `rules` and `external`.
    pub processor: Processor,

    /// How records are read from the topic. May be left out.
    #[serde(default)]
    pub consumer: Consumer,

    /// When and how often a failed record is tried again. May be left out.
    #[serde(default)]
    pub retry: Retry,

    /// Where records go that cannot be processed. May be left out.
    #[serde(default)]
    pub dlt: DeadLetters,

    /// Keeps records from a processor that fails most of them. On unless disabled.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,

    /// An HTTP endpoint that writes records to the topic. Off unless enabled.
    #[serde(default)]
    pub ingress: Ingress,

    /// An HTTP endpoint that makes the processor fail on purpose. Off unless enabled.
    #[serde(default)]
    pub fault_injection: FaultInjection,

    /// Where OpenTelemetry spans of the attempts are sent. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// Which records may be processed at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ordering {
    /// One record of a partition at a time, in strict order.
    Partition,
    /// One record of a key at a time, keys side by side.
    #[default]
    Key,
    /// Any records at the same time.
    Unordered,
}

/// What is promised about records that move to the retry or dead letter topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// Each failed attempt is there exactly once.
    #[default]
    ExactlyOnce,
    /// No record is lost; one may be there twice after a crash.
    AtLeastOnce,
}

/// What becomes of the topics when the pipeline is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay, with the records in them.
    #[default]
    Retain,
    /// They are deleted too.
    Delete,
}

impl ErrorHandlingPipeline {
    /// Returns the name of the retry topic: the given one, else `<topic>.retry`.
    pub fn retry_topic(&self) -> String {
        let given = self.spec.retry.topic.name.clone();
        given.unwrap_or_else(|| format!("{}.retry", self.spec.topic.name))
    }

    /// Returns the name of the dead letter topic: the given one, else `<topic>.dlt`.
    pub fn dead_letter_topic(&self) -> String {
        let given = self.spec.dlt.topic.name.clone();
        given.unwrap_or_else(|| format!("{}.dlt", self.spec.topic.name))
    }

    /// Returns the names of its dead letter topics, each once: the one of `dlt`, then those of rules.
    pub fn dead_letter_topics(&self) -> Vec<String> {
        let mut names = vec![self.dead_letter_topic()];
        for name in self.spec.retry.rules.iter().filter_map(|rule| rule.dlt.as_ref()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// Returns the topics that are read: main and retry. What an external consumer reads beside its topic is not known.
    pub fn read_topics(&self) -> Vec<String> {
        let retry = (!self.is_external()).then(|| self.retry_topic());
        std::iter::once(self.spec.topic.name.clone()).chain(retry).collect()
    }

    /// Returns the names of all its topics, each once: those that are read, and every dead letter topic.
    pub fn topic_names(&self) -> Vec<String> {
        [self.read_topics(), self.dead_letter_topics()].concat()
    }

    /// Returns whether its records are processed by a consumer that is not Lazaret's.
    pub fn is_external(&self) -> bool {
        self.spec.processor.external.is_some()
    }

    /// Returns the consumer group of the main stage: the given one, else `<name>-consumer-group`.
    pub fn consumer_group(&self) -> String {
        let external = self.spec.processor.external.as_ref().map(|external| external.group_id.clone());
        let given = external.or_else(|| self.spec.consumer.group_id.clone());
        given.unwrap_or_else(|| format!("{}-consumer-group", self.name_any()))
    }

    /// Returns the consumer group of the retry stage: the given one, else `<name>-retry-group`.
    pub fn retry_group(&self) -> String {
        let given = self.spec.retry.group_id.clone();
        given.unwrap_or_else(|| format!("{}-retry-group", self.name_any()))
    }
}

/// Keeps the topics and the groups of a pipeline apart: one that is written to by two stages would loop.
fn rules() -> Vec<Rule> {
    let topic = "self.topic.name";
    // An external consumer has no retry topic that is known.
    let retry = "(has(self.processor.external) ? '' : has(self.retry.topic.name) ? self.retry.topic.name \
                 : self.topic.name + '.retry')";
    let dlt = "(has(self.dlt.topic.name) ? self.dlt.topic.name : self.topic.name + '.dlt')";
    vec![
        Rule::new(format!("{retry} != {topic}"))
            .message("the retry topic must not be the topic itself: give it another name or leave the name out")
            .field_path(".retry.topic.name"),
        Rule::new(format!("{dlt} != {topic}"))
            .message("the dead letter topic must not be the topic itself: give it another name or leave the name out")
            .field_path(".dlt.topic.name"),
        Rule::new(format!("{dlt} != {retry}"))
            .message("the dead letter topic must not be the retry topic: give it another name or leave the name out")
            .field_path(".dlt.topic.name"),
        Rule::new(format!("size({retry}) <= 249 && size({dlt}) <= 249"))
            .message(
                "too long for '.retry' and '.dlt' to be added (Kafka allows 249 characters): set \
                 retry.topic.name and dlt.topic.name, or shorten it",
            )
            .field_path(".topic.name"),
        Rule::new(format!("self.retry.rules.all(r, !has(r.dlt) || (r.dlt != {topic} && r.dlt != {retry}))"))
            .message("dlt must name a topic of its own, not the topic itself nor the retry topic")
            .field_path(".retry.rules"),
        Rule::new("self.deletionPolicy != 'Delete' || has(self.kafka.cluster)")
            .message("only the topics of a Strimzi Kafka can be deleted with this object: set Retain, or kafka.cluster")
            .field_path(".deletionPolicy"),
        Rule::new(
            "!has(self.consumer.groupId) || !has(self.retry.groupId) \
             || self.consumer.groupId != self.retry.groupId",
        )
        .message("the retry stage needs a consumer group of its own: give it another groupId than consumer.groupId")
        .field_path(".retry.groupId"),
        Rule::new("!has(self.processor.external) || !has(self.consumer.groupId)")
            .message("leave it out: the group is that of processor.external.groupId")
            .field_path(".consumer.groupId"),
        Rule::new("!has(self.processor.external) || !has(self.retry.topic.name)")
            .message("leave it out: retries are the external consumer's own, in topics of its own")
            .field_path(".retry.topic.name"),
        Rule::new(
            "!has(self.processor.external) || !(self.ingress.enabled || self.faultInjection.enabled \
             || has(self.consumer.replicas) || has(self.consumer.autoscaling) || has(self.retry.replicas) \
             || has(self.retry.autoscaling) || has(self.retry.groupId) || size(self.retry.rules) > 0 \
             || has(self.tracing))",
        )
        .message(
            "ingress, faultInjection, tracing, consumer.replicas and autoscaling, and retry's groupId, replicas, autoscaling and \
             rules are for workers, and an external processor has none: leave them out",
        ),
        Rule::new(
            "has(self.processor.external) || !has(oldSelf.processor.external) || has(self.consumer.groupId)",
        )
        .message(
            "say as which group the workers go on: with that of the application, which has to be stopped first, they go \
             on where it was; with another one they begin at the start of the topic",
        )
        .field_path(".consumer.groupId"),
    ]
}

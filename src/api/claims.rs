//! What a pipeline claims for itself, and whether two pipelines on one Kafka get in each other's way.

use kube::ResourceExt;

use super::v1alpha1::ErrorHandlingPipeline;

/// The names that a pipeline uses in its Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// How the pipeline is called in messages; no two that are compared may have the same.
    pub pipeline: String,
    /// The topics that its workers read.
    pub reads: Vec<String>,
    /// Every topic that it uses.
    pub topics: Vec<String>,
    /// Its consumer groups.
    pub groups: Vec<String>,
}

/// Two pipelines would get in each other's way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pipelines `{one}` and `{other}` both use {what} `{name}`: give one of them another")]
pub struct Shared {
    /// A pipeline.
    pub one: String,
    /// Another.
    pub other: String,
    /// What both name.
    pub what: &'static str,
    /// The name.
    pub name: String,
}

impl From<&ErrorHandlingPipeline> for Claims {
    fn from(object: &ErrorHandlingPipeline) -> Self {
        Self {
            pipeline: object.name_any(),
            reads: if object.is_external() { vec![] } else { object.read_topics() },
            topics: object.topic_names(),
            groups: match object.is_external() {
                true => vec![object.consumer_group()],
                false => vec![object.consumer_group(), object.retry_group()],
            },
        }
    }
}

impl Claims {
    /// Whether no worker reads: the group of an application may read the topics of several pipelines, and several
    /// applications may read one topic.
    fn is_external(&self) -> bool {
        self.reads.is_empty()
    }
}

/// Checks that two pipelines on the same Kafka keep out of each other's way.
///
/// A topic that one of them reads must not be used by the other, and no two may share a group: each would take the
/// other's records. Dead letter topics may be shared.
pub fn check_disjoint(one: &Claims, other: &Claims) -> Result<(), Shared> {
    let shared = |what, name: &String| Shared {
        one: one.pipeline.clone(),
        other: other.pipeline.clone(),
        what,
        name: name.clone(),
    };
    if one.pipeline == other.pipeline {
        return Err(shared("the name", &one.pipeline));
    }
    let shares = |group: &&String| other.groups.contains(group) && !(one.is_external() && other.is_external());
    if let Some(group) = one.groups.iter().find(shares) {
        return Err(shared("the consumer group", group));
    }
    let is_read = |topic: &String| one.reads.contains(topic) || other.reads.contains(topic);
    match one.topics.iter().find(|topic| other.topics.contains(topic) && is_read(topic)) {
        Some(topic) => Err(shared("the topic", topic)),
        None => Ok(()),
    }
}

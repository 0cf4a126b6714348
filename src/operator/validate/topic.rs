//! What becomes of a topic: the rules of adoption.
//!
//! A topic that does not exist is made. One that exists is taken over when it is as asked for; when it differs, nothing is
//! touched until its user says `adopt: Force`. What is ours already follows the spec.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;

use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::domain::pipeline::TopicPlan;
use crate::domain::topic::{TopicShape, differences};
use crate::operator::dereference::{Found, TopicFound};
use crate::operator::names::PIPELINE_LABEL;
use crate::operator::strimzi;

/// What is to be done about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicStep {
    /// A KafkaTopic is applied.
    Apply {
        /// Settings that the topic has in Kafka already, which Strimzi would remove if nobody named them.
        carried_over: BTreeMap<String, String>,
    },
    /// The topic is made in a Kafka that Strimzi does not run.
    Create,
    /// The topic is changed in a Kafka that Strimzi does not run.
    Alter(TopicShape),
    /// It is as asked for, or not ours to change.
    Leave,
    /// It cannot be as asked for.
    Refuse {
        /// In a word.
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
}

/// Decides.
pub(super) fn step(object: &ErrorHandlingPipeline, plan: &TopicPlan, found: &Found) -> TopicStep {
    let strimzi = object.spec.kafka.cluster.is_some();
    match found.topics.get(&*plan.name) {
        None => TopicStep::Leave,
        Some(TopicFound::Unknown(error)) => TopicStep::Refuse {
            reason: "KafkaUnreachable",
            message: format!("cannot find out which topics exist: {error}"),
        },
        Some(TopicFound::Absent) if !plan.manage => TopicStep::Refuse {
            reason: "TopicNotFound",
            message: format!(
                "topic `{}` does not exist, and is not managed: create it, or set spec.topic.manage: true",
                plan.name
            ),
        },
        Some(_) if !plan.manage => TopicStep::Leave,
        Some(TopicFound::Absent) if strimzi => TopicStep::Apply { carried_over: BTreeMap::new() },
        Some(TopicFound::Absent) => TopicStep::Create,
        Some(TopicFound::InKafka(shape)) if strimzi => adopt_topic(object, plan, shape),
        Some(TopicFound::InKafka(shape)) => alter(object, plan, shape),
        Some(TopicFound::Object(topic)) => adopt_kafka_topic(object, plan, topic, found),
    }
}

/// A topic that Strimzi does not look after yet. It would remove every setting that the KafkaTopic does not name.
fn adopt_topic(object: &ErrorHandlingPipeline, plan: &TopicPlan, shape: &TopicShape) -> TopicStep {
    let kept = || shape.config.iter().filter(|(name, _)| !plan.config.contains_key(*name));
    let carried_over = || kept().map(|(name, value)| (name.clone(), value.clone())).collect();
    refusal(object, plan, shape, plan.force, "topic")
        .unwrap_or_else(|| TopicStep::Apply { carried_over: carried_over() })
}

/// A topic of a Kafka that Strimzi does not run. One that was as asked for before differs because the spec has changed.
fn alter(object: &ErrorHandlingPipeline, plan: &TopicPlan, shape: &TopicShape) -> TopicStep {
    let topics = object.status.iter().flat_map(|status| &status.topics);
    let was_ours = topics.into_iter().any(|topic| topic.name == *plan.name && topic.ready);
    match refusal(object, plan, shape, plan.force || was_ours, "topic") {
        Some(refused) => refused,
        None if differences(plan, shape).is_empty() => TopicStep::Leave,
        None => TopicStep::Alter(shape.clone()),
    }
}

fn adopt_kafka_topic(
    object: &ErrorHandlingPipeline,
    plan: &TopicPlan,
    topic: &DynamicObject,
    found: &Found,
) -> TopicStep {
    let name = topic.name_any();
    let refuse = |reason, message| TopicStep::Refuse { reason, message };
    if topic.metadata.deletion_timestamp.is_some() {
        let message = format!("KafkaTopic `{name}` is being deleted; it is made anew when it is gone");
        return refuse("TopicDeleting", message);
    }
    let known_topic = strimzi::topic_name(topic);
    if known_topic != &*plan.name {
        let message =
            format!("KafkaTopic `{name}` exists and stands for the topic `{known_topic}`, not for `{}`", plan.name);
        return refuse("TopicConflict", message);
    }
    let cluster = topic.labels().get(strimzi::CLUSTER_LABEL);
    if cluster != object.spec.kafka.cluster.as_ref() {
        let cluster = cluster.map_or("no Kafka", String::as_str);
        let label = strimzi::CLUSTER_LABEL;
        return refuse(
            "TopicConflict",
            format!("KafkaTopic `{name}` exists and belongs to {cluster} by its label {label}"),
        );
    }
    let owner = topic.labels().get(PIPELINE_LABEL);
    if owner == Some(&object.name_any()) {
        // More partitions and other settings are passed on; Strimzi refuses what Kafka cannot do, and says so.
        return TopicStep::Apply { carried_over: BTreeMap::new() };
    }
    let pipelines = found.others.iter().filter(|other| other.namespace() == object.namespace());
    let owner = owner.filter(|owner| pipelines.into_iter().any(|other| other.name_any() == **owner));
    let what = owner.map_or("KafkaTopic".to_owned(), |owner| format!("KafkaTopic of pipeline `{owner}`,"));
    match refusal(object, plan, &strimzi::shape(topic), plan.force && owner.is_none(), &what) {
        Some(refused) => refused,
        // A dead letter topic that pipelines share stays with the first.
        None if owner.is_some() => TopicStep::Leave,
        None => TopicStep::Apply { carried_over: BTreeMap::new() },
    }
}

/// What is said of a topic that differs, unless it may be changed and Kafka can change it.
fn refusal(
    object: &ErrorHandlingPipeline,
    plan: &TopicPlan,
    shape: &TopicShape,
    may_change: bool,
    what: &str,
) -> Option<TopicStep> {
    let differences = differences(plan, shape);
    let fixed = shape.partitions.is_some_and(|found| found > plan.partitions)
        || (plan.replicas > 0 && shape.replicas.is_some_and(|found| found != plan.replicas));
    if differences.is_empty() || (may_change && !fixed) {
        return None;
    }
    let field = field_of(object, plan);
    let remedy = if fixed {
        format!("set spec.{field} to what it has: Kafka cannot take partitions away nor change replicas by a setting")
    } else {
        format!("change spec.{field}, or set spec.{field}.adopt: Force to have it changed")
    };
    let message = format!("{what} `{}` exists already and differs: {}; {remedy}", plan.name, differences.join("; "));
    Some(TopicStep::Refuse { reason: "TopicDiffers", message })
}

/// The field of the spec that describes a topic.
fn field_of(object: &ErrorHandlingPipeline, plan: &TopicPlan) -> &'static str {
    match &*plan.name {
        name if name == object.spec.topic.name => "topic",
        name if name == object.retry_topic() => "retry.topic",
        _ => "dlt.topic",
    }
}

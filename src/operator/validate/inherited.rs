//! What the retry topic and the dead letter topics take over from the main topic where the spec says nothing of it:
//! `max.message.bytes` with headroom, and the replicas of those that are to be created.
//!
//! It comes after the decision what is to be done about a topic: a topic that exists never differs by it.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::TopicStep;
use crate::domain::pipeline::{Pipeline, TopicPlan};
use crate::domain::topic::{Inherited, MAX_MESSAGE_BYTES, limit_for_failures, set_replicas};
use crate::operator::dereference::{Found, KafkaFound, TopicFound};
use crate::operator::names::{self, FIELD_MANAGER};
use crate::operator::strimzi;

/// What the main topic has to be taken over.
///
/// Where its limit is the brokers' default and that is not known, nothing is taken over: the other topics then get the same
/// default, and a number could be lower than it.
pub(super) fn of_main_topic(pipeline: &Pipeline, found: &Found) -> Inherited {
    let Some(plan) = pipeline.topics.iter().find(|plan| plan.name == pipeline.main.topic) else {
        return Inherited::default();
    };
    let shape = match found.topics.get(&*plan.name) {
        Some(TopicFound::Object(topic)) => Some(strimzi::shape(topic)),
        Some(TopicFound::InKafka(shape)) => Some(shape.clone()),
        _ => None,
    };
    let inherited = Inherited::of(plan, shape.as_ref());
    Inherited { max_message_bytes: inherited.max_message_bytes.or(default_limit(found)), ..inherited }
}

/// The `max.message.bytes` of topics that have none of their own, where that is known.
fn default_limit(found: &Found) -> Option<i32> {
    match &found.kafka {
        KafkaFound::Object(kafka) => Some(strimzi::default_max_message_bytes(kafka)),
        _ => found.default_max_message_bytes,
    }
}

/// Completes the plan of a retry topic or a dead letter topic.
pub(super) fn complete(mut plan: TopicPlan, step: &TopicStep, inherited: Inherited, found: &Found) -> TopicPlan {
    match (step, found.topics.get(&*plan.name)) {
        (TopicStep::Create | TopicStep::Apply { .. }, Some(TopicFound::Absent)) => inherited.complete(&mut plan),
        (TopicStep::Apply { .. }, Some(TopicFound::Object(topic))) => {
            of_kafka_topic(&mut plan, topic, inherited, found)
        }
        // Its own setting is carried over; without one it has the brokers' default, which may be higher.
        (TopicStep::Apply { .. }, Some(TopicFound::InKafka(shape)))
            if !shape.config.contains_key(MAX_MESSAGE_BYTES) =>
        {
            let limit = Inherited { replicas: None, ..inherited };
            if limit.max_message_bytes.map(limit_for_failures) > shape.max_message_bytes {
                limit.complete(&mut plan);
            }
        }
        _ => {}
    }
    plan
}

/// Of a KafkaTopic that exists replicas never change, and `max.message.bytes` are only raised: larger records may be in it.
/// What others have set on it stays.
fn of_kafka_topic(plan: &mut TopicPlan, topic: &DynamicObject, inherited: Inherited, found: &Found) {
    let shape = strimzi::shape(topic);
    if plan.replicas <= 0
        && is_ours(topic, &json!({"f:spec": {"f:replicas": {}}}))
        && let Some(replicas) = shape.replicas
    {
        set_replicas(plan, replicas);
    }
    let wanted = inherited.max_message_bytes.map(limit_for_failures);
    let limit = match shape.config.contains_key(MAX_MESSAGE_BYTES) {
        false => wanted.filter(|wanted| Some(*wanted) > default_limit(found)),
        true if is_ours(topic, &json!({"f:spec": {"f:config": {"f:max.message.bytes": {}}}})) => {
            wanted.max(shape.max_message_bytes)
        }
        true => None,
    };
    if let Some(limit) = limit {
        plan.config.entry(MAX_MESSAGE_BYTES.to_owned()).or_insert_with(|| limit.to_string());
    }
}

/// Whether the operator has set these fields.
fn is_ours(topic: &DynamicObject, fields: &Value) -> bool {
    topic.managed_fields().iter().any(|entry| names::owns(entry, FIELD_MANAGER, fields))
}

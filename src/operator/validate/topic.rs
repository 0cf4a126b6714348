//! What becomes of a topic: the rules of adoption.
//!
//! A topic that does not exist is made. One that exists is taken over when it is as asked for; when it differs, nothing is
//! touched until its user says `adopt: Force`. What is ours already follows the spec.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::json;

use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::domain::pipeline::TopicPlan;
use crate::domain::topic::{TopicShape, differences};
use crate::operator::dereference::{Found, TopicFound};
use crate::operator::names::{self, CARRIED_OVER, PIPELINE_LABEL};
use crate::operator::strimzi;

/// The setting that says how long records are kept, in milliseconds; -1 for ever.
const RETENTION: &str = "retention.ms";

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

/// The plan of a topic, which for a retry topic that exists does not shorten how long its records are kept: some of them may
/// be due later than any that the spec allows now. Whoever sets `retention.ms` means it.
pub(super) fn with_retention_kept(object: &ErrorHandlingPipeline, plan: &TopicPlan, found: &Found) -> TopicPlan {
    let mut plan = plan.clone();
    if *plan.name != *object.retry_topic() || object.spec.retry.topic.config.contains_key(RETENTION) {
        return plan;
    }
    let shape = match found.topics.get(&*plan.name) {
        Some(TopicFound::Object(topic)) => strimzi::shape(topic),
        Some(TopicFound::InKafka(shape)) => shape.clone(),
        _ => return plan,
    };
    let lasts = |config: &BTreeMap<String, String>| config.get(RETENTION)?.parse::<i64>().ok();
    if let (Some(kept), Some(planned)) = (lasts(&shape.config), lasts(&plan.config))
        && (kept < 0 || kept > planned)
    {
        plan.config.insert(RETENTION.to_owned(), kept.to_string());
    }
    plan
}

/// Decides about a topic; `before` are those of the pipeline that come first.
pub(super) fn step(object: &ErrorHandlingPipeline, plan: &TopicPlan, before: &[TopicPlan], found: &Found) -> TopicStep {
    let strimzi = object.spec.kafka.cluster.is_some();
    let name = names::kafka_topic(&plan.name);
    if let Some(other) = before.iter().find(|other| strimzi && plan.manage && names::kafka_topic(&other.name) == name) {
        let message = format!(
            "the topics `{}` and `{}` would both be KafkaTopic `{name}`: names of objects have no capitals; rename one",
            other.name, plan.name
        );
        return TopicStep::Refuse { reason: "TopicConflict", message };
    }
    match found.topics.get(&*plan.name) {
        None => TopicStep::Leave,
        Some(TopicFound::Unknown(reason, error)) => {
            TopicStep::Refuse { reason, message: format!("cannot find out which topics exist: {error}") }
        }
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

/// A topic of a Kafka that Strimzi does not run. Nothing there says whose it is, so every change of it has to be asked for.
fn alter(object: &ErrorHandlingPipeline, plan: &TopicPlan, shape: &TopicShape) -> TopicStep {
    // A retry topic whose records were deleted before they are due would lose them: that is no matter of taste.
    let only_longer = *plan.name == *object.retry_topic() && {
        let wanted = BTreeMap::from([(RETENTION.to_owned(), plan.config.get(RETENTION).cloned().unwrap_or_default())]);
        let rest = TopicPlan { config: wanted, ..plan.clone() };
        differences(plan, shape) == differences(&rest, shape)
    };
    match refusal(object, plan, shape, plan.force || only_longer, "topic") {
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
    if name != names::kafka_topic(&plan.name) {
        let message = format!(
            "KafkaTopic `{name}` exists and stands for the topic `{}`: two for one topic would be in each other's way; delete \
             it, with strimzi.io/managed: \"false\" set before so that the topic stays, or use another topic",
            plan.name
        );
        return refuse("TopicConflict", message);
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
        return TopicStep::Apply { carried_over: unfinished(topic, plan) };
    }
    let others = found.others.iter().filter_map(|stored| stored.0.as_ref().ok());
    let others = others.filter(|other| other.namespace() == object.namespace());
    let claims = |owner: &String| {
        others
            .into_iter()
            .any(|other| other.name_any() == *owner && other.topic_names().iter().any(|t| *t == *plan.name))
    };
    match owner.filter(|owner| claims(owner)) {
        None => refusal(object, plan, &strimzi::shape(topic), plan.force, "KafkaTopic")
            .unwrap_or(TopicStep::Apply { carried_over: BTreeMap::new() }),
        // A dead letter topic that pipelines share stays with the first.
        Some(owner) => {
            let differences = differences(plan, &strimzi::shape(topic));
            if differences.is_empty() {
                return TopicStep::Leave;
            }
            let (field, differences) = (field_of(object, plan), differences.join("; "));
            let message = format!(
                "KafkaTopic `{name}` belongs to pipeline `{owner}`, which describes it otherwise: {differences}; make \
                 spec.{field} of both alike"
            );
            refuse("TopicDiffers", message)
        }
    }
}

/// The settings to carry over once more, when the operator was interrupted while it did: the second field manager then
/// answers for more than it should.
fn unfinished(topic: &DynamicObject, plan: &TopicPlan) -> BTreeMap<String, String> {
    let more = json!({"f:spec": {"f:partitions": {}}});
    if !topic.managed_fields().iter().any(|entry| names::owns(entry, CARRIED_OVER, &more)) {
        return BTreeMap::new();
    }
    let settings = strimzi::shape(topic).config.into_iter();
    settings.filter(|(name, _)| !plan.config.contains_key(name)).collect()
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

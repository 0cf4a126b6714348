//! Kubernetes Events for what a person would want to know. Equal ones are counted, not repeated; one that cannot be written
//! is logged and holds nothing up.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use tracing::{info, warn};

use super::context::Context;
use super::dereference::{Found, TopicFound};
use super::names;
use super::status::{self, READY, WARNING};
use super::validate::{TopicStep, ValidatedPipeline};
use crate::api::v1alpha1::{ErrorHandlingPipeline, ErrorHandlingPipelineStatus};
use crate::domain::observe::group::{Rebalance, RebalanceReason};

/// The longest note that the API server takes, with room to spare.
const NOTE_LENGTH: usize = 1_000;

/// Says that a pipeline became ready, is no longer so, or has another reason not to be.
pub async fn status_changed(context: &Context, object: &ErrorHandlingPipeline, now: &ErrorHandlingPipelineStatus) {
    for of_type in [READY, WARNING] {
        let before = object.status.as_ref().and_then(|before| status::find(before, of_type));
        let Some(now) = status::find(now, of_type) else { continue };
        if before.is_some_and(|before| (&before.status, &before.reason) == (&now.status, &now.reason)) {
            continue;
        }
        info!(
            pipeline = object.name_any(),
            namespace = object.namespace(),
            condition = of_type,
            status = now.status,
            reason = now.reason,
            detail = now.message,
            "status changed"
        );
        let good = of_type == READY && (now.status == "True" || status::is_passing(&now.reason));
        let kind = if good { EventType::Normal } else { EventType::Warning };
        publish(context, &object.object_ref(&()), kind, &now.reason, &now.message).await;
    }
}

/// Says that topics that were there before are gone, and are made anew: the records in them are lost.
pub async fn topics_made_anew(context: &Context, validated: &ValidatedPipeline, found: &Found) {
    let object = &validated.object;
    let topics = object.status.iter().flat_map(|status| &status.topics);
    for topic in topics.filter(|topic| topic.ready) {
        let is_gone = match found.topics.get(&topic.name) {
            Some(TopicFound::Absent) => true,
            Some(TopicFound::InKafka(_)) => topic.kafka_topic.is_some(),
            _ => false,
        };
        let step = validated.topics.iter().find(|(plan, _)| *plan.name == *topic.name).map(|(_, step)| step);
        let is_made = matches!(step, Some(TopicStep::Apply { .. } | TopicStep::Create));
        if is_gone && is_made {
            let what = match &topic.kafka_topic {
                Some(_) => format!("KafkaTopic `{}`", names::kafka_topic(&topic.name)),
                None => format!("topic `{}`", topic.name),
            };
            let note = format!("{what} was deleted and is made anew; what the topic held may be lost");
            publish(context, &object.object_ref(&()), EventType::Warning, "TopicDeleted", &note).await;
        }
    }
}

/// Says that partitions moved within a group of a pipeline.
pub async fn rebalanced(context: &Context, object: &ErrorHandlingPipeline, group_id: &str, rebalance: &Rebalance) {
    let Rebalance { reason, who, members_before, members_after, partitions_moved } = rebalance;
    let who = if who.is_empty() { String::new() } else { format!(" ({})", who.join(", ")) };
    let note = format!(
        "{group_id}: {reason}{who}: {members_before} members before, {members_after} after, {partitions_moved} partitions moved"
    );
    let kind = if *reason == RebalanceReason::MemberTimedOut { EventType::Warning } else { EventType::Normal };
    // Events of one reason are counted, and keep the note of the first: each kind of rebalance has its own.
    publish(context, &object.object_ref(&()), kind, &reason.to_string(), &note).await;
}

/// Writes an event about an object.
pub async fn publish(context: &Context, about: &ObjectReference, kind: EventType, reason: &str, note: &str) {
    let event = Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(note.chars().take(NOTE_LENGTH).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, about).await {
        warn!(pipeline = about.name, %error, "an event could not be written");
    }
}

//! Puts what was judged and observed into a status. Pure; written only when it says something new.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::names::stage_selector;
use super::observe::{StageState, TopicState};
use super::validate::CONFLICT;
use crate::api::v1alpha1::{ErrorHandlingPipeline, ErrorHandlingPipelineStatus, StageStatus, TopicStatus};
use crate::domain::record::provenance::Stage;

/// The condition that sums up the others.
pub const READY: &str = "Ready";

/// The condition for what changes right now and needs nobody.
pub const PROGRESSING: &str = "Progressing";

/// Reasons that every pipeline goes through while it starts or changes.
const PASSING: [&str; 4] = ["TopicPending", "TopicDeleting", "WaitingForTopics", "WorkersStarting"];

/// The condition for what need not be wrong; it is only there while there is something to say.
pub const WARNING: &str = "Warning";

/// The outcome of a reconcile.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The pipeline cannot run: a reason and a message.
    Invalid(&'static str, String),
    /// Something went wrong on the way, and is tried again: a reason and a message.
    Failed(&'static str, String),
    /// What was asked for is applied.
    Applied {
        /// The topics.
        topics: Vec<TopicState>,
        /// The main and the retry stage; `None` where workers wait for the topics.
        stages: [Option<StageState>; 2],
        /// What need not be wrong, but likely is: a reason and a message.
        warning: Option<(&'static str, String)>,
    },
}

type Verdict = (bool, String, String);

/// The status that says so. What does not change keeps its transition time.
pub fn status(object: &ErrorHandlingPipeline, outcome: &Outcome, now: Timestamp) -> ErrorHandlingPipelineStatus {
    let before = object.status.clone().unwrap_or_default();
    // What failed on the way was not done: whoever waits for it must not take it for done.
    let observed_generation = match outcome {
        Outcome::Failed(..) => before.observed_generation,
        Outcome::Invalid(..) | Outcome::Applied { .. } => object.metadata.generation,
    };
    let mut status = ErrorHandlingPipelineStatus { observed_generation, ..before.clone() };
    let mut gone = None;
    let verdicts: Vec<(&str, Verdict)> = match outcome {
        Outcome::Invalid(reason, message) | Outcome::Failed(reason, message) => {
            let verdict = (false, (*reason).to_owned(), message.clone());
            vec![(READY, verdict.clone()), (PROGRESSING, verdict)]
        }
        Outcome::Applied { topics, stages, warning } => {
            status.topics = topics.iter().map(topic_status).collect();
            let [consumer, retry] = stages.each_ref().map(Option::as_ref);
            status.consumer = stage_status(object, consumer, Stage::Main);
            status.retry = stage_status(object, retry, Stage::Retry);
            let (topics, workers) = (topics_verdict(topics), workers_verdict(object, stages));
            let ready = match (&topics, &workers) {
                ((false, ..), _) => topics.clone(),
                (_, (false, ..)) => workers.clone(),
                _ if consumer.is_some_and(|consumer| consumer.wanted == 0) => {
                    (true, READY.to_owned(), "no record is processed: the consumer is scaled to 0".to_owned())
                }
                _ if retry.is_some_and(|retry| retry.wanted == 0) => {
                    let message = "records are processed, but none is tried again: the retry stage is scaled to 0";
                    (true, READY.to_owned(), message.to_owned())
                }
                _ if object.is_external() => (true, READY.to_owned(), workers.2.clone()),
                _ => (true, READY.to_owned(), "records are processed".to_owned()),
            };
            let progressing = (is_passing(&ready.1), ready.1.clone(), ready.2.clone());
            let mut verdicts =
                vec![(READY, ready), (PROGRESSING, progressing), ("TopicsReady", topics), ("WorkersReady", workers)];
            match warning {
                Some((reason, message)) => verdicts.push((WARNING, (true, (*reason).to_owned(), message.clone()))),
                None => gone = Some(WARNING),
            }
            verdicts
        }
    };
    let generation = object.metadata.generation;
    let condition =
        |(of_type, verdict): (&str, Verdict)| condition(generation, &before.conditions, of_type, verdict, now);
    let conditions: Vec<_> = verdicts.into_iter().map(condition).collect();
    // What was not looked at this time is as it was last seen.
    let is_kept =
        |old: &&Condition| Some(old.type_.as_str()) != gone && conditions.iter().all(|new| new.type_ != old.type_);
    status.conditions = conditions.iter().chain(before.conditions.iter().filter(is_kept)).cloned().collect();
    status
}

/// The status of a pipeline that cannot be read, which had this one before.
pub fn unreadable(
    before: ErrorHandlingPipelineStatus,
    generation: Option<i64>,
    message: String,
    now: Timestamp,
) -> ErrorHandlingPipelineStatus {
    let verdict = (false, "InvalidSpec".to_owned(), message);
    let ready = condition(generation, &before.conditions, READY, verdict, now);
    let others = before.conditions.into_iter().filter(|condition| condition.type_ != READY);
    ErrorHandlingPipelineStatus { conditions: std::iter::once(ready).chain(others).collect(), ..before }
}

/// The condition of a type in a status.
pub fn find<'a>(status: &'a ErrorHandlingPipelineStatus, of_type: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == of_type)
}

/// Whether a reason needs nobody: it goes by itself.
pub fn is_passing(reason: &str) -> bool {
    PASSING.contains(&reason)
}

/// Whether a pipeline waits for another one to go.
pub fn has_conflict(object: &ErrorHandlingPipeline) -> bool {
    let ready = object.status.as_ref().and_then(|status| find(status, READY));
    ready.is_some_and(|condition| condition.reason == CONFLICT)
}

fn topic_status(topic: &TopicState) -> TopicStatus {
    TopicStatus { name: topic.name.clone(), kafka_topic: topic.kafka_topic.clone(), ready: topic.trouble.is_none() }
}

fn stage_status(object: &ErrorHandlingPipeline, state: Option<&StageState>, stage: Stage) -> StageStatus {
    let selector = Some(stage_selector(&object.name_any(), stage));
    state.map_or_else(
        || StageStatus { selector: selector.clone(), ..StageStatus::default() },
        |state| StageStatus { replicas: state.replicas, ready_replicas: state.ready, selector: selector.clone() },
    )
}

fn topics_verdict(topics: &[TopicState]) -> Verdict {
    let troubles: Vec<_> = topics.iter().filter_map(|topic| topic.trouble.as_ref()).collect();
    match troubles.first() {
        None => (true, "TopicsReady".to_owned(), format!("{} topics are as asked for", topics.len())),
        Some((reason, _)) => {
            let mut messages: Vec<_> = troubles.iter().map(|(_, message)| message.as_str()).collect();
            messages.dedup();
            (false, reason.clone(), messages.join("\n"))
        }
    }
}

fn workers_verdict(object: &ErrorHandlingPipeline, stages: &[Option<StageState>; 2]) -> Verdict {
    if object.is_external() {
        let message = format!("records are processed by the consumers of the group `{}`", object.consumer_group());
        return (true, "External".to_owned(), message);
    }
    let states: Vec<_> = stages.iter().flatten().collect();
    if states.len() < stages.len() {
        return (false, "WaitingForTopics".to_owned(), "workers are started when the topics are ready".to_owned());
    }
    if let Some((reason, message)) = states.iter().find_map(|state| state.trouble.as_ref()) {
        return (false, reason.clone(), message.clone());
    }
    match states.iter().find(|state| state.ready < state.wanted) {
        Some(StageState { deployment, ready, wanted, .. }) => {
            let message = format!("{ready} of {wanted} workers of Deployment `{deployment}` are ready");
            (false, "WorkersStarting".to_owned(), message)
        }
        None => {
            let count: i32 = states.iter().map(|state| state.ready).sum();
            (true, "WorkersReady".to_owned(), format!("{count} workers are ready"))
        }
    }
}

/// A condition that says so. Its time is that of its last change.
pub fn condition(
    generation: Option<i64>,
    before: &[Condition],
    of_type: &str,
    (holds, reason, message): Verdict,
    now: Timestamp,
) -> Condition {
    let status = if holds { "True" } else { "False" }.to_owned();
    let same = before.iter().find(|condition| condition.type_ == of_type && condition.status == status);
    Condition {
        type_: of_type.to_owned(),
        last_transition_time: same.map_or(Time(now), |condition| condition.last_transition_time.clone()),
        status,
        reason,
        message,
        observed_generation: generation,
    }
}

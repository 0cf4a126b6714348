//! Reads how a pipeline is: what Strimzi says of its topics, and what the cluster says of its workers.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};

use super::dereference::{Found, TopicFound};
use super::error::Error;
use super::names::{self, stage_selector};
use super::strimzi::{self, Readiness};
use super::validate::{TopicStep, ValidatedPipeline};
use crate::domain::pipeline::TopicPlan;
use crate::domain::pipeline::workers_name;
use crate::domain::record::provenance::Stage;

/// How a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Its name in Kafka.
    pub name: String,
    /// The KafkaTopic that stands for it.
    pub kafka_topic: Option<String>,
    /// What keeps it from being as asked for, in a word and in a sentence.
    pub trouble: Option<(String, String)>,
}

/// How the workers of a stage are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageState {
    /// The Deployment.
    pub deployment: String,
    /// How many workers there should be.
    pub wanted: i32,
    /// How many there are.
    pub replicas: i32,
    /// How many of them are ready and of the newest kind.
    pub ready: i32,
    /// What keeps a worker from being ready, in a word and in a sentence.
    pub trouble: Option<(String, String)>,
}

/// The state of each topic, by what was found and what was applied since.
pub fn topics(validated: &ValidatedPipeline, found: &Found, applied: &[DynamicObject]) -> Vec<TopicState> {
    let state = |(plan, step): &(TopicPlan, TopicStep)| {
        let name = names::kafka_topic(&plan.name);
        let known = match found.topics.get(&*plan.name) {
            Some(TopicFound::Object(topic)) => Some(&**topic),
            _ => None,
        };
        let trouble = match step {
            TopicStep::Refuse { reason, message } => Some(((*reason).to_owned(), message.clone())),
            TopicStep::Create | TopicStep::Alter(_) => None,
            TopicStep::Apply { .. } => applied.iter().find(|topic| topic.name_any() == name).and_then(topic_trouble),
            TopicStep::Leave => known.and_then(topic_trouble),
        };
        // It may be called otherwise, when it is somebody else's.
        let kafka_topic = match (known, step) {
            (Some(known), _) => Some(known.name_any()),
            (None, TopicStep::Apply { .. }) => Some(name),
            (None, _) => None,
        };
        TopicState { name: plan.name.to_string(), kafka_topic, trouble }
    };
    validated.topics.iter().map(state).collect()
}

/// What Strimzi says that keeps a topic from being as asked for.
fn topic_trouble(topic: &DynamicObject) -> Option<(String, String)> {
    let name = topic.name_any();
    match strimzi::readiness(topic) {
        Readiness::Ready => None,
        Readiness::Unknown => Some((
            "TopicPending".to_owned(),
            format!(
                "KafkaTopic `{name}`: Strimzi has not answered yet (if it never does: does its topic operator run, and watch \
                 this namespace?)"
            ),
        )),
        Readiness::NotReady(reason, message) => Some((
            "TopicNotReady".to_owned(),
            format!(
                "KafkaTopic `{name}`: {reason}: {message} (Strimzi looks at it again when it changes, else every two minutes)"
            ),
        )),
    }
}

/// The state of a stage, from its Deployment; `None` when there is none. Pods are only asked for when some are not ready.
pub async fn stage(
    client: &Client,
    namespace: &str,
    pipeline: &str,
    stage: Stage,
) -> Result<Option<StageState>, Error> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let deployment = workers_name(pipeline, stage);
    let Some(found) = api.get_opt(&deployment).await? else { return Ok(None) };
    let wanted = found.spec.replicas.unwrap_or(1);
    let status = found.status.clone().unwrap_or_default();
    let seen = status.observed_generation >= found.metadata.generation;
    let ready = status.ready_replicas.unwrap_or(0).min(status.updated_replicas.unwrap_or(0));
    let mut state = StageState {
        deployment,
        wanted,
        replicas: status.replicas.unwrap_or(0),
        ready: if seen { ready } else { 0 },
        trouble: None,
    };
    if state.ready < wanted {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let pods = pods.list(&ListParams::default().labels(&stage_selector(pipeline, stage))).await?;
        // Of an old kind there may be pods that do no better: the newest are those that were asked for last.
        let mut pods: Vec<_> = pods.items;
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.creation_timestamp()));
        state.trouble = pods.iter().find_map(pod_trouble);
    }
    Ok(Some(state))
}

/// What keeps a pod from being ready, when that is more than a matter of moments.
fn pod_trouble(pod: &Pod) -> Option<(String, String)> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let unschedulable =
        status.conditions.iter().flatten().find(|condition| {
            condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
        });
    if let Some(condition) = unschedulable {
        let message = condition.message.clone().unwrap_or_default();
        return Some(("Unschedulable".to_owned(), format!("pod `{name}`: {message}")));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers.into_iter().find_map(|container| container_trouble(&name, container))
}

fn container_trouble(pod: &str, container: &ContainerStatus) -> Option<(String, String)> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting
        .and_then(|waiting| waiting.reason.clone())
        .filter(|reason| !["ContainerCreating", "PodInitializing"].contains(&reason.as_str()))?;
    let message = waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = ended.map_or_else(String::new, |ended| {
        let why = ended.reason.as_deref().unwrap_or("Error");
        format!("; it last ended with {why}, exit code {}", ended.exit_code)
    });
    Some((reason, format!("pod `{pod}`: {message}{ended}")))
}

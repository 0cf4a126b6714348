//! What to do next about a pipeline that is not ready: the kubectl command with which one would look.

use kube::ResourceExt;

use super::{OPERATOR_PODS, WARNING, find, ready};
use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::domain::record::provenance::Stage;
use crate::operator::dereference::service_of;
use crate::operator::names::stage_selector;
use crate::operator::observe::StageState;
use crate::operator::strimzi::CLUSTER_LABEL;

/// The commands, the most fitting one first; none when there is nothing to do.
pub(super) fn steps(object: &ErrorHandlingPipeline, stages: &[Option<StageState>; 2]) -> Vec<String> {
    let Some(ready) = ready(object) else { return vec![OPERATOR_PODS.to_owned()] };
    if ready.status == "True" {
        return about_warning(object);
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let cluster = object.spec.kafka.cluster.as_deref();
    let edit = || format!("kubectl edit ehp -n {namespace} {name}");
    let kafka_pods = || cluster.map(|cluster| format!("kubectl get pods -n {namespace} -l {CLUSTER_LABEL}={cluster}"));
    let kafka = cluster.unwrap_or_default();
    match ready.reason.as_str() {
        "InvalidSpec" => vec![edit()],
        "Conflict" => vec!["kubectl lazaret status -A".to_owned(), edit()],
        "StrimziNotInstalled" => vec!["kubectl get crd kafkas.kafka.strimzi.io".to_owned(), edit()],
        "KafkaNotFound" => vec!["kubectl get kafka -A".to_owned()],
        "KafkaNotReady" => vec![format!("kubectl describe kafka -n {namespace} {kafka}")],
        "ListenerNotFound" => {
            let listeners = "jsonpath='{.status.listeners[*].name}'";
            vec![format!("kubectl get kafka -n {namespace} {kafka} -o {listeners}"), edit()]
        }
        "KafkaUnreachable" | "KafkaRefused" => kafka_pods().into_iter().collect(),
        // Strimzi's topic operator is among the pods of its Kafka.
        "TopicPending" => about_topics(object).into_iter().chain(kafka_pods()).collect(),
        "TopicNotReady" | "TopicDeleting" => about_topics(object),
        reason if reason.starts_with("Topic") => about_topics(object).into_iter().chain([edit()]).collect(),
        "NameTaken" => vec![format!("kubectl lazaret explain -n {namespace} {name}")],
        "Forbidden" => vec!["kubectl describe clusterrole -l app.kubernetes.io/part-of=lazaret".to_owned()],
        "ApiServerError" => vec![OPERATOR_PODS.to_owned()],
        "WaitingForTopics" => vec![],
        reason => about_workers(object, stages, reason),
    }
}

/// The KafkaTopics of the topics that are not ready.
fn about_topics(object: &ErrorHandlingPipeline) -> Vec<String> {
    let topics = object.status.iter().flat_map(|status| &status.topics).filter(|topic| !topic.ready);
    let names: Vec<_> = topics.filter_map(|topic| topic.kafka_topic.as_deref()).collect();
    if names.is_empty() {
        return vec![];
    }
    vec![format!("kubectl describe kafkatopic -n {} {}", object.namespace().unwrap_or_default(), names.join(" "))]
}

/// A pod that has run has a log; of one that never ran, the cluster says why.
fn about_workers(object: &ErrorHandlingPipeline, stages: &[Option<StageState>; 2], why: &str) -> Vec<String> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let unready = [Stage::Main, Stage::Retry].into_iter().zip(stages);
    let unready = unready.filter(|(_, state)| state.as_ref().is_some_and(|state| state.ready < state.wanted));
    let command = |(stage, state): (Stage, &Option<StageState>)| {
        let trouble = state.as_ref().and_then(|state| state.trouble.as_ref());
        let selector = stage_selector(&name, stage);
        match trouble.map_or(why, |(reason, _)| reason) {
            "CrashLoopBackOff" | "WorkersStarting" => {
                format!("kubectl logs -n {namespace} -l {selector} --all-containers --tail 50")
            }
            _ => format!("kubectl describe pods -n {namespace} -l {selector}"),
        }
    };
    unready.map(command).collect()
}

fn about_warning(object: &ErrorHandlingPipeline) -> Vec<String> {
    let warning = object.status.as_ref().and_then(|status| find(status, WARNING));
    let command = match warning.map_or("", |warning| &warning.reason) {
        "ServiceNotFound" => {
            let service = object.spec.processor.http.as_ref().and_then(|http| service_of(&http.url));
            service.map(|(_, namespace)| format!("kubectl get services -n {namespace}"))
        }
        "KafkaNotReady" => {
            let (namespace, kafka) = (object.namespace().unwrap_or_default(), object.spec.kafka.cluster.as_ref());
            kafka.map(|kafka| format!("kubectl describe kafka -n {namespace} {kafka}"))
        }
        _ => None,
    };
    command.into_iter().collect()
}

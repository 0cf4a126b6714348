//! Releases topics from a pipeline, before anything is judged: those of a pipeline that cannot run would else go with it.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;
use tracing::info;

use super::context::Context;
use super::dereference::Sight;
use super::error::Error;
use super::names::{self, FIELD_MANAGER, PIPELINE_LABEL};
use super::strimzi::CLUSTER_LABEL;
use super::validate::shared;
use crate::api::v1alpha1::{DeletionPolicy, ErrorHandlingPipeline};

/// Takes label and owner from KafkaTopics that the spec no longer names or manages, and the owner from those that are to
/// outlive the pipeline: by its policy, or because others share them. They stay as they are, with what is in them.
pub async fn release_topics(context: &Context, object: &ErrorHandlingPipeline) -> Result<(), Error> {
    let topics = object.status.iter().flat_map(|status| &status.topics);
    let has_had_some = topics.into_iter().any(|topic| topic.kafka_topic.is_some());
    let strimzi = context.strimzi.as_ref().filter(|_| has_had_some || object.spec.kafka.cluster.is_some());
    let Some(strimzi) = strimzi else { return Ok(()) };
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &strimzi.kafka_topic);
    let labelled = ListParams::default().labels(&format!("{PIPELINE_LABEL}={name}"));
    let object_names =
        |topics: BTreeSet<String>| -> BTreeSet<_> { topics.iter().map(|topic| names::kafka_topic(topic)).collect() };
    let (managed, shared) = (object_names(managed_topics(object)), object_names(shared(object, &context.pipelines())));
    for topic in api.list_metadata(&labelled).await?.items {
        let cluster = topic.labels().get(CLUSTER_LABEL);
        let is_managed = managed.contains(&topic.name_any()) && cluster == object.spec.kafka.cluster.as_ref();
        let outlives = object.spec.deletion_policy == DeletionPolicy::Retain || shared.contains(&topic.name_any());
        let mut owners = topic.owner_references().to_vec();
        owners.retain(|owner| Some(&owner.uid) != object.metadata.uid.as_ref());
        let is_tied = owners.len() < topic.owner_references().len();
        let is_released = !is_managed || (is_tied && outlives);
        if !is_released {
            continue;
        }
        // Whoever else has changed it meanwhile is not overwritten.
        let mut metadata = json!({"ownerReferences": owners, "resourceVersion": topic.resource_version()});
        if !is_managed {
            metadata["labels"] = json!({PIPELINE_LABEL: null, "app.kubernetes.io/managed-by": null});
        }
        context.may_write()?;
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch_metadata(&topic.name_any(), &parameters, &Patch::Merge(json!({"metadata": metadata}))).await {
            Ok(_) => info!(pipeline = name, namespace, kafka_topic = topic.name_any(), is_managed, "topic released"),
            // It has gone meanwhile.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The topics whose KafkaTopics are the pipeline's to make.
fn managed_topics(object: &ErrorHandlingPipeline) -> BTreeSet<String> {
    let mut topics: BTreeSet<_> = object.topic_names().into_iter().collect();
    if object.spec.kafka.cluster.is_none() {
        topics.clear();
    } else if !object.spec.topic.manage {
        topics.retain(|topic| *topic != object.spec.topic.name);
    }
    topics
}

//! Releases topics from a pipeline, before anything is judged: those of a pipeline that cannot run would else go with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::api::{Api, ApiResource, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tracing::info;

use super::context::Context;
use super::dereference::{Sight, Stored};
use super::error::Error;
use super::names::{self, FIELD_MANAGER, PIPELINE_LABEL};
use super::strimzi::CLUSTER_LABEL;
use super::validate::shared;
use crate::api::v1alpha1::{DeletionPolicy, ErrorHandlingPipeline};

/// A KafkaTopic that is to be released: it stays as it is, with what is in it.
#[derive(Debug, PartialEq)]
pub struct Release {
    /// The KafkaTopic.
    pub name: String,
    /// Whether the pipeline goes on to manage it, and only does not take it with it.
    pub is_managed: bool,
    /// What its metadata is merged with.
    metadata: Value,
}

/// Releases what is to be released.
pub async fn release_topics(context: &Context, object: &ErrorHandlingPipeline) -> Result<(), Error> {
    let topics = object.status.iter().flat_map(|status| &status.topics);
    let has_had_some = topics.into_iter().any(|topic| topic.kafka_topic.is_some());
    let strimzi = context.strimzi.as_ref().filter(|_| has_had_some || object.spec.kafka.cluster.is_some());
    let Some(strimzi) = strimzi else { return Ok(()) };
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &strimzi.kafka_topic);
    let labelled = labelled_topics(&context.client, &strimzi.kafka_topic, object).await?;
    for Release { name: topic, is_managed, metadata } in releases(object, &context.pipelines(), &labelled) {
        context.may_write()?;
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch_metadata(&topic, &parameters, &Patch::Merge(json!({"metadata": metadata}))).await {
            Ok(_) => info!(pipeline = name, namespace, kafka_topic = topic, is_managed, "topic released"),
            // It has gone meanwhile.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The KafkaTopics that have the pipeline's label.
pub async fn labelled_topics(
    client: &Client,
    resource: &ApiResource,
    object: &ErrorHandlingPipeline,
) -> Result<Vec<PartialObjectMeta<DynamicObject>>, kube::Error> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &object.namespace().unwrap_or_default(), resource);
    let labelled = ListParams::default().labels(&format!("{PIPELINE_LABEL}={}", object.name_any()));
    Ok(api.list_metadata(&labelled).await?.items)
}

/// What is to be released of the KafkaTopics that have the pipeline's label. Those that the spec no longer names or manages
/// lose label and owner; those that are to outlive the pipeline, by its policy or because others share them, the owner.
pub fn releases(
    object: &ErrorHandlingPipeline,
    others: &[Arc<Stored>],
    labelled: &[PartialObjectMeta<DynamicObject>],
) -> Vec<Release> {
    let object_names =
        |topics: BTreeSet<String>| -> BTreeSet<_> { topics.iter().map(|topic| names::kafka_topic(topic)).collect() };
    let (managed, shared) = (object_names(managed_topics(object)), object_names(shared(object, others)));
    let release = |topic: &PartialObjectMeta<DynamicObject>| {
        let name = topic.name_any();
        let cluster = topic.labels().get(CLUSTER_LABEL);
        let is_managed = managed.contains(&name) && cluster == object.spec.kafka.cluster.as_ref();
        let outlives = object.spec.deletion_policy == DeletionPolicy::Retain || shared.contains(&name);
        let mut owners = topic.owner_references().to_vec();
        owners.retain(|owner| Some(&owner.uid) != object.metadata.uid.as_ref());
        let is_tied = owners.len() < topic.owner_references().len();
        if is_managed && !(is_tied && outlives) {
            return None;
        }
        // Whoever else has changed it meanwhile is not overwritten.
        let mut metadata = json!({"ownerReferences": owners, "resourceVersion": topic.resource_version()});
        if !is_managed {
            metadata["labels"] = json!({PIPELINE_LABEL: null, "app.kubernetes.io/managed-by": null});
        }
        Some(Release { name, is_managed, metadata })
    };
    labelled.iter().filter_map(release).collect()
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

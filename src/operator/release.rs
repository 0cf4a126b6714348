//! Unties topics from a pipeline, before anything is judged: a pipeline that cannot run must still be able to give its
//! topics away, or they would go with it.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;
use tracing::info;

use super::context::Context;
use super::error::Error;
use super::names::{self, FIELD_MANAGER, PIPELINE_LABEL};
use crate::api::v1alpha1::{DeletionPolicy, ErrorHandlingPipeline};

/// Lets go of KafkaTopics that the spec no longer names or no longer manages, and takes the owner from those that are to
/// outlive the pipeline. They stay as they are, with what is in them.
pub async fn release_topics(context: &Context, object: &ErrorHandlingPipeline) -> Result<(), Error> {
    let Some(strimzi) = &context.strimzi else { return Ok(()) };
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &strimzi.kafka_topic);
    let labelled = ListParams::default().labels(&format!("{PIPELINE_LABEL}={name}"));
    let managed: BTreeSet<_> = managed_topics(object).iter().map(|topic| names::kafka_topic(topic)).collect();
    for topic in api.list_metadata(&labelled).await?.items {
        let is_managed = managed.contains(&topic.name_any());
        let mut owners = topic.owner_references().to_vec();
        owners.retain(|owner| Some(&owner.uid) != object.metadata.uid.as_ref());
        let is_tied = owners.len() < topic.owner_references().len();
        if is_managed && !(is_tied && object.spec.deletion_policy == DeletionPolicy::Retain) {
            continue;
        }
        // Whoever else has changed it meanwhile is not overwritten.
        let mut metadata = json!({"ownerReferences": owners, "resourceVersion": topic.resource_version()});
        if !is_managed {
            metadata["labels"] = json!({PIPELINE_LABEL: null, "app.kubernetes.io/managed-by": null});
        }
        context.may_write()?;
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        api.patch_metadata(&topic.name_any(), &parameters, &Patch::Merge(json!({"metadata": metadata}))).await?;
        info!(pipeline = name, namespace, kafka_topic = topic.name_any(), is_managed, "topic untied from its pipeline");
    }
    Ok(())
}

/// The topics whose KafkaTopics are the pipeline's to make.
fn managed_topics(object: &ErrorHandlingPipeline) -> Vec<String> {
    let mut topics = object.topic_names();
    if object.spec.kafka.cluster.is_none() {
        topics.clear();
    } else if !object.spec.topic.manage {
        topics.retain(|topic| *topic != object.spec.topic.name);
    }
    topics
}

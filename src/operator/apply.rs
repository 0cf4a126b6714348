//! Applies what was built, by server-side apply as one field manager; two others keep what was there before (see
//! [`super::names`]). It judges nothing, but that an object of somebody else is never taken.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use super::build::{build_kafka_topics, build_workers};
use super::context::Context;
use super::dereference::Sight;
use super::error::Error;
use super::names::{self, CARRIED_OVER, FIELD_MANAGER, HANDED_OVER, PIPELINE_LABEL};
use super::validate::{TopicStep, ValidatedPipeline};
use crate::api::v1alpha1::ErrorHandlingPipeline;

/// Applies the topics, and returns the KafkaTopics as they are then.
pub async fn apply_topics(context: &Context, validated: &ValidatedPipeline) -> Result<Vec<DynamicObject>, Error> {
    let mut applied = vec![];
    let Some(strimzi) = context.strimzi.as_ref().filter(|_| validated.object.spec.kafka.cluster.is_some()) else {
        for (plan, step) in &validated.topics {
            context.may_write()?;
            match step {
                TopicStep::Create => {
                    let topics = context.topics(&validated.bootstrap_servers)?;
                    topics.create_missing(std::slice::from_ref(plan)).await?;
                }
                TopicStep::Alter(found) => context.topics(&validated.bootstrap_servers)?.alter(plan, found).await?,
                TopicStep::Apply { .. } | TopicStep::Leave | TopicStep::Refuse { .. } => {}
            }
        }
        return Ok(applied);
    };
    for wanted in build_kafka_topics(validated, &strimzi.kafka_topic) {
        let mut topic = wanted.object.clone();
        if !wanted.carried_over.is_empty() {
            // Made with all settings at once: Strimzi would remove one that is named a moment later. An owner is never this
            // manager's to name, or it could not be taken back.
            topic.metadata.owner_references = None;
            topic.data["spec"]["config"]
                .as_object_mut()
                .expect("it is built as a map")
                .extend(wanted.carried_over.iter().map(|(name, value)| (name.clone(), json!(value))));
            patch(context, &topic, CARRIED_OVER).await?;
        }
        applied.push(patch(context, &wanted.object, FIELD_MANAGER).await?);
        if !wanted.carried_over.is_empty() {
            // From now on the second manager answers for those settings alone.
            topic.metadata.labels = None;
            topic.data = json!({"spec": {"config": wanted.carried_over}});
            patch(context, &topic, CARRIED_OVER).await?;
        }
    }
    Ok(applied)
}

/// Applies everything else, and returns it as it is then.
pub async fn apply_workers(context: &Context, validated: &ValidatedPipeline) -> Result<Vec<DynamicObject>, Error> {
    let mut applied = vec![];
    for wanted in build_workers(validated, &context.worker_image) {
        let known = api_of(&context.client, &wanted).get_metadata_opt(&wanted.name_any()).await?;
        if let Some(known) = known.as_ref().filter(|known| !is_owned(*known, validated)) {
            let (kind, name) = (wanted.types.map(|types| types.kind).unwrap_or_default(), known.name_any());
            // Of a pipeline that was deleted and made anew at once, Kubernetes has still to collect what was made.
            let was_ours = known.owner_references().iter().any(|owner| {
                owner.kind == ErrorHandlingPipeline::kind(&()) && owner.name == validated.object.name_any()
            });
            let goes = was_ours || known.metadata.deletion_timestamp.is_some();
            return Err(if goes { Error::Leftover { kind, name } } else { Error::NameTaken { kind, name } });
        }
        keep_replicas(context, &wanted, known.as_ref()).await?;
        applied.push(patch(context, &wanted, FIELD_MANAGER).await?);
    }
    for gone in unwanted(&context.client, validated, &applied).await? {
        context.may_write()?;
        api_of(&context.client, &gone).delete(&gone.name_any(), &DeleteParams::default()).await?;
    }
    Ok(applied)
}

/// Keeps a number of workers that the spec named and no longer names: without another owner the field would fall back to 1.
async fn keep_replicas(
    context: &Context,
    wanted: &DynamicObject,
    known: Option<&PartialObjectMeta<DynamicObject>>,
) -> Result<(), Error> {
    let is_deployment = wanted.types.as_ref().is_some_and(|types| types.kind == "Deployment");
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    let was_named = known
        .is_some_and(|known| known.managed_fields().iter().any(|fields| names::owns(fields, FIELD_MANAGER, &replicas)));
    if !is_deployment || !was_named || !wanted.data["spec"]["replicas"].is_null() {
        return Ok(());
    }
    if let Some(known) = api_of(&context.client, wanted).get_opt(&wanted.name_any()).await? {
        let mut kept = wanted.clone();
        // Only of the very object that was read, and as it was read.
        kept.metadata.uid = known.uid();
        kept.metadata.resource_version = known.resource_version();
        kept.metadata.labels = None;
        kept.metadata.owner_references = None;
        kept.data = json!({"spec": {"replicas": known.data["spec"]["replicas"]}});
        patch(context, &kept, HANDED_OVER).await?;
    }
    Ok(())
}

/// What an earlier spec asked for and this one does not. Only autoscalers come and go with the spec; the rest is there for
/// every pipeline.
pub async fn unwanted(
    client: &Client,
    validated: &ValidatedPipeline,
    wanted: &[DynamicObject],
) -> Result<Vec<DynamicObject>, Error> {
    let namespace = validated.object.namespace().unwrap_or_default();
    let labelled = ListParams::default().labels(&format!("{PIPELINE_LABEL}={}", validated.object.name_any()));
    let resource = ApiResource::erase::<HorizontalPodAutoscaler>(&());
    let is_wanted = |name: &str| {
        wanted.iter().any(|object| {
            object.types.as_ref().is_some_and(|types| types.kind == resource.kind) && object.name_any() == name
        })
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let found = api.list_metadata(&labelled).await?.items.into_iter();
    let gone = found.filter(|object| is_owned(object, validated) && !is_wanted(&object.name_any()));
    Ok(gone.map(|object| DynamicObject::new(&object.name_any(), &resource).within(&namespace)).collect())
}

/// Whether an object belongs to the pipeline.
pub fn is_owned(object: &impl ResourceExt, validated: &ValidatedPipeline) -> bool {
    let owner = validated.object.uid();
    object.owner_references().iter().any(|reference| Some(&reference.uid) == owner.as_ref())
}

async fn patch(context: &Context, object: &DynamicObject, manager: &str) -> Result<DynamicObject, Error> {
    context.may_write()?;
    let parameters = PatchParams::apply(manager).force();
    Ok(api_of(&context.client, object).patch(&object.name_any(), &parameters, &Patch::Apply(object)).await?)
}

/// The API of an object's kind, in its namespace.
pub fn api_of(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let gvk = object.types.as_ref().and_then(|types| GroupVersionKind::try_from(types).ok());
    let resource = ApiResource::from_gvk(&gvk.expect("what is built has an apiVersion and a kind"));
    Api::namespaced_with(client.clone(), &object.namespace().unwrap_or_default(), &resource)
}

//! One reconcile, from beginning to end. It assumes nothing about why it was called, and may be called at any time.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

use super::context::Context;
use super::dereference::Stored;
use super::error::{Error, Said};
use super::events;
use super::lookout;
use super::names::FIELD_MANAGER;
use super::status::{self, Outcome};
use super::watched::Watched;
use super::{apply, dereference, observe, release, validate};
use crate::api::v1alpha1::{ErrorHandlingPipeline, ErrorHandlingPipelineStatus};
use crate::domain::record::provenance::Stage;

/// How long one reconcile may take: longer than any number of answers, shorter than a connection that nobody answers.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many failures in a row are not worth a word.
const FAILURES_UNSAID: u32 = 2;

/// When to look again whether an older pipeline has gone. Its end wakes this one; that of one in another namespace may not.
const CONFLICT_INTERVAL: Duration = Duration::from_secs(30);

/// When to look again at what nobody tells the operator of: a topic in Kafka, a Kafka that cannot be reached.
const UNSEEN_INTERVAL: Duration = Duration::from_secs(10);

/// When to look again whether a Service has appeared that is only asked for by name.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Brings the cluster closer to what the pipeline asks for, and says in its status how far it came.
pub async fn reconcile(stored: Arc<Stored>, context: Arc<Context>) -> Result<Action, Error> {
    context.all_known().await;
    let result = match &stored.0 {
        Ok(object) => timeout(TIMEOUT, run(&context, &Arc::new(object.clone()))).await.unwrap_or(Err(Error::Timeout)),
        Err(unreadable) => say_unreadable(&context, unreadable).await,
    };
    match &result {
        Ok(_) => context.succeeded(&stored),
        Err(error) => context.metrics.reconciled(error.reason()),
    }
    result
}

async fn run(context: &Context, object: &Arc<ErrorHandlingPipeline>) -> Result<Action, Error> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let outcome = match outcome(context, object).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let failures = context.failures(object.metadata.uid.as_ref());
            match error.said() {
                Said::Never => return Err(error),
                Said::AfterSome if failures < FAILURES_UNSAID => return Err(error),
                Said::AfterSome | Said::AtOnce => {}
            }
            // Best effort: the API server may be what does not answer.
            let failed = Outcome::Failed(error.reason(), error.in_words());
            if let Err(unsaid) = say(context, object, &failed).await {
                warn!(pipeline = object.name_any(), error = %unsaid, "the status could not be written");
            }
            return Err(error);
        }
    };
    say(context, object, &outcome).await?;
    context.metrics.reconciled(if matches!(outcome, Outcome::Invalid(..)) { "Invalid" } else { "Applied" });
    Ok(next(&outcome))
}

async fn outcome(context: &Context, object: &Arc<ErrorHandlingPipeline>) -> Result<Outcome, Error> {
    release::release_topics(context, object).await?;
    let found = dereference::dereference(context, object).await?;
    let validated = match validate::validate(object, &found) {
        Ok(validated) => validated,
        Err(invalid) => return Ok(Outcome::Invalid(invalid.reason(), invalid.to_string())),
    };
    context.watch(Watched::new(&validated));
    events::topics_made_anew(context, &validated, &found).await;
    let kafka_topics = apply::apply_topics(context, &validated).await?;
    let topics = observe::topics(&validated, &found, &kafka_topics);
    // Workers that run are kept as asked for whatever becomes of the topics; new ones would only complain of their lack.
    let are_ready = topics.iter().all(|topic| topic.trouble.is_none());
    if are_ready || stages(context, object).await?.iter().all(Option::is_some) {
        apply::apply_workers(context, &validated).await?;
    }
    let stages = stages(context, object).await?;
    Ok(Outcome::Applied { topics, stages, warning: validate::warning(&found) })
}

async fn stages(context: &Context, object: &ErrorHandlingPipeline) -> Result<[Option<observe::StageState>; 2], Error> {
    if object.is_external() {
        return Ok([None, None]);
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let stage = |stage| observe::stage(&context.client, &namespace, &name, stage);
    Ok([stage(Stage::Main).await?, stage(Stage::Retry).await?])
}

/// When to look again if nothing changes that is watched.
fn next(outcome: &Outcome) -> Action {
    let (topics, warning) = match outcome {
        Outcome::Applied { topics, warning, .. } => (topics, warning),
        Outcome::Invalid(validate::CONFLICT, _) => return Action::requeue(CONFLICT_INTERVAL),
        _ => return Action::await_change(),
    };
    let is_unseen =
        |reason: &str| ["KafkaUnreachable", "KafkaRefused", "TopicNotFound", "TopicDiffers"].contains(&reason);
    if topics.iter().filter_map(|topic| topic.trouble.as_ref()).any(|(reason, _)| is_unseen(reason)) {
        return Action::requeue(UNSEEN_INTERVAL);
    }
    match warning {
        Some(_) => Action::requeue(WARNING_INTERVAL),
        None => Action::await_change(),
    }
}

/// Writes the status if it says something new, and an event if a person would want to know.
async fn say(context: &Context, object: &ErrorHandlingPipeline, outcome: &Outcome) -> Result<(), Error> {
    // What is said of records is somebody else's.
    let status = lookout::status::others(&status::status(object, outcome, Timestamp::now()));
    if object.status.as_ref().map(lookout::status::others).as_ref() == Some(&status) {
        return Ok(());
    }
    context.may_write()?;
    let api: Api<ErrorHandlingPipeline> =
        Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&object.name_any(), &parameters, &Patch::Apply(patch_of(&status))).await {
        Ok(_) => {}
        // Deleted meanwhile.
        Err(kube::Error::Api(refused)) if refused.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    events::status_changed(context, object, &status).await;
    Ok(())
}

/// A pipeline that cannot be read says so in its own status, where the API server lets it, and in an event. It is looked
/// at again when it changes.
async fn say_unreadable(context: &Context, InvalidObject { error, metadata }: &InvalidObject) -> Result<Action, Error> {
    let gvk = GroupVersionKind::gvk(
        &ErrorHandlingPipeline::group(&()),
        &ErrorHandlingPipeline::version(&()),
        &ErrorHandlingPipeline::kind(&()),
    );
    let resource = ApiResource::from_gvk_with_plural(&gvk, &ErrorHandlingPipeline::plural(&()));
    let (name, namespace) = (metadata.name.clone().unwrap_or_default(), metadata.namespace.clone().unwrap_or_default());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let known = api.get(&name).await?;
    let before: ErrorHandlingPipelineStatus = serde_json::from_value(known.data["status"].clone()).unwrap_or_default();
    let message = format!("the object cannot be read: {error}; apply it anew");
    let status = status::unreadable(before.clone(), metadata.generation, message.clone(), Timestamp::now());
    context.metrics.reconciled("Unreadable");
    if status != before {
        context.may_write()?;
        // To an object that its own schema does not know the API server cannot apply fields; it can merge them, unless one
        // of its rules cannot read the object either.
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await {
            Ok(_) => {}
            Err(kube::Error::Api(refused)) if refused.code == 422 => {}
            Err(error) => return Err(error.into()),
        }
        events::publish(context, &known.object_ref(&resource), EventType::Warning, "InvalidSpec", &message).await;
    }
    Ok(Action::await_change())
}

fn patch_of(status: &ErrorHandlingPipelineStatus) -> serde_json::Value {
    json!({
        "apiVersion": ErrorHandlingPipeline::api_version(&()), "kind": ErrorHandlingPipeline::kind(&()), "status": status,
    })
}

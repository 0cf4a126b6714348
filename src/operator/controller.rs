//! What wakes a reconcile: a change of the pipeline, of what was made for it, of its Kafka and topics, of its pods, or the
//! end of another pipeline that stood in its way. Only what nobody tells of is looked at every now and then: a topic in Kafka
//! that is not as it should be, a Service that a processor names.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{PredicateConfig, WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use tracing::warn;

use super::OperatorSettings;
use super::context::Context;
use super::dereference::Stored;
use super::error::Error;
use super::lease::Lease;
use super::lookout;
use super::metrics::Metrics;
use super::names::{self, PIPELINE_LABEL};
use super::reconcile::reconcile;
use super::status;
use super::strimzi::Strimzi;
use crate::api::v1alpha1::ErrorHandlingPipeline;

/// How many pipelines are reconciled at a time.
const CONCURRENCY: u16 = 8;

/// How long a pipeline is left alone after a change, for more changes to come: whoever edits ten fields, or waits for ten
/// pods, causes one reconcile and not ten.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Reconciles the pipelines of the operator's namespaces. It ends when it is dropped.
pub async fn run(
    client: &Client,
    settings: &OperatorSettings,
    strimzi: Option<Strimzi>,
    metrics: &Arc<Metrics>,
    lease: &Arc<Lease>,
) {
    let places = match settings.namespaces.as_slice() {
        [] => vec![None],
        namespaces => namespaces.iter().cloned().map(Some).collect(),
    };
    let places = places.into_iter().map(|namespace| Place { client: client.clone(), namespace });
    let controllers: Vec<_> = places.map(|place| place.controller(strimzi.as_ref())).collect();
    let stores: Vec<_> = controllers.iter().map(Controller::store).collect();
    metrics.watch(stores.clone());
    let context = Context::new(client.clone(), settings, strimzi, stores, metrics.clone(), lease.clone());
    let context = Arc::new(context);
    let runs = controllers.into_iter().map(|controller| {
        let results = controller.with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE)).run(
            reconcile,
            on_error,
            context.clone(),
        );
        results.for_each(|result| async move {
            // What a reconcile cannot do is logged where it is decided when to try again.
            if let Err(kube::runtime::controller::Error::QueueError(error)) = result {
                warn!(%error, "a watch was interrupted");
            }
        })
    });
    tokio::join!(futures::future::join_all(runs), lookout::run(context.clone(), &settings.namespaces));
}

fn on_error(stored: Arc<Stored>, error: &Error, context: Arc<Context>) -> Action {
    let pause = context.failed(&stored);
    let error: &dyn std::error::Error = error;
    warn!(
        pipeline = stored.name_any(),
        namespace = stored.namespace(),
        error,
        retry_in_seconds = pause.as_secs(),
        "could not be reconciled"
    );
    Action::requeue(pause)
}

/// Where pipelines are looked for: in one namespace, or in all.
struct Place {
    client: Client,
    namespace: Option<String>,
}

impl Place {
    fn controller(&self, strimzi: Option<&Strimzi>) -> Controller<Stored> {
        let every = watcher::Config::default;
        let made = || watcher::Config::default().labels(PIPELINE_LABEL);
        let (store, writer) = reflector::store();
        // What is written of records wakes nobody: it comes every few seconds, and changes nothing that is asked for.
        let changes = watcher(self.api::<Stored>(), every()).reflect(writer).applied_objects();
        let changes = changes.predicate_filter(asked_for, PredicateConfig::default());
        let controller = Controller::for_stream(changes, store.clone());
        let (pipelines, known_topics) = (store.clone(), KnownTopics::default());
        // Of everything but the pipelines only the metadata is watched: whoever is woken reads what it needs.
        let controller = controller
            .owns(self.api::<Deployment>(), made())
            .owns(self.api::<ConfigMap>(), made())
            .owns(self.api::<Service>(), made())
            .owns(self.api::<ServiceAccount>(), made())
            .owns(self.api::<PodDisruptionBudget>(), made())
            .owns(self.api::<HorizontalPodAutoscaler>(), made())
            .watches(self.api::<PartialObjectMeta<Pod>>(), made(), |pod| {
                let pipeline = pod.labels().get(PIPELINE_LABEL)?;
                Some(ObjectRef::new(pipeline).within(&pod.namespace()?))
            })
            .watches(self.api::<PartialObjectMeta<ErrorHandlingPipeline>>(), every(), move |changed| {
                concerned(&pipelines, &known_topics, &changed)
            });
        let Some(Strimzi { kafka, kafka_topic }) = strimzi else { return controller };
        let pipelines = store.clone();
        let uses_kafka = move |kafka: PartialObjectMeta<DynamicObject>| {
            let (name, namespace) = (kafka.name_any(), kafka.namespace());
            those(&pipelines, |of| of.namespace() == namespace && of.spec.kafka.cluster.as_ref() == Some(&name))
        };
        let uses_topic = move |topic: PartialObjectMeta<DynamicObject>| {
            let (name, namespace) = (topic.name_any(), topic.namespace());
            let names = |of: &ErrorHandlingPipeline| of.topic_names().iter().any(|of| names::kafka_topic(of) == name);
            let has = |of: &ErrorHandlingPipeline| {
                let mut topics = of.status.iter().flat_map(|status| &status.topics);
                topics.any(|topic| topic.kafka_topic.as_ref() == Some(&name))
            };
            those(&store, |of| of.namespace() == namespace && (names(of) || has(of)))
        };
        controller.watches_with(self.dynamic_api(kafka), kafka.clone(), every(), uses_kafka).watches_with(
            self.dynamic_api(kafka_topic),
            kafka_topic.clone(),
            every(),
            uses_topic,
        )
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        let client = self.client.clone();
        match &self.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    fn dynamic_api(&self, resource: &ApiResource) -> Api<PartialObjectMeta<DynamicObject>> {
        let client = self.client.clone();
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        }
    }
}

/// A hash of what a reconcile is about: all but what is said of records.
fn asked_for(stored: &Stored) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let meta = stored.meta();
    (&meta.uid, meta.generation, &meta.labels, &meta.annotations, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    match &stored.0 {
        Ok(object) => {
            let status = object.status.as_ref().map(lookout::status::others);
            serde_json::to_string(&status).unwrap_or_default().hash(&mut hasher);
        }
        Err(unreadable) => (&meta.resource_version, &unreadable.error).hash(&mut hasher),
    }
    Some(hasher.finish())
}

/// The topics of each pipeline as they were last seen, by its uid.
type KnownTopics = Mutex<HashMap<Option<String>, Vec<String>>>;

/// The pipelines that a change of another one concerns: those that share a topic with what it was or is, and those that one
/// stood in the way of.
fn concerned(
    pipelines: &Store<Stored>,
    known: &KnownTopics,
    changed: &PartialObjectMeta<ErrorHandlingPipeline>,
) -> Vec<ObjectRef<Stored>> {
    let changed_ref = ObjectRef::new(&changed.name_any()).within(&changed.namespace().unwrap_or_default());
    let stored = pipelines.get(&changed_ref).filter(|stored| stored.uid() == changed.uid());
    let now = stored.and_then(|stored| stored.0.as_ref().ok().map(ErrorHandlingPipeline::topic_names));
    let before = {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match &now {
            Some(topics) => known.insert(changed.uid(), topics.clone()),
            None => known.remove(&changed.uid()),
        }
    };
    if before == now {
        return vec![];
    }
    let topics = [before, now].into_iter().flatten().flatten().collect::<BTreeSet<_>>();
    let shares = |of: &ErrorHandlingPipeline| of.topic_names().iter().any(|topic| topics.contains(topic));
    those(pipelines, |of| of.uid() != changed.uid() && (status::has_conflict(of) || shares(of)))
}

/// The pipelines of which something is true, as something to reconcile.
fn those(pipelines: &Store<Stored>, is_one: impl Fn(&ErrorHandlingPipeline) -> bool) -> Vec<ObjectRef<Stored>> {
    let found = pipelines.state().into_iter().filter(|stored| stored.0.as_ref().is_ok_and(&is_one));
    found.map(|stored| ObjectRef::from_obj(&*stored)).collect()
}

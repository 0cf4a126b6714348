//! Judges a pipeline by what it refers to, without asking anybody: can it run, on which Kafka, and what becomes of each
//! topic. Everything later goes by the [`ValidatedPipeline`], never by the raw spec.

mod inherited;
mod topic;

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt;

pub use topic::TopicStep;

use super::dereference::Stored;
use super::dereference::{Found, KafkaFound, is_named};
use super::strimzi;
use crate::api::claims::{Claims, Shared, check_disjoint};
use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::api::validate::{self, InvalidPipeline};
use crate::domain::pipeline::{Pipeline, TopicPlan};

/// The reason of a pipeline that another one stands in the way of.
pub const CONFLICT: &str = "Conflict";

/// A pipeline that can run.
#[derive(Debug)]
pub struct ValidatedPipeline {
    /// As its user wrote it.
    pub object: Arc<ErrorHandlingPipeline>,
    /// Complete and compiled.
    pub pipeline: Pipeline,
    /// Where its Kafka is.
    pub bootstrap_servers: String,
    /// Its topics, each with what is to be done about it.
    pub topics: Vec<(TopicPlan, TopicStep)>,
    /// Those of them that other pipelines use, too: they outlive this one whatever it says.
    pub shared: BTreeSet<String>,
}

/// Why a pipeline cannot run. The reason is the condition's, the text its message.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The spec is wrong in a way that only Rust can see.
    #[error("{0}")]
    Spec(InvalidPipeline),
    /// Another pipeline was there first.
    #[error("{0}; the older one keeps it, and workers of this one that run already are left as they are")]
    Conflict(Shared),
    /// The cluster knows no Strimzi.
    #[error(
        "spec.kafka.cluster is set, but Strimzi is not installed in this cluster: install it, or set spec.kafka.bootstrapServers"
    )]
    NoStrimzi,
    /// There is no Kafka of that name.
    #[error(
        "there is no Kafka `{name}` in the namespace `{namespace}`: create it, or move this object to the Kafka's namespace"
    )]
    NoKafka {
        /// The name.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// The Kafka has no address yet.
    #[error("Kafka `{name}` has no address yet: {message}")]
    KafkaNotReady {
        /// The Kafka.
        name: String,
        /// What Strimzi says.
        message: String,
    },
    /// The Kafka has no such listener.
    #[error("Kafka `{name}` has no listener `{wanted}`: set spec.kafka.listener to one of {known}")]
    NoListener {
        /// The Kafka.
        name: String,
        /// The listener.
        wanted: String,
        /// The listeners that it has.
        known: String,
    },
}

impl Invalid {
    /// In a word.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Spec(_) => "InvalidSpec",
            Self::Conflict(_) => CONFLICT,
            Self::NoStrimzi => "StrimziNotInstalled",
            Self::NoKafka { .. } => "KafkaNotFound",
            Self::KafkaNotReady { .. } => "KafkaNotReady",
            Self::NoListener { .. } => "ListenerNotFound",
        }
    }
}

/// Judges.
pub fn validate(object: &Arc<ErrorHandlingPipeline>, found: &Found) -> Result<ValidatedPipeline, Invalid> {
    let pipeline = validate::validate(object).map_err(Invalid::Spec)?;
    check_conflicts(object, &found.others)?;
    let bootstrap_servers = bootstrap_servers(object, &found.kafka)?;
    let inherited = inherited::of_main_topic(&pipeline, found);
    let step = |(index, plan): (usize, &TopicPlan)| {
        let plan = topic::with_retention_kept(object, plan, found);
        let step = topic::step(object, &plan, &pipeline.topics[..index], found);
        let is_main = plan.name == pipeline.main.topic;
        let plan = if is_main { plan } else { inherited::complete(plan, &step, inherited, found) };
        (plan, step)
    };
    let topics = pipeline.topics.iter().enumerate().map(step).collect();
    let shared = shared(object, &found.others);
    Ok(ValidatedPipeline { object: object.clone(), pipeline, bootstrap_servers, topics, shared })
}

/// What need not be wrong, but likely is: a reason and a message.
pub fn warning(found: &Found) -> Option<(&'static str, String)> {
    if let KafkaFound::Object(kafka) = &found.kafka
        && let strimzi::Readiness::NotReady(reason, message) = strimzi::readiness(kafka)
    {
        let name = kafka.name_any();
        return Some(("KafkaNotReady", format!("Strimzi says that Kafka `{name}` is not ready: {reason}: {message}")));
    }
    let (name, namespace) = found.missing_service.as_ref()?;
    let message =
        format!("there is no Service `{name}` in the namespace `{namespace}`, which spec.processor.http.url names");
    Some(("ServiceNotFound", message))
}

/// Of two pipelines that get in each other's way the older one goes on, as if the other were not there.
fn check_conflicts(object: &ErrorHandlingPipeline, others: &[Arc<Stored>]) -> Result<(), Invalid> {
    let ours = Claims { pipeline: qualified(object), ..Claims::from(object) };
    for other in others.iter().filter_map(|stored| stored.0.as_ref().ok()) {
        if is_on_same_kafka(other, object) && is_older(other, object) {
            let theirs = Claims { pipeline: qualified(other), ..Claims::from(other) };
            check_disjoint(&ours, &theirs).map_err(Invalid::Conflict)?;
        }
    }
    Ok(())
}

/// The topics that other pipelines on the same Kafka use, too. While there is one that cannot be read, these may be any.
pub fn shared(object: &ErrorHandlingPipeline, others: &[Arc<Stored>]) -> BTreeSet<String> {
    let mut nearby = others.iter().filter(|other| other.namespace() == object.namespace());
    if nearby.any(|other| other.0.is_err()) {
        return object.topic_names().into_iter().collect();
    }
    let others = others.iter().filter_map(|stored| stored.0.as_ref().ok()).filter(|other| other.uid() != object.uid());
    let others = others.filter(|other| is_on_same_kafka(other, object) && other.metadata.deletion_timestamp.is_none());
    let theirs: BTreeSet<_> = others.flat_map(ErrorHandlingPipeline::topic_names).collect();
    object.topic_names().into_iter().filter(|topic| theirs.contains(topic)).collect()
}

fn qualified(object: &ErrorHandlingPipeline) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn is_on_same_kafka(one: &ErrorHandlingPipeline, other: &ErrorHandlingPipeline) -> bool {
    match (&one.spec.kafka.cluster, &other.spec.kafka.cluster) {
        (Some(cluster), Some(other_cluster)) => cluster == other_cluster && one.namespace() == other.namespace(),
        (None, None) => one.spec.kafka.bootstrap_servers == other.spec.kafka.bootstrap_servers,
        _ => false,
    }
}

fn is_older(other: &ErrorHandlingPipeline, object: &ErrorHandlingPipeline) -> bool {
    let age = |object: &ErrorHandlingPipeline| (object.creation_timestamp(), qualified(object));
    other.metadata.deletion_timestamp.is_none() && age(other) < age(object)
}

fn bootstrap_servers(object: &ErrorHandlingPipeline, kafka: &KafkaFound) -> Result<String, Invalid> {
    let name = object.spec.kafka.cluster.clone().unwrap_or_default();
    let kafka = match kafka {
        KafkaFound::Given => return Ok(object.spec.kafka.bootstrap_servers.clone().unwrap_or_default()),
        KafkaFound::NoStrimzi => return Err(Invalid::NoStrimzi),
        KafkaFound::Missing => {
            return Err(Invalid::NoKafka { name, namespace: object.namespace().unwrap_or_default() });
        }
        KafkaFound::Object(kafka) => kafka,
    };
    let listeners = strimzi::listeners(kafka);
    if listeners.is_empty() {
        let message = match strimzi::readiness(kafka) {
            strimzi::Readiness::NotReady(reason, message) => format!("{reason}: {message}"),
            _ => "Strimzi has not started it yet".to_owned(),
        };
        return Err(Invalid::KafkaNotReady { name, message });
    }
    match listeners.iter().find(|listener| is_named(listener, object)) {
        Some(listener) => Ok(listener.bootstrap_servers.clone()),
        None => {
            let known: Vec<_> = listeners.into_iter().map(|listener| format!("`{}`", listener.name)).collect();
            Err(Invalid::NoListener { name, wanted: object.spec.kafka.listener.clone(), known: known.join(", ") })
        }
    }
}

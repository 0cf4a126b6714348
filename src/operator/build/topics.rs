//! The KafkaTopics of a pipeline.

use std::collections::BTreeMap;

use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::api::v1alpha1::DeletionPolicy;
use crate::domain::pipeline::TopicPlan;
use crate::operator::names::{PIPELINE_LABEL, kafka_topic};
use crate::operator::strimzi::CLUSTER_LABEL;
use crate::operator::validate::{TopicStep, ValidatedPipeline};

/// A KafkaTopic to apply.
pub struct WantedTopic {
    /// The object.
    pub object: DynamicObject,
    /// Settings that the topic has in Kafka already and that the object must name when it is made.
    pub carried_over: BTreeMap<String, String>,
}

/// The KafkaTopics to apply, in the order of the pipeline's topics.
pub fn build_kafka_topics(validated: &ValidatedPipeline, resource: &ApiResource) -> Vec<WantedTopic> {
    let build = |(plan, step): &(TopicPlan, TopicStep)| match step {
        TopicStep::Apply { carried_over } => {
            Some(WantedTopic { object: build_topic(validated, resource, plan), carried_over: carried_over.clone() })
        }
        _ => None,
    };
    validated.topics.iter().filter_map(build).collect()
}

fn build_topic(validated: &ValidatedPipeline, resource: &ApiResource, plan: &TopicPlan) -> DynamicObject {
    let object = &validated.object;
    let name = kafka_topic(&plan.name);
    let mut spec = json!({"partitions": plan.partitions, "config": plan.config});
    if plan.replicas > 0 {
        spec["replicas"] = plan.replicas.into();
    }
    if name != *plan.name {
        spec["topicName"] = (*plan.name).into();
    }
    let mut topic = DynamicObject::new(&name, resource).data(json!({"spec": spec}));
    topic.metadata.namespace = object.namespace();
    let labels = [
        ("app.kubernetes.io/managed-by", "lazaret"),
        (CLUSTER_LABEL, object.spec.kafka.cluster.as_deref().unwrap_or_default()),
        (PIPELINE_LABEL, &object.name_any()),
    ];
    topic.metadata.labels = Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    // With `Retain` nothing ties the topic to the pipeline, so it outlives it; with `Delete` Kubernetes collects it, unless
    // another pipeline needs it.
    if object.spec.deletion_policy == DeletionPolicy::Delete && !validated.shared.contains(&*plan.name) {
        topic.metadata.owner_references = object.owner_ref(&()).map(|owner| vec![owner]);
    }
    topic
}

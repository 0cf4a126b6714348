//! Reads what a pipeline refers to: its Kafka, its topics, its processor's Service, other pipelines. I/O only: nothing is
//! judged here.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::DeserializeGuard;
use kube::{Client, ResourceExt};
use tracing::debug;

use super::error::{Error, with_causes};
use super::strimzi::Strimzi;
use super::{names, strimzi};
use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::domain::topic::{MAX_MESSAGE_BYTES, TopicShape};
use crate::kafka::topics::{TopicError, Topics};

/// What it takes to read: an operator has it, and so has whoever only wants to know what an operator would do.
pub trait Sight: Sync {
    /// The API server.
    fn client(&self) -> &Client;
    /// Strimzi's resources, where the cluster has them.
    fn strimzi(&self) -> Option<&Strimzi>;
    /// Every pipeline that is known.
    fn pipelines(&self) -> Vec<Arc<Stored>>;
    /// The topics of the Kafka at an address.
    fn topics(&self, bootstrap_servers: &str) -> Result<Topics, TopicError>;
}

/// A pipeline as the API server has it. One that cannot be read, because a version that allowed more stored it, must not
/// keep the others from being seen.
pub type Stored = DeserializeGuard<ErrorHandlingPipeline>;

/// What a pipeline refers to.
#[derive(Debug, Default)]
pub struct Found {
    /// Where its Kafka is.
    pub kafka: KafkaFound,
    /// Its topics, by their names in Kafka; empty when the Kafka is not known.
    pub topics: BTreeMap<String, TopicFound>,
    /// The `max.message.bytes` of topics that have none of their own, where the brokers were asked and told it.
    pub default_max_message_bytes: Option<i32>,
    /// The Service that its processor names and that does not exist, as (name, namespace).
    pub missing_service: Option<(String, String)>,
    /// The other pipelines that the operator knows.
    pub others: Vec<Arc<Stored>>,
}

/// What there is of the Kafka that a pipeline names.
#[derive(Debug, Default)]
pub enum KafkaFound {
    /// The pipeline says the address itself.
    #[default]
    Given,
    /// The cluster knows no Strimzi.
    NoStrimzi,
    /// There is no Kafka object of that name.
    Missing,
    /// The Kafka object.
    Object(Box<DynamicObject>),
}

/// What there is of a topic.
#[derive(Debug)]
pub enum TopicFound {
    /// Neither a KafkaTopic nor a topic in Kafka.
    Absent,
    /// A topic in Kafka for which no KafkaTopic stands.
    InKafka(TopicShape),
    /// A KafkaTopic.
    Object(Box<DynamicObject>),
    /// No KafkaTopic; whether Kafka has it could not be found out, with a reason and a message.
    Unknown(&'static str, String),
}

/// Reads everything that the pipeline refers to.
pub async fn dereference(sight: &impl Sight, object: &ErrorHandlingPipeline) -> Result<Found, Error> {
    let mut others = sight.pipelines();
    others.retain(|other| other.uid() != object.uid());
    let kafka = kafka(sight, object).await?;
    let topics = topics_of(sight, object, &kafka).await?;
    let default_max_message_bytes = default_max_message_bytes(sight, object, &topics).await;
    let missing_service = missing_service(sight, object).await?;
    Ok(Found { kafka, topics, default_max_message_bytes, missing_service, others })
}

/// What the main topic will have when it is created and the spec says nothing. Of a Kafka that Strimzi runs the Kafka object
/// says it; others are asked.
async fn default_max_message_bytes(
    sight: &impl Sight,
    object: &ErrorHandlingPipeline,
    topics: &BTreeMap<String, TopicFound>,
) -> Option<i32> {
    let address = object.spec.kafka.bootstrap_servers.as_ref()?;
    let main = &object.spec.topic;
    let is_asked =
        matches!(topics.get(&main.name)?, TopicFound::Absent) && !main.config.contains_key(MAX_MESSAGE_BYTES);
    if !is_asked {
        return None;
    }
    let told = sight.topics(address).ok()?.default_max_message_bytes().await;
    told.inspect_err(|error| debug!(%error, "the brokers' max.message.bytes are not known")).ok().flatten()
}

async fn kafka(sight: &impl Sight, object: &ErrorHandlingPipeline) -> Result<KafkaFound, Error> {
    let Some(cluster) = &object.spec.kafka.cluster else { return Ok(KafkaFound::Given) };
    let Some(strimzi) = sight.strimzi() else { return Ok(KafkaFound::NoStrimzi) };
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(sight.client().clone(), &namespace, &strimzi.kafka);
    Ok(api.get_opt(cluster).await?.map_or(KafkaFound::Missing, |kafka| KafkaFound::Object(kafka.into())))
}

async fn topics_of(
    sight: &impl Sight,
    object: &ErrorHandlingPipeline,
    kafka: &KafkaFound,
) -> Result<BTreeMap<String, TopicFound>, Error> {
    let (address, kafka_topics) = match (kafka, sight.strimzi()) {
        (KafkaFound::Object(kafka), Some(strimzi)) => {
            let namespace = object.namespace().unwrap_or_default();
            let api: Api<DynamicObject> =
                Api::namespaced_with(sight.client().clone(), &namespace, &strimzi.kafka_topic);
            let listener = strimzi::listeners(kafka).into_iter().find(|listener| is_named(listener, object));
            (listener.map(|listener| listener.bootstrap_servers), Some(api))
        }
        _ => (object.spec.kafka.bootstrap_servers.clone(), None),
    };
    let mut found = BTreeMap::new();
    let Some(address) = address else { return Ok(found) };
    // A Kafka that does not answer is not asked again and again.
    let mut unanswered = None;
    for topic in object.topic_names() {
        let known = match &kafka_topics {
            Some(api) => api.get_opt(&names::kafka_topic(&topic)).await?,
            None => None,
        };
        let known = match (known, &kafka_topics) {
            (None, Some(api)) => under_another_name(api, object, &topic).await?,
            (known, _) => known,
        };
        let topic_found = match known {
            Some(known) => TopicFound::Object(known.into()),
            None => match &unanswered {
                Some(error) => TopicFound::Unknown("KafkaUnreachable", String::clone(error)),
                None => in_kafka(sight, &address, &topic).await,
            },
        };
        if let TopicFound::Unknown("KafkaUnreachable", error) = &topic_found {
            unanswered = Some(error.clone());
        }
        found.insert(topic, topic_found);
    }
    Ok(found)
}

/// The KafkaTopic that stands for a topic and is called otherwise.
async fn under_another_name(
    api: &Api<DynamicObject>,
    object: &ErrorHandlingPipeline,
    topic: &str,
) -> Result<Option<DynamicObject>, Error> {
    let cluster = object.spec.kafka.cluster.as_deref().unwrap_or_default();
    let of_cluster = ListParams::default().labels(&format!("{}={cluster}", strimzi::CLUSTER_LABEL));
    let topics = api.list(&of_cluster).await?.items;
    Ok(topics.into_iter().find(|known| strimzi::topic_name(known) == topic))
}

async fn in_kafka(sight: &impl Sight, address: &str, topic: &str) -> TopicFound {
    let described = match sight.topics(address) {
        Ok(topics) => topics.describe(topic).await,
        Err(error) => Err(error),
    };
    match described {
        Ok(None) => TopicFound::Absent,
        Ok(Some(shape)) => TopicFound::InKafka(shape),
        Err(error) => TopicFound::Unknown(error.reason(), with_causes(&error)),
    }
}

/// The Service that the processor's URL names, if there is none. One that may not be looked at counts as there.
async fn missing_service(
    sight: &impl Sight,
    object: &ErrorHandlingPipeline,
) -> Result<Option<(String, String)>, Error> {
    let Some(http) = &object.spec.processor.http else { return Ok(None) };
    let Some((name, namespace)) = service_of(&http.url) else { return Ok(None) };
    let api: Api<Service> = Api::namespaced(sight.client().clone(), &namespace);
    match api.get_metadata_opt(&name).await {
        Ok(None) => Ok(Some((name, namespace))),
        Ok(Some(_)) => Ok(None),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The Service and the namespace that a URL names: `http://orders.shop.svc:8080/x` is `orders` in `shop`.
pub fn service_of(url: &str) -> Option<(String, String)> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    let mut labels = host.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(name), Some(namespace), Some("svc")) => Some((name.to_owned(), namespace.to_owned())),
        _ => None,
    }
}

/// Whether it is the listener that the pipeline asks for, by its name or its type.
pub fn is_named(listener: &strimzi::Listener, object: &ErrorHandlingPipeline) -> bool {
    let wanted = &object.spec.kafka.listener;
    listener.name == *wanted || listener.kind.as_ref() == Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_recognized_by_its_name_in_the_cluster() {
        let service = |url| service_of(url).map(|(name, namespace)| format!("{namespace}/{name}"));
        assert_eq!(service("http://orders.shop.svc:8080/orders").as_deref(), Some("shop/orders"));
        assert_eq!(service("https://orders.shop.svc.cluster.local").as_deref(), Some("shop/orders"));
        assert_eq!(service("http://orders.example.com/shop.svc"), None);
        assert_eq!(service("http://10.0.0.1:80/"), None);
    }
}

//! The topics of a Kafka cluster, through its admin API: described, created, changed.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tracing::info;

use super::connection::{Connection, LogContext};
use super::observer::ANY_TOPIC;
use crate::domain::pipeline::TopicPlan;
use crate::domain::topic::{MAX_MESSAGE_BYTES, TopicShape};

/// The brokers' setting that is [`MAX_MESSAGE_BYTES`] of the topics that have no own.
const BROKERS_MAX_MESSAGE_BYTES: &str = "message.max.bytes";

const TIMEOUT: Duration = Duration::from_secs(10);

/// Why topics could not be described or made as asked for.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The request failed as a whole.
    #[error("could not ask {bootstrap_servers} about topics")]
    Request {
        /// The cluster that was asked.
        bootstrap_servers: String,
        /// Why it failed.
        #[source]
        source: KafkaError,
    },
    /// The cluster refused something about a topic.
    #[error("the cluster refused topic {topic}: {code}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the cluster says.
        code: RDKafkaErrorCode,
    },
}

impl TopicError {
    /// In a word, for conditions.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Request { .. } => "KafkaUnreachable",
            Self::Refused { .. } => "KafkaRefused",
        }
    }
}

/// A client for the topics of one cluster. Clones share its connections.
#[derive(Clone)]
pub struct Topics {
    bootstrap_servers: String,
    admin: Arc<AdminClient<LogContext>>,
}

impl Topics {
    /// Prepares to ask. Nothing is sent yet.
    pub fn new(connection: &Connection) -> Result<Self, TopicError> {
        let bootstrap_servers = connection.bootstrap_servers().to_owned();
        match connection.observer().create_with_context(LogContext) {
            Ok(admin) => Ok(Self { bootstrap_servers, admin: Arc::new(admin) }),
            Err(source) => Err(TopicError::Request { bootstrap_servers, source }),
        }
    }

    /// Creates those of the topics that do not exist; what exists is left as it is.
    pub async fn create_missing(&self, plans: &[TopicPlan]) -> Result<(), TopicError> {
        let new_topics: Vec<_> = plans.iter().map(new_topic).collect();
        for result in self.admin.create_topics(&new_topics, &options()).await.map_err(self.failed())? {
            match result {
                Ok(topic) => info!(topic, "topic created"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(TopicError::Refused { topic, code }),
            }
        }
        Ok(())
    }

    /// Describes a topic, if the cluster has it. Asking does not create it.
    pub async fn describe(&self, topic: &str) -> Result<Option<TopicShape>, TopicError> {
        let (admin, name) = (self.admin.clone(), topic.to_owned());
        // librdkafka's question for metadata blocks.
        let shape = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(Some(&name), TIMEOUT)?;
            Ok(metadata.topics().first().map(|topic| match topic.error() {
                None => Ok(TopicShape {
                    partitions: i32::try_from(topic.partitions().len()).ok(),
                    replicas: topic.partitions().first().and_then(|p| i32::try_from(p.replicas().len()).ok()),
                    ..TopicShape::default()
                }),
                Some(code) => Err(RDKafkaErrorCode::from(code)),
            }))
        });
        let mut shape = match shape.await.unwrap_or(Err(KafkaError::Canceled)).map_err(self.failed())? {
            None | Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
                return Ok(None);
            }
            // It may well be there, and only not be shown: nobody may take it for a topic that is not.
            Some(Err(code)) => return Err(TopicError::Refused { topic: topic.to_owned(), code }),
            Some(Ok(shape)) => shape,
        };
        let resource = ResourceSpecifier::Topic(topic);
        for described in self.admin.describe_configs([&resource], &options()).await.map_err(self.failed())? {
            match described {
                Ok(described) => {
                    let limit = described.entries.iter().find(|entry| entry.name == MAX_MESSAGE_BYTES);
                    shape.max_message_bytes = limit.and_then(|entry| entry.value.as_ref()?.parse().ok());
                    let own = described.entries.into_iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
                    shape.config.extend(own.filter_map(|entry| Some((entry.name, entry.value?))));
                }
                // Deleted between the two questions.
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => return Ok(None),
                Err(code) => return Err(TopicError::Refused { topic: topic.to_owned(), code }),
            }
        }
        Ok(Some(shape))
    }

    /// Asks for the `max.message.bytes` of topics that have none of their own. `None` where no broker tells: to ask takes the
    /// right to describe the settings of the cluster.
    pub async fn default_max_message_bytes(&self) -> Result<Option<i32>, TopicError> {
        let admin = self.admin.clone();
        // librdkafka's question for metadata blocks.
        let broker = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(Some(ANY_TOPIC), TIMEOUT)?;
            Ok(metadata.brokers().first().map(|broker| broker.id()))
        });
        let Some(broker) = broker.await.unwrap_or(Err(KafkaError::Canceled)).map_err(self.failed())? else {
            return Ok(None);
        };
        let resource = ResourceSpecifier::Broker(broker);
        let described = self.admin.describe_configs([&resource], &options()).await.map_err(self.failed())?;
        let mut entries = described.into_iter().flatten().flat_map(|described| described.entries);
        let limit = entries.find(|entry| entry.name == BROKERS_MAX_MESSAGE_BYTES);
        Ok(limit.and_then(|entry| entry.value?.parse().ok()))
    }

    /// Brings a topic from what it is to what is asked for: more partitions, and settings. What else is set on it stays.
    pub async fn alter(&self, plan: &TopicPlan, found: &TopicShape) -> Result<(), TopicError> {
        let refused = |code| TopicError::Refused { topic: plan.name.to_string(), code };
        if found.partitions.is_some_and(|partitions| partitions < plan.partitions) {
            let count = usize::try_from(plan.partitions).unwrap_or_default();
            let partitions = NewPartitions::new(&plan.name, count);
            for result in self.admin.create_partitions([&partitions], &options()).await.map_err(self.failed())? {
                result.map_err(|(_, code)| refused(code))?;
            }
            info!(topic = &*plan.name, partitions = plan.partitions, "partitions added");
        }
        // The request sets everything anew, so it names what stays, too.
        let mut config = found.config.clone();
        config.extend(plan.config.clone());
        if config != found.config {
            let mut change = AlterConfig::new(ResourceSpecifier::Topic(&plan.name));
            for (name, value) in &config {
                change = change.set(name, value);
            }
            for result in self.admin.alter_configs([&change], &options()).await.map_err(self.failed())? {
                result.map_err(|(_, code)| refused(code))?;
            }
            info!(topic = &*plan.name, "topic settings changed");
        }
        Ok(())
    }

    fn failed(&self) -> impl Fn(KafkaError) -> TopicError + '_ {
        |source| TopicError::Request { bootstrap_servers: self.bootstrap_servers.clone(), source }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

fn new_topic(plan: &TopicPlan) -> NewTopic<'_> {
    let mut topic = NewTopic::new(&plan.name, plan.partitions, TopicReplication::Fixed(plan.replicas));
    for (name, value) in &plan.config {
        topic = topic.set(name, value);
    }
    topic
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::embedded::EmbeddedBroker;

    #[tokio::test]
    async fn a_topic_that_is_not_shown_is_not_taken_for_one_that_does_not_exist() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.fail_topic("secret", RDKafkaErrorCode::TopicAuthorizationFailed);
        let refused = Topics::new(&broker.connection()).unwrap().describe("secret").await.unwrap_err();
        assert!(matches!(refused, TopicError::Refused { .. }), "{refused}");
    }

    /// Brokers make a topic that somebody asks for, unless they or the client say otherwise.
    #[tokio::test]
    async fn asking_for_a_topic_does_not_create_it() {
        let broker = EmbeddedBroker::start().unwrap();
        let topics = Topics::new(&broker.connection()).unwrap();
        assert_eq!(topics.describe("nobodys").await.unwrap(), None);
        assert_eq!(topics.describe("nobodys").await.unwrap(), None);
    }
}

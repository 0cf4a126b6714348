//! Creates the topics that a pipeline lacks.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tracing::info;

use super::connection::{Connection, LogContext};
use crate::domain::pipeline::TopicPlan;

/// Why topics could not be created.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The request failed as a whole.
    #[error("could not ask {bootstrap_servers} to create topics")]
    Request {
        /// The cluster that was asked.
        bootstrap_servers: String,
        /// Why it failed.
        #[source]
        source: KafkaError,
    },
    /// The cluster refused a topic.
    #[error("could not create topic {topic}: {code}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the cluster says.
        code: RDKafkaErrorCode,
    },
}

/// Creates those of the topics that do not exist; what exists is left as it is.
pub async fn create_missing(connection: &Connection, topics: &[TopicPlan]) -> Result<(), TopicError> {
    let failed = |source| TopicError::Request { bootstrap_servers: connection.bootstrap_servers().into(), source };
    let admin: AdminClient<LogContext> = connection.observer().create_with_context(LogContext).map_err(failed)?;
    let new_topics: Vec<_> = topics.iter().map(new_topic).collect();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    for result in admin.create_topics(&new_topics, &options).await.map_err(failed)? {
        match result {
            Ok(topic) => info!(topic, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(TopicError::Refused { topic, code }),
        }
    }
    Ok(())
}

fn new_topic(plan: &TopicPlan) -> NewTopic<'_> {
    let mut topic = NewTopic::new(&plan.name, plan.partitions, TopicReplication::Fixed(plan.replicas));
    for (name, value) in &plan.config {
        topic = topic.set(name, value);
    }
    topic
}

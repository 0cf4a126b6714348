//! Asks a cluster what it holds, and whether it can be reached at all.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};

use super::connection::Connection;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether Kafka answers, as far as this process knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// It was not asked yet.
    Unknown,
    /// It answered when it was last asked.
    Reachable,
    /// It did not answer when it was last asked.
    Unreachable {
        /// What the client says.
        error: String,
    },
}

/// Asking about one topic costs the same however many the cluster has; whether it exists does not matter.
const ANY_TOPIC: &str = "__consumer_offsets";

/// A client that only asks.
#[derive(Clone)]
pub struct Observer {
    client: Arc<BaseConsumer<DefaultConsumerContext>>,
}

impl Observer {
    /// Prepares to ask. Nothing is sent yet.
    pub fn new(connection: &Connection) -> KafkaResult<Self> {
        // This client reconnects every second while a broker is away; its complaints would drown everything else, and
        // whoever asks gets the error anyway.
        Ok(Self { client: Arc::new(connection.observer().set("log_level", "2").create()?) })
    }

    /// Whether the cluster answers.
    pub async fn ping(&self) -> Result<(), KafkaError> {
        self.ask(|client| client.fetch_metadata(Some(ANY_TOPIC), TIMEOUT).map(drop)).await
    }

    /// How many brokers the cluster has.
    pub async fn brokers(&self) -> Result<usize, KafkaError> {
        self.ask(|client| Ok(client.fetch_metadata(Some(ANY_TOPIC), TIMEOUT)?.brokers().len())).await
    }

    /// Whether the cluster has this topic. Asking does not create it.
    pub async fn has_topic(&self, topic: Arc<str>) -> Result<bool, KafkaError> {
        self.ask(move |client| {
            let metadata = client.fetch_metadata(Some(&topic), TIMEOUT)?;
            Ok(metadata.topics().iter().any(|topic| topic.error().is_none()))
        })
        .await
    }

    /// librdkafka's questions block: they are asked on a thread that may.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<DefaultConsumerContext>) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let client = self.client.clone();
        match tokio::task::spawn_blocking(move || question(&client)).await {
            Ok(answer) => answer,
            Err(_) => Err(KafkaError::Canceled),
        }
    }
}

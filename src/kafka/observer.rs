//! Asks a cluster what it holds, and whether it can be reached at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

pub use rdkafka::error::KafkaError;

use super::connection::{Connection, forget_errors};
use super::reader::Logs;

pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

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
pub(super) const ANY_TOPIC: &str = "__consumer_offsets";

/// A client that only asks.
#[derive(Clone)]
pub struct Observer {
    client: Arc<BaseConsumer>,
}

impl Observer {
    /// Prepares to ask. Nothing is sent yet.
    pub fn new(connection: &Connection) -> KafkaResult<Self> {
        let mut config = connection.observer();
        // A partition ends where it does for a stage.
        config.set("isolation.level", "read_committed");
        Ok(Self { client: Arc::new(config.create()?) })
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

    /// The partitions of every topic that have a leader.
    pub async fn partitions(&self) -> Result<BTreeMap<String, Vec<i32>>, KafkaError> {
        self.ask(|client| {
            let metadata = client.fetch_metadata(None, TIMEOUT)?;
            let led = |topic: &MetadataTopic| {
                let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0);
                (topic.name().to_owned(), led.map(|partition| partition.id()).collect())
            };
            Ok(metadata.topics().iter().map(led).collect())
        })
        .await
    }

    /// Where the logs of partitions start, and where that ends which was committed. It asks each broker twice, however many
    /// partitions there are.
    pub async fn logs(&self, partitions: BTreeSet<(Arc<str>, i32)>) -> Result<Logs, KafkaError> {
        if partitions.is_empty() {
            return Ok(Logs::new());
        }
        self.ask(move |client| {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for (topic, partition) in &partitions {
                list.add_partition(topic, *partition);
            }
            // In this call an offset stands for a time, the beginning for that of the first record, the end for the end.
            let mut ask = |time| {
                list.set_all_offsets(time)?;
                let answer = client.offsets_for_times(list.clone(), TIMEOUT)?;
                let offset = |e: &TopicPartitionListElem<'_>| e.error().is_ok().then(|| e.offset().to_raw()).flatten();
                Ok::<_, KafkaError>(
                    answer
                        .elements()
                        .iter()
                        .map(|e| ((e.topic().to_owned(), e.partition()), offset(e)))
                        .collect::<BTreeMap<_, _>>(),
                )
            };
            let (starts, ends) = (ask(Offset::Beginning)?, ask(Offset::End)?);
            let log = |(topic, partition): (Arc<str>, i32)| {
                let place = (topic.to_string(), partition);
                let (start, end) = (starts.get(&place).copied().flatten()?, ends.get(&place).copied().flatten()?);
                Some(((topic, partition), start..end.max(start)))
            };
            Ok(partitions.into_iter().filter_map(log).collect())
        })
        .await
    }

    /// librdkafka's questions block: they are asked on a thread that may.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer) -> KafkaResult<T> + Send + 'static,
    ) -> KafkaResult<T> {
        let client = self.client.clone();
        let ask = move || {
            forget_errors(&client);
            question(&client)
        };
        match tokio::task::spawn_blocking(ask).await {
            Ok(answer) => answer,
            Err(_) => Err(KafkaError::Canceled),
        }
    }
}

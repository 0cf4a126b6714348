//! A broker inside this process, for a laptop without Kafka.
//!
//! It is librdkafka's mock cluster: real clients of any kind can use it over the network, and consumer groups work. It
//! keeps everything in memory, at most 5 MiB a partition, and knows no transactions. It waits a session timeout for each
//! rebalance, and aborts the process when members of one group disagree on the assignor: a client that joins the group of
//! a stage must use `cooperative-sticky`.

use std::time::Duration;

use rdkafka::bindings::{rd_kafka_handle_mock_cluster, rd_kafka_mock_group_initial_rebalance_delay_ms};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};

use super::connection::Connection;
use crate::domain::pipeline::TopicPlan;

/// A running broker; it ends when this is dropped.
pub struct EmbeddedBroker {
    /// librdkafka gives the settings that matter here only where the broker belongs to a client. This one writes nothing.
    owner: BaseProducer,
}

impl EmbeddedBroker {
    /// Starts a broker on a free port of the loopback address.
    pub fn start() -> KafkaResult<Self> {
        // Below a warning it would tell of each setting that it ignores.
        let owner: BaseProducer =
            ClientConfig::new().set("test.mock.num.brokers", "1").set("log_level", "4").create()?;
        // SAFETY: the client is alive, and the broker lives as long as the client. It is null where the client has none.
        unsafe {
            let cluster = rd_kafka_handle_mock_cluster(owner.client().native_ptr());
            if cluster.is_null() {
                return Err(KafkaError::MockCluster(RDKafkaErrorCode::Fail));
            }
            // A group that begins would wait three seconds for more members.
            rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
        }
        Ok(Self { owner })
    }

    fn cluster(&self) -> MockCluster<'_, DefaultProducerContext> {
        self.owner.client().mock_cluster().expect("it was there when the broker was started")
    }

    /// Creates a topic.
    pub fn create_topic(&self, plan: &TopicPlan) -> KafkaResult<()> {
        self.cluster().create_topic(&plan.name, plan.partitions, 1)
    }

    /// Has every question about a topic fail.
    #[cfg(test)]
    pub fn fail_topic(&self, topic: &str, code: rdkafka::types::RDKafkaErrorCode) {
        self.cluster().topic_error(topic, (code as i32).try_into().expect("it is one")).expect("a name");
    }

    /// Has every answer take this long.
    pub fn answer_after(&self, delay: Duration) -> KafkaResult<()> {
        self.cluster().broker_round_trip_time(1, delay)
    }

    /// Has the next questions about what a group has committed fail, each with one of these.
    pub fn fail_offset_fetches(&self, codes: &[RDKafkaErrorCode]) {
        let codes: Vec<_> = codes.iter().map(|code| (*code as i32).try_into().expect("it is one")).collect();
        self.cluster().request_errors(rdkafka::types::RDKafkaApiKey::OffsetFetch, &codes);
    }

    /// Where it is.
    pub fn connection(&self) -> Connection {
        Connection::new(self.cluster().bootstrap_servers())
    }
}

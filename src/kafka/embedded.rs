//! A broker inside this process, for a laptop without Kafka.
//!
//! It is librdkafka's mock cluster: real clients of any kind can use it over the network, and consumer groups work. It
//! keeps everything in memory, at most 5 MiB a partition, and knows no transactions. It waits a session timeout for each
//! rebalance, and aborts the process when members of one group disagree on the assignor: a client that joins the group of
//! a stage must use `cooperative-sticky`.

use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::connection::Connection;
use crate::domain::pipeline::TopicPlan;

/// A running broker; it ends when this is dropped.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// Starts a broker on a free port of the loopback address.
    pub fn start() -> KafkaResult<Self> {
        Ok(Self { cluster: MockCluster::new(1)? })
    }

    /// Creates a topic.
    pub fn create_topic(&self, plan: &TopicPlan) -> KafkaResult<()> {
        self.cluster.create_topic(&plan.name, plan.partitions, 1)
    }

    /// Has every question about a topic fail.
    #[cfg(test)]
    pub fn fail_topic(&self, topic: &str, code: rdkafka::types::RDKafkaErrorCode) {
        self.cluster.topic_error(topic, (code as i32).try_into().expect("it is one")).expect("a name");
    }

    /// Where it is.
    pub fn connection(&self) -> Connection {
        Connection::new(self.cluster.bootstrap_servers())
    }
}

//! The client that reads the stage's topic. It is told what to read, and is no member of the group: while a rebalance waits for a
//! partition that is given up, librdkafka pauses all that a member reads (2.12.1, `rd_kafka_assignment_pause`), and the others would
//! stand still.

use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::connection::LogContext;

/// Reads partitions of one topic.
pub struct Reader {
    topic: String,
    consumer: BaseConsumer<Quiet>,
}

/// What fails is said once, by the poll that meets it.
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        LogContext.error(error, reason);
    }
}

impl ConsumerContext for Quiet {}

impl Reader {
    pub fn new(config: &ClientConfig, topic: &str) -> KafkaResult<Self> {
        Ok(Self { topic: topic.to_owned(), consumer: config.create_with_context(Quiet)? })
    }

    /// The next record, or what went wrong; `None` when there is none in time.
    pub fn poll(&self, timeout: Duration) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        self.consumer.poll(timeout)
    }

    /// Begins to read a partition from this offset.
    pub fn begin(&self, partition: i32, offset: i64) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        self.consumer.incremental_assign(&list)
    }

    /// Reads no more of partitions that were begun. This is also how one is paused, and begun again where it is resumed: librdkafka's
    /// own pause goes on from where it believes the application to be, which is wrong where a record was read while its partition
    /// was taken away (2.12.1: `rd_kafka_event_message_next` sets it whatever has become of the partition).
    pub fn end(&self, partitions: &[i32]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        self.consumer.incremental_unassign(&list)
    }
}

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

/// How long librdkafka may take to set where a partition is read from.
const SEEK_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads partitions of one topic.
pub(super) struct Reader {
    topic: String,
    consumer: BaseConsumer<Quiet>,
}

/// What fails is said once, by the poll that meets it.
pub(super) struct Quiet;

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

    /// Reads no more of partitions that were begun.
    pub fn end(&self, partitions: &[i32]) -> KafkaResult<()> {
        let list = self.list(partitions);
        // librdkafka keeps a pause beyond the assignment: a partition that comes back would never be fetched again.
        self.consumer.resume(&list)?;
        self.consumer.incremental_unassign(&list)
    }

    pub fn pause(&self, partitions: &[i32]) -> KafkaResult<()> {
        self.consumer.pause(&self.list(partitions))
    }

    pub fn resume(&self, partitions: &[i32]) -> KafkaResult<()> {
        self.consumer.resume(&self.list(partitions))
    }

    /// Reads a partition from this offset on.
    pub fn seek(&self, partition: i32, offset: i64) -> KafkaResult<()> {
        self.pause(&[partition])?;
        self.consumer.seek(&self.topic, partition, Offset::Offset(offset), SEEK_TIMEOUT)?;
        self.resume(&[partition])
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }
}

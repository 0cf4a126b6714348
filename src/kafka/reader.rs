//! Reads what a topic holds from one offset to another, as somebody who reads only what was committed.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::connection::forget_errors;

/// How long Kafka may take to send the next record.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came next.
pub enum Next<'a> {
    /// A record.
    Record(&'a BorrowedMessage<'a>),
    /// There is nothing more in this partition below this offset.
    End(i32, i64),
}

/// Where each partition of a topic starts and ends, or from where to where it is to be read.
pub type Logs = BTreeMap<(Arc<str>, i32), Range<i64>>;

/// Reads these ranges, one topic after the other, until `deadline` or until `take` has enough. Returns whether that came before
/// the deadline. It blocks. The consumer is one that says where a partition ends, and has no assignment afterwards.
pub fn read(
    consumer: &BaseConsumer,
    logs: &Logs,
    deadline: Instant,
    mut take: impl FnMut(&Arc<str>, Next<'_>) -> ControlFlow<()>,
) -> KafkaResult<bool> {
    // The end of a partition is told without its topic, so there is one at a time.
    let mut topics: BTreeMap<&Arc<str>, BTreeMap<i32, Range<i64>>> = BTreeMap::new();
    for ((topic, partition), log) in logs.iter().filter(|(_, log)| !log.is_empty()) {
        topics.entry(topic).or_default().insert(*partition, log.clone());
    }
    for (topic, behind) in topics {
        match read_topic(consumer, topic, behind, deadline, |next| take(topic, next))? {
            Ended::AtTheEnd => {}
            Ended::HasEnough => return Ok(true),
            Ended::TooLate => return Ok(false),
        }
    }
    Ok(true)
}

enum Ended {
    AtTheEnd,
    HasEnough,
    TooLate,
}

fn read_topic(
    consumer: &BaseConsumer,
    topic: &Arc<str>,
    mut behind: BTreeMap<i32, Range<i64>>,
    deadline: Instant,
    mut take: impl FnMut(Next<'_>) -> ControlFlow<()>,
) -> KafkaResult<Ended> {
    let mut list = TopicPartitionList::new();
    for (partition, range) in &behind {
        list.add_partition_offset(topic, *partition, Offset::Offset(range.start))?;
    }
    forget_errors(consumer);
    // Of a topic that it does not know yet it would ask only once a second.
    consumer.fetch_metadata(Some(topic), PATIENCE)?;
    consumer.assign(&list)?;
    let mut next = || {
        while !behind.is_empty() {
            if Instant::now() >= deadline {
                return Ok(Ended::TooLate);
            }
            let ended = match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let is_last = behind.get(&partition).is_some_and(|range| message.offset() + 1 >= range.end);
                    if take(Next::Record(&message)).is_break() {
                        return Ok(Ended::HasEnough);
                    }
                    is_last.then_some(partition)
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                // One broker, and it may not be asked for anything.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure))) => None,
                Some(Err(error)) => return Err(error),
                None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
            };
            if let Some((partition, range)) = ended.and_then(|partition| behind.remove_entry(&partition))
                && take(Next::End(partition, range.end)).is_break()
            {
                return Ok(Ended::HasEnough);
            }
        }
        Ok(Ended::AtTheEnd)
    };
    let read = next();
    // Or it would go on to fetch.
    consumer.unassign()?;
    read
}

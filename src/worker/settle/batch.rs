//! Records that are sent together, and what becomes of each.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::FutureProducer;
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::unsent::{Composer, Unsent};
use crate::domain::commit::settlement::{Choice, Refusal, Unwritten, Written};
use crate::domain::record::Outgoing;
use crate::kafka::connection::{BATCH_BYTES, LogContext, QUEUE_BYTES};
use crate::kafka::record::to_future_record;

/// How long librdkafka itself tries to deliver a record before it says so.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for room in the producer's queue.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

pub type Producer = FutureProducer<LogContext>;

/// What became of records, in the order in which they were to be written.
pub type Results = Vec<Written<Unsent>>;

/// Records that are sent with one producer.
pub struct Batch<'a> {
    composer: &'a Composer,
    producer: &'a Producer,
    /// The failures that were logged, each once a topic: when a broker is away, all records fail.
    told: Mutex<Vec<(Arc<str>, KafkaError)>>,
    /// Whether the producer can send no more.
    is_fatal: AtomicBool,
}

impl<'a> Batch<'a> {
    pub fn new(composer: &'a Composer, producer: &'a Producer) -> Self {
        Self { composer, producer, told: Mutex::default(), is_fatal: AtomicBool::new(false) }
    }

    /// Whether the producer can send no more, and another one is needed.
    pub fn is_fatal(&self) -> bool {
        self.is_fatal.load(Ordering::Relaxed)
    }

    /// Sends records: all at once, or what was refused before one after the other, until one is refused again.
    pub async fn send(&self, records: Vec<Unsent>, choice: Choice) -> Results {
        match choice {
            Choice::Fresh => self.send_all(records).await,
            Choice::Again => self.send_one_by_one(records).await,
        }
    }

    /// Sends all at once.
    pub async fn send_all(&self, records: Vec<Unsent>) -> Results {
        join_all(records.into_iter().map(|unsent| self.send_one(unsent))).await
    }

    async fn send_one_by_one(&self, records: Vec<Unsent>) -> Results {
        let (mut written, mut has_failed) = (Vec::with_capacity(records.len()), false);
        for unsent in records {
            let result = match has_failed {
                true => Err(Unwritten { record: unsent, refusal: None }),
                false => self.send_one(unsent).await,
            };
            has_failed |= result.is_err();
            written.push(result);
        }
        written
    }

    /// Sends one record, and returns it once it is acknowledged or cannot be. One that Kafka finds too large asks for less
    /// from then on.
    async fn send_one(&self, mut unsent: Unsent) -> Written<Unsent> {
        let outgoing = self.composer.outgoing(&unsent);
        let sent = match enqueue(self.producer, &outgoing).await {
            Ok(delivery) => match delivery.await {
                Ok(Ok(_)) => return Ok(unsent),
                Ok(Err((error, _))) => error,
                Err(_) => KafkaError::Canceled,
            },
            Err(error) => error,
        };
        let (partition, offset) = (unsent.route.work.record.partition, unsent.route.work.record.offset);
        let (topic, to) = (&*unsent.route.work.record.topic, &*outgoing.topic);
        let refusal = match sent {
            KafkaError::MessageProduction(Code::MessageSizeTooLarge | Code::QueueFull) => {
                debug!(topic, partition, offset, to, "too large for Kafka");
                self.composer.refused_as_too_large(&mut unsent, outgoing.bytes() >= BATCH_BYTES);
                Some(Refusal::TooLarge)
            }
            // It was not asked about itself: another one was refused.
            KafkaError::MessageProduction(Code::PurgeQueue | Code::PurgeInflight | Code::InvalidDifferentRecord) => {
                None
            }
            error => {
                match self.tells(&outgoing.topic, &error) {
                    true => warn!(topic, partition, offset, to, %error, "could not write a record, it is tried again"),
                    false => {
                        debug!(topic, partition, offset, to, %error, "could not write a record, it is tried again")
                    }
                }
                self.refusal(&error)
            }
        };
        Err(Unwritten { record: unsent, refusal })
    }

    /// Whether this failure of a topic is new.
    fn tells(&self, topic: &Arc<str>, error: &KafkaError) -> bool {
        let (failure, mut told) =
            ((topic.clone(), error.clone()), self.told.lock().unwrap_or_else(PoisonError::into_inner));
        let is_new = !told.contains(&failure);
        if is_new {
            told.push(failure);
        }
        is_new
    }

    fn refusal(&self, error: &KafkaError) -> Option<Refusal> {
        match error {
            KafkaError::MessageProduction(Code::Fatal) => {
                self.is_fatal.store(true, Ordering::Relaxed);
                None
            }
            KafkaError::MessageProduction(Code::MessageTimedOut) => Some(Refusal::Away),
            KafkaError::MessageProduction(_) => Some(Refusal::Refused),
            _ => None,
        }
    }
}

/// The records of a batch that does not count, those that were refused with why.
pub fn undone(written: Results) -> Results {
    let undone = |record| Unwritten { record, refusal: None };
    written.into_iter().map(|written| Err(written.map_or_else(|unwritten| unwritten, undone))).collect()
}

/// Records of which none was written, and none was refused.
pub fn unwritten(records: Vec<Unsent>) -> Results {
    records.into_iter().map(|record| Err(Unwritten { record, refusal: None })).collect()
}

/// Puts a record into the producer's queue, once there is room for it. One that there can never be room for is refused.
async fn enqueue(producer: &Producer, outgoing: &Outgoing) -> KafkaResult<DeliveryFuture> {
    let deadline = Instant::now() + DELIVERY_TIMEOUT;
    loop {
        match producer.send_result(to_future_record(outgoing)) {
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) if outgoing.bytes() < QUEUE_BYTES => {
                if Instant::now() >= deadline {
                    return Err(KafkaError::MessageProduction(Code::MessageTimedOut));
                }
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            sent => return sent.map_err(|(error, _)| error),
        }
    }
}

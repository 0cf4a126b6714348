//! Writes a record that was decided on until Kafka has it.
//!
//! Once a record is on its way to the retry topic or the dead letter topic its processor is not asked again: whatever
//! goes wrong here is tried again here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::FutureProducer;
use rdkafka::types::RDKafkaErrorCode;
use tracing::{error, warn};

use super::work::{Destination, Route};
use crate::domain::decide::Reason;
use crate::domain::envelope::{Extent, FailedRecord, Scribe};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::record::Outgoing;
use crate::kafka::connection::{Connection, LogContext};
use crate::kafka::record::to_future_record;

/// How long librdkafka itself tries to deliver a record before it says so.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Writes retry records and dead letters.
pub(super) struct Writer {
    connection: Connection,
    producers: Mutex<Producers>,
    scribe: Scribe,
    retry_topic: Arc<str>,
}

#[derive(Clone)]
struct Producers {
    batching: FutureProducer<LogContext>,
    single: FutureProducer<LogContext>,
    generation: u64,
}

impl Producers {
    fn new(connection: &Connection, generation: u64) -> KafkaResult<Self> {
        let batching = connection.producer(DELIVERY_TIMEOUT)?;
        let single = connection.producer_of_single_records(DELIVERY_TIMEOUT)?;
        Ok(Self { batching, single, generation })
    }
}

impl Writer {
    pub fn new(connection: &Connection, scribe: Scribe, retry_topic: Arc<str>) -> KafkaResult<Self> {
        let producers = Mutex::new(Producers::new(connection, 0)?);
        Ok(Self { connection: connection.clone(), producers, scribe, retry_topic })
    }

    /// Writes the record of a route, and returns once it is acknowledged. A record that Kafka finds too large goes to
    /// the dead letter topic with as much of it as fits.
    pub async fn write(&self, mut route: Route) -> Route {
        let (mut extent, mut pause, mut alone) = (Extent::Whole, FIRST_PAUSE, false);
        loop {
            let producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let outgoing = self.outgoing(&route, extent);
            let producer = if alone { &producers.single } else { &producers.batching };
            let Err(error) = send(producer, &outgoing).await else { return route };
            if is_too_large(&error) && (!std::mem::replace(&mut alone, true) || shrink(&mut route, &mut extent)) {
                continue;
            }
            let (partition, offset) = (route.work.record.partition, route.work.record.offset);
            let (topic, to) = (&*route.work.record.topic, &*outgoing.topic);
            warn!(topic, partition, offset, to, %error, "could not write the record, it is tried again");
            if matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::Fatal)) {
                self.renew(producers.generation);
            }
            drop(producers);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn outgoing(&self, route: &Route, extent: Extent) -> Outgoing {
        let Route { work, failure, failed_at, to, dead_letter_topic } = route;
        let failed = FailedRecord { record: &work.record, provenance: &work.past, failure, failed_at: *failed_at };
        match to {
            Destination::Retry { due, .. } => self.scribe.retry(failed, *due, &self.retry_topic),
            Destination::DeadLetter { reason } => self.scribe.dead_letter(failed, *reason, dead_letter_topic, extent),
        }
    }

    /// Producers that have met a fatal error never write again: new ones take their place. Many writes see the error
    /// of one producer, and only the first of them replaces it.
    fn renew(&self, failed_generation: u64) {
        let mut producers = self.producers.lock().unwrap_or_else(PoisonError::into_inner);
        if producers.generation != failed_generation {
            return;
        }
        match Producers::new(&self.connection, failed_generation + 1) {
            Ok(new) => {
                let old = std::mem::replace(&mut *producers, new);
                // Dropping a producer waits for what it still holds.
                tokio::task::spawn_blocking(move || drop(old));
            }
            Err(error) => error!(%error, "could not make a new producer"),
        }
    }
}

async fn send(producer: &FutureProducer<LogContext>, outgoing: &Outgoing) -> Result<(), KafkaError> {
    let delivery = producer.send_result(to_future_record(outgoing)).map_err(|(error, _)| error)?;
    match delivery.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge))
}

/// Makes a route ask for less. A retry record is all or nothing: one that does not fit becomes a dead letter.
fn shrink(route: &mut Route, extent: &mut Extent) -> bool {
    if let (Destination::DeadLetter { .. }, smaller) = (&route.to, extent.smaller()) {
        *extent = smaller.unwrap_or(*extent);
        return smaller.is_some();
    }
    let error = format!("RecordTooLargeException: no room for retry headers; it failed with {}", route.failure.message);
    let stack_trace = route.failure.stack_trace.take();
    route.failure = Failure { stack_trace, ..Failure::from_text(FailureKind::Permanent, &error) };
    route.to = Destination::DeadLetter { reason: Reason::Permanent };
    true
}

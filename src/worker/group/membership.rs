//! The thread that is this worker's place in its group: it serves rebalances, and waits in them for what is given up.
//!
//! Its client reads nothing: all that it is given is paused, and read by [`crate::worker::group::reader`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::{debug, error, warn};

use super::Group;
use crate::worker::attempt::context::Context;
use crate::worker::fail::FailOnPanic;

/// How long a poll waits. It bounds how long a stop waits.
const POLL: Duration = Duration::from_millis(50);

/// How long it must look as if nothing was read any more.
const STUCK_GRACE: Duration = Duration::from_secs(1);

/// Beyond the drain timeout, how long leaving the group may take.
const LEAVE_GRACE: Duration = Duration::from_secs(5);

/// Serves rebalances until the stage is told to stop, then hands its partitions over and leaves the group.
pub fn serve(consumer: &Arc<BaseConsumer<Group>>, context: &Context) {
    let _fail_on_panic = FailOnPanic(context.failed.clone());
    let group: &Group = consumer.context();
    let mut stuck_since: Option<Instant> = None;
    while !context.stop.is_cancelled() {
        // A record is one that was fetched before the pause, and is read by the other client, too.
        if let Some(Err(error)) = consumer.poll(POLL) {
            report(context, &error);
        }
        // librdkafka sees to it that a member polls, and the source is none: its partitions would be held, and never read. After a
        // standstill of the process it looks so for a moment.
        let is_stuck = group.source_is_stuck();
        stuck_since = is_stuck.then(|| stuck_since.unwrap_or_else(Instant::now));
        if stuck_since.is_some_and(|since| since.elapsed() > STUCK_GRACE) {
            error!("nothing was read for longer than maxPollInterval, not even that there is nothing: starting anew");
            context.failed.cancel();
        }
    }
    // At once, while the group holds: to leave it may have to wait for a rebalance.
    group.give_up();
    consumer.unsubscribe();
    let deadline = Instant::now() + context.pipeline.drain_timeout + LEAVE_GRACE;
    while group.is_in_it() && Instant::now() < deadline {
        drop(consumer.poll(POLL));
    }
}

/// Says why a client of the stage failed, where nobody else does.
pub fn report(context: &Context, error: &KafkaError) {
    let topic = &*context.pipeline.source(context.stage).topic;
    match error {
        KafkaError::MessageConsumptionFatal(_) => {
            error!(topic, %error, "reading failed for good");
            context.failed.cancel();
        }
        // The check that Kafka answers says so once, with the address.
        KafkaError::MessageConsumption(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) => {
            debug!(topic, %error, "reading failed, it is tried again");
        }
        KafkaError::MessageConsumption(Code::UnknownTopicOrPartition) => {
            warn!(topic, "the topic does not exist, waiting for it");
        }
        KafkaError::PartitionEOF(_) => {}
        _ => warn!(topic, %error, "reading failed, it is tried again"),
    }
}

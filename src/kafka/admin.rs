//! Questions to librdkafka's admin API that rdkafka has no words for. They block.

use std::ffi::CString;
use std::time::Duration;

use rdkafka::bindings as ffi;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataBroker;

use crate::domain::record::topic_id::TopicId;

/// The id of a topic; `None` where the broker is so old that it has none.
pub fn topic_id<C: ClientContext>(client: &Client<C>, topic: &str, timeout: Duration) -> KafkaResult<Option<TopicId>> {
    // Any broker knows it. librdkafka would ask the controller, which may be away, or be none of those that it can reach.
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    let known = metadata.brokers().first().map_or(-1, MetadataBroker::id);
    let broker = Some(metadata.orig_broker_id()).filter(|answered| *answered >= 0).unwrap_or(known);
    let (client, name) = (client.native_ptr(), c_string(topic)?);
    // SAFETY: the client is alive while its owner waits for this call. The name outlives the call, which copies it. The
    // collection is ours and is freed once. What the answer points to lives as long as the event.
    unsafe {
        let mut names = [name.as_ptr()];
        let topics = ffi::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let ask = |options, queue| {
            ffi::rd_kafka_AdminOptions_set_broker(options, broker, std::ptr::null_mut(), 0);
            ffi::rd_kafka_DescribeTopics(client, topics, options, queue);
        };
        let kind = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let answer = Answer::to(client, kind, timeout, ask);
        ffi::rd_kafka_TopicCollection_destroy(topics);
        let answer = answer?;
        let mut count = 0;
        let result = ffi::rd_kafka_event_DescribeTopics_result(answer.0);
        let found = ffi::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count == 0 {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        if let Some(code) = code(ffi::rd_kafka_TopicDescription_error(*found)) {
            return Err(KafkaError::MetadataFetch(code));
        }
        let id = ffi::rd_kafka_TopicDescription_topic_id(*found);
        let half = |half: unsafe extern "C" fn(*const ffi::rd_kafka_Uuid_t) -> i64| half(id);
        Ok(TopicId::new(
            half(ffi::rd_kafka_Uuid_most_significant_bits),
            half(ffi::rd_kafka_Uuid_least_significant_bits),
        ))
    }
}

/// The answer to a question, freed when dropped.
pub(super) struct Answer(pub *mut ffi::rd_kafka_event_t);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and is freed once.
        unsafe { ffi::rd_kafka_event_destroy(self.0) }
    }
}

impl Answer {
    /// Asks, and waits for the answer.
    ///
    /// # Safety
    /// `client` is alive until this returns.
    pub unsafe fn to(
        client: *mut ffi::rd_kafka_t,
        kind: ffi::rd_kafka_admin_op_t,
        timeout: Duration,
        ask: impl FnOnce(*mut ffi::rd_kafka_AdminOptions_t, *mut ffi::rd_kafka_queue_t),
    ) -> KafkaResult<Self> {
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: options and queue are ours and are freed once. The answer always comes, with the error of a timeout at the
        // latest; the grace is for what librdkafka itself may take.
        let event = unsafe {
            let options = ffi::rd_kafka_AdminOptions_new(client, kind);
            ffi::rd_kafka_AdminOptions_set_request_timeout(options, timeout, std::ptr::null_mut(), 0);
            let queue = ffi::rd_kafka_queue_new(client);
            ask(options, queue);
            let event = ffi::rd_kafka_queue_poll(queue, timeout.saturating_add(1_000));
            ffi::rd_kafka_queue_destroy(queue);
            ffi::rd_kafka_AdminOptions_destroy(options);
            event
        };
        if event.is_null() {
            return Err(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut));
        }
        let answer = Self(event);
        // SAFETY: the event is alive.
        match RDKafkaErrorCode::from(unsafe { ffi::rd_kafka_event_error(event) }) {
            RDKafkaErrorCode::NoError => Ok(answer),
            code => Err(KafkaError::Global(code)),
        }
    }
}

/// # Safety
/// `error` is null or alive.
pub(super) unsafe fn code(error: *const ffi::rd_kafka_error_t) -> Option<RDKafkaErrorCode> {
    if error.is_null() {
        return None;
    }
    // SAFETY: the caller's.
    Some(RDKafkaErrorCode::from(unsafe { ffi::rd_kafka_error_code(error) }))
        .filter(|code| *code != RDKafkaErrorCode::NoError)
}

pub(super) fn c_string(text: &str) -> KafkaResult<CString> {
    Ok(CString::new(text)?)
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn a_topic_has_an_id_and_one_that_is_not_there_has_none() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g");
        let consumer: BaseConsumer = config.create().unwrap();
        let ask = |topic| topic_id(consumer.client(), topic, Duration::from_secs(5));
        assert!(ask("orders").unwrap().is_some());
        assert!(ask("other").is_err());
    }
}

//! Questions to librdkafka's admin API that rdkafka has no words for. They block.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::time::{Duration, Instant};

use rdkafka::bindings as ffi;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

use crate::domain::record::topic_id::TopicId;

/// The topic's id as the leader of each of these partitions knows it, of those leaders that say it in time; `None` in it where they
/// are so old that there is none.
///
/// A leader serves no topic that it does not know, and may be the first to know that it was made again. librdkafka itself would ask
/// the controller, which may be away, or be none of those that it can reach.
pub fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partitions: &[i32],
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, Option<TopicId>>> {
    let deadline = Instant::now() + timeout;
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    let (known, name) = (metadata.topics().first(), c_string(topic)?);
    let led = known.iter().flat_map(|topic| topic.partitions()).filter(|led| partitions.contains(&led.id()));
    let mut leaders: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    led.filter(|led| led.leader() >= 0).for_each(|led| leaders.entry(led.leader()).or_default().push(led.id()));
    let mut ids = BTreeMap::new();
    // SAFETY: the client is alive while its owner waits for this call. The name outlives the calls, which copy it. The collection
    // is ours and is freed once. What an answer points to lives as long as the answer.
    unsafe {
        let (client, mut names) = (client.native_ptr(), [name.as_ptr()]);
        let queue = Queue::new(client);
        let topics = ffi::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        for leader in leaders.keys() {
            let kind = ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
            let options = Options::new(client, kind, timeout);
            ffi::rd_kafka_AdminOptions_set_broker(options.0, *leader, std::ptr::null_mut(), 0);
            // It comes back with the answer, and is looked at as a number only.
            ffi::rd_kafka_AdminOptions_set_opaque(options.0, std::ptr::without_provenance_mut(*leader as usize));
            ffi::rd_kafka_DescribeTopics(client, topics, options.0, queue.0);
        }
        ffi::rd_kafka_TopicCollection_destroy(topics);
        while !leaders.is_empty()
            && let Some(answer) = queue.next(deadline.saturating_duration_since(Instant::now()))
        {
            let leader = ffi::rd_kafka_event_opaque(answer.0).cast::<c_void>().addr();
            let asked = i32::try_from(leader).ok().and_then(|leader| leaders.remove(&leader)).unwrap_or_default();
            if let Ok(id) = answer.checked().and_then(|answer| id_in(&answer)) {
                ids.extend(asked.into_iter().map(|partition| (partition, id)));
            }
        }
    }
    Ok(ids)
}

/// The id in a description of one topic.
///
/// # Safety
/// `answer` is one to a question for topics.
unsafe fn id_in(answer: &Answer) -> KafkaResult<Option<TopicId>> {
    // SAFETY: what the answer points to lives as long as the answer.
    unsafe {
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
        let most_significant = ffi::rd_kafka_Uuid_most_significant_bits(id);
        Ok(TopicId::new(most_significant, ffi::rd_kafka_Uuid_least_significant_bits(id)))
    }
}

/// How a question is asked, freed when dropped.
struct Options(*mut ffi::rd_kafka_AdminOptions_t);

impl Options {
    /// # Safety
    /// `client` is alive.
    unsafe fn new(client: *mut ffi::rd_kafka_t, kind: ffi::rd_kafka_admin_op_t, timeout: Duration) -> Self {
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the options are ours.
        unsafe {
            let options = ffi::rd_kafka_AdminOptions_new(client, kind);
            ffi::rd_kafka_AdminOptions_set_request_timeout(options, timeout, std::ptr::null_mut(), 0);
            Self(options)
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: the options are ours, and are freed once.
        unsafe { ffi::rd_kafka_AdminOptions_destroy(self.0) }
    }
}

/// Where answers come, freed when dropped.
struct Queue(*mut ffi::rd_kafka_queue_t);

impl Queue {
    /// # Safety
    /// `client` is alive until this is dropped.
    unsafe fn new(client: *mut ffi::rd_kafka_t) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { ffi::rd_kafka_queue_new(client) })
    }

    /// The next answer, `None` when there is none in time.
    fn next(&self, timeout: Duration) -> Option<Answer> {
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is ours, and so is what comes out of it.
        let event = unsafe { ffi::rd_kafka_queue_poll(self.0, timeout) };
        (!event.is_null()).then_some(Answer(event))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and is freed once. An answer that comes later is freed by librdkafka.
        unsafe { ffi::rd_kafka_queue_destroy(self.0) }
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
        ask: impl FnOnce(*const ffi::rd_kafka_AdminOptions_t, *mut ffi::rd_kafka_queue_t),
    ) -> KafkaResult<Self> {
        // SAFETY: the caller's.
        let (options, queue) = unsafe { (Options::new(client, kind, timeout), Queue::new(client)) };
        ask(options.0, queue.0);
        // It always comes, with the error of a timeout at the latest; the grace is for what librdkafka itself may take.
        let answer = queue.next(timeout.saturating_add(Duration::from_secs(1)));
        answer.ok_or(KafkaError::Global(RDKafkaErrorCode::OperationTimedOut))?.checked()
    }

    /// The answer, if it is one.
    fn checked(self) -> KafkaResult<Self> {
        // SAFETY: the event is alive.
        match RDKafkaErrorCode::from(unsafe { ffi::rd_kafka_event_error(self.0) }) {
            RDKafkaErrorCode::NoError => Ok(self),
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
    fn every_leader_says_the_same_id_of_a_topic_and_none_that_of_one_that_is_not_there() {
        let cluster = MockCluster::new(3).unwrap();
        cluster.create_topic("orders", 6, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "g");
        let consumer: BaseConsumer = config.create().unwrap();
        let ask = |topic| topic_ids(consumer.client(), topic, &[0, 1, 2, 5], Duration::from_secs(5));
        let ids = ask("orders").unwrap();
        assert!(ids.keys().eq(&[0, 1, 2, 5]) && ids[&0].is_some(), "{ids:?}");
        assert!(ids.values().all(|id| *id == ids[&0]), "{ids:?}");
        assert_eq!(ask("other").unwrap_or_default(), BTreeMap::new());
    }
}

//! This worker as a member of its group, for those who commit.
//!
//! A commit counts only while its partitions are ours. The broker sees to that by the generation of the group (KIP-447):
//! what a worker sends that was taken for dead is refused. Two things are left to see to here, because whoever commits
//! asks for the generation at a time of its own: that the partitions are still the ones that were meant, and that there
//! is a generation at all. To a commit without one, as from a worker that has just been expelled, a broker says yes.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use crate::domain::commit::settlement::{AssignmentId, Commit};

/// How long a broker may take to answer a question.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The assignments that this worker holds: what it reads, and what it is about to give up. Each with the name under which
/// the group knew this worker when it was given the partition. A static member that was expelled is let in again under
/// another name, and librdkafka does not always say that its partitions are lost (2.12.1: `rd_kafka_cgrp_rejoin` after
/// UNKNOWN_MEMBER_ID); what was held under the old name is then not ours.
#[derive(Debug, Default)]
pub struct Held(Mutex<BTreeMap<AssignmentId, String>>);

impl Held {
    pub fn insert(&self, id: AssignmentId, member_id: String) {
        self.lock().insert(id, member_id);
    }

    /// Lets go of an assignment. Nothing is committed for it from now on.
    pub fn remove(&self, id: AssignmentId) {
        self.lock().remove(&id);
    }

    /// Whether an assignment is held by the member of this name.
    pub fn is_of(&self, id: AssignmentId, member_id: &str) -> bool {
        !member_id.is_empty() && self.lock().get(&id).is_some_and(|holder| holder == member_id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AssignmentId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a consumer has to know of the group that it reads for.
pub trait Seat: ConsumerContext {
    /// The topic that is read.
    fn topic(&self) -> &str;
    /// The assignments that may be committed for.
    fn held(&self) -> &Held;

    /// A list of partitions of the topic, without offsets.
    fn list<'a>(&self, partitions: impl IntoIterator<Item = &'a i32>) -> TopicPartitionList
    where
        Self: Sized,
    {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(self.topic(), *partition);
        }
        list
    }
}

/// What the settle loop asks of the consumer.
trait Coordinated: Send + Sync {
    fn credentials(&self, commits: &[Commit]) -> Option<ConsumerGroupMetadata>;
    fn holds(&self, commit: &Commit) -> bool;
    fn commit(&self, list: &TopicPartitionList) -> KafkaResult<()>;
    fn committed(&self, partitions: &[i32]) -> KafkaResult<BTreeMap<i32, (i64, String)>>;
    fn list(&self, commits: &[Commit]) -> KafkaResult<TopicPartitionList>;
}

/// This worker as a member of its group. The consumer is gone once the source has left the group.
#[derive(Clone)]
pub struct Member(Weak<dyn Coordinated>);

impl Member {
    pub fn new<C: Seat + 'static>(consumer: &Arc<BaseConsumer<C>>) -> Self {
        let consumer: Arc<dyn Coordinated> = consumer.clone();
        Self(Arc::downgrade(&consumer))
    }

    /// What proves to the broker that these commits are ours to make, `None` when they are not, or not now. It blocks.
    pub fn credentials(&self, commits: &[Commit]) -> Option<ConsumerGroupMetadata> {
        self.0.upgrade()?.credentials(commits)
    }

    /// Whether what is to be committed is of a partition that is ours.
    pub fn holds(&self, commit: &Commit) -> bool {
        self.0.upgrade().is_some_and(|consumer| consumer.holds(commit))
    }

    /// Commits offsets with their metadata. It blocks until the coordinator has answered.
    pub fn commit(&self, commits: &[Commit]) -> KafkaResult<()> {
        let consumer = self.consumer()?;
        consumer.credentials(commits).ok_or(KafkaError::Canceled)?;
        consumer.commit(&consumer.list(commits)?)
    }

    /// What is committed for the partitions for which something is. It blocks.
    pub fn committed(&self, partitions: &[i32]) -> KafkaResult<BTreeMap<i32, (i64, String)>> {
        self.consumer()?.committed(partitions)
    }

    /// The commits as librdkafka takes them.
    pub fn list(&self, commits: &[Commit]) -> KafkaResult<TopicPartitionList> {
        self.consumer()?.list(commits)
    }

    fn consumer(&self) -> KafkaResult<Arc<dyn Coordinated>> {
        self.0.upgrade().ok_or(KafkaError::Canceled)
    }
}

impl<C: Seat> Coordinated for BaseConsumer<C> {
    fn credentials(&self, commits: &[Commit]) -> Option<ConsumerGroupMetadata> {
        // Under this lock nothing that we hold can be given up, and under the same name librdkafka joins no further
        // generation before we have given up what it says. What it tells of the group now is then of a generation in which
        // all of it is ours.
        let held = self.context().held().lock();
        let credentials = self.group_metadata()?;
        let member_id = member_id(self);
        let is_ours = |commit: &Commit| held.get(&commit.assignment).is_some_and(|holder| *holder == member_id);
        let is_member = !member_id.is_empty() && generation(self) > 0;
        (is_member && commits.iter().all(is_ours)).then_some(credentials)
    }

    fn holds(&self, commit: &Commit) -> bool {
        self.context().held().is_of(commit.assignment, &member_id(self))
    }

    fn commit(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        Consumer::commit(self, list, CommitMode::Sync)
    }

    fn committed(&self, partitions: &[i32]) -> KafkaResult<BTreeMap<i32, (i64, String)>> {
        let committed = committed(self, partitions, TIMEOUT)?;
        Ok(committed.into_iter().filter_map(|(partition, committed)| Some((partition, committed?))).collect())
    }

    fn list(&self, commits: &[Commit]) -> KafkaResult<TopicPartitionList> {
        let topic = self.context().topic();
        let mut list = TopicPartitionList::with_capacity(commits.len());
        for Commit { partition, offset, metadata, .. } in commits {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(*offset))?;
            element.set_metadata(metadata);
        }
        Ok(list)
    }
}

/// The generation of the group that this consumer is a member of (KIP-848: its epoch); 0 or less when it is none.
pub fn generation<C: Seat>(consumer: &BaseConsumer<C>) -> i32 {
    // SAFETY: the client is alive as long as `consumer` is. The call returns null or an object of our own, which the second
    // one only reads and the third one frees, once.
    unsafe {
        let metadata = ffi::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return -1;
        }
        let generation = ffi::rd_kafka_consumer_group_metadata_generation_id(metadata);
        ffi::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    }
}

/// The name under which the group knows this consumer, empty when it does not.
pub fn member_id<C: Seat>(consumer: &BaseConsumer<C>) -> String {
    // SAFETY: the client is alive as long as `consumer` is. The call returns null or a C string that is ours to free.
    unsafe {
        let client = consumer.client().native_ptr();
        let name = ffi::rd_kafka_memberid(client);
        if name.is_null() {
            return String::new();
        }
        let copy = CStr::from_ptr(name).to_string_lossy().into_owned();
        ffi::rd_kafka_mem_free(client, name.cast());
        copy
    }
}

/// What is committed for each of the partitions, offset and metadata, `None` where nothing is. It blocks.
///
/// The coordinator does not answer while a transaction is open that commits for one of them.
pub fn committed<C: Seat>(
    consumer: &BaseConsumer<C>,
    partitions: &[i32],
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, Option<(i64, String)>>> {
    let list = consumer.committed_offsets(consumer.context().list(partitions), timeout)?;
    let committed = list.elements().into_iter().map(|element| {
        element.error()?;
        let committed = match element.offset() {
            Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
            _ => None,
        };
        Ok((element.partition(), committed))
    });
    committed.collect()
}

/// Where the log of each of the partitions begins, but of those whose leader does not say it. It blocks.
pub fn log_starts<C: Seat>(
    consumer: &BaseConsumer<C>,
    partitions: &[i32],
    timeout: Duration,
) -> KafkaResult<BTreeMap<i32, i64>> {
    let mut list = consumer.context().list(partitions);
    // In this call an offset stands for a time, and the beginning for the time of the first record.
    list.set_all_offsets(Offset::Beginning)?;
    let starts = consumer.offsets_for_times(list, timeout)?;
    let known = starts.elements().into_iter().filter(|element| element.error().is_ok());
    Ok(known.map(|element| (element.partition(), element.offset().to_raw().unwrap_or(0))).collect())
}

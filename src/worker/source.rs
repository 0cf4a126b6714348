//! Reads the stage's topic. This thread is the only one that touches the consumer.
//!
//! It polls, hands records to their partitions, pauses partitions that hold too much, and commits what the settle loop
//! says. It never waits for a record to be processed: a consumer that is not polled loses its membership.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::clock;
use super::context::Context;
use super::fail::FailOnPanic;
use super::group::Group;
use super::load::STAGE_BYTES;
use super::work::{AssignmentId, Commit, Work};
use crate::domain::record::Record;
use crate::kafka::record::to_record;

/// How long a poll waits for a record. It bounds how long a commit or a stop waits on an idle topic.
const POLL: Duration = Duration::from_millis(50);

/// The records that are handed over at once, and their bytes: what a partition holds is looked at only in between.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// How long the source waits for a full partition before it pauses it. A pause throws away what was fetched ahead, so
/// it is only worth it where records do not simply stream through.
const GRACE: Duration = Duration::from_millis(100);

/// Beyond the drain timeout, how long leaving the group may take.
const LEAVE_GRACE: Duration = Duration::from_secs(5);

/// Reads the stage's topic.
pub(super) struct Source {
    consumer: BaseConsumer<Group>,
    context: Arc<Context>,
    commits: mpsc::Receiver<Commit>,
    stop: CancellationToken,
}

/// Records of one partition that were read one after the other.
struct Batch {
    partition: i32,
    assignment: AssignmentId,
    records: Vec<Record>,
}

impl Batch {
    /// Whether a record comes after these in the same log. One whose offset is not higher comes from another: the old
    /// one was cut, or deleted and made again.
    fn is_followed_by(&self, record: &Record) -> bool {
        self.partition == record.partition && self.records.last().is_none_or(|last| last.offset < record.offset)
    }
}

impl Source {
    pub fn new(
        consumer: BaseConsumer<Group>,
        context: Arc<Context>,
        commits: mpsc::Receiver<Commit>,
        stop: CancellationToken,
    ) -> Self {
        Self { consumer, context, commits, stop }
    }

    /// Runs until it is told to stop, then hands its partitions over and leaves the group.
    pub fn run(self) {
        let _fail_on_panic = FailOnPanic(self.context.failed.clone());
        while !self.stop.is_cancelled() {
            self.commit();
            self.balance();
            self.poll();
        }
        self.consumer.unsubscribe();
        let deadline = Instant::now() + self.context.pipeline.drain_timeout + LEAVE_GRACE;
        while !self.group().assigned().is_empty() && Instant::now() < deadline {
            // What is read here is nobody's any more; the poll is for the hand-over that it serves.
            drop(self.consumer.poll(POLL));
        }
    }

    fn group(&self) -> &Group {
        self.consumer.context()
    }

    /// Commits the last that the settle loop said of each partition that is still ours, unless Kafka has it.
    fn commit(&self) {
        let mut latest = BTreeMap::new();
        for commit in self.commits.try_iter() {
            latest.insert(commit.partition, commit);
        }
        if latest.is_empty() {
            return;
        }
        let commits: Vec<_> = {
            let mut assigned = self.group().assigned();
            let is_news = |commit: &Commit| match assigned.get_mut(&commit.partition) {
                Some(assigned) if assigned.id == commit.assignment => {
                    let news = Some((commit.offset, commit.metadata.clone()));
                    std::mem::replace(&mut assigned.committed, news.clone()) != news
                }
                _ => false,
            };
            latest.into_values().filter(is_news).collect()
        };
        if !commits.is_empty()
            && let Err(error) = self.group().commit(&self.consumer, &commits, CommitMode::Async)
        {
            debug!(%error, "commit failed");
            let mut assigned = self.group().assigned();
            for commit in &commits {
                assigned.entry(commit.partition).and_modify(|a| a.committed = None);
            }
        }
    }

    /// Pauses partitions that hold more than their share, and resumes those that have room again.
    fn balance(&self) {
        let patience = Instant::now() + GRACE;
        while !self.changes().0.is_empty() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (full, free) = self.changes();
        for (partitions, paused) in [(full, true), (free, false)] {
            if partitions.is_empty() {
                continue;
            }
            let list = self.group().list(&partitions);
            let result = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
            debug!(?partitions, paused, ?result, "intake changed");
            if result.is_err() {
                continue;
            }
            let mut assigned = self.group().assigned();
            for partition in &partitions {
                assigned.entry(*partition).and_modify(|a| a.paused = paused);
            }
        }
    }

    /// The partitions that are to be paused, and those that are to be resumed.
    fn changes(&self) -> (Vec<i32>, Vec<i32>) {
        let assigned = self.group().assigned();
        let share = STAGE_BYTES / assigned.len().max(1);
        let full = assigned.iter().filter(|(_, a)| !a.paused && a.load.is_over(share));
        let free = assigned.iter().filter(|(_, a)| a.paused && a.load.has_room(share));
        (full.map(|(partition, _)| *partition).collect(), free.map(|(partition, _)| *partition).collect())
    }

    /// Says why reading failed, where nobody else does.
    fn report(&self, error: &KafkaError) {
        let topic = &*self.context.pipeline.source(self.context.stage).topic;
        match error {
            KafkaError::MessageConsumptionFatal(_) => {
                error!(topic, %error, "reading failed for good");
                self.context.failed.cancel();
            }
            // Whoever looks for Kafka says so once, with the address.
            KafkaError::MessageConsumption(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) => {
                debug!(topic, %error, "reading failed, it is tried again");
            }
            KafkaError::MessageConsumption(Code::UnknownTopicOrPartition) => {
                warn!(topic, "the topic does not exist, waiting for it");
            }
            _ => warn!(topic, %error, "reading failed, it is tried again"),
        }
    }

    /// Reads what is there, up to a batch, and hands it over. A batch ends where the partition changes.
    fn poll(&self) {
        let topic = &self.context.pipeline.source(self.context.stage).topic;
        let mut batch: Option<Batch> = None;
        let (mut timeout, mut count, mut bytes) = (POLL, 0, 0);
        while count < BATCH && bytes < BATCH_BYTES {
            let message = match self.consumer.poll(timeout) {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.report(&error);
                    break;
                }
                None => break,
            };
            timeout = Duration::ZERO;
            let record = to_record(&message, topic);
            (count, bytes) = (count + 1, bytes + record.footprint());
            let partition = record.partition;
            if batch.as_ref().is_none_or(|batch| !batch.is_followed_by(&record)) {
                batch.take().into_iter().for_each(|batch| self.hand_over(batch));
                let Some(assignment) = self.group().assigned().get(&partition).map(|a| a.id) else { continue };
                batch = Some(Batch { partition, assignment, records: Vec::with_capacity(64) });
            }
            if let Some(batch) = &mut batch {
                batch.records.push(record);
            }
        }
        batch.into_iter().for_each(|batch| self.hand_over(batch));
    }

    /// Hands records to their partition, unless it was taken away since they were read.
    fn hand_over(&self, batch: Batch) {
        let (Some(first), Some(last)) = (batch.records.first(), batch.records.last()) else { return };
        let (first, last) = (first.offset, last.offset);
        let next = match self.group().assigned().get(&batch.partition) {
            Some(assigned) if assigned.id == batch.assignment => assigned.next,
            _ => return,
        };
        if next.is_some_and(|next| first < next) {
            warn!(partition = batch.partition, offset = first, "offsets went back: starting the partition anew");
            self.group().restart(batch.partition);
        }
        let mut assigned = self.group().assigned();
        let Some(assigned) = assigned.get_mut(&batch.partition) else { return };
        assigned.next = Some(last + 1);
        let now = clock::now();
        let work = |record: Record| Work {
            past: self.context.past_of(&record, now),
            _charge: assigned.load.charge(record.footprint()),
            record,
        };
        // The partition's task is gone only when it failed, and then the process ends.
        let _ = assigned.inbox.send(batch.records.into_iter().map(work).collect());
    }
}

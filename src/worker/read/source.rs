//! Reads the stage's topic. This thread is the only one that reads; offsets are committed through [`crate::worker::group::member`].
//!
//! It polls, hands records to their partitions, and pauses partitions that hold too much. It never waits for a record to be
//! processed, nor for a rebalance: [`crate::worker::group::membership`] does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tracing::{debug, error, warn};

use super::learner::{Learner, Learnt};
use crate::domain::commit::settlement::AssignmentId;
use crate::domain::flow::load::{Intake, Load, Pause};
use crate::domain::record::Record;
use crate::kafka::record::to_record;
use crate::worker::attempt::context::Context;
use crate::worker::clock;
use crate::worker::fail::FailOnPanic;
use crate::worker::group::membership::report;
use crate::worker::group::reader::Reader;
use crate::worker::group::{AllAssigned, Group};
use crate::worker::work::Work;

/// How long a poll waits for a record. It bounds how long a stop waits on an idle topic.
const POLL: Duration = Duration::from_millis(50);

/// The records that are handed over at once, and their bytes: what a partition holds is looked at only in between.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// How long the source waits for a full partition before it pauses it. A pause throws away what was fetched ahead, so
/// it is only worth it where records do not simply stream through.
const GRACE: Duration = Duration::from_millis(100);

/// Reads the stage's topic.
pub struct Source {
    reader: Arc<Reader>,
    consumer: Arc<BaseConsumer<Group>>,
    context: Arc<Context>,
    learner: Learner,
}

/// Records of one partition that were read one after the other.
struct Batch {
    partition: i32,
    assignment: AssignmentId,
    /// How often partitions had been [taken](Group::taken) away when the first one was read.
    taken: u64,
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
    pub fn new(reader: Arc<Reader>, consumer: Arc<BaseConsumer<Group>>, context: Arc<Context>) -> Self {
        let learner = Learner::new(&consumer, FailOnPanic(context.failed.clone()));
        Self { reader, consumer, context, learner }
    }

    /// Runs until it is told to stop.
    pub fn run(self) {
        let _fail_on_panic = FailOnPanic(self.context.failed.clone());
        while !self.context.stop.is_cancelled() {
            self.group().see_source();
            self.begin_learnt();
            self.balance();
            self.poll();
        }
    }

    fn group(&self) -> &Group {
        self.consumer.context()
    }

    /// Has it be learnt where partitions are to be read from of which Kafka did not say it at once, and begins those of which it is
    /// known now.
    fn begin_learnt(&self) {
        let unknown = self.group().to_learn();
        if !unknown.is_empty()
            && let Err(error) = self.learner.learn(unknown)
        {
            error!(%error, "a thread could not be started");
            self.context.failed.cancel();
        }
        while let Ok(Learnt { partition, unknown, topic_id, start }) = self.learner.learnt.try_recv() {
            self.group().begin_unknown(partition, &unknown, topic_id, start);
        }
    }

    /// Pauses partitions that hold more than their share, and resumes those that have room again.
    fn balance(&self) {
        let patience = Instant::now() + GRACE;
        while !self.changes(&self.group().assigned()).0.is_empty() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut all = self.group().assigned();
        let (full, free) = self.changes(&all);
        if !full.is_empty() || !free.is_empty() {
            debug!(?full, ?free, "intake changed");
        }
        for (partition, why) in full {
            self.group().pause(&mut all, partition);
            all.get(&partition).into_iter().for_each(|assigned| assigned.state.load.set_paused(Some(why)));
        }
        for partition in free {
            self.group().resume(&mut all, partition);
            all.get(&partition).into_iter().for_each(|assigned| assigned.state.load.set_paused(None));
        }
    }

    /// The partitions that are to be paused, and why, and those that are to be resumed: a partition that holds too much is
    /// paused, and all are while the circuit breaker is open.
    fn changes(&self, assigned: &AllAssigned) -> (Vec<(i32, Pause)>, Vec<i32>) {
        let open = self.context.throttle.is_open();
        let intake = Intake::of(assigned.values().map(|a| &*a.state.load));
        let why = |load: &Load| if open { Some(Pause::CircuitOpen) } else { intake.is_over(load) };
        let full = assigned.iter().filter(|(_, a)| !a.is_paused);
        let full = full.filter_map(|(partition, a)| Some((*partition, why(&a.state.load)?)));
        let free = assigned.iter().filter(|(_, a)| a.is_paused && !open && intake.has_room(&a.state.load));
        (full.collect(), free.map(|(partition, _)| *partition).collect())
    }

    /// Reads what is there, up to a batch, and hands it over. A batch ends where the partition changes.
    fn poll(&self) {
        let topic = &self.context.pipeline.source(self.context.stage).topic;
        let mut batch: Option<Batch> = None;
        let (mut timeout, mut count, mut bytes) = (POLL, 0, 0);
        let limit = BATCH_BYTES.min(Intake::of(self.group().assigned().values().map(|a| &*a.state.load)).share());
        while count < BATCH && bytes < limit {
            let taken = self.group().taken();
            let message = match self.reader.poll(timeout) {
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    batch.take().into_iter().for_each(|batch| self.hand_over(batch));
                    let assigned = self.group().assigned();
                    let assigned = assigned.get(&partition).filter(|_| self.group().taken() == taken);
                    assigned.into_iter().for_each(|assigned| assigned.state.load.set_at_end());
                    continue;
                }
                Some(Err(error)) => {
                    report(&self.context, &error);
                    break;
                }
                None => break,
            };
            timeout = Duration::ZERO;
            let record = to_record(&message, topic);
            (count, bytes) = (count + 1, bytes + record.footprint());
            let partition = record.partition;
            let is_next = |batch: &Batch| batch.taken == taken && batch.is_followed_by(&record);
            if !batch.as_ref().is_some_and(is_next) || self.group().taken() != taken {
                batch.take().into_iter().for_each(|batch| self.hand_over(batch));
                let Some(assignment) = self.group().assignment_of(partition, taken) else { continue };
                batch = Some(Batch { partition, assignment, taken, records: Vec::with_capacity(64) });
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
        let mut all = self.group().assigned();
        let Some(assigned) = all.get_mut(&batch.partition).filter(|a| a.id == batch.assignment) else { return };
        if first < assigned.next {
            warn!(partition = batch.partition, offset = first, "offsets went back: starting the partition anew");
            drop(all);
            return self.group().restart(batch.partition, batch.assignment, first);
        }
        assigned.next = last + 1;
        assigned.state.load.set_read(last + 1);
        let now = clock::now();
        let work = |record: Record| Work {
            past: self.context.past_of(&record, assigned.topic_id, now),
            charge: Some(assigned.state.load.charge(record.footprint())),
            record,
        };
        // The partition's task is gone only when it failed, and then the process ends.
        let _ = assigned.inbox.send(batch.records.into_iter().map(work).collect());
    }
}

//! What happens when the group gives partitions to this worker or takes them away.
//!
//! librdkafka calls this from within a poll, and waits: until a revoke has returned, nobody else gets the partitions.
//! That time is used to finish what was started, up to the drain timeout, which is shorter than the session timeout; the
//! partitions that this worker keeps are read by another client meanwhile (see [`crate::worker::group::reader`]). A
//! partition that was *lost* may be somebody else's already: what is held of it is dropped and nothing is committed.
//!
//! A partition that was gained is read from where the coordinator says, and not before it has said so: a record that was
//! finished above the committed offset must not be processed again, and librdkafka, which would ask by itself, starts from
//! the beginning of the log at times (2.12.1: when one rebalance comes soon after another while a transaction is open, in
//! `rd_kafka_assignment_apply_offsets`).

pub mod member;
pub mod membership;
pub mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::member::{Held, Seat, committed, generation, log_starts, member_id};
use super::attempt::context::Context;
use super::work::{ToSettle, Work};
use crate::domain::commit::commit_metadata;
use crate::domain::commit::offsets::Offsets;
use crate::domain::commit::partition_state::PartitionState;
use crate::domain::commit::settlement::{AssignmentId, COMMIT_GRACE};
use crate::domain::observe::rebalance::{Moved, Rebalances};
use crate::domain::record::topic_id::TopicId;
use crate::kafka::admin::topic_ids;
use crate::kafka::connection::LogContext;
use crate::worker::attempt::partition::Partition;
use crate::worker::group::reader::Reader;

/// How long after the drain timeout the settle loop may take to answer.
const SETTLE_GRACE: Duration = COMMIT_GRACE.saturating_add(Duration::from_millis(500));

/// How long Kafka may take to say where partitions are to be read from while a rebalance waits for it. Those of which it does not
/// are read later: the others must not wait for them.
const LEARN_TIMEOUT: Duration = Duration::from_secs(2);

/// All partitions that this worker reads.
pub(super) type AllAssigned = BTreeMap<i32, Assigned>;

/// This worker as a member of its group.
pub(super) struct Group {
    context: Arc<Context>,
    runtime: Handle,
    reader: Arc<Reader>,
    /// What the reader reads is changed under this lock only, and so is always what stands here. Who needs `unknown` too locks that
    /// first.
    assigned: Mutex<AllAssigned>,
    /// How often partitions were taken away.
    taken: AtomicU64,
    /// The partitions that the group has given to this worker, whether or not it still reads them.
    given: Mutex<BTreeSet<i32>>,
    held: Held,
    rebalances: Mutex<Rebalances>,
    next_id: AtomicU64,
    /// When the source last looked for records.
    source_seen: Mutex<Instant>,
    /// Partitions of which it is not known yet where they are to be read from.
    unknown: Mutex<BTreeMap<i32, Unknown>>,
}

/// A partition of which it is not known yet where it is to be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Another one each time that the partition is given to this worker.
    id: AssignmentId,
    member_id: String,
    is_asked_for: bool,
    /// Where its log is another one than before, and what is committed says nothing: where it is read from instead.
    pub restart: Option<Start>,
}

/// Where a partition is to be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    offset: i64,
    /// What is finished above it.
    finished: Vec<Range<i64>>,
}

/// A partition that this worker reads.
pub(super) struct Assigned {
    pub id: AssignmentId,
    pub inbox: mpsc::UnboundedSender<Vec<Work>>,
    pub state: Arc<PartitionState>,
    pub topic_id: Option<TopicId>,
    /// The lowest offset that can come next.
    pub next: i64,
    member_id: String,
    /// It holds too much: the reader does not read it for now.
    pub is_paused: bool,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Group {
    pub fn new(context: Arc<Context>, runtime: Handle, reader: Arc<Reader>) -> Self {
        let (assigned, taken, given, held, rebalances, unknown) = Default::default();
        let (next_id, source_seen) = (AtomicU64::new(1), Mutex::new(Instant::now()));
        Self { context, runtime, reader, assigned, taken, given, held, rebalances, next_id, source_seen, unknown }
    }

    /// The partitions that this worker reads.
    pub fn assigned(&self) -> MutexGuard<'_, AllAssigned> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often partitions were taken away until now.
    pub fn taken(&self) -> u64 {
        self.taken.load(SeqCst)
    }

    /// The assignment that a record belongs to which was read after partitions had been [taken](Self::taken) away this often.
    /// If more were since, the partition may have been given back meanwhile, to be read from another offset. Then it is read
    /// again from the first record that was not handed over.
    pub fn assignment_of(&self, partition: i32, taken: u64) -> Option<AssignmentId> {
        let all = self.assigned();
        let assigned = all.get(&partition)?;
        if self.taken() == taken {
            return Some(assigned.id);
        }
        if !assigned.is_paused {
            self.read_no_more(&[partition]);
            self.read(partition, assigned.next);
        }
        None
    }

    /// Whether the group has given partitions to this worker that it has not taken back.
    pub fn is_in_it(&self) -> bool {
        !self.given().is_empty()
    }

    /// The source looks for records.
    pub fn see_source(&self) {
        *self.source_seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Whether the source has not looked for records for longer than a member of a group may.
    pub fn source_is_stuck(&self) -> bool {
        let seen = *self.source_seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.elapsed() > self.context.pipeline.membership.max_poll_interval
    }

    fn given(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to read a partition of the topic that has this id.
    fn begin(&self, partition: i32, topic_id: Option<TopicId>, member_id: String, start: Start) {
        let Start { offset: next, finished } = start;
        let id = self.next_id();
        let (inbox, receiver) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let state = PartitionState::new(Offsets::resume(next, finished), self.context.partition_records());
        let state = Arc::new(state);
        self.held.insert(id, member_id.clone());
        let message = ToSettle::Assigned { assignment: id, partition, state: state.clone() };
        self.context.settle(message);
        self.context.metrics.set_assigned(partition, Some(state.load.clone()));
        let task =
            Partition::new(self.context.clone(), (partition, topic_id), id, receiver, stop.clone(), state.clone());
        let task = self.runtime.spawn(task.run());
        let assigned = Assigned { id, inbox, state, topic_id, next, member_id, is_paused: false, stop, task };
        let mut all = self.assigned();
        all.insert(partition, assigned);
        self.read(partition, next);
    }

    fn read(&self, partition: i32, offset: i64) {
        if let Err(error) = self.reader.begin(partition, offset) {
            error!(partition, offset, %error, "could not begin to read");
            self.context.failed.cancel();
        }
    }

    fn read_no_more(&self, partitions: &[i32]) {
        if !partitions.is_empty()
            && let Err(error) = self.reader.end(partitions)
        {
            error!(?partitions, %error, "could not stop reading");
            self.context.failed.cancel();
        }
    }

    /// Reads no more of a partition until it is resumed.
    pub fn pause(&self, all: &mut AllAssigned, partition: i32) {
        if let Some(assigned) = all.get_mut(&partition).filter(|assigned| !assigned.is_paused) {
            assigned.is_paused = true;
            self.read_no_more(&[partition]);
        }
    }

    /// Reads a partition on that was paused.
    pub fn resume(&self, all: &mut AllAssigned, partition: i32) {
        if let Some(assigned) = all.get_mut(&partition).filter(|assigned| assigned.is_paused) {
            assigned.is_paused = false;
            self.read(partition, assigned.next);
        }
    }

    /// Takes partitions out of those that are read.
    fn take(&self, all: &mut AllAssigned, partitions: &[i32]) -> Vec<Assigned> {
        let taken = partitions.iter().filter_map(|partition| Some((*partition, all.remove(partition)?)));
        let taken: Vec<_> = taken.collect();
        let read = taken.iter().filter(|(_, assigned)| !assigned.is_paused).map(|(partition, _)| *partition);
        self.read_no_more(&read.collect::<Vec<_>>());
        // After that: what the source reads once it has seen this number comes from what is begun later.
        self.taken.fetch_add(1, SeqCst);
        taken.into_iter().map(|(_, assigned)| assigned).collect()
    }

    /// Starts to read partitions from what is committed for them.
    fn assign(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        // A worker that leaves its group while it joins is still given partitions. It reads none of them.
        if self.context.stop.is_cancelled() {
            return;
        }
        let partitions = partitions(list);
        let mut starts = learn_starts(consumer, &partitions, LEARN_TIMEOUT);
        let topic_ids = learn_topic_ids(consumer, &starts.keys().copied().collect::<Vec<_>>(), LEARN_TIMEOUT);
        let member_id = member_id(consumer);
        for mut element in list.elements() {
            let partition = element.partition();
            // The member reads nothing itself, so that it does not ask where to read from: it would begin elsewhere at times.
            if let Err(error) = element.set_offset(Offset::Beginning) {
                error!(partition, %error, "could not set where to read from");
                return self.context.failed.cancel();
            }
            self.given().insert(partition);
            match (topic_ids.get(&partition), starts.remove(&partition)) {
                (Some(topic_id), Some(start)) => self.begin(partition, *topic_id, member_id.clone(), start),
                _ => {
                    warn!(partition, "Kafka does not say yet where to read from: it waits, the others go on");
                    let (id, member_id) = (self.next_id(), member_id.clone());
                    let unknown = Unknown { id, member_id, is_asked_for: false, restart: None };
                    self.unknown().insert(partition, unknown);
                }
            }
        }
    }

    fn next_id(&self) -> AssignmentId {
        AssignmentId(self.next_id.fetch_add(1, Relaxed))
    }

    fn unknown(&self) -> MutexGuard<'_, BTreeMap<i32, Unknown>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions of which nobody has asked yet where they are to be read from.
    pub fn to_learn(&self) -> BTreeMap<i32, Unknown> {
        let new =
            |unknown: &mut Unknown| (!std::mem::replace(&mut unknown.is_asked_for, true)).then(|| unknown.clone());
        self.unknown().iter_mut().filter_map(|(partition, unknown)| Some((*partition, new(unknown)?))).collect()
    }

    /// Those of them that are still this worker's.
    pub fn retain_unknown(&self, unknown: &mut BTreeMap<i32, Unknown>) {
        let now = self.unknown();
        unknown.retain(|partition, asked| now.get(partition).is_some_and(|now| now.id == asked.id));
    }

    /// Starts to read a partition of which it was not known where, if it is still this worker's.
    pub fn begin_unknown(&self, partition: i32, asked: &Unknown, topic_id: Option<TopicId>, start: Start) {
        // Under this lock the partition cannot be given up.
        let mut unknown = self.unknown();
        if unknown.get(&partition).is_some_and(|now| now.id == asked.id) {
            unknown.remove(&partition);
            self.begin(partition, topic_id, asked.member_id.clone(), start);
        }
    }

    /// Starts a partition anew whose log is another one from this offset on: it was cut there, or its topic was deleted
    /// and made again. What is held of the old log has no meaning any more. What lies below the cut and is not finished is read
    /// again. Which topic it is now has to be learnt first.
    pub fn restart(&self, partition: i32, assignment: AssignmentId, first: i64) {
        let mut unknown = self.unknown();
        let mut all = self.assigned();
        if all.get(&partition).is_none_or(|assigned| assigned.id != assignment) {
            return;
        }
        for old in self.take(&mut all, &[partition]) {
            let ahead = old.state.offsets().ahead(&[]).filter(|ahead| ahead.committed <= first);
            let restart = ahead.map_or(Start { offset: first, finished: vec![] }, |ahead| {
                let below = commit_metadata::remembered(&ahead).into_iter();
                let below = below.map(|range| range.start..range.end.min(first));
                let finished = below.filter(|range| range.start < range.end).collect();
                Start { offset: ahead.committed, finished }
            });
            self.drop_held(&old);
            self.context.metrics.set_assigned(partition, None);
            let (id, member_id) = (self.next_id(), old.member_id);
            unknown.insert(partition, Unknown { id, member_id, is_asked_for: false, restart: Some(restart) });
        }
    }

    /// Gives up all that this worker reads, because it stops.
    pub fn give_up(&self) {
        let taken = {
            let (mut unknown, mut all) = (self.unknown(), self.assigned());
            unknown.clear();
            let partitions: Vec<_> = all.keys().copied().collect();
            partitions.iter().for_each(|partition| self.context.metrics.set_assigned(*partition, None));
            self.take(&mut all, &partitions)
        };
        self.revoke(taken);
    }

    /// Gives partitions up: finishes what was started, commits, lets go.
    fn revoke(&self, mut taken: Vec<Assigned>) {
        self.runtime.block_on(self.drain(&mut taken, self.context.pipeline.drain_timeout));
        taken.iter().for_each(|assigned| self.held.remove(assigned.id));
    }

    /// Whether something is held that the group gave to this worker under another name. librdkafka says nothing of that, and
    /// calls for each rebalance, even if nothing moves. Others may have had the partitions in between.
    fn holds_under_another_name(&self, consumer: &BaseConsumer<Self>) -> bool {
        let member_id = member_id(consumer);
        let is_another = |name: &String| *name != member_id;
        self.assigned().values().any(|assigned| is_another(&assigned.member_id))
            || self.unknown().values().any(|unknown| is_another(&unknown.member_id))
    }

    fn drop_held(&self, lost: &Assigned) {
        self.held.remove(lost.id);
        lost.stop.cancel();
        lost.task.abort();
        self.context.settle(ToSettle::Lost { assignment: lost.id });
    }

    async fn drain(&self, taken: &mut [Assigned], timeout: Duration) {
        let deadline = Instant::now() + timeout;
        taken.iter().for_each(|assigned| assigned.stop.cancel());
        let (mut replies, mut cut_off) = (vec![], 0);
        for Assigned { id, task, .. } in taken {
            if tokio::time::timeout_at(deadline, &mut *task).await.is_err() {
                task.abort();
                cut_off += 1;
            }
            let (reply, answer) = oneshot::channel();
            self.context.settle(ToSettle::Release { assignment: *id, deadline, reply });
            replies.push(answer);
        }
        if cut_off > 0 {
            warn!(partitions = cut_off, ?timeout, "drain timeout: what still ran was cut off and is processed again");
        }
        for answer in replies {
            // The settle loop says itself what it could not do in time.
            let answer = tokio::time::timeout_at(deadline + SETTLE_GRACE, answer).await;
            // What is left to another worker in a rebalance was told, and is no reason to end with an error at some later time.
            if !matches!(answer, Ok(Ok(true))) && self.context.stop.is_cancelled() {
                self.context.unsettled.store(true, Relaxed);
            }
        }
    }
}

impl Seat for Group {
    fn topic(&self) -> &str {
        &self.context.pipeline.source(self.context.stage).topic
    }

    fn held(&self) -> &Held {
        &self.held
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        LogContext.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let (list, moved) = match rebalance {
            Rebalance::Assign(list) => (list, Moved::Gained),
            Rebalance::Revoke(list) => (list, Moved::Revoked),
            Rebalance::Error(error) => return warn!(%error, "rebalance failed"),
        };
        let partitions = partitions(list);
        if moved == Moved::Gained && self.holds_under_another_name(consumer) {
            error!("the group had expelled this worker and knows it by another name now: starting anew");
            return self.context.failed.cancel();
        }
        if partitions.is_empty() {
            return;
        }
        let generation = generation(consumer);
        if self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).is_another(moved, generation) {
            self.context.metrics.rebalances.inc();
        }
        let stage = self.context.stage;
        let group = &*self.context.pipeline.source(stage).group_id;
        if moved == Moved::Gained {
            info!(group, %stage, gained = ?partitions, "rebalance: partitions assigned");
            return self.assign(consumer, list);
        }
        let taken = {
            // Under both locks: one that becomes known now, or begins anew, does not begin later.
            let (mut unknown, mut all) = (self.unknown(), self.assigned());
            unknown.retain(|partition, _| !partitions.contains(partition));
            self.take(&mut all, &partitions)
        };
        for partition in &partitions {
            self.given().remove(partition);
            self.context.metrics.set_assigned(*partition, None);
        }
        // A partition that comes back is paused once more.
        if let Err(error) = consumer.resume(&self.list(&partitions)) {
            warn!(%error, "could not undo the pause of partitions that are given up");
        }
        let member_id = member_id(consumer);
        let is_lost = |assigned: &Assigned| consumer.assignment_lost() || !self.held.is_of(assigned.id, &member_id);
        let (lost, taken): (Vec<_>, Vec<_>) = taken.into_iter().partition(is_lost);
        if !lost.is_empty() {
            warn!(group, %stage, ?partitions, "rebalance: partitions were lost, dropping what was started");
            lost.iter().for_each(|lost| self.drop_held(lost));
        }
        if !taken.is_empty() {
            info!(group, %stage, revoked = ?partitions, "rebalance: finishing what was started");
            self.revoke(taken);
        }
    }

    /// What this worker is given, another client reads.
    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        if let Err(error) = consumer.pause(list) {
            error!(%error, "could not pause what the member is given");
            self.context.failed.cancel();
        }
    }
}

/// Which topic each of the partitions is of, as far as Kafka says it in time. Nothing is read before that: the key that a processor
/// is given must not change with the next attempt. It blocks.
pub fn learn_topic_ids(
    consumer: &BaseConsumer<Group>,
    partitions: &[i32],
    timeout: Duration,
) -> BTreeMap<i32, Option<TopicId>> {
    if partitions.is_empty() {
        return BTreeMap::new();
    }
    topic_ids(consumer.client(), consumer.context().topic(), partitions, timeout).unwrap_or_else(|error| {
        debug!(?partitions, %error, "Kafka does not say which topic it is");
        BTreeMap::new()
    })
}

/// Where each of the partitions is to be read from, as far as Kafka says it in time. Where nothing is committed, the log is read
/// from where it starts; that is then committed, so that it can be told from the first minute how far behind the group is. It
/// blocks.
pub fn learn_starts(consumer: &BaseConsumer<Group>, partitions: &[i32], timeout: Duration) -> BTreeMap<i32, Start> {
    let mut starts = committed(consumer, partitions, timeout).unwrap_or_else(|error| {
        debug!(?partitions, %error, "the coordinator does not say what is committed");
        BTreeMap::new()
    });
    let fresh: Vec<i32> = starts.iter().filter(|(_, start)| start.is_none()).map(|(partition, _)| *partition).collect();
    if !fresh.is_empty() {
        let begins = log_starts(consumer, &fresh, timeout).unwrap_or_else(|error| {
            debug!(partitions = ?fresh, %error, "Kafka does not say where partitions begin");
            BTreeMap::new()
        });
        starts.extend(begins.into_iter().map(|(partition, start)| (partition, Some((start, String::new())))));
    }
    let start = |(partition, start): (i32, Option<(i64, String)>)| {
        let (offset, metadata) = start?;
        let finished = commit_metadata::decode(offset, &metadata).unwrap_or_else(|error| {
            let topic = consumer.context().topic();
            warn!(topic, partition, offset, %error, "ignoring commit metadata: records above it are processed again");
            vec![]
        });
        Some((partition, Start { offset, finished }))
    };
    starts.into_iter().filter_map(start).collect()
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}

//! What happens when the group gives partitions to this worker or takes them away.
//!
//! librdkafka calls this from within a poll, and waits: until a revoke has returned, nobody else gets the partitions.
//! That time is used to finish what was started, up to the drain timeout, which is shorter than the session timeout. A
//! partition that was *lost* may be somebody else's already: what is held of it is dropped and nothing is committed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::context::Context;
use super::load::Load;
use super::partition::Partition;
use super::work::{AssignmentId, Commit, ToSettle, Work};
use crate::domain::commit_metadata;
use crate::domain::offsets::Offsets;
use crate::kafka::connection::LogContext;

/// How long the coordinator may take to say what was committed.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after the drain timeout the settle loop may take to answer.
const SETTLE_GRACE: Duration = Duration::from_secs(1);

/// This worker as a member of its group.
pub(super) struct Group {
    context: Arc<Context>,
    runtime: Handle,
    assigned: Mutex<BTreeMap<i32, Assigned>>,
    next_id: AtomicU64,
}

/// A partition that this worker reads.
pub(super) struct Assigned {
    pub id: AssignmentId,
    pub inbox: mpsc::UnboundedSender<Vec<Work>>,
    pub load: Arc<Load>,
    /// The lowest offset that can come next, `None` when nothing was committed or read.
    pub next: Option<i64>,
    pub paused: bool,
    /// What Kafka has, as far as it is known: offset and metadata.
    pub committed: Option<(i64, String)>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Group {
    pub fn new(context: Arc<Context>, runtime: Handle) -> Self {
        Self { context, runtime, assigned: Mutex::default(), next_id: AtomicU64::new(1) }
    }

    /// The partitions that this worker reads.
    pub fn assigned(&self) -> MutexGuard<'_, BTreeMap<i32, Assigned>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to read a partition from what was committed for it.
    fn begin(&self, partition: i32, offsets: Offsets) -> Assigned {
        let id = AssignmentId(self.next_id.fetch_add(1, Relaxed));
        let (inbox, receiver) = mpsc::unbounded_channel();
        let (stop, load, next) = (CancellationToken::new(), Arc::new(Load::default()), offsets.watermark());
        let offsets = Arc::new(Mutex::new(offsets));
        let message = ToSettle::Assigned { assignment: id, partition, offsets: offsets.clone(), load: load.clone() };
        self.context.settle(message);
        self.context.metrics.set_assigned(partition, Some(load.clone()));
        let task = Partition::new(self.context.clone(), id, receiver, stop.clone(), offsets, load.clone());
        let task = self.runtime.spawn(task.run());
        Assigned { id, inbox, load, next, paused: false, committed: None, stop, task }
    }

    /// Starts a partition anew whose offsets went back: its log was cut, or its topic was deleted and made again. What
    /// is held of the old log has no meaning any more.
    pub fn restart(&self, partition: i32) {
        let fresh = self.begin(partition, Offsets::default());
        if let Some(old) = self.assigned().insert(partition, fresh) {
            old.task.abort();
            let (reply, _) = oneshot::channel();
            self.context.settle(ToSettle::Release { assignment: old.id, deadline: Instant::now(), reply });
        }
    }

    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) {
        let committed = self.read_committed(consumer, partitions);
        for &partition in partitions {
            let offsets = committed.get(&partition).map(|(offset, metadata)| self.resume(partition, *offset, metadata));
            let assigned = self.begin(partition, offsets.unwrap_or_default());
            self.assigned().insert(partition, assigned);
        }
    }

    fn resume(&self, partition: i32, offset: i64, metadata: &str) -> Offsets {
        let finished = commit_metadata::decode(offset, metadata).unwrap_or_else(|error| {
            let topic = &*self.context.pipeline.source(self.context.stage).topic;
            warn!(topic, partition, offset, %error, "ignoring commit metadata: records above it are processed again");
            vec![]
        });
        Offsets::resume(offset, finished)
    }

    /// What was committed for the partitions, as far as the coordinator says it. Without an answer nothing is known to
    /// be finished, and records may be processed again.
    fn read_committed(&self, consumer: &BaseConsumer<Self>, partitions: &[i32]) -> BTreeMap<i32, (i64, String)> {
        match consumer.committed_offsets(self.list(partitions), COMMITTED_TIMEOUT) {
            Ok(list) => {
                let committed = list.elements().into_iter().filter_map(|element| match element.offset() {
                    Offset::Offset(offset) => Some((element.partition(), (offset, element.metadata().to_owned()))),
                    _ => None,
                });
                committed.collect()
            }
            Err(error) => {
                warn!(%error, "could not read the committed offsets: records may be processed again");
                BTreeMap::new()
            }
        }
    }

    /// Gives partitions up: finishes what was started, commits, lets go. What was lost is only let go.
    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &[i32], lost: bool) {
        let taken: Vec<_> = partitions.iter().filter_map(|partition| self.assigned().remove(partition)).collect();
        for partition in partitions {
            self.context.metrics.set_assigned(*partition, None);
        }
        // librdkafka keeps a pause beyond the assignment: a partition that comes back would never be fetched again.
        if let Err(error) = consumer.resume(&self.list(partitions)) {
            warn!(%error, "could not undo the pause of partitions that are given up");
        }
        let drain = if lost { Duration::ZERO } else { self.context.pipeline.drain_timeout };
        let commits = self.runtime.block_on(self.drain(taken, drain));
        if lost || commits.is_empty() {
            return;
        }
        if let Err(error) = self.commit(consumer, &commits, CommitMode::Sync) {
            warn!(%error, "could not commit on hand-over: records may be processed again");
        }
    }

    async fn drain(&self, taken: Vec<Assigned>, timeout: Duration) -> Vec<Commit> {
        let deadline = Instant::now() + timeout;
        taken.iter().for_each(|assigned| assigned.stop.cancel());
        let (mut replies, mut cut_off) = (vec![], 0);
        for Assigned { id, mut task, .. } in taken {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                cut_off += 1;
            }
            let (reply, answer) = oneshot::channel();
            self.context.settle(ToSettle::Release { assignment: id, deadline, reply });
            replies.push(answer);
        }
        // What was lost is dropped without a drain, and that was said before.
        if cut_off > 0 && !timeout.is_zero() {
            warn!(partitions = cut_off, ?timeout, "drain timeout: what still ran was cut off and is processed again");
        }
        let mut commits = vec![];
        for answer in replies {
            if let Ok(Ok(Some(commit))) = tokio::time::timeout_at(deadline + SETTLE_GRACE, answer).await {
                commits.push(commit);
            }
        }
        commits
    }

    /// Commits offsets with their metadata.
    pub fn commit(&self, consumer: &BaseConsumer<Self>, commits: &[Commit], mode: CommitMode) -> KafkaResult<()> {
        let topic = &self.context.pipeline.source(self.context.stage).topic;
        let mut list = TopicPartitionList::with_capacity(commits.len());
        for Commit { partition, offset, metadata, .. } in commits {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(*offset))?;
            element.set_metadata(metadata);
        }
        consumer.commit(&list, mode)
    }

    /// A list of partitions of this stage's topic, without offsets.
    pub fn list<'a>(&self, partitions: impl IntoIterator<Item = &'a i32>) -> TopicPartitionList {
        let topic = &self.context.pipeline.source(self.context.stage).topic;
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(topic, *partition);
        }
        list
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
        let (list, gained) = match rebalance {
            Rebalance::Assign(list) => (list, true),
            Rebalance::Revoke(list) => (list, false),
            Rebalance::Error(error) => return warn!(%error, "rebalance failed"),
        };
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        if partitions.is_empty() {
            return;
        }
        self.context.metrics.rebalances.inc();
        let stage = self.context.stage;
        let group = &*self.context.pipeline.source(stage).group_id;
        if gained {
            info!(group, %stage, gained = ?partitions, "rebalance: partitions assigned");
            self.assign(consumer, &partitions);
        } else {
            let lost = consumer.assignment_lost();
            match lost {
                false => info!(group, %stage, revoked = ?partitions, "rebalance: finishing what was started"),
                true => warn!(group, %stage, lost = ?partitions, "rebalance: dropping what was started"),
            }
            self.revoke(consumer, &partitions, lost);
        }
    }

    /// A commit that failed is made again with the next round.
    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let Err(error) = result else { return };
        debug!(%error, "commit failed");
        let mut assigned = self.assigned();
        for element in offsets.elements() {
            assigned.entry(element.partition()).and_modify(|assigned| assigned.committed = None);
        }
    }
}

//! What happens when the group gives partitions to this worker or takes them away.
//!
//! librdkafka calls this from within a poll, and waits: until a revoke has returned, nobody else gets the partitions.
//! That time is used to finish what was started, up to the drain timeout, which is shorter than the session timeout. A
//! partition that was *lost* may be somebody else's already: what is held of it is dropped and nothing is committed.
//!
//! A partition that was gained is paused at first, until the source has learned what is committed for it: a record that
//! was finished above the committed offset must not be processed again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::context::Context;
use super::load::Load;
use super::member::{Held, generation};
use super::partition::Partition;
use super::settle::COMMIT_GRACE;
use super::work::{AssignmentId, ToSettle, Work};
use crate::domain::offsets::Offsets;
use crate::domain::rebalance::{Moved, Rebalances};
use crate::kafka::connection::LogContext;

/// How long after the drain timeout the settle loop may take to answer.
const SETTLE_GRACE: Duration = COMMIT_GRACE.saturating_add(Duration::from_millis(500));

/// This worker as a member of its group.
pub(super) struct Group {
    context: Arc<Context>,
    runtime: Handle,
    assigned: Mutex<BTreeMap<i32, Assigned>>,
    /// Partitions that were gained and are paused, because it is not known yet what is committed for them.
    gained: Mutex<BTreeMap<i32, Gained>>,
    held: Held,
    rebalances: Mutex<Rebalances>,
    next_id: AtomicU64,
}

/// A partition that this worker is to read.
pub(super) struct Gained {
    /// Tells one gain of the partition from the next.
    pub id: AssignmentId,
    /// Whether the coordinator was asked what is committed.
    pub asked: bool,
}

/// A partition that this worker reads.
pub(super) struct Assigned {
    pub id: AssignmentId,
    pub inbox: mpsc::UnboundedSender<Vec<Work>>,
    pub load: Arc<Load>,
    /// The lowest offset that can come next, `None` when nothing was committed or read.
    pub next: Option<i64>,
    pub paused: bool,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Group {
    pub fn new(context: Arc<Context>, runtime: Handle) -> Self {
        let (assigned, gained, held, rebalances) = Default::default();
        Self { context, runtime, assigned, gained, held, rebalances, next_id: AtomicU64::new(1) }
    }

    /// The partitions that this worker reads.
    pub fn assigned(&self) -> MutexGuard<'_, BTreeMap<i32, Assigned>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions that this worker was given and does not read yet.
    pub fn gained(&self) -> MutexGuard<'_, BTreeMap<i32, Gained>> {
        self.gained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The assignments that may be committed for.
    pub fn held(&self) -> &Held {
        &self.held
    }

    fn next_id(&self) -> AssignmentId {
        AssignmentId(self.next_id.fetch_add(1, Relaxed))
    }

    /// Starts to read a partition from what was committed for it.
    pub fn begin(&self, partition: i32, offsets: Offsets) {
        let id = self.next_id();
        let (inbox, receiver) = mpsc::unbounded_channel();
        let load = Arc::new(Load::new(self.context.partition_records()));
        let (stop, next) = (CancellationToken::new(), offsets.watermark());
        let offsets = Arc::new(Mutex::new(offsets));
        self.held.insert(id);
        let message = ToSettle::Assigned { assignment: id, partition, offsets: offsets.clone(), load: load.clone() };
        self.context.settle(message);
        self.context.metrics.set_assigned(partition, Some(load.clone()));
        let task = Partition::new(self.context.clone(), partition, id, receiver, stop.clone(), offsets, load.clone());
        let task = self.runtime.spawn(task.run());
        let assigned = Assigned { id, inbox, load, next, paused: false, stop, task };
        if let Some(old) = self.assigned().insert(partition, assigned) {
            self.drop_held(&old);
        }
    }

    /// Starts a partition anew whose offsets went back: its log was cut, or its topic was deleted and made again. What
    /// is held of the old log has no meaning any more.
    pub fn restart(&self, partition: i32) {
        self.begin(partition, Offsets::default());
    }

    /// Gives partitions up: finishes what was started, commits, lets go.
    fn revoke(&self, mut taken: Vec<Assigned>) {
        self.runtime.block_on(self.drain(&mut taken, self.context.pipeline.drain_timeout));
        taken.iter().for_each(|assigned| self.held.remove(assigned.id));
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
            let _ = tokio::time::timeout_at(deadline + SETTLE_GRACE, answer).await;
        }
    }

    /// The stage's topic.
    pub fn topic(&self) -> &str {
        &self.context.pipeline.source(self.context.stage).topic
    }

    /// A list of partitions of this stage's topic, without offsets.
    pub fn list<'a>(&self, partitions: impl IntoIterator<Item = &'a i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(self.topic(), *partition);
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
        let (partitions, moved) = match rebalance {
            Rebalance::Assign(list) => (partitions(list), Moved::Gained),
            Rebalance::Revoke(list) => (partitions(list), Moved::Revoked),
            Rebalance::Error(error) => return warn!(%error, "rebalance failed"),
        };
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
            return;
        }
        let taken: Vec<_> = partitions.iter().filter_map(|partition| self.assigned().remove(partition)).collect();
        for partition in &partitions {
            self.gained().remove(partition);
            self.context.metrics.set_assigned(*partition, None);
        }
        // librdkafka keeps a pause beyond the assignment: a partition that comes back would never be fetched again.
        if let Err(error) = consumer.resume(&self.list(&partitions)) {
            warn!(%error, "could not undo the pause of partitions that are given up");
        }
        if consumer.assignment_lost() {
            warn!(group, %stage, lost = ?partitions, "rebalance: dropping what was started");
            taken.iter().for_each(|lost| self.drop_held(lost));
        } else {
            info!(group, %stage, revoked = ?partitions, "rebalance: finishing what was started");
            self.revoke(taken);
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else { return };
        let partitions = partitions(list);
        if partitions.is_empty() {
            return;
        }
        if let Err(error) = consumer.pause(&self.list(&partitions)) {
            // What is read before it is known what is committed is not handed over, and would be missing.
            error!(%error, "could not pause partitions that were gained");
            return self.context.failed.cancel();
        }
        let gained = partitions.into_iter().map(|partition| (partition, Gained { id: self.next_id(), asked: false }));
        self.gained().extend(gained);
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}

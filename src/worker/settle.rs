//! Settles records: writes what goes on to another topic, then finishes the offset. Nothing else finishes an offset.
//!
//! One loop serves all partitions of a stage. A record that was processed is finished at once; one that goes on is
//! finished when its new record is acknowledged by all in-sync replicas, so a crash in between reads it again. Twice a
//! second the loop hands to the source what may be committed; the source knows what Kafka has already.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::fail::FailOnPanic;
use super::load::{Load, PARTITION_RECORDS};
use super::metrics::StageMetrics;
use super::work::{AssignmentId, Commit, Destination, Route, ToSettle};
use super::writer::Writer;
use crate::domain::commit_metadata::{self, MAX_BYTES};
use crate::domain::offsets::Offsets;

/// The time between two commits. It bounds how much is processed again after a crash.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

/// The intake of a partition stops when its finished offsets take more than this beside the committed one; the rest of
/// [`MAX_BYTES`] is for what is in flight already.
const FULL_BYTES: usize = MAX_BYTES * 3 / 4;

/// The settle loop.
pub(super) struct Settle {
    writer: Arc<Writer>,
    metrics: Arc<StageMetrics>,
    inbox: mpsc::UnboundedReceiver<ToSettle>,
    commits: std_mpsc::Sender<Commit>,
    settling: HashMap<AssignmentId, Settling>,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
}

/// A partition whose records are being settled.
struct Settling {
    partition: i32,
    offsets: Arc<Mutex<Offsets>>,
    load: Arc<Load>,
    /// Records on their way to another topic.
    writing: usize,
    /// Stops what is on its way when the partition is gone.
    gone: CancellationToken,
    release: Option<(Instant, oneshot::Sender<Option<Commit>>)>,
}

/// The end of a write; there is no route when the partition was gone before.
struct Written {
    assignment: AssignmentId,
    route: Option<Route>,
}

impl Settle {
    pub fn new(
        writer: Writer,
        metrics: Arc<StageMetrics>,
        inbox: mpsc::UnboundedReceiver<ToSettle>,
        commits: std_mpsc::Sender<Commit>,
    ) -> Self {
        let (writer, settling, writes) = (Arc::new(writer), HashMap::new(), FuturesUnordered::new());
        Self { writer, metrics, inbox, commits, settling, writes }
    }

    /// Runs until everybody who could send something is gone.
    pub async fn run(mut self, _fail_on_panic: FailOnPanic) {
        let mut commit = tokio::time::interval(COMMIT_INTERVAL);
        commit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                Some(written) = self.writes.next(), if !self.writes.is_empty() => self.end_write(written),
                _ = commit.tick() => self.commit(),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
            }
            self.release();
        }
    }

    fn take(&mut self, message: ToSettle) {
        match message {
            ToSettle::Assigned { assignment, partition, offsets, load } => {
                let gone = CancellationToken::new();
                let settling = Settling { partition, offsets, load, writing: 0, gone, release: None };
                self.settling.insert(assignment, settling);
            }
            ToSettle::Settled { assignment, finished, routes } => {
                let Some(settling) = self.settling.get_mut(&assignment) else { return };
                settling.finish(finished);
                settling.writing += routes.len();
                for route in routes {
                    let (writer, gone) = (self.writer.clone(), settling.gone.clone());
                    let write = async move {
                        let route = gone.run_until_cancelled_owned(writer.write(route)).await;
                        Written { assignment, route }
                    };
                    self.writes.push(write.boxed());
                }
            }
            ToSettle::Release { assignment, deadline, reply } => {
                if let Some(settling) = self.settling.get_mut(&assignment) {
                    settling.release = Some((deadline, reply));
                }
            }
        }
    }

    fn end_write(&mut self, written: Written) {
        let (Some(route), Some(settling)) = (written.route, self.settling.get_mut(&written.assignment)) else { return };
        settling.writing -= 1;
        settling.finish([route.work.record.offset]);
        match route.to {
            Destination::Retry { .. } => drop(self.metrics.retried.inc()),
            Destination::DeadLetter { reason } => self.metrics.dead_letter(&route.failure.error_type, reason),
        }
        log(&route);
    }

    fn commit(&self) {
        for (assignment, settling) in &self.settling {
            if let Some(commit) = settling.commit(*assignment) {
                // The source is gone only when the stage has ended.
                let _ = self.commits.send(commit);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.settling.values().filter_map(|settling| settling.release.as_ref()).map(|(deadline, _)| *deadline).min()
    }

    /// Gives up the partitions that have nothing on its way any more, or whose deadline has come.
    fn release(&mut self) {
        let now = Instant::now();
        let due = |settling: &Settling| {
            settling.release.as_ref().is_some_and(|(deadline, _)| settling.writing == 0 || *deadline <= now)
        };
        for (assignment, settling) in self.settling.extract_if(|_, settling| due(settling)) {
            settling.gone.cancel();
            let commit = settling.commit(assignment);
            if let Some((_, reply)) = settling.release {
                // Nobody waits when the partition was lost.
                let _ = reply.send(commit);
            }
        }
    }
}

impl Settling {
    fn finish(&self, finished: impl IntoIterator<Item = i64>) {
        let mut offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        for offset in finished {
            offsets.finish(offset);
        }
    }

    /// What may be committed, `None` when nothing is known yet.
    fn commit(&self, assignment: AssignmentId) -> Option<Commit> {
        let (offset, finished, window) = {
            let offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
            (offsets.watermark()?, offsets.finished(), offsets.window())
        };
        let encoded = commit_metadata::encode(offset, &finished);
        let fits = encoded.complete && encoded.text.len() <= FULL_BYTES;
        self.load.set_window_is_full(!fits || window > PARTITION_RECORDS);
        Some(Commit { assignment, partition: self.partition, offset, metadata: encoded.text })
    }
}

fn log(route: &Route) {
    let origin = &route.work.past.origin;
    let (topic, partition, offset) = (&*origin.topic, origin.partition, origin.offset);
    let (attempt, error_type) = (route.work.past.attempts, &*route.failure.error_type);
    match route.to {
        Destination::Retry { due, max_attempts } => {
            info!(topic, partition, offset, attempt, max_attempts, error_type, %due, "attempt failed, Retry scheduled");
        }
        Destination::DeadLetter { reason } => {
            let dlt = &*route.dead_letter_topic;
            info!(topic, partition, offset, attempt, error_type, %reason, dlt, "attempt failed, record sent to DLT");
        }
    }
}

//! Settles records: writes what goes on to another topic, finishes offsets, commits. Nothing else does any of the three.
//!
//! One loop serves all partitions of a stage. What it does next, the [`Settlement`] says; this does it, and says what came of
//! it.

mod batch;
mod plain;
mod steps;
mod transactional;
mod unsent;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use rdkafka::error::KafkaError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::plain::PlainWriter;
use self::steps::is_of_an_old_generation;
use self::transactional::TransactionalWriter;
use self::unsent::{Composer, Unsent};
use self::writer::Writer;
use super::fail::FailOnPanic;
use super::group::member::Member;
use super::metrics::StageMetrics;
use super::work::{Destination, Route, ToSettle};
use crate::domain::commit::settlement::{AssignmentId, Commit, Note, Settlement, Step, Written};
use crate::domain::pipeline::Delivery;
use crate::domain::record::envelope::Scribe;
use crate::kafka::connection::Connection;

/// The settle loop.
pub(super) struct Settle {
    settlement: Settlement<Unsent>,
    member: Member,
    composer: Arc<Composer>,
    first: Arc<dyn Writer>,
    second: Arc<dyn Writer>,
    metrics: Arc<StageMetrics>,
    inbox: mpsc::UnboundedReceiver<ToSettle>,
    /// Who waits for a partition to be given up.
    releases: HashMap<AssignmentId, oneshot::Sender<bool>>,
    /// What is under way: a round, and what is tried beside it.
    doing: FuturesUnordered<BoxFuture<'static, Ended>>,
}

/// A step that was done.
enum Ended {
    FirstIsReady,
    SecondIsReady,
    Commit(bool),
    Write(Vec<Written<Unsent>>),
    Delivery(Vec<Written<Unsent>>),
    Delivered(bool),
}

/// How a stage settles.
pub(super) struct Settings {
    pub connection: Connection,
    pub delivery: Delivery,
    /// Names this worker to the coordinator of transactions; no other living worker has the same.
    pub transactional_id: String,
    pub scribe: Scribe,
    pub retry_topic: Arc<str>,
    pub member: Member,
}

impl Settle {
    pub fn new(settings: Settings, metrics: Arc<StageMetrics>, inbox: mpsc::UnboundedReceiver<ToSettle>) -> Self {
        let Settings { connection, delivery, transactional_id, scribe, retry_topic, member } = settings;
        let (connection, composer) = (Arc::new(connection), Arc::new(Composer { scribe, retry_topic }));
        let writers: [Arc<dyn Writer>; 2] = match delivery {
            Delivery::AtLeastOnce => {
                [(); 2].map(|()| Arc::new(PlainWriter::new(connection.clone(), composer.clone())) as Arc<dyn Writer>)
            }
            Delivery::ExactlyOnce => {
                TransactionalWriter::pair(connection, composer.clone(), member.clone(), transactional_id)
                    .map(|writer| Arc::new(writer) as Arc<dyn Writer>)
            }
        };
        let [first, second] = writers;
        let settlement = Settlement::new(delivery, Instant::now().into_std());
        let (releases, doing) = (HashMap::new(), FuturesUnordered::new());
        Self { settlement, member, composer, first, second, metrics, inbox, releases, doing }
    }

    /// Runs until everybody who could send something is gone.
    pub async fn run(mut self, _fail_on_panic: FailOnPanic) {
        self.doing.push(self.first.clone().prepare().map(|()| Ended::FirstIsReady).boxed());
        self.doing.push(self.second.clone().prepare().map(|()| Ended::SecondIsReady).boxed());
        loop {
            while let Some(step) = self.settlement.next(now()) {
                self.start(step);
            }
            self.settlement.notes().iter().for_each(log_note);
            let wake = self.settlement.wake(now());
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                Some(ended) = self.doing.next(), if !self.doing.is_empty() => self.end(ended),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take(&mut self, message: ToSettle) {
        match message {
            ToSettle::Assigned { assignment, partition, state } => {
                self.settlement.assign(assignment, partition, state);
            }
            ToSettle::Settled { assignment, finished, routes } => {
                let unsent = routes.into_iter().map(|route| self.composer.unsent(route)).collect();
                self.settlement.settle(assignment, finished, unsent);
            }
            ToSettle::Release { assignment, deadline, reply } => {
                if self.settlement.release(assignment, deadline.into_std(), Instant::now().into_std()) {
                    self.releases.insert(assignment, reply);
                } else {
                    // Whoever asks may be gone by now.
                    let _ = reply.send(true);
                }
            }
            ToSettle::Lost { assignment } => {
                self.settlement.lose(assignment);
                self.releases.remove(&assignment);
            }
        }
    }

    fn start(&mut self, step: Step<Unsent>) {
        let doing = match step {
            Step::Commit(commits) => commit(self.member.clone(), commits).map(Ended::Commit).boxed(),
            Step::Write(records, commits) => self.first.clone().write(records, commits).map(Ended::Write).boxed(),
            Step::Deliver(records, choice) => self.second.clone().deliver(records, choice).map(Ended::Delivery).boxed(),
            Step::CommitDelivered(commits) => {
                self.second.clone().commit_delivered(commits).map(Ended::Delivered).boxed()
            }
            Step::AbortDelivered => return self.second.clone().abort_delivered(),
            Step::Release { assignment, partition, is_committed, is_clean } => {
                if !is_committed {
                    warn!(partition, "could not commit on hand-over: records may be processed again");
                }
                // Whoever asked may not have waited.
                let _ = self.releases.remove(&assignment).map(|reply| reply.send(is_clean));
                return;
            }
        };
        self.doing.push(doing);
    }

    fn end(&mut self, ended: Ended) {
        let (settlement, now) = (&mut self.settlement, now());
        let written = match ended {
            Ended::FirstIsReady => return settlement.begin_rounds(),
            Ended::SecondIsReady => return settlement.begin_deliveries(),
            Ended::Commit(is_committed) => return settlement.end_commit(is_committed, now),
            Ended::Write(written) => settlement.end_write(written, now),
            Ended::Delivery(written) => settlement.end_delivery(written, now),
            Ended::Delivered(is_committed) => settlement.end_delivered(is_committed, now),
        };
        for Unsent { route, .. } in &written {
            match route.to {
                Destination::Retry { .. } => drop(self.metrics.retried.inc()),
                Destination::DeadLetter { reason } => self.metrics.dead_letter(&route.failure.error_type, reason),
            }
            log(route);
        }
    }
}

async fn sleep_until(wake: Option<std::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Commits, and returns whether the coordinator has taken it.
async fn commit(member: Member, commits: Vec<Commit>) -> bool {
    let answer = tokio::task::spawn_blocking(move || member.commit(&commits)).await;
    // It fails when the runtime ends.
    let answer = answer.unwrap_or(Err(KafkaError::Canceled));
    match &answer {
        Ok(()) => {}
        // The group is in a rebalance, or we are no longer in it: that is said elsewhere.
        Err(error @ KafkaError::Canceled) => debug!(%error, "could not commit now"),
        Err(error @ KafkaError::ConsumerCommit(code)) if is_of_an_old_generation(*code) => {
            debug!(%error, "could not commit now");
        }
        Err(error) => warn!(%error, "commit failed, it is made again"),
    }
    answer.is_ok()
}

fn log_note(note: &Note) {
    match note {
        Note::GaveUp { partition, records, why } => {
            warn!(partition, records, "{why}: records that failed could not be written, they are tried again");
        }
        Note::SetApart(topic) => {
            warn!(%topic, "a topic takes no records: they are tried by themselves, less and less often, and the others go on");
        }
        Note::TakenBack(topic) => info!(%topic, "a topic takes records again"),
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

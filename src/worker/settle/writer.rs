//! Writes failed records to other topics, and commits with them what they settle.
//!
//! With [`Delivery::ExactlyOnce`] both happen in one transaction: after a crash either all of it is there or nothing,
//! and a worker that was taken for dead is refused as a whole. With [`Delivery::AtLeastOnce`] the records are written and
//! the commit comes later.
//!
//! A stage has two of these. The first one writes the rounds, the second one tries what a topic has refused, which may take
//! seconds each time. To abort a transaction may take for ever: Kafka has to write its end to every partition that it
//! touched, also to one that has no leader or too few in-sync replicas. So it is aborted in the background where a record of
//! it was refused, and the writer goes on under another transactional id.
//!
//! Once a record is on its way to another topic its processor is not asked again: what is not written is put back, and
//! tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::domain::commit::settlement::{Choice, Commit, Outbound, Refusal, Unwritten, Written};
use crate::domain::pipeline::Delivery;
use crate::domain::record::Outgoing;
use crate::domain::record::dead_letter::Reason;
use crate::domain::record::envelope::{Extent, FailedRecord, Scribe};
use crate::domain::record::failure::{Failure, FailureKind};
use crate::kafka::connection::{BATCH_BYTES, Connection, LogContext, QUEUE_BYTES};
use crate::kafka::record::to_future_record;
use crate::worker::group::member::Member;
use crate::worker::work::{Destination, Route};

/// How long librdkafka itself tries to deliver a record before it says so.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one step of a transaction is waited for before it is asked for again.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a step may take in all. librdkafka loses one at times when a coordinator goes away, and would wait for ever:
/// its coordinator request is only looked at again when some broker comes or goes. A new producer then ends the transaction.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long to wait for room in the producer's queue.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// How long to wait before Kafka is asked again what became of a transaction.
const PAUSE: Duration = Duration::from_millis(500);

type Producer = FutureProducer<LogContext>;

/// Writes retry records and dead letters.
pub struct Writer {
    settings: Arc<WriterSettings>,
    /// Made when there is something to write, and again when it cannot go on.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    producer: Option<Producer>,
    /// Which of the worker's transactional ids it has, `None` before the first.
    id: Option<u8>,
}

/// What the writers of a stage share.
pub struct WriterSettings {
    pub connection: Connection,
    pub delivery: Delivery,
    /// Names this worker to the coordinator of transactions; no other living worker has the same.
    pub transactional_id: String,
    pub scribe: Scribe,
    pub retry_topic: Arc<str>,
    pub member: Member,
    pub ids: Ids,
}

/// The transactional ids of a worker that no producer uses. The lowest is taken first, so that Kafka, which remembers each for a
/// week, gets to know few of them.
pub struct Ids(Mutex<BTreeSet<u8>>);

impl Default for Ids {
    fn default() -> Self {
        Self(Mutex::new((0..8).collect()))
    }
}

/// A record that is to be written.
#[derive(Debug)]
pub struct Unsent {
    pub route: Box<Route>,
    /// Where it goes.
    topic: Arc<str>,
    /// How much of it is written.
    extent: Extent,
    /// It was found too large in a request of its own.
    has_to_shrink: bool,
}

impl Outbound for Unsent {
    fn offset(&self) -> i64 {
        self.route.work.record.offset
    }

    fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    fn bytes(&self) -> usize {
        self.route.work.record.footprint()
    }
}

type Results = Vec<Written<Unsent>>;

/// Why a round was not committed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    /// Nothing of it counts.
    #[error(transparent)]
    Aborted(#[from] KafkaError),
    /// Only the coordinator knows whether it counts.
    #[error("it is not known yet whether the transaction was committed")]
    Unknown(#[source] KafkaError),
}

impl WriterSettings {
    /// The transactional id of this number: of the first two, the second one is for what is tried again.
    fn transactional_id(&self, number: u8) -> String {
        match number {
            0 => self.transactional_id.clone(),
            1 => format!("{}-retry", self.transactional_id),
            _ => format!("{}-retry-{number}", self.transactional_id),
        }
    }

    /// Makes a producer. One that is made first ends what another of its name has left open. It blocks.
    fn make(&self, number: u8) -> KafkaResult<Producer> {
        match self.delivery {
            Delivery::AtLeastOnce => self.connection.producer(DELIVERY_TIMEOUT),
            Delivery::ExactlyOnce => {
                let id = self.transactional_id(number);
                let producer = self.connection.transactional_producer(&id, DELIVERY_TIMEOUT)?;
                producer.init_transactions(STEP_TIMEOUT)?;
                Ok(producer)
            }
        }
    }

    /// A record that is to be written.
    pub fn unsent(&self, route: Route) -> Unsent {
        let topic = self.topic(&route);
        Unsent { route: Box::new(route), topic, extent: Extent::Whole, has_to_shrink: false }
    }

    /// Where a record goes.
    fn topic(&self, route: &Route) -> Arc<str> {
        match route.to {
            Destination::Retry { .. } => self.retry_topic.clone(),
            Destination::DeadLetter { .. } => route.dead_letter_topic.clone(),
        }
    }

    fn outgoing(&self, unsent: &Unsent) -> Outgoing {
        let Route { work, failure, failed_at, to, dead_letter_topic } = &*unsent.route;
        let failed = FailedRecord { record: &work.record, provenance: &work.past, failure, failed_at: *failed_at };
        match to {
            Destination::Retry { due, .. } => self.scribe.retry(failed, *due, &self.retry_topic),
            Destination::DeadLetter { reason } => {
                self.scribe.dead_letter(failed, *reason, dead_letter_topic, unsent.extent)
            }
        }
    }
}

impl Writer {
    /// The two writers of a stage.
    pub fn pair(settings: &Arc<WriterSettings>) -> [Arc<Self>; 2] {
        [0, 1].map(|id| {
            lock(&settings.ids.0).remove(&id);
            let held = Mutex::new(Held { producer: None, id: Some(id) });
            Arc::new(Self { settings: settings.clone(), held })
        })
    }

    /// Makes ready to write, so that what a worker of the same name has left open is ended. Failing is no matter: it is
    /// done again when there is something to write.
    pub async fn prepare(self: Arc<Self>) {
        if let Err(error) = self.producer().await {
            debug!(%error, "could not make the producer yet");
        }
    }

    /// Ends what a worker of the same name has left open, of a writer that may have nothing to write for long.
    pub async fn end_open_transaction(self: Arc<Self>) {
        if self.settings.delivery == Delivery::ExactlyOnce {
            self.clone().prepare().await;
            self.discard();
        }
    }

    /// Writes a round. With exactly-once delivery its commits are made too, and either all of its records are written or
    /// none is.
    pub async fn write(self: Arc<Self>, round: Vec<Unsent>, commits: Vec<Commit>) -> Results {
        let producer = match self.clone().producer().await {
            Ok(producer) => producer,
            Err(error) => return self.put_back(round, &error),
        };
        if self.settings.delivery == Delivery::AtLeastOnce {
            return self.send_all(&producer, round).await;
        }
        if let Err(error) = producer.begin_transaction() {
            self.discard();
            return self.put_back(round, &error);
        }
        let written = self.send_all(&producer, round).await;
        if written.iter().any(|written| written.as_ref().is_err_and(|unwritten| unwritten.refusal.is_some())) {
            self.leave();
            return undo(written);
        }
        let ended = match written.iter().all(Result::is_ok) {
            true => self.clone().commit_transaction(producer, &commits).await,
            false => Err(KafkaError::Canceled),
        };
        match ended {
            Ok(()) => written,
            // When a record could not be sent, that was said.
            Err(error) => self.put_back(written.into_iter().map(record_of).collect(), &error),
        }
    }

    /// Writes records, all at once or one after the other until one is refused. With exactly-once delivery the transaction is
    /// left open when all are written, and aborted when not.
    pub async fn deliver(self: Arc<Self>, records: Vec<Unsent>, choice: Choice) -> Results {
        let producer = match self.clone().producer().await {
            Ok(producer) => producer,
            Err(error) => return self.put_back(records, &error),
        };
        if self.settings.delivery == Delivery::ExactlyOnce
            && let Err(error) = producer.begin_transaction()
        {
            self.discard();
            return self.put_back(records, &error);
        }
        let written = match choice {
            Choice::Fresh => self.send_all(&producer, records).await,
            Choice::Again => self.send_one_by_one(&producer, records).await,
        };
        if self.settings.delivery == Delivery::ExactlyOnce && !written.iter().all(Result::is_ok) {
            self.leave();
        }
        written
    }

    /// Commits in the transaction that was left open, and ends it. Returns whether it counts.
    pub async fn commit_delivered(self: Arc<Self>, commits: Vec<Commit>) -> bool {
        let Some(producer) = lock(&self.held).producer.clone() else { return false };
        let ended = self.clone().commit_transaction(producer, &commits).await;
        if let Err(error) = &ended {
            debug!(%error, "could not commit what a topic took after all, it is written again");
        }
        ended.is_ok()
    }

    /// Leaves the transaction that is open to itself, and goes on under another name. It is aborted in the background.
    pub fn leave(self: Arc<Self>) {
        let settings = self.settings.clone();
        let (mut producer, id) = {
            let mut held = lock(&self.held);
            // Without a producer there is nothing open that the next one of the same name would not end.
            if held.producer.is_none() {
                return;
            }
            (held.producer.take(), held.id.take())
        };
        let Some(id) = id else { return };
        tokio::spawn(async move {
            loop {
                let (settings, old) = (settings.clone(), producer.take());
                let ended = patiently(move || match old {
                    Some(producer) => until_answered(|| producer.abort_transaction(STEP_TIMEOUT)),
                    // A new producer of the same name ends it.
                    None => settings.make(id).map(drop),
                });
                match ended.await {
                    Some(Ok(())) => break,
                    ended => debug!(?ended, id, "a transaction cannot be aborted yet"),
                }
                tokio::time::sleep(PAUSE).await;
            }
            lock(&settings.ids.0).insert(id);
        });
    }

    /// Sends the offsets and ends the transaction, one way or the other.
    async fn commit_transaction(self: Arc<Self>, producer: Producer, commits: &[Commit]) -> KafkaResult<()> {
        match self.clone().commit(&producer, commits).await {
            Ok(()) => Ok(()),
            Err(Failed::Aborted(error)) => {
                self.abort(producer).await;
                Err(error)
            }
            Err(Failed::Unknown(error)) => {
                drop(producer);
                warn!(%error, "it is not known whether a transaction was committed: asking the coordinator");
                if self.was_committed(commits).await { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Sends the offsets and ends the transaction.
    async fn commit(self: Arc<Self>, producer: &Producer, commits: &[Commit]) -> Result<(), Failed> {
        let (writer, sender, commits) = (self.clone(), producer.clone(), commits.to_vec());
        let sent = patiently(move || {
            let list = writer.settings.member.list(&commits)?;
            let credentials = writer.settings.member.credentials(&commits).ok_or(KafkaError::Canceled)?;
            until_answered(|| sender.send_offsets_to_transaction(&list, &credentials, STEP_TIMEOUT))
        });
        sent.await.unwrap_or_else(|| {
            self.discard();
            Err(timed_out())
        })?;
        let committer = producer.clone();
        let committed = patiently(move || until_answered(|| committer.commit_transaction(STEP_TIMEOUT))).await;
        // Whatever it says, the coordinator may have done it.
        committed.unwrap_or_else(|| Err(timed_out())).map_err(Failed::Unknown)
    }

    /// Aborts the transaction; one that takes long is left to itself.
    async fn abort(self: Arc<Self>, producer: Producer) {
        if !self.is_current(&producer) {
            return;
        }
        let aborted = patiently(move || until_answered(|| producer.abort_transaction(STEP_TIMEOUT))).await;
        if !matches!(aborted, Some(Ok(()))) {
            debug!(?aborted, "could not abort a transaction: making a new producer");
            self.leave();
        }
    }

    /// Whether a transaction whose end was not heard of was committed.
    ///
    /// A new producer of the same name ends it one way or the other. What the group has committed then tells which: each
    /// round finishes a record at least, so that no two rounds commit the same.
    async fn was_committed(self: Arc<Self>, commits: &[Commit]) -> bool {
        self.discard();
        let partitions: Vec<_> = commits.iter().map(|commit| commit.partition).collect();
        let is_here = |committed: &BTreeMap<i32, (i64, String)>| {
            // What is somebody else's by now says nothing: whoever has it may have committed just the same.
            let ours: Vec<_> = commits.iter().filter(|commit| self.settings.member.holds(commit)).collect();
            let is_here = |commit: &&Commit| {
                committed
                    .get(&commit.partition)
                    .is_some_and(|(offset, metadata)| commit.offset == *offset && commit.metadata == *metadata)
            };
            !ours.is_empty() && ours.iter().all(is_here)
        };
        loop {
            let ended = self.clone().producer().await;
            let (writer, partitions) = (self.clone(), partitions.clone());
            let answer = match ended {
                Ok(_) => blocking(move || writer.settings.member.committed(&partitions)).await,
                Err(error) => Some(Err(error)),
            };
            match answer {
                Some(Ok(committed)) => return is_here(&committed),
                // The stage has ended, or the consumer has: whoever reads the partition next sees what holds.
                None | Some(Err(KafkaError::Canceled)) => return false,
                Some(Err(error)) => debug!(%error, "the coordinator does not say yet what was committed"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn send_all(&self, producer: &Producer, round: Vec<Unsent>) -> Results {
        let told = Mutex::default();
        join_all(round.into_iter().map(|unsent| self.send(producer, unsent, &told))).await
    }

    async fn send_one_by_one(&self, producer: &Producer, records: Vec<Unsent>) -> Results {
        let (told, mut written, mut has_failed) = (Mutex::default(), Vec::with_capacity(records.len()), false);
        for unsent in records {
            let result = match has_failed {
                true => Err(Unwritten { record: unsent, refusal: None }),
                false => self.send(producer, unsent, &told).await,
            };
            has_failed |= result.is_err();
            written.push(result);
        }
        written
    }

    /// Sends one record, and returns it once it is acknowledged or cannot be. One that Kafka finds too large asks for less
    /// from then on. Of a round's other failures each is `told` once a topic: when a broker is away, all of them fail.
    async fn send(
        &self,
        producer: &Producer,
        mut unsent: Unsent,
        told: &Mutex<Vec<(Arc<str>, KafkaError)>>,
    ) -> Written<Unsent> {
        let outgoing = self.settings.outgoing(&unsent);
        let sent = match enqueue(producer, &outgoing).await {
            Ok(delivery) => match delivery.await {
                Ok(Ok(_)) => return Ok(unsent),
                Ok(Err((error, _))) => error,
                Err(_) => KafkaError::Canceled,
            },
            Err(error) => error,
        };
        let (partition, offset) = (unsent.route.work.record.partition, unsent.route.work.record.offset);
        let (topic, to) = (&*unsent.route.work.record.topic, &*outgoing.topic);
        let refusal = match sent {
            KafkaError::MessageProduction(Code::MessageSizeTooLarge | Code::QueueFull) => {
                debug!(topic, partition, offset, to, "too large for Kafka");
                // A broker refuses a request as if each record in it were too large.
                let was_alone = std::mem::replace(&mut unsent.has_to_shrink, true) || outgoing.bytes() >= BATCH_BYTES;
                if was_alone {
                    shrink(&mut unsent.route, &mut unsent.extent);
                    unsent.topic = self.settings.topic(&unsent.route);
                }
                Some(Refusal::TooLarge)
            }
            // It was not asked about itself: another one was refused.
            KafkaError::MessageProduction(Code::PurgeQueue | Code::PurgeInflight | Code::InvalidDifferentRecord) => {
                None
            }
            error => {
                let failure = (outgoing.topic.clone(), error.clone());
                let mut told = lock(told);
                if told.contains(&failure) {
                    debug!(topic, partition, offset, to, %error, "could not write a record, it is tried again");
                } else {
                    warn!(topic, partition, offset, to, %error, "could not write a record, it is tried again");
                    told.push(failure);
                }
                match error {
                    KafkaError::MessageProduction(Code::Fatal) => {
                        self.discard();
                        None
                    }
                    KafkaError::MessageProduction(Code::MessageTimedOut) => Some(Refusal::Away),
                    KafkaError::MessageProduction(_) => Some(Refusal::Refused),
                    _ => None,
                }
            }
        };
        Err(Unwritten { record: unsent, refusal })
    }

    fn put_back(&self, round: Vec<Unsent>, error: &KafkaError) -> Results {
        let records = round.len();
        match error {
            // The group is in a rebalance, or we are no longer in it: that is said elsewhere.
            KafkaError::Canceled => debug!(records, "could not write records now"),
            KafkaError::Transaction(error) if error.code() == Code::TransactionalIdAuthorizationFailed => {
                let id = lock(&self.held).id.map(|id| self.settings.transactional_id(id));
                warn!(
                    records,
                    id,
                    "Kafka refuses transactions of this id: allow it to write and describe, or set delivery: AtLeastOnce"
                );
            }
            KafkaError::Transaction(error) if is_of_an_old_generation(error.code()) => {
                info!(records, %error, "a rebalance came first: writing the records in the next round");
            }
            error => warn!(records, %error, "could not write records, they are tried again"),
        }
        round.into_iter().map(|record| Err(Unwritten { record, refusal: None })).collect()
    }

    /// The producer; one that is made first ends what another of its name has left open.
    async fn producer(self: Arc<Self>) -> KafkaResult<Producer> {
        let id = {
            let mut held = lock(&self.held);
            if let Some(producer) = &held.producer {
                return Ok(producer.clone());
            }
            let id = held.id.or_else(|| lock(&self.settings.ids.0).pop_first());
            held.id = id;
            id.ok_or_else(timed_out)?
        };
        let settings = self.settings.clone();
        let made = patiently(move || settings.make(id)).await.unwrap_or_else(|| Err(timed_out()))?;
        lock(&self.held).producer = Some(made.clone());
        Ok(made)
    }

    /// Whether this is the producer that is in use.
    fn is_current(&self, producer: &Producer) -> bool {
        let (held, asked) = (lock(&self.held), producer.client().native_ptr());
        held.producer.as_ref().is_some_and(|held| held.client().native_ptr() == asked)
    }

    /// Gives the producer up.
    fn discard(&self) {
        let old = lock(&self.held).producer.take();
        // Dropping a producer waits for what it still holds.
        tokio::task::spawn_blocking(move || drop(old));
    }
}

/// The records of a transaction that does not count, those that were refused with why.
fn undo(written: Results) -> Results {
    let undone = |record| Unwritten { record, refusal: None };
    written.into_iter().map(|written| Err(written.map_or_else(|unwritten| unwritten, undone))).collect()
}

fn record_of(written: Written<Unsent>) -> Unsent {
    written.unwrap_or_else(|unwritten| unwritten.record)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a record into the producer's queue, once there is room for it. One that there can never be room for is refused.
async fn enqueue(producer: &Producer, outgoing: &Outgoing) -> KafkaResult<DeliveryFuture> {
    let deadline = Instant::now() + DELIVERY_TIMEOUT;
    loop {
        match producer.send_result(to_future_record(outgoing)) {
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) if outgoing.bytes() < QUEUE_BYTES => {
                if Instant::now() >= deadline {
                    return Err(KafkaError::MessageProduction(Code::MessageTimedOut));
                }
                tokio::time::sleep(ROOM_PAUSE).await;
            }
            sent => return sent.map_err(|(error, _)| error),
        }
    }
}

/// Asks again as long as librdkafka says that this is what to do.
fn until_answered(mut step: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
    loop {
        match step() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                debug!(%error, "a step of a transaction takes longer");
            }
            answer => return answer,
        }
    }
}

/// Whether the broker refuses a commit because the group has moved on.
pub fn is_of_an_old_generation(code: Code) -> bool {
    matches!(code, Code::IllegalGeneration | Code::UnknownMemberId | Code::RebalanceInProgress | Code::StaleMemberEpoch)
}

/// Runs what blocks on a thread that may, and waits for it so long and no longer. `None` when it takes longer: the thread then
/// stays until librdkafka looks at the step again, and a producer that was replaced is refused by then.
async fn patiently<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(PATIENCE, blocking(work)).await.ok().flatten()
}

fn timed_out() -> KafkaError {
    KafkaError::Global(Code::OperationTimedOut)
}

/// Runs what blocks on a thread that may. `None` when the runtime ends.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Makes a route ask for less. A retry record is all or nothing: one that does not fit becomes a dead letter. A dead letter
/// that has nothing left to omit stays as it is.
fn shrink(route: &mut Route, extent: &mut Extent) {
    if let Destination::DeadLetter { .. } = &route.to {
        if let Some(smaller) = extent.smaller() {
            *extent = smaller;
        } else {
            let (partition, offset) = (route.work.record.partition, route.work.record.offset);
            warn!(partition, offset, "not even what is known of the record fits into a dead letter");
        }
        return;
    }
    let error = format!("RecordTooLargeException: no room for retry headers; it failed with {}", route.failure.message);
    let stack_trace = route.failure.stack_trace.take();
    route.failure = Failure { stack_trace, ..Failure::from_text(FailureKind::Permanent, &error) };
    route.to = Destination::DeadLetter { reason: Reason::Permanent };
}

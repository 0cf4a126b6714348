//! Writes exactly once: records and what they settle in one transaction (KIP-98, KIP-447). After a crash either all of it is
//! there or nothing, and a worker that was taken for dead is refused as a whole.
//!
//! To abort a transaction may take for ever: Kafka has to write its end to every partition that it touched, also to one that
//! has no leader or too few in-sync replicas. So it is aborted in the background where a record of it was refused, and the
//! writer goes on under another transactional id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use tracing::{debug, info, warn};

use super::batch::{Batch, DELIVERY_TIMEOUT, Producer, Results, undone, unwritten};
use super::steps::{STEP_TIMEOUT, blocking, is_of_an_old_generation, patiently, timed_out, until_answered};
use super::unsent::{Composer, Unsent};
use super::writer::{self, Writer};
use crate::domain::commit::settlement::{Choice, Commit, Written};
use crate::kafka::connection::Connection;
use crate::worker::group::member::Member;

/// How many of the transactional ids are for the first writer alone.
const RESERVED: usize = 3;

/// How long to wait before Kafka is asked again what became of a transaction.
const PAUSE: Duration = Duration::from_millis(500);

/// A writer of [`Delivery::ExactlyOnce`](crate::domain::pipeline::Delivery).
pub struct TransactionalWriter {
    shared: Arc<Shared>,
    is_second: bool,
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
struct Shared {
    connection: Arc<Connection>,
    composer: Arc<Composer>,
    member: Member,
    /// Names this worker to the coordinator of transactions; no other living worker has the same.
    transactional_id: String,
    ids: Ids,
}

/// The transactional ids of a worker that no producer uses. The lowest is taken first, so that Kafka, which remembers each for a
/// week, gets to know few of them.
struct Ids(Mutex<BTreeSet<u8>>);

impl Default for Ids {
    fn default() -> Self {
        Self(Mutex::new((0..8).collect()))
    }
}

impl Ids {
    /// The lowest one. The second writer leaves some to the first one, which the whole stage waits for: where a partition cannot
    /// be written, each of its tries may take an id for as long as that lasts.
    fn take(&self, is_second: bool) -> Option<u8> {
        let mut ids = lock(&self.0);
        if is_second && ids.len() <= RESERVED { None } else { ids.pop_first() }
    }
}

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

impl Shared {
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
        let producer = self.connection.transactional_producer(&self.transactional_id(number), DELIVERY_TIMEOUT)?;
        producer.init_transactions(STEP_TIMEOUT)?;
        Ok(producer)
    }
}

impl TransactionalWriter {
    /// The two writers of a stage.
    pub fn pair(
        connection: Arc<Connection>,
        composer: Arc<Composer>,
        member: Member,
        transactional_id: String,
    ) -> [Self; 2] {
        let shared = Arc::new(Shared { connection, composer, member, transactional_id, ids: Ids::default() });
        [0, 1].map(|id| {
            lock(&shared.ids.0).remove(&id);
            let held = Mutex::new(Held { producer: None, id: Some(id) });
            Self { shared: shared.clone(), is_second: id == 1, held }
        })
    }

    /// Begins a transaction.
    async fn begin(self: &Arc<Self>) -> KafkaResult<Producer> {
        let producer = self.clone().producer().await?;
        producer.begin_transaction().inspect_err(|_| self.discard())?;
        Ok(producer)
    }

    async fn write_round(self: Arc<Self>, round: Vec<Unsent>, commits: Vec<Commit>) -> Results {
        let producer = match self.begin().await {
            Ok(producer) => producer,
            Err(error) => return self.put_back(round, &error),
        };
        let written = self.send(&producer, round, Choice::Fresh).await;
        if written.iter().any(|written| written.as_ref().is_err_and(|unwritten| unwritten.refusal.is_some())) {
            self.leave();
            return undone(written);
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

    /// Writes records in a transaction that is left open when all are written, and aborted when not.
    async fn deliver_records(self: Arc<Self>, records: Vec<Unsent>, choice: Choice) -> Results {
        let producer = match self.begin().await {
            Ok(producer) => producer,
            Err(error) => return self.put_back(records, &error),
        };
        let written = self.send(&producer, records, choice).await;
        if !written.iter().all(Result::is_ok) {
            self.leave();
        }
        written
    }

    async fn send(&self, producer: &Producer, records: Vec<Unsent>, choice: Choice) -> Results {
        let batch = Batch::new(&self.shared.composer, producer);
        let written = batch.send(records, choice).await;
        if batch.is_fatal() {
            self.discard();
        }
        written
    }

    /// Leaves the transaction that is open to itself, and goes on under another name. It is aborted in the background.
    fn leave(self: Arc<Self>) {
        let shared = self.shared.clone();
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
                let (shared, old) = (shared.clone(), producer.take());
                let ended = patiently(move || {
                    if let Some(producer) = old {
                        until_answered(|| producer.abort_transaction(STEP_TIMEOUT))?;
                    }
                    // The coordinator answers an abort before its markers are written. A producer of the same name is made only
                    // when they are, and would have to wait for the partition that cannot be written.
                    shared.make(id).map(drop)
                });
                match ended.await {
                    Some(Ok(())) => break,
                    ended => debug!(?ended, id, "a transaction cannot be aborted yet"),
                }
                tokio::time::sleep(PAUSE).await;
            }
            lock(&shared.ids.0).insert(id);
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
            let list = writer.shared.member.list(&commits)?;
            let credentials = writer.shared.member.credentials(&commits).ok_or(KafkaError::Canceled)?;
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
            let ours: Vec<_> = commits.iter().filter(|commit| self.shared.member.holds(commit)).collect();
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
                Ok(_) => blocking(move || writer.shared.member.committed(&partitions)).await,
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

    fn put_back(&self, records: Vec<Unsent>, error: &KafkaError) -> Results {
        let count = records.len();
        match error {
            KafkaError::Transaction(error) if error.code() == Code::TransactionalIdAuthorizationFailed => {
                let id = lock(&self.held).id.map(|id| self.shared.transactional_id(id));
                warn!(
                    records = count,
                    id,
                    "Kafka refuses transactions of this id: allow it to write and describe, or set delivery: AtLeastOnce"
                );
            }
            KafkaError::Transaction(error) if is_of_an_old_generation(error.code()) => {
                info!(records = count, %error, "a rebalance came first: writing the records in the next round");
            }
            error => return writer::put_back(records, error),
        }
        unwritten(records)
    }

    /// The producer; one that is made first ends what another of its name has left open.
    async fn producer(self: Arc<Self>) -> KafkaResult<Producer> {
        let id = {
            let mut held = lock(&self.held);
            if let Some(producer) = &held.producer {
                return Ok(producer.clone());
            }
            let id = held.id.or_else(|| self.shared.ids.take(self.is_second));
            held.id = id;
            id.ok_or_else(timed_out)?
        };
        let shared = self.shared.clone();
        let made = patiently(move || shared.make(id)).await.unwrap_or_else(|| Err(timed_out()))?;
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

impl Writer for TransactionalWriter {
    /// Ends what a worker of the same name has left open. The second writer may have nothing to write for long.
    fn prepare(self: Arc<Self>) -> BoxFuture<'static, ()> {
        async move {
            if let Err(error) = self.clone().producer().await {
                debug!(%error, "could not make the producer yet");
            }
            if self.is_second {
                self.discard();
            }
        }
        .boxed()
    }

    fn write(self: Arc<Self>, round: Vec<Unsent>, commits: Vec<Commit>) -> BoxFuture<'static, Results> {
        self.write_round(round, commits).boxed()
    }

    fn deliver(self: Arc<Self>, records: Vec<Unsent>, choice: Choice) -> BoxFuture<'static, Results> {
        self.deliver_records(records, choice).boxed()
    }

    fn commit_delivered(self: Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, bool> {
        async move {
            let Some(producer) = lock(&self.held).producer.clone() else { return false };
            let ended = self.clone().commit_transaction(producer, &commits).await;
            if let Err(error) = &ended {
                debug!(%error, "could not commit what a topic took after all, it is written again");
            }
            ended.is_ok()
        }
        .boxed()
    }

    fn abort_delivered(self: Arc<Self>) {
        self.leave();
    }
}

fn record_of(written: Written<Unsent>) -> Unsent {
    written.unwrap_or_else(|unwritten| unwritten.record)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

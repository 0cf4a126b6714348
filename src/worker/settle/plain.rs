//! Writes at least once: records first, and what they settle is committed later.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt, ready};
use rdkafka::error::KafkaResult;

use super::batch::{Batch, DELIVERY_TIMEOUT, Producer, Results};
use super::unsent::{Composer, Unsent};
use super::writer::{Writer, put_back};
use crate::domain::commit::settlement::{Choice, Commit};
use crate::kafka::connection::Connection;

/// A writer of [`Delivery::AtLeastOnce`](crate::domain::pipeline::Delivery).
pub struct PlainWriter {
    connection: Arc<Connection>,
    composer: Arc<Composer>,
    /// Made when there is something to write, and again when it cannot go on.
    producer: Mutex<Option<Producer>>,
}

impl PlainWriter {
    pub fn new(connection: Arc<Connection>, composer: Arc<Composer>) -> Self {
        Self { connection, composer, producer: Mutex::default() }
    }

    fn producer(&self) -> KafkaResult<Producer> {
        let mut held = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = &*held {
            return Ok(producer.clone());
        }
        let producer = self.connection.producer(DELIVERY_TIMEOUT)?;
        Ok(held.insert(producer).clone())
    }

    async fn send(&self, records: Vec<Unsent>, choice: Choice) -> Results {
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => return put_back(records, &error),
        };
        let batch = Batch::new(&self.composer, &producer);
        let written = batch.send(records, choice).await;
        if batch.is_fatal() {
            let old = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Dropping a producer waits for what it still holds.
            tokio::task::spawn_blocking(move || drop(old));
        }
        written
    }
}

impl Writer for PlainWriter {
    /// There is nothing that another of its name could have left open.
    fn prepare(self: Arc<Self>) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }

    fn write(self: Arc<Self>, round: Vec<Unsent>, _commits: Vec<Commit>) -> BoxFuture<'static, Results> {
        async move { self.send(round, Choice::Fresh).await }.boxed()
    }

    fn deliver(self: Arc<Self>, records: Vec<Unsent>, choice: Choice) -> BoxFuture<'static, Results> {
        async move { self.send(records, choice).await }.boxed()
    }

    /// What is delivered is written for good: there is nothing to commit with it.
    fn commit_delivered(self: Arc<Self>, _commits: Vec<Commit>) -> BoxFuture<'static, bool> {
        ready(false).boxed()
    }

    fn abort_delivered(self: Arc<Self>) {}
}

//! Reads what topics hold: dead letters, to count and to show them, and the ends that nobody commits.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;

use super::connection::Connection;
pub use super::reader::Logs;
use super::reader::{Next, read};
use super::record::{to_headers, to_record};
use crate::domain::observe::dead_letters::DeadLetters;
use crate::domain::record::Record;
use crate::domain::record::dead_letter::Cause;
use crate::domain::time::Timestamp;

/// Reads what topics hold, as somebody who reads only what was committed. Clones share a client.
#[derive(Clone)]
pub struct LogReader(Arc<Mutex<BaseConsumer>>);

impl LogReader {
    /// Prepares to read. Nothing is sent yet.
    pub fn new(connection: &Connection) -> KafkaResult<Self> {
        Ok(Self(Arc::new(Mutex::new(connection.reader().create()?))))
    }

    /// Brings the count up to what is in these logs, as far as `patience` goes. Returns it, and whether it is complete.
    pub async fn catch_up(
        &self,
        letters: DeadLetters,
        logs: Logs,
        patience: Duration,
    ) -> (DeadLetters, KafkaResult<bool>) {
        let consumer = self.0.clone();
        let letters = Arc::new(Mutex::new(letters));
        let mine = letters.clone();
        let work = move || {
            let consumer = consumer.lock().unwrap_or_else(PoisonError::into_inner);
            catch_up(
                &consumer,
                &mut mine.lock().unwrap_or_else(PoisonError::into_inner),
                &logs,
                Instant::now() + patience,
            )
        };
        // It fails only when the runtime ends.
        let result = tokio::task::spawn_blocking(work).await.unwrap_or(Err(KafkaError::Canceled));
        let letters = std::mem::take(&mut *letters.lock().unwrap_or_else(PoisonError::into_inner));
        (letters, result)
    }

    /// Hands all that is in these logs to `take`, until that has enough or `patience` is at its end. Returns what became of
    /// `state`, and whether patience was enough.
    pub async fn fold<T: Send + 'static>(
        &self,
        logs: Logs,
        patience: Duration,
        mut state: T,
        mut take: impl FnMut(&mut T, Record) -> ControlFlow<()> + Send + 'static,
    ) -> KafkaResult<(T, bool)> {
        let consumer = self.0.clone();
        let work = move || {
            let consumer = consumer.lock().unwrap_or_else(PoisonError::into_inner);
            let is_complete = read(&consumer, &logs, Instant::now() + patience, |topic, next| match next {
                Next::Record(message) => take(&mut state, to_record(message, topic)),
                Next::End(..) => ControlFlow::Continue(()),
            })?;
            Ok((state, is_complete))
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(KafkaError::Canceled))
    }
}

fn catch_up(consumer: &BaseConsumer, letters: &mut DeadLetters, logs: &Logs, deadline: Instant) -> KafkaResult<bool> {
    let mut behind = Logs::new();
    for ((topic, partition), log) in logs {
        if log.end < letters.next(topic, *partition) {
            letters.restart(topic, *partition);
        }
        letters.forget_below(topic, *partition, log.start);
        behind.insert((topic.clone(), *partition), letters.next(topic, *partition)..log.end);
    }
    read(consumer, &behind, deadline, |topic, next| {
        match next {
            Next::Record(message) => {
                let at = Timestamp(message.timestamp().to_millis().unwrap_or(0));
                let cause = Cause::of(&to_headers(message));
                letters.note(topic, message.partition(), message.offset(), at, cause);
            }
            Next::End(partition, end) => letters.read_up_to(topic, partition, end),
        }
        ControlFlow::Continue(())
    })
}

//! Reads dead letter topics, to count what is in them.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;

use super::connection::Connection;
use super::reader::{Next, read};
use super::record::{to_headers, to_record};
use crate::domain::dead_letter::Cause;
use crate::domain::dead_letters::DeadLetters;
use crate::domain::record::Record;
use crate::domain::time::Timestamp;

/// Where each partition of a topic starts and ends.
pub type Logs = BTreeMap<(Arc<str>, i32), Range<i64>>;

/// Reads dead letters. Clones share a client.
#[derive(Clone)]
pub struct DeadLetterReader(Arc<Mutex<BaseConsumer>>);

impl DeadLetterReader {
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
}

impl DeadLetterReader {
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
            let mut topics: BTreeMap<&Arc<str>, BTreeMap<i32, Range<i64>>> = BTreeMap::new();
            for ((topic, partition), log) in logs.iter().filter(|(_, log)| !log.is_empty()) {
                topics.entry(topic).or_default().insert(*partition, log.clone());
            }
            let (deadline, mut is_complete, mut flow) = (Instant::now() + patience, true, ControlFlow::Continue(()));
            for (topic, ranges) in topics {
                is_complete &= read(&consumer, topic, ranges, deadline, |next| {
                    if let Next::Record(message) = next {
                        flow = take(&mut state, to_record(message, topic));
                    }
                    flow
                })?;
                if flow.is_break() {
                    break;
                }
            }
            Ok((state, is_complete))
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(KafkaError::Canceled))
    }
}

fn catch_up(consumer: &BaseConsumer, letters: &mut DeadLetters, logs: &Logs, deadline: Instant) -> KafkaResult<bool> {
    let mut behind: BTreeMap<&Arc<str>, BTreeMap<i32, Range<i64>>> = BTreeMap::new();
    for ((topic, partition), log) in logs {
        if log.end < letters.next(topic, *partition) {
            letters.restart(topic, *partition);
        }
        letters.forget_below(topic, *partition, log.start);
        let next = letters.next(topic, *partition);
        if next < log.end {
            behind.entry(topic).or_default().insert(*partition, next..log.end);
        }
    }
    let mut complete = true;
    for (topic, behind) in behind {
        complete &= read(consumer, topic, behind, deadline, |next| {
            match next {
                Next::Record(message) => {
                    let at = Timestamp(message.timestamp().to_millis().unwrap_or(0));
                    let cause = Cause::of(&to_headers(message));
                    letters.note(topic, message.partition(), message.offset(), at, cause);
                }
                Next::End(partition, end) => letters.read_up_to(topic, partition, end),
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(complete)
}

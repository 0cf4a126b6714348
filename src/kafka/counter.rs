//! Counts the records of topics, as somebody who reads only what was committed would.
//!
//! It reads each record once and remembers its offset (see [`Tally`]); what came since is read when it is asked again. Each
//! question takes a thread for as long as it lasts: whoever passes questions on asks one at a time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;

use super::connection::Connection;
use super::reader::{Logs, Next, read};
use crate::domain::observe::tally::Tally;

/// How long Kafka may take to answer a question.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to read what came since the last time. What was read is counted the next time.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Counts records.
#[derive(Clone)]
pub struct Counter(Arc<Mutex<Reader>>);

struct Reader {
    consumer: BaseConsumer,
    tallies: BTreeMap<Arc<str>, BTreeMap<i32, Tally>>,
}

impl Counter {
    /// Prepares to count. Nothing is sent yet.
    pub fn new(connection: &Connection) -> KafkaResult<Self> {
        Ok(Self(Arc::new(Mutex::new(Reader { consumer: connection.reader().create()?, tallies: BTreeMap::new() }))))
    }

    /// How many records each of the topics holds; `None` when there is more to read, which goes on when it is asked again.
    pub async fn count(&self, topics: Vec<Arc<str>>) -> Result<Option<BTreeMap<String, u64>>, KafkaError> {
        let reader = self.0.clone();
        let count = move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            reader.count(&topics)
        };
        // It fails only when the runtime ends.
        tokio::task::spawn_blocking(count).await.unwrap_or(Err(KafkaError::Canceled))
    }
}

impl Reader {
    fn count(&mut self, topics: &[Arc<str>]) -> KafkaResult<Option<BTreeMap<String, u64>>> {
        let mut counts = BTreeMap::new();
        for topic in topics {
            let Some(count) = self.count_topic(topic)? else { return Ok(None) };
            counts.insert(topic.to_string(), count);
        }
        Ok(Some(counts))
    }

    fn count_topic(&mut self, topic: &Arc<str>) -> KafkaResult<Option<u64>> {
        let tallies = self.tallies.entry(topic.clone()).or_default();
        let metadata = self.consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let mut behind = Logs::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()) {
            let (low, high) = self.consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
            let tally = tallies.entry(partition).or_default();
            if high < tally.next() {
                // It was deleted and made again.
                *tally = Tally::default();
            }
            tally.forget_below(low);
            behind.insert((topic.clone(), partition), tally.next()..high);
        }
        let deadline = Instant::now() + READ_TIMEOUT;
        let complete = read(&self.consumer, &behind, deadline, |_, next| {
            match next {
                Next::Record(message) => tallies.entry(message.partition()).or_default().note(message.offset()),
                Next::End(partition, end) => tallies.entry(partition).or_default().read_up_to(end),
            }
            ControlFlow::Continue(())
        })?;
        Ok(complete.then(|| tallies.values().map(Tally::count).sum()))
    }
}

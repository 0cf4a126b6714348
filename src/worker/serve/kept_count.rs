//! The number of dead letters, which is kept for whoever asks.
//!
//! It is counted again when somebody asks and the last count began more than a moment ago: once at a time, on one thread,
//! however many ask. They wait for it, but not for long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::KafkaError;

use super::latest::Latest;
use crate::domain::time::Timestamp;
use crate::kafka::counter::Counter;
use crate::worker::clock;

/// How old a count may be that is given to who asks. A dead letter that was written before that is counted.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// How long somebody who asks is kept waiting. Kafka has five seconds for a question, so what it has not answered is known
/// by then to be an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps the number of records in some topics.
pub struct KeptCount {
    counter: Counter,
    topics: Vec<Arc<str>>,
    counting: Latest<()>,
    known: Arc<Mutex<Known>>,
}

/// What is known so far.
#[derive(Clone, Default)]
struct Known {
    count: Option<Count>,
    /// Why it could not be counted the last time.
    error: Option<KafkaError>,
}

/// How many records there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// When that was. A record that was written later may or may not be among them.
    pub at: Timestamp,
    /// How many each topic had.
    pub topics: BTreeMap<String, u64>,
}

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// Kafka does not answer.
    #[error("{error}{}", last.as_ref().map(Count::told).unwrap_or_default())]
    Kafka {
        /// What the client says.
        error: KafkaError,
        /// The last number that was counted.
        last: Option<Count>,
    },
    /// There is more to read than could be read so far.
    #[error("the dead letters are still being read")]
    Counting,
}

impl Count {
    /// How many there were in all topics.
    pub fn total(&self) -> u64 {
        self.topics.values().sum()
    }

    fn told(&self) -> String {
        format!("; at {} there were {}", self.at, self.total())
    }
}

impl KeptCount {
    /// Counts the records of these topics, from when somebody asks for the first time.
    pub fn new(counter: Counter, topics: impl IntoIterator<Item = Arc<str>>) -> Self {
        let topics = topics.into_iter().collect();
        Self { counter, topics, counting: Latest::new(FRESH_FOR), known: Arc::default() }
    }

    /// How many there are: as of a second ago at most, unless it takes longer to count them.
    pub async fn get(&self) -> Result<Count, CountError> {
        let (counter, topics, known) = (self.counter.clone(), self.topics.clone(), self.known.clone());
        let count = async move {
            let at = clock::now();
            let counted = counter.count(topics).await;
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            match counted {
                Ok(Some(topics)) => *known = Known { count: Some(Count { at, topics }), error: None },
                Ok(None) => known.error = None,
                Err(error) => known.error = Some(error),
            }
        };
        // What is known is told in any case.
        let _ = tokio::time::timeout(PATIENCE, self.counting.ask(count)).await;
        let Known { count, error } = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match error {
            Some(error) => Err(CountError::Kafka { error, last: count }),
            None => count.ok_or(CountError::Counting),
        }
    }
}

//! What writes failed records to other topics, as the spec's delivery has it.
//!
//! A stage has two of these. The first one writes the rounds, the second one tries what a topic has refused, which may take
//! seconds each time.
//!
//! Once a record is on its way to another topic its processor is not asked again: what is not written is put back, and
//! tried again.

use std::sync::Arc;

use futures::future::BoxFuture;
use rdkafka::error::KafkaError;
use tracing::{debug, warn};

use super::batch::{Results, unwritten};
use super::unsent::Unsent;
use crate::domain::commit::settlement::{Choice, Commit};

/// Writes records, and what belongs to them.
pub trait Writer: Send + Sync {
    /// Makes ready to write. Failing is no matter: it is done again when there is something to write.
    fn prepare(self: Arc<Self>) -> BoxFuture<'static, ()>;

    /// Writes a round, and what it settles where that belongs to it.
    fn write(self: Arc<Self>, round: Vec<Unsent>, commits: Vec<Commit>) -> BoxFuture<'static, Results>;

    /// Writes records of one topic. In a transaction they count when [`commit_delivered`](Self::commit_delivered) says so.
    fn deliver(self: Arc<Self>, records: Vec<Unsent>, choice: Choice) -> BoxFuture<'static, Results>;

    /// Commits with what was delivered. Returns whether both count.
    fn commit_delivered(self: Arc<Self>, commits: Vec<Commit>) -> BoxFuture<'static, bool>;

    /// Gives up what was delivered and is not committed.
    fn abort_delivered(self: Arc<Self>);
}

/// Puts back records that could not be written at all.
pub fn put_back(records: Vec<Unsent>, error: &KafkaError) -> Results {
    let count = records.len();
    match error {
        // The group is in a rebalance, or we are no longer in it: that is said elsewhere.
        KafkaError::Canceled => debug!(records = count, "could not write records now"),
        error => warn!(records = count, %error, "could not write records, they are tried again"),
    }
    unwritten(records)
}

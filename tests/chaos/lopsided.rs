//! Faults that hit one key, partition, topic or pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lazaret::domain::pipeline::TopicPlan;
use lazaret::kafka::topics::{TopicError, Topics};
use tokio::task::block_in_place;

use super::endpoint::{Endpoint, Trouble};
use super::records::RETRY_PARTITIONS;
use super::schedule::Kind;
use super::support::eventually_within;
use super::support::processor::now;
use super::support::topics::{Seen, delete, read_all};
use super::workers::Told;

/// What the change of a topic may take while brokers are well.
const CHANGE: Duration = Duration::from_secs(30);

/// The time from the begin of a burst to its first retries.
const BURST_DUE: i64 = 12_000;

/// The pipeline that a lopsided fault hits, of so many. Only the first one has records that a topic can refuse, and keys enough
/// for a burst.
pub fn pipeline(kind: Kind, victim: usize, pipelines: usize) -> usize {
    if matches!(kind, Kind::DeadLettersRefused | Kind::RetriesBurst) { 0 } else { victim % pipelines }
}

/// What lopsided faults are done to.
pub struct Site<'a> {
    pub pipelines: &'a [Told],
    pub endpoint: &'a Endpoint,
    pub topics: &'a Topics,
    /// How many records a burst has.
    pub burst: usize,
}

/// Begins a lopsided fault, or ends it. [`Kind::DeadLettersDeleted`] is none of these.
pub async fn set(kind: Kind, victim: usize, on: bool, site: Site<'_>) {
    let Site { pipelines: site, endpoint, topics, burst } = site;
    let index = pipeline(kind, victim, site.len());
    let told = &site[index];
    let partition = (victim / site.len() % told.partitions) as i32;
    let trouble = match kind {
        Kind::KeyUnanswered => Trouble::KeyUnanswered { pipeline: index, key: None },
        Kind::PartitionFails => Trouble::PartitionFails { pipeline: index, partition },
        Kind::PipelineUnanswered => Trouble::PipelineUnanswered { pipeline: index },
        Kind::PartitionFlooded => return told.extra.flood(on.then_some(partition)),
        Kind::RetriesBurst if !on => return,
        Kind::RetriesBurst => {
            endpoint.set_burst_due(now() + BURST_DUE);
            return told.extra.burst(victim % RETRY_PARTITIONS, burst);
        }
        Kind::DeadLettersRefused => {
            let what = "the settings of a topic are changed";
            return eventually_within(CHANGE, what, async || refuse(topics, told, on).await.ok()).await;
        }
        kind => unreachable!("{kind} hits everybody"),
    };
    endpoint.set_trouble(on.then_some(trouble));
}

/// A dead letter topic that was deleted, and what it held. Times are epoch milliseconds.
pub struct Deleted {
    pub pipeline: usize,
    pub letters: Vec<Seen>,
    /// From when on what was written to it is not among these.
    pub from: i64,
    /// When it was gone.
    pub until: i64,
}

/// Deletes the dead letter topic of a pipeline, which nobody makes again as long as this fault lasts.
pub async fn delete_dead_letters(victim: usize, address: &str, site: &[Told], topics: &Topics) -> Deleted {
    let pipeline = pipeline(Kind::DeadLettersDeleted, victim, site.len());
    let topic = &site[pipeline].dead_letter_topic;
    let from = now();
    let letters = block_in_place(|| read_all(address, topic));
    delete(address, topic).await;
    let is_gone = async || matches!(topics.describe(topic).await, Ok(None)).then_some(());
    eventually_within(CHANGE, "a topic is gone", is_gone).await;
    Deleted { pipeline, letters, from, until: now() }
}

/// Has a topic refuse what has no key, as a compacted one does, or not. A limit to the size would make the engine leave out
/// what is too large, and then what is left differs from what went in; and one to the age has the broker refuse the end of
/// its own transactions as well.
async fn refuse(topics: &Topics, told: &Told, on: bool) -> Result<(), TopicError> {
    let policy = if on { "compact" } else { "delete" };
    let Some(found) = topics.describe(&told.dead_letter_topic).await? else { return Ok(()) };
    let plan = TopicPlan {
        name: Arc::from(&*told.dead_letter_topic),
        partitions: found.partitions.unwrap_or_default(),
        replicas: -1,
        config: BTreeMap::from([("cleanup.policy".to_owned(), policy.to_owned())]),
        manage: true,
        force: false,
    };
    topics.alter(&plan, &found).await
}

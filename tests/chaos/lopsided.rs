//! Faults that hit one key, partition, topic or pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lazaret::domain::pipeline::TopicPlan;
use lazaret::kafka::topics::{TopicError, Topics};

use super::endpoint::{Endpoint, Trouble};
use super::schedule::Kind;
use super::support::eventually_within;
use super::workers::Told;

/// What the change of a topic may take while brokers are well.
const CHANGE: Duration = Duration::from_secs(30);

/// The pipeline that a lopsided fault hits, of so many. Only the first one has records that a topic can refuse.
pub fn pipeline(kind: Kind, victim: usize, pipelines: usize) -> usize {
    if kind == Kind::DeadLettersRefused { 0 } else { victim % pipelines }
}

/// Begins a lopsided fault, or ends it.
pub async fn set(kind: Kind, victim: usize, on: bool, site: &[Told], endpoint: &Endpoint, topics: &Topics) {
    let index = pipeline(kind, victim, site.len());
    let told = &site[index];
    let partition = (victim / site.len() % told.partitions) as i32;
    let trouble = match kind {
        Kind::KeyUnanswered => Trouble::KeyUnanswered { pipeline: index, key: None },
        Kind::PartitionFails => Trouble::PartitionFails { pipeline: index, partition },
        Kind::PipelineUnanswered => Trouble::PipelineUnanswered { pipeline: index },
        Kind::PartitionFlooded => return told.flood.set(on.then_some(partition)),
        Kind::DeadLettersRefused => {
            let what = "the settings of a topic are changed";
            return eventually_within(CHANGE, what, async || refuse(topics, told, on).await.ok()).await;
        }
        kind => unreachable!("{kind} hits everybody"),
    };
    endpoint.set_trouble(on.then_some(trouble));
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

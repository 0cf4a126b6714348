//! What was seen of a pipeline's records, as plain data.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::observe::dead_letters::Summary;
use crate::domain::observe::group::GroupView;
use crate::domain::observe::lag::PartitionView;
use crate::domain::record::provenance::Stage;
use crate::domain::time::Timestamp;

/// What was seen of a pipeline.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The main stage.
    pub main: StageView,
    /// The retry stage; with an external consumer there is none.
    pub retry: Option<StageView>,
    /// Its dead letters, `None` until they are counted.
    pub dead_letters: Option<Summary>,
    /// The dead letter topics.
    pub dead_letter_topics: Vec<Arc<str>>,
    /// What makes dead letters unsafe in their topics, in sentences.
    pub unsafe_topics: Vec<String>,
}

/// What was seen of a stage.
#[derive(Clone, Debug, Default)]
pub struct StageView {
    /// What it reads.
    pub topic: String,
    /// The group as which it reads.
    pub group_id: String,
    /// The partitions of its topic.
    pub partitions: BTreeMap<i32, PartitionView>,
    /// Its group, `None` until it was described.
    pub group: Option<GroupView>,
    /// When the next record becomes due that a worker holds.
    pub next_due: Option<Timestamp>,
    /// Why its workers call the processor no more, and when they try again.
    pub circuit_open: Option<(String, Option<Timestamp>)>,
    /// The partitions of which no more is read because too much is held, and why.
    pub saturated: BTreeMap<i32, String>,
    /// The partitions in which nothing was finished for a while though something is ready: since when, and the lowest offset
    /// that is not finished.
    pub stuck: BTreeMap<i32, (Timestamp, i64)>,
    /// How often the containers of its pods were started again.
    pub restarts: i32,
    /// Whether only a worker could say what is due, and none answers though there are some.
    pub is_unheard: bool,
}

impl View {
    /// The stages that there are.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, &StageView)> {
        std::iter::once((Stage::Main, &self.main)).chain(self.retry.iter().map(|retry| (Stage::Retry, retry)))
    }

    /// Whether the main stage is a consumer that is not Lazaret's: only those have no retry stage.
    pub fn is_external(&self) -> bool {
        self.retry.is_none()
    }

    /// Records that could be processed now.
    pub fn ready(&self) -> u64 {
        self.stages().map(|(_, stage)| stage.ready()).sum()
    }
}

impl StageView {
    /// Records that could be processed now. What may wait for its time, as far as one knows, does not count.
    pub fn ready(&self) -> u64 {
        self.partitions.values().map(|partition| self.ready_in(partition)).sum()
    }

    /// The same of one partition.
    pub fn ready_in(&self, partition: &PartitionView) -> u64 {
        if partition.held.is_none() && self.is_unheard { 0 } else { partition.ready() }
    }

    /// Records that are not processed.
    pub fn unprocessed(&self) -> u64 {
        self.partitions.values().map(PartitionView::unprocessed).sum()
    }

    /// The distance from the committed offsets to the end.
    pub fn committed_lag(&self) -> u64 {
        self.partitions.values().map(PartitionView::committed_lag).sum()
    }
}

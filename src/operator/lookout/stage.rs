//! What is known of one stage of a pipeline.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::clients::Kafka;
use super::workers::{WorkerPod, Workers};
use crate::domain::commit::commit_metadata;
use crate::domain::commit::offsets::Position;
use crate::domain::observe::group::{GroupView, Rebalance, compare};
use crate::domain::observe::lag::{HeldView, PartitionView};
use crate::domain::observe::stats::{BreakerState, StageStats};
use crate::domain::pipeline::{Pipeline, ProcessorPlan};
use crate::domain::record::Record;
use crate::domain::record::provenance::Stage;
use crate::domain::time::Timestamp;
use crate::kafka::log_reader::Logs;
use crate::operator::view::StageView;

/// Why a worker reads no more of a partition, when that is because it holds so much.
const SATURATED: [&str; 2] = ["Records", "FinishedAhead"];

/// How many ends of partitions that nobody commits are looked into at a time, and how long each may take: there may be only
/// markers of transactions, and what was given up.
const ENDS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a group at rest is described whose workers say nothing new.
const GROUP_INTERVAL: Duration = Duration::from_secs(4);

/// One stage of a pipeline.
pub struct StageLookout {
    stage: Stage,
    /// Whether the members of its group are not Lazaret's workers.
    is_external: bool,
    view: StageView,
    /// The group as it was when it was last at rest.
    at_rest: Option<GroupView>,
    unrest: Option<Timestamp>,
    described: Option<Instant>,
    /// What the workers said of their partitions when the group was described.
    assignment: Vec<(String, Vec<i32>)>,
    /// Up to where a worker had read each partition when it said that there was nothing more.
    read_up_to: BTreeMap<i32, i64>,
    /// What was finished of each partition, and since when nothing more was.
    progress: BTreeMap<i32, (Option<Position>, Timestamp)>,
    /// The ends of partitions that were looked into, and whether there is no record.
    blank: BTreeMap<i32, (Range<i64>, bool)>,
}

impl StageLookout {
    pub fn new(pipeline: &Pipeline, stage: Stage) -> Self {
        let source = pipeline.source(stage);
        let view =
            StageView { topic: source.topic.to_string(), group_id: source.group_id.clone(), ..StageView::default() };
        Self {
            stage,
            is_external: matches!(pipeline.processor, ProcessorPlan::External),
            view,
            at_rest: None,
            unrest: None,
            described: None,
            assignment: vec![],
            read_up_to: BTreeMap::new(),
            progress: BTreeMap::new(),
            blank: BTreeMap::new(),
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    pub fn group_id(&self) -> &str {
        &self.view.group_id
    }

    pub fn view(&self) -> &StageView {
        &self.view
    }

    /// Whether a rebalance is on its way, or the group is not known yet.
    pub fn is_unsettled(&self) -> bool {
        self.unrest.is_some() || self.at_rest.is_none()
    }

    /// Looks at the stage. Returns the rebalance that ended since the last look, and for how many seconds it was seen.
    pub async fn look(
        &mut self,
        kafka: &Kafka,
        logs: &Logs,
        pods: &[WorkerPod],
        workers: &Workers,
        now: Timestamp,
    ) -> Option<(Rebalance, i64)> {
        let (stats, committed) = tokio::join!(workers.stats(pods), kafka.groups.committed(self.view.group_id.clone()));
        let stats: Vec<_> = stats.into_iter().filter(|stats| stats.group_id == self.view.group_id).collect();
        match committed {
            Ok(committed) => {
                let of_topic = committed.into_iter().filter(|((topic, _), _)| *topic == self.view.topic);
                let position = |(offset, metadata): (i64, String)| Position {
                    committed: offset,
                    finished: commit_metadata::decode(offset, &metadata).unwrap_or_default(),
                };
                let committed = of_topic.map(|((_, partition), commit)| (partition, position(commit))).collect();
                self.view.is_unheard =
                    self.stage == Stage::Retry && stats.is_empty() && pods.iter().any(|pod| pod.address.is_some());
                self.see(logs, &stats, committed, now);
                self.look_for_records(kafka, now).await;
            }
            Err(error) => debug!(group = self.view.group_id, %error, "what is committed is not known"),
        }
        self.view.restarts = pods.iter().map(|pod| pod.restarts).sum();
        self.look_at_group(kafka, pods, &stats, now).await
    }

    fn see(&mut self, logs: &Logs, stats: &[StageStats], committed: BTreeMap<i32, Position>, now: Timestamp) {
        let mut held = BTreeMap::new();
        for partition in stats.iter().flat_map(|stats| &stats.partitions) {
            // The ends were asked for before the workers were: what a worker has read since is counted as held.
            let end = logs.iter().find(|((topic, of), _)| **topic == *self.view.topic && *of == partition.partition);
            let Some((_, log)) = end else { continue };
            let known = self.read_up_to.entry(partition.partition).or_default();
            // A log that ends before is another one: the topic was made again.
            if partition.at_end || *known > log.end {
                *known = if partition.at_end { log.end } else { 0 };
            }
            let known = *known;
            let Some(next) = partition.next_offset else { continue };
            let view = HeldView { read_up_to: next.max(known), records: partition.records, pending: partition.pending };
            held.insert(partition.partition, view);
        }
        let of_topic = logs.iter().filter(|((topic, _), _)| **topic == *self.view.topic);
        self.view.partitions = of_topic
            .map(|((_, partition), log)| {
                let (committed, held) = (committed.get(partition).cloned(), held.get(partition).copied());
                let mut view = PartitionView { log: log.clone(), committed, held, is_blank: false };
                let rest = view.blocked_at().map(|from| (from..log.end, true));
                let is_blank = rest.is_some() && rest.as_ref() == self.blank.get(partition);
                view.is_blank = is_blank || (view.committed.is_none() && self.may_begin_at_the_end(*partition));
                (*partition, view)
            })
            .collect();
        self.view.stuck = self.stuck(now);
        self.view.next_due = stats.iter().filter_map(|stats| stats.counts.next_due).min();
        let breakers = stats.iter().filter_map(|stats| stats.circuit_breaker.as_ref());
        let mut open = breakers.filter(|breaker| breaker.state != BreakerState::Closed);
        self.view.circuit_open =
            open.next().map(|breaker| (breaker.reason.clone().unwrap_or_default(), breaker.next_probe));
        let paused = stats.iter().flat_map(|stats| &stats.partitions);
        self.view.saturated = paused
            .filter_map(|partition| Some((partition.partition, partition.paused.clone()?)))
            .filter(|(_, why)| SATURATED.contains(&why.as_str()))
            .collect();
    }

    /// Whether an application reads the partition that need not have begun at its start, nor commit before there is a record.
    fn may_begin_at_the_end(&self, partition: i32) -> bool {
        let place = (self.view.topic.clone(), partition);
        let members = self.view.group.iter().flat_map(|group| group.members.values());
        self.is_external && members.flat_map(|member| &member.partitions).any(|read| *read == place)
    }

    /// Looks whether there is a record at all at the ends of partitions: those that no worker tells of and nobody moves on in,
    /// and those where a worker has read all but what may be the marker of a transaction.
    async fn look_for_records(&mut self, kafka: &Kafka, now: Timestamp) {
        let end = |(partition, view): (&i32, &PartitionView)| {
            let rest = view.blocked_at()?..view.log.end;
            let is_still = self.progress.get(partition).is_some_and(|(_, since)| *since < now);
            // Where there was a record there still is one, whatever came since.
            let is_known = self.blank.get(partition).is_some_and(|(known, is_blank)| {
                *known == rest || (!is_blank && known.start == rest.start && known.end < rest.end)
            });
            (view.held.is_none() && is_still && !is_known).then_some((*partition, rest))
        };
        let ends: Vec<_> = self.view.partitions.iter().filter_map(end).take(ENDS).collect();
        for (partition, rest) in ends {
            let Some(is_blank) = self.is_blank(kafka, partition, rest.clone()).await else { return };
            self.blank.insert(partition, (rest, is_blank));
        }
        let marker = |(partition, view): (&i32, &PartitionView)| Some((*partition, view.possible_markers()?));
        let markers: Vec<_> = self.view.partitions.iter().filter_map(marker).take(ENDS).collect();
        for (partition, rest) in markers {
            if self.is_blank(kafka, partition, rest.clone()).await != Some(true) {
                continue;
            }
            self.read_up_to.insert(partition, rest.end);
            let held = self.view.partitions.get_mut(&partition).and_then(|view| view.held.as_mut());
            held.into_iter().for_each(|held| held.read_up_to = rest.end);
        }
    }

    /// Whether no record is there, `None` where it could not be read: it is tried again the next time.
    async fn is_blank(&self, kafka: &Kafka, partition: i32, rest: Range<i64>) -> Option<bool> {
        let logs = Logs::from([((Arc::from(self.view.topic.as_str()), partition), rest)]);
        let first = |found: &mut bool, _: Record| {
            *found = true;
            ControlFlow::Break(())
        };
        match kafka.reader.fold(logs, PATIENCE, false, first).await {
            Ok((found, true)) => Some(!found),
            Ok((_, false)) => None,
            Err(error) => {
                debug!(topic = self.view.topic, %error, "the end of the topic could not be read");
                None
            }
        }
    }

    /// The partitions in which something is ready, and since when nothing was finished there.
    fn stuck(&mut self, now: Timestamp) -> BTreeMap<i32, (Timestamp, i64)> {
        let mut stuck = BTreeMap::new();
        for (partition, view) in &self.view.partitions {
            let known = self.progress.entry(*partition).or_insert_with(|| (view.committed.clone(), now));
            if known.0 != view.committed || self.view.ready_in(view) == 0 {
                *known = (view.committed.clone(), now);
            }
            if let Some(offset) = view.blocked_at().filter(|_| known.1 < now) {
                stuck.insert(*partition, (known.1, offset));
            }
        }
        stuck
    }

    async fn look_at_group(
        &mut self,
        kafka: &Kafka,
        pods: &[WorkerPod],
        stats: &[StageStats],
        now: Timestamp,
    ) -> Option<(Rebalance, i64)> {
        let mut assignment: Vec<(String, Vec<i32>)> = pods.iter().map(|pod| (pod.name.clone(), vec![])).collect();
        let read = |stats: &StageStats| stats.partitions.iter().map(|partition| partition.partition).collect();
        assignment.extend(stats.iter().map(|stats| (String::new(), read(stats))));
        assignment.sort();
        let is_fresh = self.described.is_some_and(|described| described.elapsed() < GROUP_INTERVAL);
        if is_fresh && assignment == self.assignment && !self.is_unsettled() {
            return None;
        }
        let group = self.view.group_id.clone();
        let group = match kafka.groups.describe(group.clone()).await {
            Ok(group) => group,
            Err(error) => {
                debug!(group, %error, "the group could not be described");
                return None;
            }
        };
        (self.described, self.assignment) = (Some(Instant::now()), assignment);
        self.view.group = Some(group.clone());
        if !group.is_at_rest() {
            self.unrest.get_or_insert(now);
            return None;
        }
        let seconds =
            self.unrest.take().map_or(0, |since| i64::try_from(now.since(since).as_secs()).unwrap_or(i64::MAX));
        let before = self.at_rest.replace(group.clone())?;
        let is_alive = |client: &str| pods.iter().any(|pod| pod.name == client);
        compare(&before, &group, is_alive).map(|rebalance| (rebalance, seconds))
    }
}

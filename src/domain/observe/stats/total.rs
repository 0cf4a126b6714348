//! What the workers of a pipeline did together: the sum of what each says of itself.
//!
//! Whichever worker is asked, the sum is the same, whatever the order in which the others answered. A worker may be
//! reached at several addresses, and reaches itself at one of them: it counts once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    BreakerState, Buffered, CircuitBreaker, Counts, ERROR_TYPES, LatenessMs, OTHER, PartitionStats, StageStats,
    WorkerStats,
};
use crate::domain::time::Timestamp;

/// What all workers did since each of them started, and what they hold now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStats {
    /// The name of the worker that answers.
    pub worker: String,
    /// Whether every attempt is made to fail, at any of the workers.
    pub simulate_transient_error: bool,
    /// The sums over all stages of all workers.
    #[serde(flatten)]
    pub totals: Counts,
    /// The stages one by one, each of all its workers.
    pub stages: Vec<StageStats>,
    /// The workers one by one, by name.
    pub workers: Vec<WorkerTotals>,
    /// The workers that could not be asked: what they did is missing above. Empty when all were.
    pub unreachable: Vec<Unreachable>,
}

/// What one worker did since it started.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerTotals {
    /// The name of its process: in Kubernetes its pod's.
    pub name: String,
    /// Whether it makes every attempt fail.
    pub simulate_transient_error: bool,
    /// The sums over its stages.
    #[serde(flatten)]
    pub totals: Counts,
    /// The stages that it runs.
    pub stages: Vec<WorkerStage>,
}

/// A stage that a worker runs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStage {
    /// The pipeline.
    pub pipeline: String,
    /// `main` or `retry`.
    #[schema(example = "main")]
    pub stage: String,
    /// The partitions that it reads.
    pub partitions: Vec<i32>,
    /// What its circuit breaker does, null where the pipeline has none.
    #[schema(required)]
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// A worker that could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unreachable {
    /// Where it was looked for: its address, or the name of the workers where that does not resolve.
    #[schema(example = "10.244.1.7:8080")]
    pub address: String,
    /// The name of the worker that answered there last, null if none has since this process started.
    #[schema(required)]
    pub worker: Option<String>,
    /// Why it could not be asked.
    #[schema(example = "no answer within 1s")]
    pub reason: String,
}

impl PipelineStats {
    /// What this worker and the others did. Those who are the same as another, or as this one, count once.
    pub fn of(own: WorkerStats, mut others: Vec<WorkerStats>, mut unreachable: Vec<Unreachable>) -> Self {
        others.sort_by_key(identity);
        // Pipelines come in the order in which this worker has them.
        let mut order: Vec<String> = vec![];
        let worker = own.worker.clone();
        let mut workers = vec![own];
        workers.extend(others);
        let mut seen = BTreeSet::new();
        workers.retain(|worker| seen.insert(identity(worker)));

        let mut stages = BTreeMap::<[String; 4], StageStats>::new();
        for stage in workers.iter().flat_map(|worker| &worker.stages) {
            if !order.contains(&stage.pipeline) {
                order.push(stage.pipeline.clone());
            }
            match stages.get_mut(&key(stage)) {
                Some(sum) => sum.add(stage),
                None => drop(stages.insert(key(stage), stage.clone())),
            }
        }
        let mut stages: Vec<_> = stages.into_values().collect();
        stages.sort_by_key(|stage| order.iter().position(|pipeline| *pipeline == stage.pipeline));
        let mut totals = Counts::default();
        for stage in &mut stages {
            totals.add(&stage.counts);
            stage.counts.keep_the_most_frequent_error_types();
            stage.partitions.sort_by_key(|partition| (partition.partition, Reverse(partition.next_offset)));
            stage.partitions.dedup_by_key(|partition| partition.partition);
        }
        totals.keep_the_most_frequent_error_types();
        workers.sort_by_key(identity);
        unreachable.sort();
        Self {
            worker,
            simulate_transient_error: workers.iter().any(|worker| worker.simulate_transient_error),
            totals,
            stages,
            workers: workers.into_iter().map(WorkerTotals::of).collect(),
            unreachable,
        }
    }
}

impl WorkerTotals {
    fn of(worker: WorkerStats) -> Self {
        let number = |partition: &PartitionStats| partition.partition;
        let stage = |stage: StageStats| WorkerStage {
            partitions: stage.partitions.iter().map(number).collect(),
            pipeline: stage.pipeline,
            stage: stage.stage,
            circuit_breaker: stage.circuit_breaker,
        };
        Self {
            name: worker.worker,
            simulate_transient_error: worker.simulate_transient_error,
            totals: worker.totals,
            stages: worker.stages.into_iter().map(stage).collect(),
        }
    }
}

impl StageStats {
    /// Adds what another worker did in this stage.
    fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        let Buffered { records, bytes } = &mut self.buffered;
        *records = records.saturating_add(other.buffered.records);
        *bytes = bytes.saturating_add(other.buffered.bytes);
        let breakers = [self.circuit_breaker.take(), other.circuit_breaker.clone()];
        self.circuit_breaker = breakers.into_iter().flatten().max_by_key(how_shut);
        let lateness = [self.lateness_ms.take(), other.lateness_ms.clone()];
        self.lateness_ms = lateness.into_iter().flatten().reduce(|one, other| LatenessMs {
            // Half of all started within the longer of two times within which half of each started.
            p50: one.p50.max(other.p50),
            p99: one.p99.max(other.p99),
            max: one.max.max(other.max),
        });
        self.partitions.extend_from_slice(&other.partitions);
    }
}

impl Counts {
    /// Each worker names so many error types, and they need not be the same.
    fn keep_the_most_frequent_error_types(&mut self) {
        let by_type = &mut self.dead_lettered_by_error_type;
        let named = by_type.keys().filter(|name| *name != OTHER).count();
        if named <= ERROR_TYPES {
            return;
        }
        let mut counted: Vec<_> = std::mem::take(by_type).into_iter().collect();
        counted.sort_by_key(|(name, count)| (name == OTHER, Reverse(*count)));
        for (place, (name, count)) in counted.into_iter().enumerate() {
            let name = if place < ERROR_TYPES { name } else { OTHER.to_owned() };
            let sum = by_type.entry(name).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

/// What tells a worker from the others. A worker of a release that does not say more has its name.
fn identity(worker: &WorkerStats) -> (String, String) {
    (worker.worker.clone(), worker.instance.clone())
}

/// A stage is the same when it reads the same topic as the same group: while a pipeline changes, some workers may not yet.
fn key(stage: &StageStats) -> [String; 4] {
    [&stage.pipeline, &stage.stage, &stage.topic, &stage.group_id].map(String::clone)
}

/// The more of two is shut: open before half open before closed, and of two that are open the one that opens later.
fn how_shut(breaker: &CircuitBreaker) -> (u8, Option<Timestamp>, Option<String>) {
    let state = match breaker.state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    (state, breaker.next_probe, breaker.reason.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn worker(name: &str, stage: &str, processed: u64, partitions: &[(i32, i64)]) -> WorkerStats {
        let topic = if stage == "main" { "orders" } else { "orders.retry" };
        let counts = Counts { processed, dead_lettered: 1, ..Counts::default() };
        let partition = |(partition, offset): &(i32, i64)| PartitionStats {
            partition: *partition,
            next_offset: Some(*offset),
            ..PartitionStats::default()
        };
        let stage = StageStats {
            pipeline: "orders".into(),
            stage: stage.into(),
            topic: topic.into(),
            group_id: format!("orders-{stage}"),
            counts: counts.clone(),
            buffered: Buffered { records: 2, bytes: 20 },
            circuit_breaker: None,
            lateness_ms: None,
            partitions: partitions.iter().map(partition).collect(),
        };
        WorkerStats {
            worker: name.into(),
            instance: format!("{name}'s"),
            simulate_transient_error: false,
            totals: counts,
            stages: vec![stage],
        }
    }

    fn breaker(state: BreakerState, next_probe: Option<i64>) -> Option<CircuitBreaker> {
        Some(CircuitBreaker { state, reason: Some("E".into()), next_probe: next_probe.map(Timestamp) })
    }

    #[test]
    fn the_total_is_the_sum_over_the_workers_of_each_stage() {
        let (a, b, c) = (
            worker("a", "main", 3, &[(2, 9)]),
            worker("b", "retry", 4, &[(0, 1)]),
            worker("c", "main", 5, &[(0, 7), (1, 8)]),
        );
        let stats = PipelineStats::of(b, vec![c, a], vec![]);
        assert_eq!((&*stats.worker, stats.totals.processed, stats.totals.dead_lettered), ("b", 12, 3));
        let stages = stats.stages.iter().map(|stage| (&*stage.stage, stage.counts.processed, stage.buffered.records));
        assert_eq!(stages.collect::<Vec<_>>(), [("main", 8, 4), ("retry", 4, 2)]);
        let offsets = stats.stages[0].partitions.iter().map(|of| (of.partition, of.next_offset));
        assert_eq!(offsets.collect::<Vec<_>>(), [(0, Some(7)), (1, Some(8)), (2, Some(9))]);
        let own = stats.workers.iter().map(|of| (&*of.name, of.totals.processed, &of.stages[0].partitions[..]));
        assert_eq!(own.collect::<Vec<_>>(), [("a", 3, &[2][..]), ("b", 4, &[0]), ("c", 5, &[0, 1])]);
    }

    #[test]
    fn a_worker_that_is_reached_at_two_addresses_or_is_this_one_counts_once() {
        let (a, b) = (worker("a", "main", 3, &[(0, 1)]), worker("b", "main", 4, &[(1, 1)]));
        let stats = PipelineStats::of(a.clone(), vec![b.clone(), a.clone(), b.clone()], vec![]);
        assert_eq!((stats.totals.processed, stats.workers.len()), (7, 2));
        let restarted = WorkerStats { instance: "another".into(), ..b.clone() };
        assert_eq!(PipelineStats::of(a, vec![b, restarted], vec![]).workers.len(), 3, "the name alone does not tell");
    }

    #[test]
    fn of_a_partition_that_moves_the_worker_that_has_read_further_is_told_of() {
        let (a, b) = (worker("a", "main", 0, &[(0, 5), (1, 1)]), worker("b", "main", 0, &[(0, 6)]));
        let stats = PipelineStats::of(a, vec![b], vec![]);
        let offsets = stats.stages[0].partitions.iter().map(|of| (of.partition, of.next_offset));
        assert_eq!(offsets.collect::<Vec<_>>(), [(0, Some(6)), (1, Some(1))]);
    }

    #[test]
    fn of_several_circuit_breakers_one_that_is_open_is_told_of_and_of_lateness_the_highest() {
        use BreakerState::{Closed, HalfOpen, Open};
        let (mut a, mut b) = (worker("a", "main", 0, &[]), worker("b", "main", 0, &[]));
        let total =
            |a: &WorkerStats, b: &WorkerStats| PipelineStats::of(a.clone(), vec![b.clone()], vec![]).stages.remove(0);
        assert!(total(&a, &b).circuit_breaker.is_none() && total(&a, &b).lateness_ms.is_none());
        for (of_a, of_b, expected) in [(Closed, Closed, Closed), (HalfOpen, Closed, HalfOpen), (HalfOpen, Open, Open)] {
            (a.stages[0].circuit_breaker, b.stages[0].circuit_breaker) = (breaker(of_a, None), breaker(of_b, Some(1)));
            assert_eq!(total(&a, &b).circuit_breaker.unwrap().state, expected);
        }
        a.stages[0].lateness_ms = Some(LatenessMs { p50: 1, p99: 9, max: 10 });
        assert_eq!(total(&b, &a).lateness_ms.unwrap().p99, 9);
        b.stages[0].lateness_ms = Some(LatenessMs { p50: 2, p99: 8, max: 20 });
        let LatenessMs { p50, p99, max } = total(&a, &b).lateness_ms.unwrap();
        assert_eq!((p50, p99, max), (2, 9, 20));
    }

    #[test]
    fn however_many_error_types_the_workers_name_the_total_names_the_fifty_most_frequent() {
        let others = (0..4).map(|n: usize| {
            let mut worker = worker(&format!("w{n}"), "main", 0, &[]);
            let types = (0..ERROR_TYPES).map(|of| (format!("E{n}-{of:02}"), 1 + u64::from(of == 7)));
            worker.stages[0].counts.dead_lettered_by_error_type = types.chain([(OTHER.to_owned(), 100)]).collect();
            worker
        });
        let stats = PipelineStats::of(worker("a", "main", 0, &[]), others.collect(), vec![]);
        for counts in [&stats.totals, &stats.stages[0].counts] {
            let by_type = &counts.dead_lettered_by_error_type;
            assert_eq!((by_type.len(), by_type.values().sum::<u64>()), (ERROR_TYPES + 1, 4 * (51 + 100)));
            assert_eq!((by_type["E0-07"], by_type["E3-07"]), (2, 2), "the rarer ones are together");
        }
    }

    #[test]
    fn a_sum_that_no_number_holds_is_the_greatest() {
        let (a, b) = (worker("a", "main", u64::MAX, &[]), worker("b", "main", u64::MAX, &[]));
        assert_eq!(PipelineStats::of(a, vec![b], vec![]).totals.processed, u64::MAX);
    }

    #[test]
    fn what_a_worker_says_that_knows_of_no_instance_is_understood() {
        let mut older: Value = serde_json::to_value(worker("a", "main", 3, &[(0, 1)])).unwrap();
        older.as_object_mut().unwrap().remove("instance").unwrap();
        let older: WorkerStats = serde_json::from_value(older).unwrap();
        let stats = PipelineStats::of(worker("b", "retry", 4, &[]), vec![older], vec![]);
        assert_eq!((stats.totals.processed, stats.workers.len()), (7, 2));
    }

    #[test]
    fn one_worker_alone_is_the_whole_and_its_fields_stay_where_they_were() {
        let own = worker("a", "main", 3, &[(0, 1)]);
        let mut before = serde_json::to_value(&own).unwrap();
        before.as_object_mut().unwrap().remove("instance");
        let now = serde_json::to_value(PipelineStats::of(own, vec![], vec![])).unwrap();
        for (name, value) in before.as_object().unwrap() {
            assert_eq!(&now[name], value, "{name}");
        }
        assert_eq!((&now["workers"][0]["name"], &now["unreachable"]), (&json!("a"), &json!([])));
    }

    proptest! {
        #[test]
        fn whoever_is_asked_and_whoever_answers_first_the_total_is_the_same(
            shuffled in Just((0..6).collect::<Vec<_>>()).prop_shuffle(), moved in 0..4i64,
        ) {
            let worker = |n: u64| worker(&n.to_string(), ["main", "retry"][(n % 2) as usize], n, &[(n as i32 / 4, n as i64 % (moved + 1))]);
            let total = |own: u64, others: &[u64]| {
                let others = others.iter().copied().map(worker).collect();
                PipelineStats { worker: String::new(), ..PipelineStats::of(worker(own), others, vec![]) }
            };
            let stats = |stats| serde_json::to_value(stats).unwrap();
            prop_assert_eq!(stats(total(shuffled[0], &shuffled)), stats(total(0, &[1, 2, 3, 4, 5])));
        }
    }
}

//! What a stage counts, for Prometheus and for the stats page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram as Quantiles;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::domain::flow::load::{Load, Pause};
use crate::domain::observe::stats::{ERROR_TYPES, OTHER};
use crate::domain::record::dead_letter::Reason;
use crate::domain::record::provenance::Stage;
use crate::domain::time::Timestamp;

/// The metrics of a process, each with a value for every stage that runs in it.
#[derive(Debug)]
pub struct Metrics {
    processed: Family<StageLabels, Counter>,
    dropped: Family<StageLabels, Counter>,
    retried: Family<StageLabels, Counter>,
    failed_attempts: Family<StageLabels, Counter>,
    skipped: Family<StageLabels, Counter>,
    lost: Family<StageLabels, Counter>,
    rebalances: Family<StageLabels, Counter>,
    dead_lettered: Family<DeadLetterLabels, Counter>,
    in_flight: Family<StageLabels, Gauge>,
    buffered_bytes: Family<StageLabels, Gauge>,
    pending: Family<StageLabels, Gauge>,
    assigned_partitions: Family<StageLabels, Gauge>,
    paused_partitions: Family<PauseLabels, Gauge>,
    breaker_open: Family<StageLabels, Gauge>,
    breaker_openings: Family<StageLabels, Counter>,
    lateness: Family<StageLabels, Histogram>,
    attempt_duration: Family<StageLabels, Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    pipeline: String,
    stage: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeadLetterLabels {
    pipeline: String,
    stage: String,
    error_type: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PauseLabels {
    pipeline: String,
    stage: String,
    reason: String,
}

/// The counters of one stage of one pipeline.
#[derive(Debug)]
pub struct StageMetrics {
    /// Records that were processed.
    pub processed: Counter,
    /// Records that the processor dropped.
    pub dropped: Counter,
    /// Failed attempts after which the record was written to the retry topic.
    pub retried: Counter,
    /// Attempts that failed, whatever became of the record.
    pub failed_attempts: Counter,
    /// Records that had been finished before a restart.
    pub skipped: Counter,
    /// Records that were deleted before they were due: they are processed by nobody.
    pub lost: Counter,
    /// Rebalances that changed this worker's partitions.
    pub rebalances: Counter,
    /// How often the circuit breaker opened.
    pub breaker_openings: Counter,
    /// Processor calls that are under way.
    pub in_flight: Gauge,
    /// From call to answer, in seconds.
    pub attempt_duration: Histogram,
    labels: StageLabels,
    lateness: Histogram,
    lateness_quantiles: Mutex<Quantiles<u64>>,
    dead_lettered: Family<DeadLetterLabels, Counter>,
    dead_lettered_by_error_type: Mutex<BTreeMap<String, u64>>,
    assignment: Mutex<BTreeMap<i32, Arc<Load>>>,
    buffered_bytes: Gauge,
    pending: Gauge,
    assigned_partitions: Gauge,
    paused_partitions: [(Pause, Gauge); Pause::ALL.len()],
    breaker: Mutex<BreakerView>,
    breaker_open: Gauge,
}

/// What the circuit breaker of a stage does, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BreakerView {
    /// It lets everything through.
    #[default]
    Closed,
    /// It lets nothing through.
    Open {
        /// Why it opened, in words.
        reason: String,
        /// When it lets a probe through.
        next_probe: Timestamp,
    },
    /// It lets a few records through, as probes.
    HalfOpen {
        /// Why it had opened, in words.
        reason: String,
    },
}

/// How late retries started, in milliseconds after they were due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lateness {
    /// Half of them started within this.
    pub p50: u64,
    /// All but one in a hundred started within this.
    pub p99: u64,
    /// The latest.
    pub max: u64,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        // From a millisecond to half a minute.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let m = Self {
            processed: Family::default(),
            dropped: Family::default(),
            retried: Family::default(),
            failed_attempts: Family::default(),
            skipped: Family::default(),
            lost: Family::default(),
            rebalances: Family::default(),
            dead_lettered: Family::default(),
            in_flight: Family::default(),
            buffered_bytes: Family::default(),
            pending: Family::default(),
            assigned_partitions: Family::default(),
            paused_partitions: Family::default(),
            breaker_open: Family::default(),
            breaker_openings: Family::default(),
            lateness: Family::new_with_constructor(seconds),
            attempt_duration: Family::new_with_constructor(seconds),
        };
        registry.register("processed_records", "Records that were processed", m.processed.clone());
        registry.register("dropped_records", "Records that the processor dropped", m.dropped.clone());
        registry.register("retried_records", "Records written to the retry topic", m.retried.clone());
        registry.register("failed_attempts", "Attempts that failed", m.failed_attempts.clone());
        registry.register("skipped_records", "Records that were finished before a restart", m.skipped.clone());
        registry.register("lost_records", "Records that retention deleted before they were due", m.lost.clone());
        registry.register("dead_lettered_records", "Records given up", m.dead_lettered.clone());
        registry.register("rebalances", "Rebalances that moved partitions", m.rebalances.clone());
        registry.register("in_flight_calls", "Processor calls under way", m.in_flight.clone());
        registry.register("pending_records", "Records held until they are due", m.pending.clone());
        registry.register("assigned_partitions", "Partitions that this worker reads", m.assigned_partitions.clone());
        let open = "1 from when the circuit breaker opens until it closes again, else 0";
        registry.register("circuit_breaker_open", open, m.breaker_open.clone());
        let openings = "How often the circuit breaker opened, failed probes included";
        registry.register("circuit_breaker_openings", openings, m.breaker_openings.clone());
        let paused = "Partitions of which no more is read for now, by the reason";
        registry.register("paused_partitions", paused, m.paused_partitions.clone());
        let bytes = m.buffered_bytes.clone();
        registry.register_with_unit("buffered", "Memory that held records take", Unit::Bytes, bytes);
        let lateness = m.lateness.clone();
        registry.register_with_unit("retry_lateness", "From due to start of a retry", Unit::Seconds, lateness);
        let duration = m.attempt_duration.clone();
        registry.register_with_unit("attempt_duration", "From call to answer", Unit::Seconds, duration);
        m
    }

    /// The counters of one stage.
    pub fn stage(&self, pipeline: &str, stage: Stage) -> StageMetrics {
        let labels = StageLabels { pipeline: pipeline.to_owned(), stage: stage.to_string() };
        StageMetrics {
            processed: self.processed.get_or_create_owned(&labels),
            dropped: self.dropped.get_or_create_owned(&labels),
            retried: self.retried.get_or_create_owned(&labels),
            failed_attempts: self.failed_attempts.get_or_create_owned(&labels),
            skipped: self.skipped.get_or_create_owned(&labels),
            lost: self.lost.get_or_create_owned(&labels),
            rebalances: self.rebalances.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            attempt_duration: self.attempt_duration.get_or_create_owned(&labels),
            lateness: self.lateness.get_or_create_owned(&labels),
            lateness_quantiles: Mutex::new(Quantiles::new(3).expect("three digits are within its bounds")),
            dead_lettered: self.dead_lettered.clone(),
            dead_lettered_by_error_type: Mutex::default(),
            assignment: Mutex::default(),
            buffered_bytes: self.buffered_bytes.get_or_create_owned(&labels),
            pending: self.pending.get_or_create_owned(&labels),
            assigned_partitions: self.assigned_partitions.get_or_create_owned(&labels),
            paused_partitions: Pause::ALL.map(|reason| {
                let StageLabels { pipeline, stage } = labels.clone();
                let labels = PauseLabels { pipeline, stage, reason: reason.to_string() };
                (reason, self.paused_partitions.get_or_create_owned(&labels))
            }),
            breaker: Mutex::default(),
            breaker_open: self.breaker_open.get_or_create_owned(&labels),
            breaker_openings: self.breaker_openings.get_or_create_owned(&labels),
            labels,
        }
    }
}

impl StageMetrics {
    /// Brings the gauges that are read off the partitions up to date.
    pub fn refresh(&self) {
        let assignment = self.assignment();
        let sum = |of: fn(&Load) -> usize| assignment.values().map(|load| of(load)).sum::<usize>() as i64;
        self.buffered_bytes.set(sum(Load::bytes));
        self.pending.set(sum(Load::pending));
        self.assigned_partitions.set(assignment.len() as i64);
        for (reason, gauge) in &self.paused_partitions {
            gauge.set(assignment.values().filter(|load| load.paused() == Some(*reason)).count() as i64);
        }
    }

    /// Counts a record that was written to a dead letter topic.
    pub fn dead_letter(&self, error_type: &str, reason: Reason) {
        let mut by_type = self.dead_lettered_by_error_type.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_type.len() < ERROR_TYPES || by_type.contains_key(error_type);
        // A label with unbounded values would bring down whoever scrapes it.
        let error_type = if known { error_type } else { OTHER };
        *by_type.entry(error_type.to_owned()).or_default() += 1;
        let StageLabels { pipeline, stage } = self.labels.clone();
        let labels =
            DeadLetterLabels { pipeline, stage, error_type: error_type.to_owned(), reason: reason.to_string() };
        self.dead_lettered.get_or_create(&labels).inc();
    }

    /// Records that were written to a dead letter topic, by error type.
    pub fn dead_lettered_by_error_type(&self) -> BTreeMap<String, u64> {
        self.dead_lettered_by_error_type.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of how late a retry started.
    pub fn observe_lateness(&self, late: Duration) {
        self.lateness.observe(late.as_secs_f64());
        let mut quantiles = self.lateness_quantiles.lock().unwrap_or_else(PoisonError::into_inner);
        quantiles.saturating_record(u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
    }

    /// How late retries started so far, `None` before the first.
    pub fn lateness(&self) -> Option<Lateness> {
        let quantiles = self.lateness_quantiles.lock().unwrap_or_else(PoisonError::into_inner);
        (!quantiles.is_empty()).then(|| Lateness {
            p50: quantiles.value_at_quantile(0.5),
            p99: quantiles.value_at_quantile(0.99),
            max: quantiles.max(),
        })
    }

    /// Takes note of what the circuit breaker does.
    pub fn set_breaker(&self, view: BreakerView) {
        self.breaker_open.set(i64::from(view != BreakerView::Closed));
        if matches!(view, BreakerView::Open { .. }) {
            self.breaker_openings.inc();
        }
        *self.breaker.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// What the circuit breaker does.
    pub fn breaker(&self) -> BreakerView {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of the pipeline and of the stage.
    pub fn names(&self) -> (&str, &str) {
        (&self.labels.pipeline, &self.labels.stage)
    }

    /// The partitions that are assigned, and what each holds.
    pub fn assignment(&self) -> BTreeMap<i32, Arc<Load>> {
        self.assignment.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many partitions are assigned, at least one.
    pub fn partitions(&self) -> usize {
        self.assignment.lock().unwrap_or_else(PoisonError::into_inner).len().max(1)
    }

    /// Takes note of a partition that was assigned, or is no more.
    pub fn set_assigned(&self, partition: i32, load: Option<Arc<Load>>) {
        let mut assignment = self.assignment.lock().unwrap_or_else(PoisonError::into_inner);
        match load {
            Some(load) => drop(assignment.insert(partition, load)),
            None => drop(assignment.remove(&partition)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_declared_once_however_many_stages_there_are() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.stage("orders", Stage::Main).processed.inc();
        metrics.stage("orders", Stage::Retry).processed.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert_eq!(text.matches("# TYPE processed_records counter").count(), 1);
        assert_eq!(text.matches("processed_records_total{").count(), 2);
    }

    #[test]
    fn error_types_without_end_are_counted_as_other() {
        let metrics = Metrics::register(&mut Registry::default()).stage("orders", Stage::Main);
        for n in 0..1_000 {
            metrics.dead_letter(&format!("E{n}"), Reason::Permanent);
        }
        metrics.dead_letter("E0", Reason::Permanent);
        let counts = metrics.dead_lettered_by_error_type();
        assert_eq!(counts.len(), ERROR_TYPES + 1);
        assert_eq!((counts["E0"], counts[OTHER]), (2, 1_000 - ERROR_TYPES as u64));
    }
}

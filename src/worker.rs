//! The data plane: one engine, which runs either stage of a pipeline.
//!
//! A record passes these rooms in this order and never goes back:
//!
//! ```text
//! source ──► gate ──► lane ──► processor ──► decide ──► settle ──► offsets
//!            (hold until due)                            (write where needed, then finish)
//! ```
//!
//! | folder | what it does |
//! |---|---|
//! | `read` | reads the stage's topic and hands records to the partitions' tasks |
//! | `group` | this worker as a member of its group: what it is given, reads and gives up |
//! | `attempt` | the task of one partition: holds records until they are due, has them processed, decides |
//! | `settle` | the only place that writes, finishes offsets and commits |
//! | `serve` | the HTTP API beside all that |
//!
//! `read::source` is the only thread that reads, with a client of its own (`group::reader`), so that it goes on while
//! `group::membership` waits in a rebalance. The rules that all follow are in [`crate::domain`].

pub mod attempt;
mod client;
pub mod clock;
mod fail;
mod group;
pub mod metrics;
pub mod process;
mod read;
pub mod serve;
mod settle;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::domain::pipeline::Pipeline;
use crate::domain::record::envelope::Scribe;
use crate::domain::record::provenance::Stage;
use crate::kafka::connection::Connection;
use attempt::context::Context;
use attempt::processor::{ClientError, FaultSwitch, Processor};
use attempt::refetch::Refetch;
use attempt::spans::{Spans, Traces};
use attempt::throttle::Throttle;
use fail::FailOnPanic;
use group::Group;
use group::member::Member;
use group::reader::Reader;
use metrics::StageMetrics;
use read::source::Source;
use settle::Settle;

/// How much longer than its drain timeout a stage may take to stop. A coordinator that hangs takes some of it.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// A stage of a pipeline that runs in this process. It is told to stop when this is dropped.
pub struct Worker {
    stop: DropGuard,
    failed: CancellationToken,
    drain_timeout: Duration,
    unsettled: Arc<AtomicBool>,
    source_ended: oneshot::Receiver<()>,
    settle: JoinHandle<()>,
    traces: Option<Traces>,
}

/// What a [`Worker`] is made of.
pub struct WorkerSettings {
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// Which of its stages to run.
    pub stage: Stage,
    /// Where its Kafka is.
    pub connection: Connection,
    /// Makes attempts fail while it is on.
    pub fault: FaultSwitch,
    /// What is counted.
    pub metrics: Arc<StageMetrics>,
    /// The name of this process, for dead letters.
    pub name: String,
    /// Tells this process from all others that run, and is the same when it is started again in its place: its
    /// transactions are named after it, and its static membership.
    pub identity: String,
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The processor cannot be called.
    #[error("{pipeline}: the processor cannot be called")]
    Processor {
        /// The pipeline.
        pipeline: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// librdkafka refuses a setting, or has no resources.
    #[error("the Kafka client could not be made")]
    Kafka(#[from] KafkaError),
    /// The system has no thread left.
    #[error("a thread could not be started")]
    Thread(#[from] std::io::Error),
}

impl Worker {
    /// Starts to work. A cluster that cannot be reached is no error: the worker keeps trying.
    ///
    /// It must be called within a tokio runtime, which then runs the partitions.
    pub fn start(settings: WorkerSettings) -> Result<Self, StartError> {
        let WorkerSettings { pipeline, stage, connection, fault, metrics, name, identity } = settings;
        let failed = |source| StartError::Processor { pipeline: pipeline.name.clone(), source };
        let processor = Processor::new(&pipeline.processor, fault).map_err(failed)?;
        let scribe = Scribe {
            pipeline: pipeline.name.clone(),
            stage,
            worker: name.clone(),
            format: pipeline.dead_letter_format,
            stack_trace_max_bytes: pipeline.stack_trace_max_bytes,
        };
        let traces = Traces::start(pipeline.tracing.as_ref(), &pipeline.workers_name(stage), &name);
        let spans = Spans::new(traces.as_ref(), &pipeline, stage);
        let (to_settle, inbox) = mpsc::unbounded_channel();
        let (stop, failed) = (CancellationToken::new(), CancellationToken::new());
        // What has started ends where something else cannot start.
        let (stop, stopped) = (stop.clone().drop_guard(), stop);
        let Pipeline { delivery, drain_timeout, .. } = *pipeline;
        let (topic, group_id) = (&pipeline.source(stage).topic, &pipeline.source(stage).group_id);
        let refetch = Refetch::start(&connection, topic.clone(), FailOnPanic(failed.clone()))?;
        let unsettled = Arc::<AtomicBool>::default();
        let context = Arc::new(Context {
            stage,
            processor,
            spans,
            throttle: Throttle::new(&pipeline.throttle, metrics.clone()),
            metrics: metrics.clone(),
            to_settle,
            refetch,
            busy: AtomicUsize::new(0),
            unsettled: unsettled.clone(),
            stop: stopped,
            failed: failed.clone(),
            longest_delay: pipeline.policy.longest_delay(),
            pipeline: pipeline.clone(),
        });
        let reader = Arc::new(Reader::new(connection.stage_reader(group_id).set("client.id", &name), topic)?);
        let group = Group::new(context.clone(), Handle::current(), reader.clone());
        let mut config = connection.consumer(group_id, &pipeline.membership, &identity);
        // Whoever describes the group sees which worker a member is.
        let consumer: BaseConsumer<Group> = config.set("client.id", &name).create_with_context(group)?;
        let consumer = Arc::new(consumer);
        let member = Member::new(&consumer);
        let id = format!("{group_id}-{identity}");
        let retry_topic = pipeline.retry.topic.clone();
        let settings = settle::Settings { connection, delivery, transactional_id: id, scribe, retry_topic, member };
        let settle = Settle::new(settings, metrics, inbox);
        let settle = tokio::spawn(settle.run(FailOnPanic(failed.clone())));
        consumer.subscribe(&[topic])?;
        let source = Source::new(reader, consumer.clone(), context.clone());
        let (ended, source_ended) = oneshot::channel();
        let source = std::thread::Builder::new().name(format!("source-{stage}")).spawn(move || source.run())?;
        std::thread::Builder::new().name(format!("member-{stage}")).spawn(move || {
            group::membership::serve(&consumer, &context);
            // It has reported itself when it failed.
            let _ = source.join();
            // Closing the client says to the group that this worker leaves. Were the process to end before, its partitions
            // would wait for the session timeout.
            drop(consumer);
            // Nobody waits when the worker was dropped.
            let _ = ended.send(());
        })?;
        Ok(Self { stop, failed, drain_timeout, unsettled, source_ended, settle, traces })
    }

    /// Waits until the stage cannot go on, which only a defect or a fatal error of the client brings about.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Finishes what was started, commits, and leaves the group. Returns whether it came to an end in time, and everything
    /// that was settled is committed.
    pub async fn stop(self) -> bool {
        drop(self.stop);
        let ended = async {
            // Each only fails when it panicked, which was reported when it happened.
            let source = self.source_ended.await;
            source.is_ok() && self.settle.await.is_ok()
        };
        let ended = tokio::time::timeout(self.drain_timeout + STOP_GRACE, ended).await.unwrap_or(false);
        if let Some(traces) = self.traces {
            traces.stop().await;
        }
        ended && !self.unsettled.load(Ordering::Relaxed)
    }
}

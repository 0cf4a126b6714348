//! One process of the data plane: some stages of some pipelines, their HTTP API, and an eye on Kafka.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use prometheus_client::registry::Registry;
use rdkafka::error::KafkaError;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::metrics::{Metrics, StageMetrics};
use super::{StartError, Worker, WorkerSettings};
use crate::domain::pipeline::Pipeline;
use crate::domain::record::provenance::Stage;
use crate::kafka::connection::Connection;
use crate::kafka::counter::Counter;
use crate::kafka::observer::{Observer, Reachability};
use crate::worker::attempt::processor::FaultSwitch;
use crate::worker::serve::http::{self, Api, StageView};
use crate::worker::serve::kept_count::KeptCount;
use crate::worker::serve::peers::Peers;

/// How long a record that came in over HTTP may take to be acknowledged.
const INGRESS_TIMEOUT: Duration = Duration::from_secs(10);

/// The time between two looks at Kafka, while it answers and while it does not.
const LOOK_INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));

/// How long open HTTP requests may take to end when the process stops.
const HTTP_GRACE: Duration = Duration::from_secs(5);

/// What a [`Process`] is made of.
pub struct ProcessSettings {
    /// The stages to run.
    pub stages: Vec<(Arc<Pipeline>, Stage)>,
    /// Where Kafka is.
    pub connection: Connection,
    /// Where the HTTP API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names that resolve to all workers of the pipelines, each `host:port`; none where this process is the only one.
    pub peers: Vec<String>,
    /// The name of the process.
    pub name: String,
}

/// A running process.
pub struct Process {
    settings: ProcessSettings,
    views: Vec<StageView>,
    fault: FaultSwitch,
    observer: Observer,
    kafka: watch::Receiver<Reachability>,
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    workers: Vec<Worker>,
}

/// Why a process cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The HTTP API cannot listen.
    #[error("cannot listen on {address}: choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// librdkafka refuses a setting, or has no resources.
    #[error("the Kafka client could not be made")]
    Kafka(#[from] KafkaError),
    /// There is nothing to reach the other workers with.
    #[error("the HTTP client could not be made")]
    Client(#[from] reqwest::Error),
}

/// What a process has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Whether every stage came to its end; else records may be processed again.
    pub clean: bool,
    /// Records that were processed.
    pub processed: u64,
    /// Records that were written to the retry topic.
    pub retried: u64,
    /// Records that were written to a dead letter topic.
    pub dead_lettered: u64,
}

impl Process {
    /// Opens the HTTP API, begins to look for Kafka, and learns from the other workers whether failures are to be
    /// injected. No record is read before [`start`](Self::start).
    pub async fn open(settings: ProcessSettings) -> Result<Self, ProcessError> {
        let observer = Observer::new(&settings.connection)?;
        let producer = settings.connection.producer(INGRESS_TIMEOUT)?;
        let failed = |source| ProcessError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        info!(%address, "listening");
        let mut registry = Registry::with_prefix("lazaret");
        let metrics = Metrics::register(&mut registry);
        let view = |(pipeline, stage): &(Arc<Pipeline>, Stage)| {
            let metrics = Arc::new(metrics.stage(&pipeline.name, *stage));
            StageView { pipeline: pipeline.clone(), stage: *stage, metrics }
        };
        let views: Vec<_> = settings.stages.iter().map(view).collect();
        let (fault, stop) = (FaultSwitch::default(), CancellationToken::new());
        let (reached, kafka) = watch::channel(Reachability::Unknown);
        let peers = if settings.peers.is_empty() { None } else { Some(Peers::new(settings.peers.clone())?) };
        let pipelines = || settings.stages.iter().map(|(pipeline, _)| pipeline);
        let letters: BTreeSet<_> = pipelines().flat_map(|pipeline| pipeline.policy.dead_letter_topics()).collect();
        let api = Api {
            stages: views.clone(),
            fault: fault.clone(),
            peers: peers.clone(),
            registry: Arc::new(registry),
            kafka: kafka.clone(),
            bootstrap_servers: settings.connection.bootstrap_servers().to_owned(),
            observer: observer.clone(),
            dead_letters: KeptCount::new(Counter::new(&settings.connection)?, letters),
            producer,
            worker: settings.name.clone(),
            instance: format!("{:016x}", rand::random::<u64>()),
        };
        let look = look_for_kafka(observer.clone(), settings.connection.clone(), reached);
        let look = stop.clone().run_until_cancelled_owned(look).map(drop);
        let mut tasks = vec![tokio::spawn(serve(listener, api, stop.clone())), tokio::spawn(look)];
        if let Some(peers) = peers.filter(|_| pipelines().any(|pipeline| pipeline.fault_injection)) {
            // The API is open: whoever sets the switch from now on reaches this process too.
            peers.ask(&fault).await;
            let keep_asking = stop.clone().run_until_cancelled_owned(peers.keep_asking(fault.clone())).map(drop);
            tasks.push(tokio::spawn(keep_asking));
        }
        let workers = vec![];
        Ok(Self { settings, views, fault, observer, kafka, address, tasks, stop, workers })
    }

    /// Waits until Kafka answers for the first time.
    pub async fn reach_kafka(&mut self) {
        // The sender lives as long as this process does.
        let _ = self.kafka.wait_for(|kafka| matches!(kafka, Reachability::Reachable)).await;
    }

    /// Starts the stages.
    pub fn start(&mut self) -> Result<(), StartError> {
        for view in &self.views {
            // A pipeline that does not allow injected failures gets a switch that nobody can reach.
            let fault = if view.pipeline.fault_injection { self.fault.clone() } else { FaultSwitch::default() };
            self.workers.push(Worker::start(WorkerSettings {
                pipeline: view.pipeline.clone(),
                stage: view.stage,
                connection: self.settings.connection.clone(),
                fault,
                metrics: view.metrics.clone(),
                name: self.settings.name.clone(),
                // Of the processes of one name that run at the same time, each listens on a port of its own.
                identity: format!("{}-{}", self.settings.name, self.address.port()),
            })?);
        }
        Ok(())
    }

    /// Where the HTTP API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The stages of this process, and what they count.
    pub fn stages(&self) -> &[StageView] {
        &self.views
    }

    /// A client that asks the cluster questions.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Waits until a stage cannot go on.
    pub async fn failed(&self) {
        if self.workers.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(self.workers.iter().map(|worker| worker.failed().boxed())).await;
    }

    /// Finishes what was started, leaves the groups, closes the API, and says what was done.
    pub async fn stop(self) -> Summary {
        let ended = futures::future::join_all(self.workers.into_iter().map(Worker::stop)).await;
        self.stop.cancel();
        for task in self.tasks {
            // A connection that somebody keeps open must not keep the process.
            let _ = tokio::time::timeout(HTTP_GRACE, task).await;
        }
        let sum = |of: fn(&StageMetrics) -> u64| self.views.iter().map(|view| of(&view.metrics)).sum();
        Summary {
            clean: ended.into_iter().all(|ended| ended),
            processed: sum(|m| m.processed.get()),
            retried: sum(|m| m.retried.get()),
            dead_lettered: sum(|m| m.dead_lettered_by_error_type().values().sum()),
        }
    }
}

async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let server = axum::serve(listener, http::router(api)).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = server.await {
        warn!(%error, "the HTTP API ended");
    }
}

async fn look_for_kafka(observer: Observer, connection: Connection, reached: watch::Sender<Reachability>) {
    let address = connection.bootstrap_servers();
    loop {
        let seen = match observer.ping().await {
            Ok(()) => Reachability::Reachable,
            Err(error) => Reachability::Unreachable { error: error.to_string() },
        };
        let pause = if matches!(seen, Reachability::Reachable) { LOOK_INTERVAL.0 } else { LOOK_INTERVAL.1 };
        let changed = std::mem::discriminant(&*reached.borrow()) != std::mem::discriminant(&seen);
        match &seen {
            Reachability::Reachable if changed => info!(address, "Kafka answers"),
            Reachability::Unreachable { error } if changed => {
                warn!(address, error, "Kafka cannot be reached, trying again");
            }
            _ => {}
        }
        reached.send_replace(seen);
        tokio::time::sleep(pause).await;
    }
}

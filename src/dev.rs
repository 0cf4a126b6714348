//! A whole pipeline on a laptop: an embedded broker or a Kafka of one's own, both stages, the HTTP API.

use std::fmt::Write;
use std::sync::Arc;

use rdkafka::error::KafkaError;
use tracing::{debug, info, warn};

use crate::domain::pipeline::{Delivery, Pipeline, TopicPlan};
use crate::domain::record::provenance::Stage;
use crate::domain::topic::{Inherited, Purpose, TopicShape, too_small};
use crate::kafka::connection::Connection;
use crate::kafka::embedded::EmbeddedBroker;
use crate::kafka::topics::{TopicError, Topics};
use crate::worker::StartError;
use crate::worker::process::{Process, ProcessError, ProcessSettings, Summary};

/// What to run, and where.
pub struct DevSettings {
    /// The pipelines.
    pub pipelines: Vec<Pipeline>,
    /// A Kafka to use instead of the embedded broker.
    pub bootstrap_servers: Option<String>,
    /// Where the HTTP API listens; port 0 takes a free one.
    pub listen: std::net::SocketAddr,
    /// The name of this process.
    pub name: String,
}

/// Why it cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The embedded broker did not start.
    #[error("the embedded broker could not be started")]
    Broker(#[source] KafkaError),
    /// The cluster did not say how many brokers it has.
    #[error("could not ask the cluster for its brokers")]
    Brokers(#[source] KafkaError),
    /// The process could not be opened.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A topic could not be made.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// A stage could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Pipelines that run in this process.
pub struct Dev {
    process: Process,
    pipelines: Vec<Arc<Pipeline>>,
    bootstrap_servers: String,
    /// Ends when this is dropped, after everything that uses it.
    broker: Option<EmbeddedBroker>,
}

impl Dev {
    /// Opens the HTTP API. Nothing is read before [`start`](Self::start).
    pub async fn open(settings: DevSettings) -> Result<Self, DevError> {
        let mut pipelines = settings.pipelines;
        if settings.bootstrap_servers.is_none() {
            // The embedded broker knows no transactions.
            pipelines.iter_mut().for_each(|pipeline| pipeline.delivery = Delivery::AtLeastOnce);
        }
        let pipelines: Vec<_> = pipelines.into_iter().map(Arc::new).collect();
        let (broker, connection) = match settings.bootstrap_servers {
            Some(address) => (None, Connection::new(address)),
            None => {
                let broker = embedded(&pipelines).map_err(DevError::Broker)?;
                let connection = broker.connection();
                (Some(broker), connection)
            }
        };
        let stages = pipelines.iter().flat_map(|p| [Stage::Main, Stage::Retry].map(|stage| (p.clone(), stage)));
        let bootstrap_servers = connection.bootstrap_servers().to_owned();
        let stages = stages.collect();
        let DevSettings { listen, name, .. } = settings;
        let process = Process::open(ProcessSettings { stages, connection, listen, peers: vec![], name }).await?;
        Ok(Self { process, pipelines, bootstrap_servers, broker })
    }

    /// Waits for Kafka, makes the topics that are missing, and starts every stage.
    pub async fn start(&mut self) -> Result<(), DevError> {
        self.process.reach_kafka().await;
        if self.broker.is_none() {
            let brokers = self.process.observer().brokers().await.map_err(DevError::Brokers)?;
            let topics = Topics::new(&Connection::new(&self.bootstrap_servers))?;
            for pipeline in &self.pipelines {
                create_missing(&topics, pipeline, brokers).await?;
                warn_of_small_topics(&topics, pipeline).await;
            }
        }
        Ok(self.process.start()?)
    }

    /// What listens where, and what to try next.
    pub fn overview(&self) -> String {
        let (api, kafka) = (format!("http://{}", self.process.address()), &self.bootstrap_servers);
        let kind = match self.broker {
            Some(_) => "embedded, in memory, no transactions, keeps the newest 5 MiB a partition",
            None => "yours",
        };
        let mut text = format!("\n  HTTP API    {api}  (stats, metrics, health, openapi.json)\n");
        let _ = writeln!(text, "  Kafka       {kafka}  ({kind})");
        for pipeline in &self.pipelines {
            let topics: Vec<_> = pipeline.topics.iter().map(|t| format!("{} ({})", t.name, t.partitions)).collect();
            let delivery = match pipeline.delivery {
                Delivery::ExactlyOnce => "exactly once",
                Delivery::AtLeastOnce => "at least once",
            };
            let _ = writeln!(text, "  {:<11} {}  (delivery {delivery})", pipeline.name, topics.join(", "));
        }
        let _ = writeln!(text, "\nTry next:");
        if let Some(pipeline) = self.pipelines.iter().find(|pipeline| pipeline.ingress.is_some()) {
            let body = r#"{"orderId": "ORD-1", "amount": -50, "status": "PENDING"}"#;
            let topic = &pipeline.main.topic;
            let _ =
                writeln!(text, "  curl -X POST {api}/api/v1/{topic} -H 'Content-Type: application/json' -d '{body}'");
        }
        let _ = writeln!(text, "  curl -s {api}/api/v1/stats");
        if let Some(pipeline) = self.pipelines.first() {
            let dlt = &pipeline.policy.default.dead_letter_topic;
            let _ = writeln!(text, "  kcat -b {kafka} -t {dlt} -C -o beginning -e");
        }
        text
    }

    /// Waits until a stage cannot go on.
    pub async fn failed(&self) {
        self.process.failed().await;
    }

    /// Finishes what was started, and says what was done.
    pub async fn stop(self) -> Summary {
        self.process.stop().await
    }
}

fn embedded(pipelines: &[Arc<Pipeline>]) -> Result<EmbeddedBroker, KafkaError> {
    let broker = EmbeddedBroker::start()?;
    let mut made = std::collections::BTreeSet::new();
    for plan in pipelines.iter().flat_map(|pipeline| &pipeline.topics) {
        // A dead letter topic may be shared.
        if made.insert(&plan.name) {
            broker.create_topic(plan)?;
        }
    }
    Ok(broker)
}

/// Creates those topics of a pipeline that do not exist.
async fn create_missing(topics: &Topics, pipeline: &Pipeline, brokers: usize) -> Result<(), TopicError> {
    let is_main = |plan: &TopicPlan| plan.name == pipeline.main.topic;
    let mut inherited = Inherited::default();
    if let Some(plan) = pipeline.topics.iter().find(|plan| is_main(plan)) {
        inherited = Inherited::of(plan, describe(topics, &plan.name).await.as_ref());
    }
    if inherited.max_message_bytes.is_none() {
        inherited.max_message_bytes = topics.default_max_message_bytes().await.unwrap_or_else(|error| {
            debug!(%error, "the brokers' max.message.bytes are not known");
            None
        });
    }
    let plan = |plan: &TopicPlan| {
        let mut plan = plan.clone();
        if !is_main(&plan) {
            inherited.complete(&mut plan);
        }
        with_at_most(brokers, &plan)
    };
    let plans: Vec<_> = pipeline.topics.iter().filter(|plan| plan.manage).map(plan).collect();
    topics.create_missing(&plans).await
}

/// Topics that existed stay as they are. Where one loses records that fail, that is said.
async fn warn_of_small_topics(topics: &Topics, pipeline: &Pipeline) {
    let main = &pipeline.main.topic;
    let Some(of_main) = describe(topics, main).await else { return };
    for plan in pipeline.topics.iter().filter(|plan| plan.name != *main) {
        let purpose = if plan.name == pipeline.retry.topic { Purpose::Retry } else { Purpose::DeadLetters };
        let Some(found) = describe(topics, &plan.name).await else { continue };
        if let Some(danger) = too_small((&plan.name, purpose), &found, (main, &of_main)) {
            warn!(pipeline = pipeline.name, topic = &*plan.name, "{danger}");
        }
    }
}

/// A topic as it is, where that can be known.
async fn describe(topics: &Topics, name: &str) -> Option<TopicShape> {
    let described = topics.describe(name).await;
    described.inspect_err(|error| debug!(topic = name, %error, "could not be described")).ok().flatten()
}

/// A laptop's cluster has fewer brokers than the one that the file was written for.
fn with_at_most(brokers: usize, plan: &TopicPlan) -> TopicPlan {
    // A cluster that is just starting may not have counted itself yet.
    let replicas = plan.replicas.min(i32::try_from(brokers.max(1)).unwrap_or(i32::MAX));
    if replicas < plan.replicas {
        info!(topic = &*plan.name, replicas, wanted = plan.replicas, "fewer replicas: the cluster has fewer brokers");
    }
    let mut config = plan.config.clone();
    // More replicas than there are could never be in sync.
    if let Some(in_sync) = config.get_mut("min.insync.replicas")
        && in_sync.parse::<i32>().is_ok_and(|in_sync| replicas > 0 && in_sync > replicas)
    {
        *in_sync = replicas.to_string();
    }
    TopicPlan { replicas, config, ..plan.clone() }
}

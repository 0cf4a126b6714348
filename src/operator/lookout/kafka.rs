//! One Kafka, and whose turn it is to be looked at more closely.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::warn;

use super::INTERVAL;
use super::clients::Kafka;
use super::pipeline::PipelineLookout;
use super::workers::Workers;
use crate::kafka::connection::Connection;
use crate::kafka::log_reader::Logs;
use crate::kafka::observer::KafkaError;
use crate::operator::context::Context;
use crate::operator::watched::Watched;

/// How long the list of topics is believed.
const TOPICS_INTERVAL: Duration = Duration::from_secs(30);

/// How many pipelines are looked at more closely each time, the longest unseen first; and how many at once.
const LOOKS: usize = 64;
const CONCURRENCY: usize = 8;

/// How long a closer look may take. Every question has a shorter deadline of its own, but those to the API server.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);

/// How long Kafka may be silent before it is said that counts are stale.
const SILENCE: Duration = Duration::from_secs(6);

/// One Kafka, and the pipelines on it.
pub struct KafkaLookout {
    context: Arc<Context>,
    workers: Workers,
    address: String,
    pipelines: HashMap<String, PipelineLookout>,
    topics: BTreeMap<String, Vec<i32>>,
    /// When the topics were last listed; `None`: they have to be.
    listed: Option<Instant>,
    answered: Instant,
}

impl KafkaLookout {
    pub fn new(context: Arc<Context>, workers: Workers, address: String) -> Self {
        let (pipelines, topics, listed, answered) = (HashMap::new(), BTreeMap::new(), None, Instant::now());
        Self { context, workers, address, pipelines, topics, listed, answered }
    }

    /// Looks at short intervals, until no pipeline is left.
    pub async fn run(mut self) {
        let connection = Connection::new(&*self.address);
        let kafka = match Kafka::new(&connection) {
            Ok(kafka) => kafka,
            Err(error) => return warn!(kafka = self.address, %error, "the Kafka client could not be made"),
        };
        let mut every = tokio::time::interval(INTERVAL);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let watched = self.context.watched(&self.address);
            if watched.is_empty() {
                return;
            }
            self.look(&kafka, watched).await;
        }
    }

    async fn look(&mut self, kafka: &Kafka, watched: Vec<Arc<Watched>>) {
        let known: HashSet<_> = watched.iter().map(|watched| watched.uid.clone()).collect();
        self.pipelines.retain(|uid, _| known.contains(uid));
        for watched in watched {
            match self.pipelines.get_mut(&watched.uid) {
                Some(pipeline) => pipeline.set_watched(watched),
                None => {
                    let pipeline = PipelineLookout::new(self.context.clone(), self.workers.clone(), watched.clone());
                    self.pipelines.insert(watched.uid.clone(), pipeline);
                }
            }
        }
        match self.logs(kafka).await {
            Ok(logs) => {
                self.answered = Instant::now();
                self.look_closer(kafka, &logs).await;
            }
            Err(error) => {
                // A topic that goes while it is asked for fails them all; the next list does not have it.
                self.listed = None;
                if self.answered.elapsed() > SILENCE {
                    let error = error.to_string();
                    let stale = self.pipelines.values_mut().map(|pipeline| pipeline.kafka_is_silent(&error));
                    // What could not be written in time is written the next time.
                    let _ = timeout(LOOK_TIMEOUT, futures::future::join_all(stale)).await;
                }
            }
        }
    }

    async fn look_closer(&mut self, kafka: &Kafka, logs: &Logs) {
        let now = Instant::now();
        let mut due: Vec<_> = self.pipelines.values_mut().filter(|pipeline| pipeline.is_due(logs, now)).collect();
        due.sort_by_key(|pipeline| pipeline.looked());
        due.truncate(LOOKS);
        let look = async |pipeline: &mut PipelineLookout| {
            // A connection that nobody answers on must not keep the others from being looked at.
            if timeout(LOOK_TIMEOUT, pipeline.look(kafka, logs)).await.is_err() {
                warn!(pipeline = pipeline.name(), "what becomes of its records could not be found out in time");
            }
        };
        stream::iter(due).for_each_concurrent(CONCURRENCY, look).await;
    }

    /// How far the topics of every pipeline reach.
    async fn logs(&mut self, kafka: &Kafka) -> Result<Logs, KafkaError> {
        let names: BTreeSet<&str> = self.pipelines.values().flat_map(PipelineLookout::topics).collect();
        let is_new = names.iter().any(|name| !self.topics.contains_key(*name));
        let age = self.listed.map(|listed| listed.elapsed());
        if age.is_none_or(|age| age > TOPICS_INTERVAL || (is_new && age > INTERVAL)) {
            self.topics = kafka.observer.partitions().await?;
            self.listed = Some(Instant::now());
        }
        let of = |name: &&str| {
            let name: Arc<str> = Arc::from(*name);
            let partitions = self.topics.get(&*name).into_iter().flatten();
            partitions.map(|partition| (name.clone(), *partition)).collect::<Vec<_>>()
        };
        kafka.observer.logs(names.iter().flat_map(of).collect()).await
    }
}

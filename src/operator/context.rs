//! What every reconcile shares.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use tokio::time::{Instant, timeout};

use super::OperatorSettings;
use super::dereference::{Sight, Stored};
use super::error::Error;
use super::lease::Lease;
use super::metrics::Metrics;
use super::names::FIELD_MANAGER;
use super::strimzi::Strimzi;
use super::watched::Watched;
use crate::api::v1alpha1::ErrorHandlingPipeline;
use crate::kafka::connection::Connection;
use crate::kafka::topics::{TopicError, Topics};

/// The longest pause between two tries of a reconcile that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait at the start for the pipelines of other namespaces.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection to a Kafka is kept that nobody needs.
const KAFKA_IDLE: Duration = Duration::from_secs(300);

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Strimzi's resources, where the cluster has them.
    pub strimzi: Option<Strimzi>,
    /// The image of the workers.
    pub worker_image: String,
    /// Writes events.
    pub recorder: Recorder,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether this replica may act.
    lease: Arc<Lease>,
    /// Every pipeline that the operator looks after.
    pipelines: Vec<Store<Stored>>,
    /// How often in a row each pipeline could not be reconciled, by its uid.
    failures: Mutex<HashMap<Option<String>, u32>>,
    /// Connections, by the Kafka's address, and when each was last asked for.
    kafkas: Mutex<HashMap<String, (Topics, Instant)>>,
    /// The pipelines whose records are looked at, by their uids.
    watched: Mutex<HashMap<String, Arc<Watched>>>,
}

impl Context {
    /// A context without a past.
    pub fn new(
        client: Client,
        settings: &OperatorSettings,
        strimzi: Option<Strimzi>,
        pipelines: Vec<Store<Stored>>,
        metrics: Arc<Metrics>,
        lease: Arc<Lease>,
    ) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(settings.name.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            strimzi,
            worker_image: settings.worker_image.clone(),
            metrics,
            lease,
            pipelines,
            failures: Mutex::default(),
            kafkas: Mutex::default(),
            watched: Mutex::default(),
        }
    }

    /// Says before each write whether this replica may still make it.
    pub fn may_write(&self) -> Result<(), Error> {
        if self.lease.is_held() { Ok(()) } else { Err(Error::LeaseLost) }
    }

    /// Has the records of a pipeline looked at from now on.
    pub fn watch(&self, watched: Watched) {
        lock(&self.watched).insert(watched.uid.clone(), Arc::new(watched));
    }

    /// The Kafkas on which there are such pipelines.
    pub fn watched_kafkas(&self) -> BTreeSet<String> {
        let known: HashSet<_> = self.pipelines().iter().filter_map(|stored| stored.uid()).collect();
        let mut watched = lock(&self.watched);
        watched.retain(|uid, _| known.contains(uid));
        self.metrics.seen.retain(|uid| known.contains(uid));
        watched.values().map(|watched| watched.bootstrap_servers.clone()).collect()
    }

    /// The pipelines on a Kafka whose records are looked at.
    pub fn watched(&self, bootstrap_servers: &str) -> Vec<Arc<Watched>> {
        let watched = lock(&self.watched);
        watched.values().filter(|watched| watched.bootstrap_servers == bootstrap_servers).cloned().collect()
    }

    /// A pipeline as it is now, unless it is gone or on its way out.
    pub fn pipeline(&self, uid: &str) -> Option<ErrorHandlingPipeline> {
        let stored = self.pipelines().into_iter().find(|stored| stored.uid().as_deref() == Some(uid))?;
        stored.0.as_ref().ok().filter(|object| object.metadata.deletion_timestamp.is_none()).cloned()
    }

    /// How often in a row a pipeline could not be reconciled.
    pub fn failures(&self, uid: Option<&String>) -> u32 {
        lock(&self.failures).get(&uid.cloned()).copied().unwrap_or(0)
    }

    /// Waits until the pipelines of every namespace are known, or for long enough: without them no rival is seen.
    pub async fn all_known(&self) {
        let known = self.pipelines.iter().map(Store::wait_until_ready);
        let _ = timeout(KNOWN_WITHIN, futures::future::join_all(known)).await;
    }

    /// Takes note that a pipeline was reconciled.
    pub fn succeeded(&self, stored: &Stored) {
        lock(&self.failures).remove(&stored.uid());
    }

    /// Takes note that it was not, and returns when to try again: after 1, 2, 4 … seconds, at most a minute.
    pub fn failed(&self, stored: &Stored) -> Duration {
        let mut failures = lock(&self.failures);
        if !failures.contains_key(&stored.meta().uid) {
            let known: HashSet<_> = self.pipelines().iter().map(|stored| stored.uid()).collect();
            failures.retain(|uid, _| known.contains(uid));
        }
        let count = failures.entry(stored.meta().uid.clone()).or_default();
        *count += 1;
        Duration::from_secs(1 << (*count - 1).min(6)).min(LONGEST_PAUSE)
    }
}

impl Sight for Context {
    fn client(&self) -> &Client {
        &self.client
    }

    fn strimzi(&self) -> Option<&Strimzi> {
        self.strimzi.as_ref()
    }

    fn pipelines(&self) -> Vec<Arc<Stored>> {
        self.pipelines.iter().flat_map(Store::state).collect()
    }

    /// By a connection that all pipelines on that Kafka share.
    fn topics(&self, bootstrap_servers: &str) -> Result<Topics, TopicError> {
        let now = Instant::now();
        let mut kafkas = lock(&self.kafkas);
        kafkas.retain(|address, (_, used)| address == bootstrap_servers || now - *used < KAFKA_IDLE);
        let topics = match kafkas.get(bootstrap_servers) {
            Some((topics, _)) => topics.clone(),
            None => Topics::new(&Connection::new(bootstrap_servers))?,
        };
        kafkas.insert(bootstrap_servers.to_owned(), (topics.clone(), now));
        Ok(topics)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

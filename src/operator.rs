//! The control plane: makes the cluster as each `ErrorHandlingPipeline` asks for, and says in its status how far that is.
//!
//! A reconcile passes these rooms in this order:
//!
//! ```text
//! release ──► dereference ──► validate ──► build ──► apply ──► observe ──► status
//! (topics that   (I/O: what is   (no client)   (pure)   (server-side         (pure; written also
//!  are to stay)   referred to)                           apply)               when validation fails)
//! ```
//!
//! `reconcile` is that list as code, `controller` says what wakes it, `lease` who of several replicas may act. What becomes of
//! the records of a pipeline that was reconciled, `lookout` says: it asks Kafka and the workers. What it
//! has seen is a `view`, which the status and `metrics` show.

pub(crate) mod apply;
pub(crate) mod build;
mod context;
mod controller;
pub(crate) mod dereference;
pub(crate) mod error;
mod events;
mod http;
mod lease;
pub(crate) mod lookout;
mod metrics;
pub(crate) mod names;
pub(crate) mod observe;
mod reconcile;
pub(crate) mod release;
pub(crate) mod status;
pub(crate) mod strimzi;
pub(crate) mod validate;
pub(crate) mod view;
mod watched;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use tracing::{info, warn};

use error::with_causes;
use lease::Lease;
use metrics::Metrics;
use strimzi::Strimzi;

/// How often the cluster is asked whether it serves Strimzi's resources, and in which version.
const STRIMZI_INTERVAL: Duration = Duration::from_secs(10);

/// What an operator is to do.
#[derive(Clone, Debug)]
pub struct OperatorSettings {
    /// The namespaces whose pipelines it looks after; none: all.
    pub namespaces: Vec<String>,
    /// The image of the workers.
    pub worker_image: String,
    /// Where health and metrics are served.
    pub listen: SocketAddr,
    /// The Lease that says which of several replicas acts.
    pub lease: String,
    /// The name of this process.
    pub name: String,
}

/// Why an operator cannot run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Neither a kubeconfig nor the account of a pod was found.
    #[error("no cluster is configured: run in a pod with a service account, or have a kubeconfig ({0})")]
    Config(String),
    /// The client could not be made.
    #[error("the client for the API server could not be made: {0}")]
    Client(String),
    /// The address for health and metrics cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Works until `shutdown` ends, and then lets another replica take over at once.
pub async fn run(settings: OperatorSettings, shutdown: impl Future<Output = ()>) -> Result<(), OperatorError> {
    // What kube says of an error has its causes in it already.
    let config = kube::Config::infer().await.map_err(|error| OperatorError::Config(with_causes(&error)))?;
    let metrics = Arc::new(Metrics::default());
    let builder = ClientBuilder::try_from(config).map_err(|error| OperatorError::Client(with_causes(&error)))?;
    let client = builder.with_layer(&metrics::count_requests(&metrics)).build();
    // Two processes may have one name: a container that restarts has that of the one before.
    let identity = format!("{}-{:08x}", settings.name, rand::random::<u32>());
    let lease = Arc::new(Lease::new(client.clone(), settings.lease.clone(), identity));
    let served = http::listen(settings.listen, metrics.clone(), lease.clone()).await?;
    let work = async {
        loop {
            lease.acquire().await;
            info!(lease = settings.lease, "this replica acts now");
            tokio::select! {
                // First: a process that was stopped for a while finds out before it does anything else.
                biased;
                () = lease.lost() => warn!(lease = settings.lease, "the lease is lost: another replica acts now"),
                () = act(&client, &settings, &metrics, &lease) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = served => {}
        () = shutdown => info!("stopping"),
    }
    lease.release().await;
    Ok(())
}

/// Looks after the pipelines, and begins anew whenever the cluster serves Strimzi's resources in another version.
async fn act(client: &Client, settings: &OperatorSettings, metrics: &Arc<Metrics>, lease: &Arc<Lease>) {
    // What this replica knows is of when it acted before.
    metrics.watch(vec![]);
    let mut known = None;
    loop {
        let strimzi = match known.take() {
            None => next_strimzi(client, None).await,
            Some(strimzi) => strimzi,
        };
        match &strimzi {
            Some(Strimzi { kafka_topic, .. }) => info!(api_version = kafka_topic.api_version, "Strimzi is served"),
            None => warn!("Strimzi is not installed in this cluster"),
        }
        tokio::select! {
            () = controller::run(client, settings, strimzi.clone(), metrics, lease) => return,
            changed = next_strimzi(client, Some(&strimzi)) => known = Some(changed),
        }
    }
}

/// Waits until the cluster serves something else than what is known of it, if something is.
async fn next_strimzi(client: &Client, known: Option<&Option<Strimzi>>) -> Option<Strimzi> {
    let mut every = tokio::time::interval(STRIMZI_INTERVAL);
    loop {
        every.tick().await;
        match strimzi::discover(client).await {
            Ok(found) if Some(&found) != known => return found,
            Ok(_) => {}
            Err(error) => warn!(%error, "the API server did not say which resources it serves"),
        }
    }
}

//! Looks at what the records of every pipeline are up to, and says so in its status: dead letters, lag, groups, rebalances.
//!
//! A reconcile is about objects, and is woken by them; nobody tells of records, so every Kafka is asked at short intervals.
//! For each there is one task with two clients, one that asks and one that reads dead letters: two requests to each broker tell how far every topic reaches, and only of
//! pipelines where something moves more is asked. What is found out is written by a field manager of its own, so that neither
//! writer of a status is in the other's way.
//!
//! | module | |
//! |---|---|
//! | [`kafka`] | one Kafka, and whose turn it is |
//! | [`pipeline`] | what is known of one pipeline, and how that is kept up to date |
//! | [`stage`] | the same of one of its stages |
//! | [`workers`] | what its workers say |
//! | [`view`] | what was seen, as plain data |
//! | [`conditions`] | what a person should know of that; pure |
//! | [`metrics`] | the same for Prometheus |
//! | [`status`] | all of it as a status, and whether that is worth writing; pure |

pub(crate) mod conditions;
mod kafka;
pub(crate) mod metrics;
mod pipeline;
mod stage;
pub(crate) mod status;
pub(crate) mod view;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::core::ObjectMeta;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::error;

use super::build::worker_port;
use super::context::Context;
use super::validate::ValidatedPipeline;
use crate::domain::pipeline::Pipeline;
use kafka::KafkaLookout;
use workers::Workers;

/// The field manager of what is seen of records.
pub const FIELD_MANAGER: &str = "lazaret-lookout";

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// A pipeline that is looked at.
#[derive(Debug)]
pub struct Watched {
    /// Which one it is.
    pub uid: String,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The `metadata.generation` that `pipeline` is.
    pub generation: Option<i64>,
    /// Complete and compiled.
    pub pipeline: Pipeline,
    /// Where its Kafka is.
    pub bootstrap_servers: String,
    /// The port of its workers' HTTP API.
    pub worker_port: u16,
    /// When it was last reconciled: something about it may have changed.
    pub stirred: Instant,
}

impl Watched {
    /// A pipeline that was just reconciled.
    pub fn new(validated: &ValidatedPipeline) -> Self {
        let ObjectMeta { uid, generation, .. } = validated.object.metadata.clone();
        Self {
            uid: uid.unwrap_or_default(),
            namespace: validated.object.namespace().unwrap_or_default(),
            name: validated.object.name_any(),
            generation,
            pipeline: validated.pipeline.clone(),
            bootstrap_servers: validated.bootstrap_servers.clone(),
            worker_port: worker_port(&validated.object),
            stirred: Instant::now(),
        }
    }
}

/// Looks, for as long as it is polled.
pub async fn run(context: Arc<Context>, namespaces: &[String]) {
    let (workers, watch) = match Workers::watch(&context.client, namespaces) {
        Ok(watched) => watched,
        Err(error) => return error!(%error, "the HTTP client could not be made: no records are counted"),
    };
    let look = async {
        let mut every = tokio::time::interval(INTERVAL);
        let mut kafkas = JoinSet::new();
        let mut running = HashMap::new();
        loop {
            every.tick().await;
            running.retain(|_, task: &mut tokio::task::AbortHandle| !task.is_finished());
            while kafkas.try_join_next().is_some() {}
            for address in context.watched_kafkas() {
                let (context, workers) = (context.clone(), workers.clone());
                running.entry(address.clone()).or_insert_with(|| {
                    kafkas.spawn(async move { KafkaLookout::new(context, workers, address).run().await })
                });
            }
        }
    };
    tokio::join!(watch, look);
}

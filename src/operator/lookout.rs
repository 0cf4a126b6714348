//! Looks at what the records of every pipeline are up to, and says so in its status: dead letters, lag, groups, rebalances.
//!
//! A reconcile is about objects, and is woken by them; nobody tells of records, so every Kafka is asked at short intervals.
//! For each there is one task with two clients, one that asks and one that reads: two requests to each broker tell how far
//! every topic reaches, and only of pipelines where something moves more is asked. What is found out is written by a field
//! manager of its own, so that neither writer of a status is in the other's way.
//!
//! | module | |
//! |---|---|
//! | [`kafka`] | one Kafka, and whose turn it is |
//! | [`pipeline`] | what is known of one pipeline, and how that is kept up to date |
//! | [`stage`] | the same of one of its stages |
//! | [`clients`] | with what Kafka is asked, and read |
//! | [`workers`] | what its workers say |
//! | [`conditions`] | what a person should know of that; pure |
//! | [`status`] | all of it as a status, and whether that is worth writing; pure |

mod clients;
pub(crate) mod conditions;
mod kafka;
mod pace;
mod pipeline;
mod stage;
pub(crate) mod status;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::error;

use super::context::Context;
use kafka::KafkaLookout;
use workers::Workers;

/// The field manager of what is seen of records.
pub const FIELD_MANAGER: &str = "lazaret-lookout";

/// The time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);

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

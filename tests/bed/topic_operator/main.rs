//! A stand-in for Strimzi's topic operator, which is published only as an image. It keeps the contract that the real one
//! keeps with whoever writes KafkaTopics, for the tests; it is not for use.

mod admin;
mod contract;
mod operator;

use std::time::Duration;

use clap::Parser;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};

/// How long the Java client tries before it gives up on a call.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(60);

/// A stand-in for Strimzi's topic operator.
#[derive(Parser)]
struct Args {
    /// The namespace whose KafkaTopics it looks after.
    #[arg(long)]
    namespace: String,
    /// The Kafka object whose name their label `strimzi.io/cluster` must have.
    #[arg(long)]
    cluster: String,
    /// The cluster itself.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_servers: String,
    /// The time between two looks at every topic. The real one's default is the same.
    #[arg(long, default_value = "120s", value_parser = seconds)]
    resync: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
    number.map(Duration::from_secs).ok_or_else(|| "must be a number of seconds, such as 120s".to_owned())
}

#[tokio::main]
async fn main() -> Result<(), anyhow::Error> {
    lazaret::telemetry::init(lazaret::telemetry::LogFormat::default());
    let Args { namespace, cluster, bootstrap_servers, resync } = Args::parse();
    let settings = operator::Settings { namespace, cluster, bootstrap_servers, resync, kafka_timeout: KAFKA_TIMEOUT };
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        result = operator::run(Client::try_default().await?, settings) => result?,
        _ = terminated.recv() => {}
    }
    Ok(())
}

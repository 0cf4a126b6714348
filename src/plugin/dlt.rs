//! `kubectl lazaret dlt`: reads dead letters.
//!
//! Who stands outside of a cluster seldom reaches its Kafka. So the same command is run in a worker of the pipeline, which
//! does, with the worker's own settings; it answers in JSON. Whoever may do that in a pod has the right `pods/exec`, and no
//! port is open that everybody could read dead letters from. With `--bootstrap-servers` Kafka is read directly.

mod letter;
mod read;
mod shown;
mod worker;

#[cfg(test)]
mod tests;

use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use k8s_openapi::jiff::Timestamp;

use super::cluster::{Cluster, ClusterArgs};
use super::error::PluginError;
use crate::api::duration::Duration;
use crate::kafka::connection::addresses;
use letter::{Filter, Found, Letter, Position};
pub(super) use worker::Worker;

/// What can be asked of dead letters.
#[derive(Debug, Subcommand)]
pub enum DltCommand {
    /// List dead letters, the newest first.
    #[command(after_help = "A value is only shown where --payload asks for it.")]
    List(ListArgs),
    /// Show one dead letter: what it died of, where it came from, its key and its headers.
    #[command(allow_missing_positional = true, after_help = "Its value is only shown where --payload asks for it.")]
    Show(ShowArgs),
}

/// Which dead letters to list.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The pipeline.
    #[arg(required_unless_present = "topics")]
    name: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Only those of this error type.
    #[arg(long, value_name = "TYPE")]
    error_type: Option<String>,
    /// Only those that were given up for this reason: Permanent, AttemptsExhausted, Expired, Unreadable or Rejected.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Only those with this key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only those since then: a duration (90m), or a time (2026-05-01T10:00:00Z).
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// How many at most, 1 to 1000.
    #[arg(long, default_value_t = 20, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    #[command(flatten)]
    how: HowArgs,
}

/// Which dead letter to show.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The pipeline.
    #[arg(required_unless_present = "topics")]
    name: Option<String>,
    /// Which of its dead letters, as `list` has it: PARTITION:OFFSET.
    position: Position,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// Where dead letters are read.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// A dead letter topic. Default: those of the pipeline.
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// The Kafka to read from. Default: a worker of the pipeline reads, with what it has.
    #[arg(long, value_name = "HOST:PORT", value_parser = addresses)]
    bootstrap_servers: Option<String>,
    /// The namespace. Default: that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How dead letters are printed.
#[derive(Clone, Copy, Debug, Args)]
struct HowArgs {
    /// Show the values, too; in a list at most 16 KiB of each.
    #[arg(long)]
    payload: bool,
    /// As text for people, or as JSON.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// A moment.
#[derive(Clone, Copy, Debug)]
enum Since {
    Ago(Duration),
    At(Timestamp),
}

impl Since {
    /// The time, where it is now `now`: the beginning of time for what is longer ago.
    fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(ago) => now.checked_sub(std::time::Duration::from(ago)).unwrap_or(Timestamp::MIN),
            Self::At(time) => time,
        }
    }
}

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = text.parse().map(Self::At).ok();
        time.or_else(|| text.parse().map(Self::Ago).ok())
            .ok_or("is no duration (90m) and no time (2026-05-01T10:00:00Z)")
    }
}

/// Where the dead letters are, and who reads them.
enum Reader {
    /// This process.
    Here { bootstrap_servers: String, topics: Vec<String> },
    /// A worker, which is asked.
    Worker { worker: Worker, topics: Vec<String> },
}

/// Answers.
pub async fn run(command: DltCommand) -> Result<String, PluginError> {
    match command {
        DltCommand::List(args) => list(args).await,
        DltCommand::Show(args) => show(args).await,
    }
}

async fn list(args: ListArgs) -> Result<String, PluginError> {
    let ListArgs { name, place, error_type, reason, key, since, limit, how } = args;
    let now = Timestamp::now();
    let since = since.map(|since| since.time(now));
    let found = match reader(name, place).await? {
        Reader::Here { bootstrap_servers, topics } => {
            let filter = Filter { error_type, reason, key, since };
            read::list(&bootstrap_servers, &topics, filter, limit.into(), how.payload).await?
        }
        Reader::Worker { worker, topics } => {
            let mut command = arguments("list", &topics, &worker.bootstrap_servers, how.payload);
            let since = since.map(|since| since.to_string());
            let options = [("error-type", error_type), ("reason", reason), ("key", key), ("since", since)];
            command.push(format!("--limit={limit}"));
            command.extend(options.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?))));
            worker.ask::<Found>(command).await?
        }
    };
    Ok(match how.output {
        Output::Json => json(&found),
        Output::Text => shown::table(&found, now),
    })
}

async fn show(args: ShowArgs) -> Result<String, PluginError> {
    let ShowArgs { name, position, place, how } = args;
    let found = match reader(name, place).await? {
        Reader::Here { bootstrap_servers, topics } => {
            let topic = one_of(topics)?;
            read::show(&bootstrap_servers, topic, position, how.payload).await?
        }
        Reader::Worker { worker, topics } => {
            let topics = [one_of(topics)?];
            let mut command = arguments("show", &topics, &worker.bootstrap_servers, how.payload);
            command.push(position.to_string());
            worker.ask::<Letter>(command).await?
        }
    };
    Ok(match how.output {
        Output::Json => json(&found),
        Output::Text => shown::page(&found, Timestamp::now()),
    })
}

/// What a worker is asked to run.
fn arguments(command: &str, topics: &[String], bootstrap_servers: &str, payload: bool) -> Vec<String> {
    let mut arguments = ["dlt", command, "--output=json"].map(str::to_owned).to_vec();
    arguments.push(format!("--bootstrap-servers={bootstrap_servers}"));
    arguments.extend(topics.iter().map(|topic| format!("--topic={topic}")));
    arguments.extend(payload.then(|| "--payload".to_owned()));
    arguments
}

async fn reader(name: Option<String>, place: PlaceArgs) -> Result<Reader, PluginError> {
    let PlaceArgs { topics, bootstrap_servers, namespace, cluster } = place;
    let (name, bootstrap_servers) = match (name, bootstrap_servers) {
        (None, Some(bootstrap_servers)) => return Ok(Reader::Here { bootstrap_servers, topics }),
        (None, None) => {
            let message = "in which Kafka? Say --bootstrap-servers HOST:PORT, or the name of a pipeline";
            return Err(PluginError::Usage(message.to_owned()));
        }
        (Some(name), bootstrap_servers) => (name, bootstrap_servers),
    };
    let cluster = Cluster::choose(cluster).await?;
    let namespace = namespace.unwrap_or_else(|| cluster.namespace.clone());
    let object = cluster.pipeline(&namespace, &name).await?;
    let topics = if topics.is_empty() { object.dead_letter_topics() } else { topics };
    if bootstrap_servers.is_none() && object.is_external() {
        return Err(PluginError::NoWorkerEver(name));
    }
    Ok(match bootstrap_servers {
        Some(bootstrap_servers) => Reader::Here { bootstrap_servers, topics },
        None => Reader::Worker { worker: Worker::of(cluster, &object).await?, topics },
    })
}

/// A position says nothing of the topic.
fn one_of(mut topics: Vec<String>) -> Result<String, PluginError> {
    match (topics.pop(), topics.is_empty()) {
        (Some(topic), true) => Ok(topic),
        (last, _) => {
            topics.extend(last);
            Err(PluginError::Usage(format!("in which topic? Say --topic: {}", topics.join(", "))))
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(value);
    text.expect("there is nothing in it that JSON does not have") + "\n"
}

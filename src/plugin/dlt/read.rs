//! Reads dead letters from Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::letter::{Filter, Found, Letter, Position};
use crate::domain::record::Record;
use crate::kafka::connection::Connection;
use crate::kafka::log_reader::{LogReader, Logs};
use crate::kafka::observer::{KafkaError, Observer};
use crate::plugin::error::PluginError;

/// How long dead letters are read at most. A million takes seconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// The newest letters so far, by when they were written and where they are.
type Newest = BTreeMap<(Option<Timestamp>, String, Position), Letter>;

/// Reads all dead letters of these topics, and keeps the newest of those that are asked for.
pub async fn list(
    bootstrap_servers: &str,
    topics: &[String],
    filter: Filter,
    limit: usize,
    payload: bool,
) -> Result<Found, PluginError> {
    let take = move |(found, newest): &mut (Found, Newest), record: Record| {
        found.total += 1;
        let letter = Letter::in_list(&record, payload);
        if filter.takes(&letter, record.key.as_deref()) {
            found.matching += 1;
            newest.insert((letter.time, letter.topic.clone(), letter.position()), letter);
            if newest.len() > limit {
                newest.pop_first();
            }
        }
        ControlFlow::Continue(())
    };
    let logs = logs(bootstrap_servers, topics).await?;
    let (mut found, newest) = read(bootstrap_servers, logs, (Found::default(), Newest::new()), take).await?;
    found.items = newest.into_values().rev().collect();
    Ok(found)
}

/// Reads one dead letter.
pub async fn show(
    bootstrap_servers: &str,
    topic: String,
    position: Position,
    payload: bool,
) -> Result<Letter, PluginError> {
    let missing = || PluginError::NoLetter { topic: topic.clone(), position: position.to_string() };
    let place = (Arc::from(topic.as_str()), position.partition);
    let logs = logs(bootstrap_servers, std::slice::from_ref(&topic)).await?;
    if !logs.get(&place).is_some_and(|log| log.contains(&position.offset)) {
        return Err(missing());
    }
    // Where there is nothing at this offset, the next one is read.
    let take = move |found: &mut Option<Letter>, record: Record| {
        *found = (record.offset == position.offset).then(|| Letter::whole(&record, payload));
        ControlFlow::Break(())
    };
    let one = Logs::from([(place, position.offset..position.offset + 1)]);
    read(bootstrap_servers, one, None, take).await?.ok_or_else(missing)
}

/// How far these topics reach, all of their partitions.
async fn logs(bootstrap_servers: &str, topics: &[String]) -> Result<Logs, PluginError> {
    let failed = |error| failed(bootstrap_servers, &error);
    let observer = Observer::new(&Connection::new(bootstrap_servers)).map_err(failed)?;
    let known = observer.partitions().await.map_err(failed)?;
    let mut partitions = BTreeSet::new();
    for topic in topics {
        let found = known.get(topic).ok_or_else(|| PluginError::NoTopic(topic.clone()))?;
        let topic: Arc<str> = Arc::from(topic.as_str());
        partitions.extend(found.iter().map(|partition| (topic.clone(), *partition)));
    }
    observer.logs(partitions).await.map_err(failed)
}

async fn read<T: Send + 'static>(
    bootstrap_servers: &str,
    logs: Logs,
    start: T,
    take: impl FnMut(&mut T, Record) -> ControlFlow<()> + Send + 'static,
) -> Result<T, PluginError> {
    let failed = |error| failed(bootstrap_servers, &error);
    let reader = LogReader::new(&Connection::new(bootstrap_servers)).map_err(failed)?;
    match reader.fold(logs, PATIENCE, start, take).await.map_err(failed)? {
        (found, true) => Ok(found),
        (_, false) => {
            let why = format!("not all of it could be read within {} minutes", PATIENCE.as_secs() / 60);
            Err(PluginError::Kafka { bootstrap_servers: bootstrap_servers.to_owned(), why })
        }
    }
}

fn failed(bootstrap_servers: &str, error: &KafkaError) -> PluginError {
    PluginError::Kafka { bootstrap_servers: bootstrap_servers.to_owned(), why: error.to_string() }
}

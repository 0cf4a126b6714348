//! Reads dead letters from Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::letter::{Filter, Found, Letter, Position};
use crate::domain::record::Record;
use crate::kafka::connection::Connection;
use crate::kafka::dead_letters::{DeadLetterReader, Logs};
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
    let failed = failed(bootstrap_servers);
    let connection = Connection::new(bootstrap_servers);
    let observer = Observer::new(&connection).map_err(&failed)?;
    let known = observer.partitions().await.map_err(&failed)?;
    let mut partitions = BTreeSet::new();
    for topic in topics {
        let found = known.get(topic).ok_or_else(|| PluginError::NoTopic(topic.clone()))?;
        let topic: Arc<str> = Arc::from(topic.as_str());
        partitions.extend(found.iter().map(|partition| (topic.clone(), *partition)));
    }
    let logs = observer.logs(partitions).await.map_err(&failed)?;
    let reader = DeadLetterReader::new(&connection).map_err(&failed)?;
    let take = move |(found, newest): &mut (Found, Newest), record: Record| {
        found.total += 1;
        let letter = Letter::new(&record, payload, false);
        if filter.takes(&letter, record.key.as_deref()) {
            found.matching += 1;
            newest.insert((letter.time, letter.topic.clone(), letter.position()), letter);
            if newest.len() > limit {
                newest.pop_first();
            }
        }
    };
    let start = (Found::default(), Newest::new());
    let ((mut found, newest), is_complete) = reader.fold(logs, PATIENCE, start, take).await.map_err(&failed)?;
    if !is_complete {
        let why = format!("not all of it could be read within {} minutes", PATIENCE.as_secs() / 60);
        return Err(PluginError::Kafka { bootstrap_servers: bootstrap_servers.to_owned(), why });
    }
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
    let failed = failed(bootstrap_servers);
    let connection = Connection::new(bootstrap_servers);
    let known = Observer::new(&connection).map_err(&failed)?.partitions().await.map_err(&failed)?;
    let partitions = known.get(&topic).ok_or_else(|| PluginError::NoTopic(topic.clone()))?;
    let missing = || PluginError::NoLetter { topic: topic.clone(), position: position.to_string() };
    if !partitions.contains(&position.partition) {
        return Err(missing());
    }
    let place = (Arc::from(topic.as_str()), position.partition);
    let logs = Logs::from([(place, position.offset..position.offset + 1)]);
    let reader = DeadLetterReader::new(&connection).map_err(&failed)?;
    // Where there is nothing at this offset, another one is read.
    let take = move |found: &mut Option<Letter>, record: Record| {
        if record.offset == position.offset {
            *found = Some(Letter::new(&record, payload, true));
        }
    };
    let (found, _) = reader.fold(logs, PATIENCE, None, take).await.map_err(&failed)?;
    found.ok_or_else(missing)
}

fn failed(bootstrap_servers: &str) -> impl Fn(KafkaError) -> PluginError + use<> {
    let bootstrap_servers = bootstrap_servers.to_owned();
    move |error| PluginError::Kafka { bootstrap_servers: bootstrap_servers.clone(), why: error.to_string() }
}

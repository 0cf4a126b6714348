//! What a run left in Kafka, read by a client that knows nothing of Lazaret, and put together for the verdict.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lazaret::domain::pipeline::Pipeline;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use super::endpoint::Heard;
use super::records::{Content, Records, is_in_burst};
use super::source::{Sent, Written};
use super::support::topics::{Seen as Record, committed, read_all};
use super::verdict::{Call, Letter, Original, Place, Reach, Reason, Retry, Seen, Standing, Terms};
use super::watch::Group;

/// A pipeline of a run, and what is known of it besides what Kafka says.
pub struct Course {
    pub pipeline: Pipeline,
    pub records: Records,
    pub compacted: bool,
    pub terms: Terms,
}

/// Failures that are none of the endpoint's.
const UNANSWERED: [&str; 3] = ["ConnectException", "IOException", "TimeoutException"];

impl Course {
    pub fn partitions(&self, topic: &str) -> i32 {
        let plan = self.pipeline.topics.iter().find(|plan| &*plan.name == topic);
        plan.expect("a pipeline plans its topics").partitions
    }

    /// The groups of both stages.
    pub fn groups(&self) -> [Group; 2] {
        [&self.pipeline.main, &self.pipeline.retry].map(|source| Group {
            id: source.group_id.to_string(),
            topic: source.topic.to_string(),
            partitions: self.partitions(&source.topic),
        })
    }

    /// How far both groups came. What is committed is read first: when it then reaches the end, nothing was under way.
    pub fn reach(&self, address: &str) -> Vec<Reach> {
        let (main, retry) = (&self.pipeline.main, &self.pipeline.retry);
        let sources = [main, retry].map(|source| (source, committed(address, &source.group_id, &source.topic)));
        let mut reach = vec![];
        for (source, committed) in sources {
            let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
            for record in read_all(address, &source.topic) {
                let end = ends.entry(record.partition).or_default();
                *end = (*end).max(record.offset + 1);
            }
            let log_ends = log_ends(address, &source.topic, ends.keys().copied());
            reach.extend(ends.into_iter().map(|(partition, end)| {
                let committed = committed.get(&partition).map(|(offset, _)| *offset);
                Reach { topic: source.topic.to_string(), partition, end, log_end: log_ends[&partition], committed }
            }));
        }
        reach
    }

    /// All that was seen of the pipeline, for the verdict, with dead letters that were read before their topic was deleted.
    pub fn seen(&self, address: &str, written: &[Written], heard: &[Heard], mut letters: Vec<Record>) -> Seen {
        letters.extend(read_all(address, &self.pipeline.policy.default.dead_letter_topic));
        let (numbers, originals) = self.originals(address, written, heard);
        let is = |place: Place, content: &Content| {
            let number = numbers.get(&place);
            number.is_some_and(|number| self.records.content(*number).forwarded() == *content)
        };
        let call = |heard: &Heard| Call {
            place: heard.place,
            attempt: heard.attempt,
            caller: heard.caller.clone(),
            intact: heard.intact && numbers.get(&heard.place).copied() == heard.number,
            began: heard.began,
            answered: heard.answered,
            gone: heard.gone,
        };
        let retry = |record: &Record| {
            let place = place(record);
            let intact = is(place, &content(record).forwarded()) && has_each_own_header_once(record);
            Retry {
                place,
                at: (record.partition, record.offset),
                written: record.timestamp,
                attempts: header(record, "lazaret-attempts"),
                due: header(record, "lazaret-due"),
                intact,
                unanswered: unanswered(record),
            }
        };
        let letter = |record: &Record| {
            let (place, own) = (place(record), content(record).forwarded());
            let content = match record.value.as_deref().and_then(|value| serde_json::from_slice(value).ok()) {
                Some(envelope) if !self.compacted => in_envelope(&envelope),
                _ => own.clone(),
            };
            // An envelope's own key and headers are the record's, too.
            let around = (own.key == content.key) && (own.headers == content.headers);
            let intact = around && is(place, &content) && has_each_own_header_once(record);
            let reason = match record.header("lazaret-reason") {
                Some("Permanent") => Reason::Permanent,
                Some("AttemptsExhausted") => Reason::AttemptsExhausted,
                _ => Reason::Other,
            };
            Letter {
                place,
                written: record.timestamp,
                attempts: header(record, "lazaret-attempts"),
                reason,
                intact,
                unanswered: unanswered(record),
            }
        };
        Seen {
            terms: self.terms,
            topics: [&self.pipeline.main, &self.pipeline.retry].map(|source| source.topic.to_string()),
            calls: heard.iter().map(call).collect(),
            retries: read_all(address, &self.pipeline.retry.topic).iter().map(retry).collect(),
            letters: letters.iter().map(letter).collect(),
            originals,
            reach: self.reach(address),
            ..Seen::default()
        }
    }

    /// The number of each record by its place, and how it stands.
    fn originals(
        &self,
        address: &str,
        written: &[Written],
        heard: &[Heard],
    ) -> (HashMap<Place, usize>, BTreeMap<Place, Original>) {
        let (mut numbers, mut originals) = (HashMap::new(), BTreeMap::new());
        let mut add = |place, number, standing, written| {
            let key = self.records.key(number);
            numbers.insert(place, number);
            originals.insert(place, Original { key, standing, written, is_in_burst: is_in_burst(number) });
        };
        let mut readable = std::collections::HashSet::new();
        for record in read_all(address, &self.pipeline.main.topic) {
            let content = content(&record);
            let number = content.number().expect("every record has a number");
            assert_eq!(content, self.records.content(number), "Kafka changed a record, or the test did");
            readable.insert(number);
            add((record.partition, record.offset), number, Standing::Readable, record.timestamp);
        }
        for Written { number, place, sent } in written.iter().filter(|written| !readable.contains(&written.number)) {
            let lost = *sent == Sent::Committed && !self.compacted;
            assert!(!lost, "the cluster lost record {number}, which it had acknowledged at {place:?}");
            // One that is compacted away, and of which nobody said where it was, is where it was called from.
            let called = || heard.iter().find(|heard| heard.number == Some(*number)).map(|heard| heard.place);
            let Some(place) = place.or_else(called) else { continue };
            let standing = match sent {
                Sent::Committed => Standing::Superseded,
                // Compacted away, or not committed: there is no telling.
                Sent::Unsure if self.compacted => Standing::Superseded,
                Sent::Aborted | Sent::Unsure => Standing::Aborted,
            };
            // Nothing waits for one that cannot be read any more.
            add(place, *number, standing, i64::MAX);
        }
        (numbers, originals)
    }
}

fn log_ends(address: &str, topic: &str, partitions: impl Iterator<Item = i32>) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    let ask = |partition| {
        let began = Instant::now();
        loop {
            match consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)) {
                Ok((_, end)) => return (partition, end),
                Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{topic}-{partition}: {error}"),
            }
        }
    };
    partitions.map(ask).collect()
}

fn content(record: &Record) -> Content {
    let Record { key, value, headers, .. } = record.clone();
    Content { key, value, headers }
}

/// The record in an envelope.
fn in_envelope(envelope: &Value) -> Content {
    let bytes = |text: &Value, encoding: &Value| {
        let text = text.as_str()?;
        Some(match encoding.as_str() {
            Some("base64") => BASE64.decode(text).unwrap_or_default(),
            _ => text.as_bytes().to_vec(),
        })
    };
    let headers = envelope["originalHeaders"].as_array().cloned().unwrap_or_default();
    let header = |header: &Value| {
        (header["name"].as_str().unwrap_or_default().to_owned(), bytes(&header["value"], &header["encoding"]))
    };
    Content {
        key: bytes(&envelope["originalKey"], &envelope["originalKeyEncoding"]),
        value: bytes(&envelope["originalValue"], &envelope["originalValueEncoding"]),
        headers: headers.iter().map(header).collect(),
    }
}

/// Nothing grows from hop to hop.
fn has_each_own_header_once(record: &Record) -> bool {
    let own = |name: &str| name.starts_with("lazaret-") && !name.starts_with("lazaret-redrive-");
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name).filter(|name| own(name)).collect();
    names.iter().all(|name| names.iter().filter(|other| other == &name).count() == 1)
}

fn unanswered(record: &Record) -> bool {
    record.header("lazaret-error-type").is_some_and(|error| UNANSWERED.contains(&error))
}

fn place(record: &Record) -> Place {
    (header(record, "lazaret-original-partition"), header(record, "lazaret-original-offset"))
}

/// What a header says; what is not there or no number is one that no record has.
fn header<T: std::str::FromStr + From<u16>>(record: &Record, name: &str) -> T {
    record.header(name).and_then(|text| text.parse().ok()).unwrap_or(T::from(u16::MAX))
}

//! Where a record came from, and how often it was tried.
//!
//! A record in the main topic starts without a past. Its past in the retry topic travels in headers, which are untrusted
//! input: anybody who may write to the topic may write them. What is missing or out of range is replaced by what costs
//! at most another attempt.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::topic_id::TopicId;
use super::{Header, Record};
use crate::domain::time::Timestamp;

/// The names of the headers that Lazaret writes. Their values are UTF-8 text, numbers in decimal.
pub mod header {
    /// What every name begins with.
    pub const PREFIX: &str = "lazaret-";
    /// What the names begin with that a redrive writes, which survive the main stage.
    pub const REDRIVE_PREFIX: &str = "lazaret-redrive-";
    /// Attempts made so far, 1 on a first retry record.
    pub const ATTEMPTS: &str = "lazaret-attempts";
    /// No attempt starts before this instant; epoch milliseconds.
    pub const DUE: &str = "lazaret-due";
    /// The topic in which the record was found first.
    pub const ORIGINAL_TOPIC: &str = "lazaret-original-topic";
    /// The id of that topic, as Kafka's tools show it; not there where Kafka tells none.
    pub const ORIGINAL_TOPIC_ID: &str = "lazaret-original-topic-id";
    /// Its partition there.
    pub const ORIGINAL_PARTITION: &str = "lazaret-original-partition";
    /// Its offset there.
    pub const ORIGINAL_OFFSET: &str = "lazaret-original-offset";
    /// Its timestamp there; epoch milliseconds.
    pub const ORIGINAL_TIMESTAMP: &str = "lazaret-original-timestamp";
    /// The type of the last error.
    pub const ERROR_TYPE: &str = "lazaret-error-type";
    /// The message of the last error.
    pub const ERROR_MESSAGE: &str = "lazaret-error-message";
    /// When the record failed first; epoch milliseconds.
    pub const FIRST_FAILURE: &str = "lazaret-first-failure";
    /// The span of the first attempt, where attempts are traced, as the `traceparent` of W3C Trace Context.
    pub const TRACEPARENT: &str = "lazaret-traceparent";
    /// The pipeline that wrote the record.
    pub const PIPELINE: &str = "lazaret-pipeline";
    /// Why the record was given up; on dead letters only.
    pub const REASON: &str = "lazaret-reason";
    /// What was left out of a dead letter for being too large; on dead letters only.
    pub const OMITTED: &str = "lazaret-omitted";
}

/// One of the two stages of a pipeline, which differ only in that the retry stage holds records until they are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Processes the user's topic.
    Main,
    /// Processes the retry topic.
    Retry,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Main => "main",
            Self::Retry => "retry",
        })
    }
}

/// Where a record was found first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The topic.
    pub topic: Arc<str>,
    /// What tells it from another topic that has had its name, where Kafka tells that.
    pub topic_id: Option<TopicId>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The timestamp.
    pub timestamp: Option<Timestamp>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.topic, self.partition, self.offset)
    }
}

/// The past of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Where it was found first.
    pub origin: Origin,
    /// Attempts made so far.
    pub attempts: u32,
    /// When it failed first, `None` when it has not failed.
    pub first_failure: Option<Timestamp>,
    /// When it may be tried next, `None` for at once.
    pub due: Option<Timestamp>,
    /// The span of its first attempt, where attempts are traced, as W3C `traceparent`.
    pub first_span: Option<Arc<str>>,
}

/// The length of a `traceparent` of version 00, the one that is written.
const TRACEPARENT_BYTES: usize = 55;

/// No record is older.
const EPOCH: Timestamp = Timestamp(0);

impl Provenance {
    /// The past of a record that was found in the main topic, which has this id: none, whatever its headers say.
    pub fn fresh(record: &Record, topic_id: Option<TopicId>) -> Self {
        let origin = Origin {
            topic: record.topic.clone(),
            topic_id,
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
        };
        Self { origin, attempts: 0, first_failure: None, due: None, first_span: None }
    }

    /// The past of a record that was found in the retry topic, which has this id.
    ///
    /// No due time lies further ahead than the policy's `longest_delay` or before the record was written, no first failure
    /// in the future, and nothing before 1970.
    pub fn of_retry(record: &Record, topic_id: Option<TopicId>, longest_delay: Duration, now: Timestamp) -> Self {
        let instant = |name| number(record, name).map(Timestamp);
        let attempts = number(record, header::ATTEMPTS).unwrap_or(0);
        let written = record.timestamp.map_or(EPOCH, |written| written.max(EPOCH));
        let fresh = Self::fresh(record, topic_id);
        Self {
            origin: Self::origin_of_retry(record).unwrap_or(fresh.origin),
            attempts,
            first_failure: instant(header::FIRST_FAILURE).map(|first| first.max(EPOCH).min(now)),
            due: instant(header::DUE).map(|due| due.max(written).min(now.after(longest_delay))),
            first_span: first_span(record).map(Arc::from),
        }
    }

    /// Topic, partition and offset name a place, or none does.
    fn origin_of_retry(record: &Record) -> Option<Origin> {
        let topic = record.header_text(header::ORIGINAL_TOPIC).filter(|topic| is_topic_name(topic))?;
        let partition: i32 = number(record, header::ORIGINAL_PARTITION)?;
        let offset: i64 = number(record, header::ORIGINAL_OFFSET)?;
        let timestamp = number(record, header::ORIGINAL_TIMESTAMP).map(Timestamp).filter(|time| *time >= EPOCH);
        let topic_id = number(record, header::ORIGINAL_TOPIC_ID);
        let origin = Origin { topic: topic.into(), topic_id, partition, offset, timestamp };
        (partition >= 0 && offset >= 0).then_some(origin)
    }

    /// The past after one more failed attempt, which ended at `now`.
    pub fn after_failure(&self, now: Timestamp) -> Self {
        Self {
            origin: self.origin.clone(),
            attempts: self.attempts.saturating_add(1),
            first_failure: self.first_failure.or(Some(now)),
            due: None,
            first_span: self.first_span.clone(),
        }
    }

    /// What names the record to its processor: the same over all attempts and stages, and never that of another record, also
    /// when its topic is deleted and made again, as far as Kafka tells one from the other.
    pub fn idempotency_key(&self) -> String {
        match self.origin.topic_id {
            Some(id) => format!("{}:{id}", self.origin),
            None => self.origin.to_string(),
        }
    }
}

/// The headers of a record that go on with it: all but those that Lazaret writes itself.
pub fn forwarded_headers(record: &Record) -> impl Iterator<Item = &Header> {
    let is_own = |name: &str| name.starts_with(header::PREFIX) && !name.starts_with(header::REDRIVE_PREFIX);
    record.headers.iter().filter(move |header| !is_own(&header.name))
}

/// Whether it names a span is for whoever goes on with it.
fn first_span(record: &Record) -> Option<&str> {
    record.header_text(header::TRACEPARENT).filter(|text| text.len() == TRACEPARENT_BYTES)
}

fn number<T: std::str::FromStr>(record: &Record, name: &str) -> Option<T> {
    record.header_text(name)?.parse().ok()
}

/// Kafka's rule for the name of a topic.
pub fn is_topic_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&text.len()) && text.chars().all(legal) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const LONGEST: Duration = Duration::from_secs(60);
    const ID: &str = "_tzumHZUMhEAAAAAAAAAKg";
    const OTHER_ID: &str = "AAAAAAAAAAEAAAAAAAAAAQ";

    fn record(headers: &[(&str, &str)]) -> Record {
        let header = |(name, value): &(&str, &str)| Header::new(*name, Bytes::copy_from_slice(value.as_bytes()));
        Record {
            topic: "orders.retry".into(),
            partition: 1,
            offset: 9,
            timestamp: Some(Timestamp(900_000)),
            key: None,
            value: None,
            headers: headers.iter().map(header).collect(),
        }
    }

    #[test]
    fn the_past_of_a_retry_record_is_in_its_headers() {
        let record = record(&[
            ("lazaret-attempts", "2"),
            ("lazaret-due", "1030000"),
            ("lazaret-first-failure", "950000"),
            ("lazaret-original-topic", "orders"),
            ("lazaret-original-partition", "4"),
            ("lazaret-original-offset", "77"),
            ("lazaret-original-timestamp", "940000"),
            ("lazaret-original-topic-id", OTHER_ID),
        ]);
        let past = Provenance::of_retry(&record, ID.parse().ok(), LONGEST, NOW);
        assert_eq!((past.attempts, past.due), (2, Some(Timestamp(1_030_000))));
        assert_eq!(past.first_failure, Some(Timestamp(950_000)));
        assert_eq!(past.idempotency_key(), format!("orders:4:77:{OTHER_ID}"));
        assert_eq!(past.origin.timestamp, Some(Timestamp(940_000)));
    }

    #[test]
    fn a_main_record_has_no_past_whatever_its_producer_wrote() {
        let forged = record(&[("lazaret-attempts", "99"), ("lazaret-due", "999999999999")]);
        let past = Provenance::fresh(&forged, ID.parse().ok());
        assert_eq!((past.attempts, past.due), (0, None));
        assert_eq!(past.idempotency_key(), format!("orders.retry:1:9:{ID}"));
    }

    #[test]
    fn forged_headers_can_neither_park_a_record_for_ever_nor_name_an_impossible_place() {
        let forged = record(&[
            ("lazaret-due", "9223372036854775807"),
            ("lazaret-first-failure", "9223372036854775807"),
            ("lazaret-attempts", "-3"),
            ("lazaret-original-topic", "a:b"),
            ("lazaret-original-partition", "-1"),
            ("lazaret-original-offset", "x"),
        ]);
        let past = Provenance::of_retry(&forged, None, LONGEST, NOW);
        assert_eq!(past.due, Some(Timestamp(1_060_000)));
        assert_eq!(past.first_failure, Some(NOW));
        assert_eq!((past.attempts, past.idempotency_key().as_str()), (0, "orders.retry:1:9"));
    }

    #[test]
    fn forged_times_from_before_the_record_was_written_make_nothing_late() {
        let long_ago = "-9223372036854775808";
        let forged = record(&[
            ("lazaret-due", long_ago),
            ("lazaret-first-failure", long_ago),
            ("lazaret-original-topic", "orders"),
            ("lazaret-original-partition", "1"),
            ("lazaret-original-offset", "2"),
            ("lazaret-original-timestamp", long_ago),
        ]);
        let past = Provenance::of_retry(&forged, None, LONGEST, NOW);
        assert_eq!((past.due, past.first_failure), (Some(Timestamp(900_000)), Some(Timestamp(0))));
        assert_eq!((&*past.origin.topic, past.origin.timestamp), ("orders", None));
    }

    #[test]
    fn only_headers_of_our_own_are_stripped() {
        let record = record(&[("a", "1"), ("lazaret-due", "1"), ("a", "2"), ("lazaret-redrive-id", "7")]);
        let names: Vec<_> = forwarded_headers(&record).map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["a", "a", "lazaret-redrive-id"]);
    }

    #[test]
    fn a_failure_counts_and_keeps_the_first_ones_time() {
        let first = Provenance::fresh(&record(&[]), None).after_failure(Timestamp(5));
        let second = first.after_failure(Timestamp(8));
        assert_eq!((second.attempts, second.first_failure), (2, Some(Timestamp(5))));
        assert_eq!(Provenance { attempts: u32::MAX, ..second }.after_failure(NOW).attempts, u32::MAX);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(
            values in proptest::collection::vec(prop_oneof![".*", any::<i64>().prop_map(|n| n.to_string())], 9),
        ) {
            use header::*;
            let names = [
                ATTEMPTS, DUE, FIRST_FAILURE, ORIGINAL_TOPIC, ORIGINAL_PARTITION, ORIGINAL_OFFSET, ORIGINAL_TIMESTAMP,
                TRACEPARENT, ORIGINAL_TOPIC_ID,
            ];
            let headers: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            let past = Provenance::of_retry(&record(&headers), None, LONGEST, NOW);
            prop_assert!(past.due.is_none_or(|due| due <= NOW.after(LONGEST)));
            // It goes on from hop to hop.
            prop_assert!(past.first_span.is_none_or(|span| span.len() <= 55));
        }
    }
}

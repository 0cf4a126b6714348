//! What a dead letter says of itself, whoever wrote it.
//!
//! Lazaret's own headers come first. Where there are none, those of Spring Kafka's `DeadLetterPublishingRecoverer`
//! (`kafka_dlt-*`), of its `@RetryableTopic` (`kafka_*`) and of Kafka Connect (`__connect.errors.*`) are read. Spring writes
//! partitions and attempts as big-endian int32, offsets and times as int64, and everything else as text; Connect writes text
//! only. What cannot be read counts as not there: these headers are untrusted input.

use std::fmt;
use std::sync::Arc;

use super::failure::shortened;
use super::provenance::{Origin, header};
use super::{Header, Record};
use crate::domain::time::Timestamp;

/// The error type of a dead letter that does not say any.
pub const UNKNOWN: &str = "unknown";

/// The longest error type that is told from others, in bytes.
const ERROR_TYPE_BYTES: usize = 200;

/// Why a record was given up. The text is what the `lazaret-reason` header and the envelope say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The failure was one that no further attempt would mend.
    Permanent,
    /// Every attempt that the policy grants was made.
    AttemptsExhausted,
    /// The record had been failing for longer than the policy's timeout.
    Expired,
    /// The record could not be read as what the processor needs.
    Unreadable,
    /// The processor asked for it.
    Rejected,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a record ended in a dead letter topic: what dead letters are grouped by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause {
    /// The type of the root cause, [`UNKNOWN`] where nobody says.
    pub error_type: String,
    /// Why it was given up (see [`Reason`]); only Lazaret says.
    pub reason: Option<String>,
}

/// What a dead letter says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why it is one.
    pub cause: Cause,
    /// What the error said.
    pub message: Option<String>,
    /// Where the record was found first.
    pub origin: Option<Origin>,
    /// Attempts made.
    pub attempts: Option<u32>,
}

impl Cause {
    /// Reads it from the headers of a dead letter.
    pub fn of(headers: &[Header]) -> Self {
        // Of an exception and its cause the cause is meant: Spring's listener container wraps whatever a listener throws.
        const ERROR_TYPES: [&str; 6] = [
            header::ERROR_TYPE,
            "kafka_dlt-exception-cause-fqcn",
            "kafka_dlt-exception-fqcn",
            "kafka_exception-cause-fqcn",
            "kafka_exception-fqcn",
            "__connect.errors.exception.class.name",
        ];
        let error_type = ERROR_TYPES.into_iter().find_map(|name| last_text(headers, name));
        let reason = last_text(headers, header::REASON);
        Self {
            error_type: shortened(error_type.unwrap_or(UNKNOWN).to_owned(), ERROR_TYPE_BYTES),
            reason: reason.map(|reason| shortened(reason.to_owned(), ERROR_TYPE_BYTES)),
        }
    }
}

impl DeadLetter {
    /// Reads it from a record of a dead letter topic.
    pub fn of(record: &Record) -> Self {
        const MESSAGES: [&str; 4] = [
            header::ERROR_MESSAGE,
            "kafka_dlt-exception-message",
            "kafka_exception-message",
            "__connect.errors.exception.message",
        ];
        let headers = &record.headers;
        let attempts = last_text(headers, header::ATTEMPTS).and_then(|text| text.parse().ok());
        Self {
            cause: Cause::of(headers),
            message: MESSAGES.into_iter().find_map(|name| last_text(headers, name)).map(str::to_owned),
            origin: origin(headers),
            attempts: attempts.or_else(|| first(headers, "retry_topic-attempts").and_then(big_endian_u32)),
        }
    }
}

/// Where the record was found first. Who writes a record again and again adds to the headers of its origin, and the first
/// ones name the first place; of Lazaret's there is only one.
fn origin(headers: &[Header]) -> Option<Origin> {
    let text = |name: String| first(headers, &name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let spoken = |prefix: &str, time: Option<&str>| {
        let part = |name: &str| text(format!("{prefix}{name}"));
        Some(Origin {
            topic: Arc::from(part("topic")?),
            topic_id: part("topic-id").and_then(|id| id.parse().ok()),
            partition: part("partition")?.parse().ok()?,
            offset: part("offset")?.parse().ok()?,
            timestamp: time.and_then(|name| part(name)?.parse().ok()).map(Timestamp),
        })
    };
    let spring = |prefix: &str| {
        let bytes = |name: &str| first(headers, &format!("{prefix}{name}"));
        Some(Origin {
            topic: Arc::from(text(format!("{prefix}topic"))?),
            topic_id: None,
            partition: bytes("partition")?.try_into().ok().map(i32::from_be_bytes)?,
            offset: bytes("offset")?.try_into().ok().map(i64::from_be_bytes)?,
            timestamp: bytes("timestamp").and_then(|time| time.try_into().ok()).map(i64::from_be_bytes).map(Timestamp),
        })
    };
    spoken("lazaret-original-", Some("timestamp"))
        .or_else(|| spring("kafka_dlt-original-"))
        .or_else(|| spring("kafka_original-"))
        .or_else(|| spoken("__connect.errors.", None))
}

fn first<'a>(headers: &'a [Header], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name == name)?.value.as_deref()
}

fn last_text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let last = headers.iter().rfind(|header| header.name == name)?;
    std::str::from_utf8(last.value.as_deref()?).ok().filter(|text| !text.is_empty())
}

fn big_endian_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(headers: Vec<Header>) -> Record {
        let (topic, timestamp) = ("orders.dlt".into(), Some(Timestamp(0)));
        Record { topic, partition: 0, offset: 0, timestamp, key: None, value: None, headers }
    }

    #[test]
    fn a_dead_letter_of_springs_recoverer_is_understood() {
        let letter = DeadLetter::of(&record(vec![
            Header::new("kafka_dlt-original-topic", "orders"),
            Header::new("kafka_dlt-original-partition", 3i32.to_be_bytes().to_vec()),
            Header::new("kafka_dlt-original-offset", 41i64.to_be_bytes().to_vec()),
            Header::new("kafka_dlt-original-timestamp", 1_700_000_000_000i64.to_be_bytes().to_vec()),
            Header::new("kafka_dlt-original-timestamp-type", "CreateTime"),
            Header::new(
                "kafka_dlt-exception-fqcn",
                "org.springframework.kafka.listener.ListenerExecutionFailedException",
            ),
            Header::new("kafka_dlt-exception-cause-fqcn", "java.lang.IllegalArgumentException"),
            Header::new("kafka_dlt-exception-message", "Invalid amount"),
            Header::new("kafka_dlt-original-topic", "orders-retry"),
        ]));
        assert_eq!(letter.cause, Cause { error_type: "java.lang.IllegalArgumentException".into(), reason: None });
        assert_eq!(letter.message.as_deref(), Some("Invalid amount"));
        let timestamp = Some(Timestamp(1_700_000_000_000));
        assert_eq!(
            letter.origin,
            Some(Origin { topic: "orders".into(), topic_id: None, partition: 3, offset: 41, timestamp })
        );
    }

    #[test]
    fn so_is_one_of_its_retryable_topic_and_one_of_connect() {
        let retryable = DeadLetter::of(&record(vec![
            Header::new("kafka_original-topic", "orders"),
            Header::new("kafka_original-partition", 0i32.to_be_bytes().to_vec()),
            Header::new("kafka_original-offset", 7i64.to_be_bytes().to_vec()),
            Header::new("kafka_exception-fqcn", "java.io.IOException"),
            Header::new("kafka_exception-message", "refused"),
            Header::new("retry_topic-attempts", 4u32.to_be_bytes().to_vec()),
        ]));
        assert_eq!(retryable.cause.error_type, "java.io.IOException");
        assert_eq!((retryable.attempts, retryable.origin.map(|origin| origin.offset)), (Some(4), Some(7)));
        let connect = DeadLetter::of(&record(vec![
            Header::new("__connect.errors.topic", "orders"),
            Header::new("__connect.errors.partition", "5"),
            Header::new("__connect.errors.offset", "700"),
            Header::new("__connect.errors.exception.class.name", "org.apache.kafka.connect.errors.DataException"),
            Header::new("__connect.errors.exception.message", "Converting byte[] to Kafka Connect data failed"),
        ]));
        assert_eq!(connect.cause.error_type, "org.apache.kafka.connect.errors.DataException");
        assert_eq!(connect.origin.map(|origin| (origin.partition, origin.offset)), Some((5, 700)));
    }

    #[test]
    fn what_a_record_does_not_say_is_unknown_and_lazarets_own_words_come_first() {
        assert_eq!(Cause::of(&[]), Cause { error_type: UNKNOWN.into(), reason: None });
        let foreign = Header::new("kafka_dlt-exception-fqcn", "java.lang.Exception");
        let both = [foreign, Header::new(header::ERROR_TYPE, "E"), Header::new(header::REASON, "Permanent")];
        assert_eq!(Cause::of(&both), Cause { error_type: "E".into(), reason: Some("Permanent".into()) });
        let binary = Header::new(header::ERROR_TYPE, vec![0xff]);
        assert_eq!(Cause::of(&[binary]).error_type, UNKNOWN);
    }

    proptest! {
        #[test]
        fn whatever_stands_in_the_headers_can_be_read(
            headers in proptest::collection::vec((0usize..8, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300))), 0..12),
        ) {
            const NAMES: [&str; 8] = [
                header::ERROR_TYPE, header::REASON, "kafka_dlt-original-topic", "kafka_dlt-original-partition",
                "kafka_dlt-original-offset", "kafka_original-timestamp", "__connect.errors.partition", "retry_topic-attempts",
            ];
            let header = |(name, value): (usize, Option<Vec<u8>>)| Header {
                name: NAMES[name].to_owned(),
                value: value.map(Into::into),
            };
            let letter = DeadLetter::of(&record(headers.into_iter().map(header).collect()));
            prop_assert!(letter.cause.error_type.len() <= ERROR_TYPE_BYTES + '…'.len_utf8());
        }
    }
}

//! The records that are written to the retry topic and to a dead letter topic.
//!
//! A retry record is the record itself plus headers. A dead letter is a JSON envelope around the record, or the record
//! itself with everything else in headers. A second failure replaces what the first one wrote: nothing grows from hop to
//! hop.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Serialize;

use super::failure::{Failure, shortened};
use super::provenance::{Provenance, Stage, forwarded_headers, header};
use super::{Header, Outgoing, Record};
use crate::domain::record::dead_letter::Reason;
use crate::domain::time::Timestamp;

/// How a dead letter is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterFormat {
    /// A JSON object that holds the record and says what happened to it.
    Envelope,
    /// The record's own bytes, with what happened to it in headers.
    Raw,
}

/// How much of the record a dead letter carries. Each step carries less than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// All but the value.
    WithoutValue,
    /// Only its key, as the key of the dead letter, and where it came from.
    KeyOnly,
    /// Only where it came from.
    PlaceOnly,
}

impl Extent {
    /// The next smaller one, `None` after the smallest.
    pub fn smaller(self) -> Option<Self> {
        match self {
            Self::Whole => Some(Self::WithoutValue),
            Self::WithoutValue => Some(Self::KeyOnly),
            Self::KeyOnly => Some(Self::PlaceOnly),
            Self::PlaceOnly => None,
        }
    }

    fn omitted(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::WithoutValue => Some("value"),
            Self::KeyOnly => Some("value,headers"),
            Self::PlaceOnly => Some("value,headers,key"),
        }
    }
}

/// A record that failed, and all that is known about it.
#[derive(Clone, Copy, Debug)]
pub struct FailedRecord<'a> {
    /// The record as it was read.
    pub record: &'a Record,
    /// Its past, this failure included.
    pub provenance: &'a Provenance,
    /// The failure.
    pub failure: &'a Failure,
    /// When it failed.
    pub failed_at: Timestamp,
}

/// Who writes a dead letter, and how.
#[derive(Clone, Debug)]
pub struct Scribe {
    /// The pipeline's name.
    pub pipeline: String,
    /// The stage that gave the record up.
    pub stage: Stage,
    /// The process that gave it up.
    pub worker: String,
    /// The format of dead letters.
    pub format: DeadLetterFormat,
    /// The longest stack trace that is kept, in bytes.
    pub stack_trace_max_bytes: usize,
}

impl Scribe {
    /// Writes a record for the retry topic.
    pub fn retry(&self, failed: FailedRecord<'_>, due: Timestamp, topic: &Arc<str>) -> Outgoing {
        let mut headers: Vec<Header> = forwarded_headers(failed.record).cloned().collect();
        headers.push(text(header::DUE, due.0));
        self.push_past(&mut headers, failed);
        let Record { key, value, .. } = failed.record;
        Outgoing { topic: topic.clone(), key: key.clone(), value: value.clone(), headers }
    }

    /// Writes a record for a dead letter topic.
    pub fn dead_letter(&self, failed: FailedRecord<'_>, reason: Reason, topic: &Arc<str>, extent: Extent) -> Outgoing {
        let mut headers: Vec<Header> = match extent {
            Extent::Whole | Extent::WithoutValue => forwarded_headers(failed.record).cloned().collect(),
            Extent::KeyOnly | Extent::PlaceOnly => vec![],
        };
        headers.push(text(header::REASON, reason));
        if let Some(omitted) = extent.omitted() {
            headers.push(text(header::OMITTED, omitted));
        }
        self.push_past(&mut headers, failed);
        let value = match (self.format, extent) {
            (DeadLetterFormat::Envelope, _) => Some(self.envelope(failed, reason, extent)),
            (DeadLetterFormat::Raw, Extent::Whole) => failed.record.value.clone(),
            (DeadLetterFormat::Raw, _) => None,
        };
        let key = failed.record.key.clone().filter(|_| extent != Extent::PlaceOnly);
        Outgoing { topic: topic.clone(), key, value, headers }
    }

    fn push_past(&self, headers: &mut Vec<Header>, failed: FailedRecord<'_>) {
        let Provenance { origin, attempts, first_failure, first_span, .. } = failed.provenance;
        headers.push(text(header::ATTEMPTS, attempts));
        headers.push(text(header::ORIGINAL_TOPIC, &origin.topic));
        headers.extend(origin.topic_id.map(|id| text(header::ORIGINAL_TOPIC_ID, id)));
        headers.push(text(header::ORIGINAL_PARTITION, origin.partition));
        headers.push(text(header::ORIGINAL_OFFSET, origin.offset));
        headers.extend(origin.timestamp.map(|at| text(header::ORIGINAL_TIMESTAMP, at.0)));
        headers.push(text(header::ERROR_TYPE, &failed.failure.error_type));
        headers.push(text(header::ERROR_MESSAGE, &failed.failure.message));
        headers.extend(first_failure.map(|at| text(header::FIRST_FAILURE, at.0)));
        headers.extend(first_span.as_ref().map(|span| text(header::TRACEPARENT, span)));
        headers.push(text(header::PIPELINE, &self.pipeline));
    }

    fn envelope(&self, failed: FailedRecord<'_>, reason: Reason, extent: Extent) -> Bytes {
        let FailedRecord { record, provenance, failure, failed_at } = failed;
        let origin = &provenance.origin;
        let whole = extent == Extent::Whole;
        let with_rest = whole || extent == Extent::WithoutValue;
        let key = Text::of(record.key.as_ref().filter(|_| with_rest));
        let value = Text::of(record.value.as_ref().filter(|_| whole));
        let headers = forwarded_headers(record).take(if with_rest { usize::MAX } else { 0 });
        let envelope = Envelope {
            original_topic: &origin.topic,
            original_partition: origin.partition,
            original_offset: origin.offset,
            original_timestamp: origin.timestamp.map(|at| at.to_string()),
            original_key: key.text,
            original_key_encoding: key.encoding,
            original_value: value.text,
            original_value_encoding: value.encoding,
            value_omitted: !whole,
            original_headers: headers.map(EnvelopeHeader::of).collect(),
            error_type: &failure.error_type,
            error_message: &failure.message,
            error_timestamp: failed_at.to_string(),
            reason: reason.to_string(),
            retry_count: provenance.attempts.saturating_sub(1),
            first_failure: provenance.first_failure.map(|at| at.to_string()),
            stack_trace: failure.stack_trace.clone().map(|trace| shortened(trace, self.stack_trace_max_bytes)),
            pipeline: &self.pipeline,
            stage: self.stage.to_string(),
            worker: &self.worker,
        };
        serde_json::to_vec(&envelope).expect("text and numbers always serialise").into()
    }
}

fn text(name: &str, value: impl ToString) -> Header {
    Header::new(name, value.to_string())
}

/// The JSON object of `dlt.format: Envelope`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    original_topic: &'a str,
    original_partition: i32,
    original_offset: i64,
    original_timestamp: Option<String>,
    original_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_key_encoding: Option<&'static str>,
    original_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_value_encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_omitted: bool,
    original_headers: Vec<EnvelopeHeader<'a>>,
    error_type: &'a str,
    error_message: &'a str,
    error_timestamp: String,
    reason: String,
    retry_count: u32,
    first_failure: Option<String>,
    stack_trace: Option<String>,
    pipeline: &'a str,
    stage: String,
    worker: &'a str,
}

#[derive(Serialize)]
struct EnvelopeHeader<'a> {
    name: &'a str,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

impl<'a> EnvelopeHeader<'a> {
    fn of(header: &'a Header) -> Self {
        let value = Text::of(header.value.as_ref());
        Self { name: &header.name, value: value.text, encoding: value.encoding }
    }
}

/// Bytes as JSON can hold them: as text when they are UTF-8, else as base64, which the encoding then says.
struct Text {
    text: Option<String>,
    encoding: Option<&'static str>,
}

impl Text {
    fn of(bytes: Option<&Bytes>) -> Self {
        match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => Self { text: None, encoding: None },
            Some((_, Ok(text))) => Self { text: Some(text.to_owned()), encoding: None },
            Some((bytes, Err(_))) => Self { text: Some(BASE64.encode(bytes)), encoding: Some("base64") },
        }
    }
}

#[cfg(test)]
mod tests;

//! A dead letter as it is printed, and which of them are.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::record::Record;
use crate::domain::record::dead_letter::DeadLetter;
use crate::domain::time;

/// How much of a value one of many has, in bytes.
const VALUE: usize = 16 << 10;

/// What was found.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// How many dead letters there are.
    pub total: u64,
    /// How many of them were asked for.
    pub matching: u64,
    /// Those of them that are shown, the newest first.
    pub items: Vec<Letter>,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Letter {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When it was written.
    pub time: Option<Timestamp>,
    /// What it died of.
    pub error_type: String,
    /// Why it was given up; only Lazaret says.
    pub reason: Option<String>,
    /// What the error said.
    pub message: Option<String>,
    /// Attempts that were made.
    pub attempts: Option<u32>,
    /// Where the record was read first.
    pub original: Option<Original>,
    /// Its key.
    pub key: Option<Content>,
    /// Its headers, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Option<Content>)>,
    /// Its value, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Content>,
}

/// Where a record was read first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Original {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
    /// The record's own time.
    pub time: Option<Timestamp>,
}

/// Bytes: a text, if they are one that can be printed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// UTF-8 without control characters, but for tabs and the ends of lines.
    Text(String),
    /// Anything else.
    Base64(String),
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        let is_text = |text: &&str| !text.contains(|letter: char| letter.is_control() && !"\t\r\n".contains(letter));
        match std::str::from_utf8(bytes).ok().filter(is_text) {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Base64(BASE64.encode(bytes)),
        }
    }
}

impl Letter {
    /// A record of a dead letter topic, with its headers; without its value unless `payload`.
    pub fn whole(record: &Record, payload: bool) -> Self {
        let headers = record.headers.iter().map(|header| (header.name.clone(), content(&header.value))).collect();
        Self { headers, value: content(&record.value).filter(|_| payload), ..Self::summary(record) }
    }

    /// The same as one of many: without headers, and of the value only the beginning.
    pub fn in_list(record: &Record, payload: bool) -> Self {
        let value = record.value.as_deref().filter(|_| payload);
        let value = value.map(|value| Content::from(&value[..value.len().min(VALUE)]));
        Self { value, ..Self::summary(record) }
    }

    fn summary(record: &Record) -> Self {
        let DeadLetter { cause, message, origin, attempts } = DeadLetter::of(record);
        let at = |time: Option<time::Timestamp>| time.and_then(|time| Timestamp::from_millisecond(time.0).ok());
        Self {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            time: at(record.timestamp),
            error_type: cause.error_type,
            reason: cause.reason,
            message,
            attempts,
            original: origin.map(|origin| Original {
                topic: origin.topic.to_string(),
                partition: origin.partition,
                offset: origin.offset,
                time: at(origin.timestamp),
            }),
            key: content(&record.key),
            headers: vec![],
            value: None,
        }
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        Position { partition: self.partition, offset: self.offset }
    }
}

fn content(bytes: &Option<bytes::Bytes>) -> Option<Content> {
    bytes.as_deref().map(Content::from)
}

/// Which dead letters are asked for; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Those of this error type.
    pub error_type: Option<String>,
    /// Those that were given up for this reason.
    pub reason: Option<String>,
    /// Those with this key.
    pub key: Option<String>,
    /// Those that were written then or later.
    pub since: Option<Timestamp>,
}

impl Filter {
    /// Whether this one is asked for.
    pub fn takes(&self, letter: &Letter, key: Option<&[u8]>) -> bool {
        self.error_type.as_ref().is_none_or(|wanted| *wanted == letter.error_type)
            && self.reason.as_ref().is_none_or(|wanted| Some(wanted) == letter.reason.as_ref())
            && self.key.as_ref().is_none_or(|wanted| Some(wanted.as_bytes()) == key)
            && self.since.is_none_or(|since| letter.time.is_some_and(|time| time >= since))
    }
}

/// A place in a topic, as `PARTITION:OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
}

impl FromStr for Position {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (partition, offset) = text.split_once(':')?;
            Some(Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        parse()
            .filter(|position| position.partition >= 0 && position.offset >= 0)
            .ok_or("must be PARTITION:OFFSET, such as 0:41")
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

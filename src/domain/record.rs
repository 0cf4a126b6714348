//! A record as it was read, and a record as it will be written.
//!
//! Keys, values and header values are bytes, or absent, and stay so: whoever needs text decodes it at the point of use
//! and says what happens to bytes that are none. Header order and repetition are kept.

pub mod dead_letter;
pub mod envelope;
pub mod failure;
pub mod provenance;
pub mod topic_id;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::time::Timestamp;

/// A record header. Kafka allows a name to repeat and a value to be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The header's name.
    pub name: String,
    /// The header's value; `None` is Kafka's null, which is not the same as empty.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a value.
    pub fn new(name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: Some(value.into()) }
    }
}

/// A record that was read from a topic.
///
/// `Debug` shows where the record is and how large, never what it says: payloads do not belong in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic that it was read from.
    pub topic: Arc<str>,
    /// The partition that it was read from.
    pub partition: i32,
    /// Its offset in that partition.
    pub offset: i64,
    /// The time of its creation or of its append, whichever the topic keeps.
    pub timestamp: Option<Timestamp>,
    /// The key, `None` when null.
    pub key: Option<Bytes>,
    /// The value, `None` when null (a tombstone).
    pub value: Option<Bytes>,
    /// The headers, in order.
    pub headers: Vec<Header>,
}

impl Record {
    /// The memory that holding this record takes, in bytes: payload plus what the structures around it cost. That is its past, its
    /// place in a queue that has grown by doubling, what knows the order of its key, and what the allocator adds: a record
    /// of 100 bytes takes five times of that (`tests/kafka/memory.rs` measures it).
    pub fn footprint(&self) -> usize {
        const RECORD: usize = size_of::<Record>() + 400;
        const HEADER: usize = size_of::<Header>() + 32;
        let header = |h: &Header| HEADER + h.name.len() + len(&h.value);
        RECORD + len(&self.key) + len(&self.value) + self.headers.iter().map(header).sum::<usize>()
    }

    /// The text of the last header called `name`, when there is one and it is UTF-8.
    ///
    /// The last one counts, as in the Java client's `lastHeader`.
    pub fn header_text(&self, name: &str) -> Option<&str> {
        let last = self.headers.iter().rfind(|h| h.name == name)?;
        std::str::from_utf8(last.value.as_deref()?).ok()
    }
}

fn len(bytes: &Option<Bytes>) -> usize {
    bytes.as_ref().map_or(0, Bytes::len)
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{} ({} bytes)", self.topic, self.partition, self.offset, self.footprint())
    }
}

/// A record that is to be written. Its partition follows from its key, its timestamp is the time of writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic that it goes to.
    pub topic: Arc<str>,
    /// The key, `None` for null.
    pub key: Option<Bytes>,
    /// The value, `None` for null.
    pub value: Option<Bytes>,
    /// The headers, in order.
    pub headers: Vec<Header>,
}

impl Outgoing {
    /// The bytes that it takes in a request, at least.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|header| header.name.len() + len(&header.value));
        len(&self.key) + len(&self.value) + headers.sum::<usize>()
    }
}

//! A span for each attempt, where attempts are traced.
//!
//! The first attempt at a record goes on with the trace of whoever produced it. A later one may come after hours, and begins a
//! trace of its own with a link to the first: a trace that stays open for hours is one that no backend can show. A processor
//! that reads `traceparent` goes on with the attempt.
//!
//! Names are those of OpenTelemetry's [conventions for messaging](https://opentelemetry.io/docs/specs/semconv/messaging/kafka/).
//! Neither keys nor values nor messages of errors are in a span: whoever reads traces need not be allowed to read records.
//! What names a span in a record is anybody's word, and measured before it goes anywhere.

#[cfg_attr(not(feature = "otlp"), path = "spans/untraced.rs")]
mod traced;

pub use traced::{AttemptSpan, Spans, Traces};

use crate::domain::record::Record;

/// The header that names a span ([W3C Trace Context](https://www.w3.org/TR/trace-context/)).
pub const TRACEPARENT: &str = "traceparent";

/// The header with what vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// The longest values of the two that go on. The second is what everybody has to pass on at least.
const TRACEPARENT_MAX_BYTES: usize = 128;
const TRACESTATE_MAX_BYTES: usize = 512;

/// A record's `traceparent` or `tracestate`, where it is one that may go on.
pub fn trace_header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let max_bytes = if name == TRACESTATE { TRACESTATE_MAX_BYTES } else { TRACEPARENT_MAX_BYTES };
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~');
    record.header_text(name).filter(|text| text.len() <= max_bytes && text.bytes().all(is_printable))
}
